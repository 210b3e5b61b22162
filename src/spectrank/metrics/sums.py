"""Sums over all singular values: Schatten norms and the entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectrank.errors import DomainError
from spectrank.linalg import Need, Spectrum, Value
from spectrank.metrics.norms import in_range, sigma_of
from spectrank.metrics.ranks import effective_rank
from spectrank.metrics.registry import register

_ALL = ("scale", "transpose", "orthogonal")
_NO_SCALE = ("transpose", "orthogonal")


def _check_p(options: Mapping[str, Any]) -> None:
    p = options["p"]
    if not isinstance(p, int | float) or isinstance(p, bool) or not p > 0.0:
        raise DomainError(
            f"p must be positive, got {p!r}; 1 is the nuclear norm, 2 the Frobenius "
            "norm, inf the spectral norm"
        )


def _needs_schatten(options: Mapping[str, Any]) -> list[Need]:
    known: dict[float, Need] = {
        2.0: "frobenius",
        4.0: "schatten4",
        math.inf: "sigma_max",
    }
    if options["p"] in known:
        return [known[options["p"]]]
    # Below 1 many small values weigh as much as a few large ones.
    return ["sigma"] if options["p"] >= 1.0 else ["small_end"]


@register(
    needs=_needs_schatten,
    formula="(sum s_i^p)^(1/p)",
    source="standard; p = 1 nuclear, 2 Frobenius, inf spectral norm",
    range=lambda k: (0.0, math.inf),
    invariances=_NO_SCALE,
    on_zero=0.0,
    check=_check_p,
)
def schatten_norm(s: Spectrum, p: float = 4.0) -> Value:
    r"""Schatten norm :math:`(\sum_i\sigma_i^p)^{1/p}`.

    In units of the weight, in [0, inf); decreasing in p. Below p = 1 it is no norm (the
    triangle inequality fails) but a measure of low rank: equal values give
    :math:`k^{1/p}\sigma`, which leaves float64 for small p (status ``nonfinite``).

    Args:
        s: Spectrum with what the order needs: norms for 2, 4 and inf, else all values.
        p: Order, positive; ``inf`` is allowed.

    Returns:
        Value with the enclosure of the values it is made of.
    """
    if p == 2.0:
        return s.frobenius
    if math.isinf(p):
        return s.sigma_max
    if p == 4.0 and s.schatten4 is not None:
        return s.schatten4
    # NumPy: logarithms of torch wake all threads, for a few hundred values.
    sigma, error = (x.numpy() for x in sigma_of(s))
    top = float(sigma[0])
    value, lower, upper = (
        top * _power_mean(x / top, p)
        for x in (sigma, np.maximum(sigma - error, 0.0), sigma + error)
    )
    # k powers, a sum and a root.
    rounding = 4.0 * len(sigma) * 2.3e-16 * max(1.0, 1.0 / p) * value
    norm = Value(value, max(lower - rounding, 0.0), upper + rounding)
    return in_range(norm, "rescale the matrix, or take a larger order")


def _power_mean(x: NDArray[np.float64], p: float) -> float:
    total = float((x[x > 0.0] ** p).sum())
    try:
        return float(total ** (1.0 / p))
    except OverflowError:
        # Many equal values and a tiny order.
        return math.inf


@register(
    needs=lambda options: effective_rank.needs(options),
    formula="-sum p_i log p_i, p_i = s_i / sum s (squared: s_i^2 / sum s^2)",
    source="Shannon entropy; the logarithm of effective_rank",
    range=lambda k: (0.0, math.log(max(k, 1))),
    invariances=_ALL,
    check=effective_rank.check,
)
def spectral_entropy(s: Spectrum, variant: str | None = None) -> Value:
    r"""Entropy of the normalised spectrum, in nats: log of the effective rank.

    In [0, log k]. Weights :math:`p_i = \sigma_i/\sum\sigma`; variant ``squared`` takes
    :math:`\sigma_i^2/\sum\sigma^2`. Not divided by log k, as other tools do.
    Source (derived): tests/metrics/test_sums.py.

    Args:
        s: Spectrum with all values.
        variant: None or ``squared``.

    Returns:
        Value with the logarithms of the ends of `effective_rank`.
    """
    rank: Value = effective_rank.function(s, variant)
    value, lower, upper = (
        math.log(max(x, 1.0)) for x in (rank.value, rank.lower, rank.upper)
    )
    return Value(value, lower, math.nextafter(upper, math.inf), rank.error_kind)
