"""Scalars made for the spectrum of features: rows are samples, columns features.

They are defined on any matrix, and mean what their papers say on features only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from spectrank.errors import DomainError
from spectrank.linalg import Spectrum, Value
from spectrank.metrics.norms import sigma_of
from spectrank.metrics.registry import register

_ALL = ("scale", "transpose", "orthogonal")
_RANKME_EPSILON = 1e-7


def _rankme_range(k: int) -> tuple[float, float]:
    # The shares sum to 1 + k epsilon: a little beyond [1, k].
    total = 1.0 + k * _RANKME_EPSILON
    one = 1.0 + _RANKME_EPSILON
    return math.exp(-one * math.log(one)), math.exp(total * math.log(k / total))


@register(
    needs=["sigma"],
    formula="exp(-sum p_i ln p_i), p_i = s_i / sum s + 1e-7",
    source="Garrido et al. (2023), arXiv:2210.02885: RankMe",
    range=_rankme_range,
    invariances=_ALL,
)
def rankme(s: Spectrum) -> Value:
    r"""RankMe :math:`\exp(-\sum p_i \ln p_i)`, :math:`p_i = s_i/\sum s_j + 10^{-7}`.

    A count in [1, k], up to the 1e-7. The paper takes the singular values of the
    features *not centred*; some codes take eigenvalues of the centred covariance,
    which is `effective_rank` of another matrix (see the view of the row). Without the
    1e-7 this is `effective_rank`.
    Source (stated): Garrido et al. (2023), arXiv:2210.02885.

    Args:
        s: Spectrum with all values.

    Returns:
        Value with an enclosure from the error of the singular values.
    """
    sigma, error = sigma_of(s)
    # In NumPy: a logarithm of torch wakes every thread, for a thousand values.
    x, e = (sigma / sigma[0]).numpy(), (error / sigma[0]).numpy()
    p = x / x.sum() + _RANKME_EPSILON
    log_p = np.log(p)
    entropy = -float((p * log_p).sum())
    # d entropy = -(1 + ln p) dp, and dp is below twice the relative error.
    shift = 2.0 * float(((1.0 + abs(log_p)) * e / x.sum()).sum())
    slack = shift + len(p) * 2.3e-16 * (1.0 + entropy)
    value = math.exp(entropy)
    return Value(value, value * math.exp(-slack), value * math.exp(slack))


def _check_window(options: Mapping[str, Any]) -> None:
    first, last = options["first"], options["last"]
    whole = all(type(x) is int for x in (first, last))
    if not whole or first < 1 or last < first + 2:
        raise DomainError(
            "alpha_req fits the eigenvalues number first to last, at least three of "
            f"them and counted from 1, got {first!r} to {last!r}; e.g. first=4:last=100"
        )


@register(
    needs=["sigma"],
    formula="-d ln s_i^2 / d ln i, fitted with weights 1/i over i = first..last",
    source="Agrawal et al. (2022), NeurIPS: alpha-ReQ; weights and window of its code",
    range=lambda k: (0.0, math.inf),
    invariances=_ALL,
    check=_check_window,
)
def alpha_req(s: Spectrum, first: int = 4, last: int = 100) -> Value:
    r"""alpha-ReQ, the decay :math:`\alpha` of :math:`\lambda_i \propto i^{-\alpha}`.

    Dimensionless, from 0; eigenvalues :math:`\lambda_i = s_i^2` of the covariance of
    centred features. The paper fits a line in log-log coordinates and leaves window
    and weights open; those of the code that its authors released are the defaults.
    Only eigenvalues that are resolved take part. The standard error is that of the
    regression, which takes the eigenvalues for independent: read it as a lower limit.
    Source (stated): Agrawal et al. (2022), "alpha-ReQ".

    Args:
        s: Spectrum with all values.
        first: First eigenvalue of the window, counted from 1.
        last: Last one.

    Returns:
        Value with the interval of one standard error; ``degenerate`` with fewer than
        three resolved eigenvalues in the window.
    """
    sigma, error = sigma_of(s)
    values = sigma.numpy()
    index = np.arange(1, len(values) + 1)
    known = values > 10.0 * error.numpy()
    kept = known & (index >= first) & (index <= last)
    num = int(kept.sum())
    if num < 3:
        return Value.undefined(
            "degenerate", f"{num} resolved eigenvalues in the window, three are needed"
        )
    x, w = np.log(index[kept]), 1.0 / index[kept]
    y = 2.0 * np.log(values[kept] / values[0])
    w = w / w.sum()
    dx, dy = x - (w * x).sum(), y - (w * y).sum()
    spread = float((w * dx**2).sum())
    slope = float((w * dx * dy).sum()) / spread
    left = float((w * (dy - slope * dx) ** 2).sum())
    stderr = math.sqrt(left / (num - 2) / spread)
    return Value.around(-slope, stderr, "stderr")
