"""Notions of rank. No two of them agree, so each row names its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import Need, Spectrum, Value
from spectrank.metrics.norms import sigma_of
from spectrank.metrics.registry import register

_ALL = ("scale", "transpose", "orthogonal")

# The Gram matrix resolves ratios down to about 1e-6 at any practical width.
_GRAM_RTOL = 1e-5


def _one_to_k(k: int) -> tuple[float, float]:
    return (1.0, float(k))


def _check_unit(name: str, options: Mapping[str, Any]) -> None:
    x = options[name]
    if not isinstance(x, int | float) or not 0.0 < x < 1.0:
        raise DomainError(
            f"{name} must lie in (0, 1), got {x!r}; "
            f"e.g. {name}={'0.99' if name == 'q' else '1e-3'}"
        )


def _check_variant(options: Mapping[str, Any]) -> None:
    if options["variant"] not in {None, "squared"}:
        raise UnknownNameError(
            f"variant is None or 'squared', got {options['variant']!r}; "
            "leave it out for the plain definition"
        )


def _check_k(options: Mapping[str, Any]) -> None:
    k = options["k"]
    if not isinstance(k, int) or isinstance(k, bool) or k < 0:
        raise DomainError(f"k must be a whole number from 0, got {k!r}; e.g. k=1")


@register(
    needs=["frobenius", "sigma_max"],
    formula="||W||_F^2 / s_1^2",
    source="Sanyal et al. (2020), arXiv:1906.04659, Definition 3.1",
    range=_one_to_k,
    invariances=_ALL,
)
def stable_rank(s: Spectrum) -> Value:
    r"""Stable rank :math:`\|W\|_F^2 / \|W\|_2^2`.

    Dimensionless, in :math:`[1, \operatorname{rank} W]`; status ``degenerate`` for a
    zero matrix. Not monotone under deleting rows. Needs the two norms only, never an
    SVD; its relative width is twice that of the spectral norm.
    Source (stated): Sanyal et al. (2020), arXiv:1906.04659, Definition 3.1.

    Args:
        s: Spectrum with ``frobenius`` and ``sigma_max`` known.

    Returns:
        Value with the enclosure inherited from ``sigma_max``.
    """
    # Divide first: (1e-200)**2 underflows to 0, (1e-200 / 1e-200)**2 does not.
    return (s.frobenius / s.sigma_max) ** 2


@register(
    needs=["frobenius", "schatten4"],
    formula="(sum s_i^2)^2 / sum s_i^4",
    source="standard; inverse Simpson index of s_i^2 / sum s^2",
    range=_one_to_k,
    invariances=_ALL,
)
def participation_ratio(s: Spectrum) -> Value:
    r"""Participation ratio :math:`(\sum_i \sigma_i^2)^2 / \sum_i \sigma_i^4`.

    Dimensionless, between the stable rank and the rank. Needs the Gram matrix of the
    smaller side, no eigenvalues.

    Args:
        s: Spectrum with ``frobenius`` and ``schatten4`` known.

    Returns:
        Value with the rounding error of the two norms.
    """
    assert s.schatten4 is not None
    return (s.frobenius / s.schatten4) ** 4


def _entropy_slack(total_variation: float, k: int) -> float:
    """Largest change of the entropy of k outcomes under a total-variation change."""
    # Audenaert (2007), A sharp continuity estimate for the von Neumann entropy:
    # |H(p) - H(q)| <= T log(k - 1) + h(T), h the binary entropy.
    t = total_variation
    if k == 1 or t == 0.0:
        return 0.0
    if t >= 1.0 - 1.0 / k:
        return math.log(k)
    binary = -t * math.log(t) - (1.0 - t) * math.log1p(-t)
    return t * math.log(k - 1) + binary


def _needs_effective_rank(options: Mapping[str, Any]) -> list[Need]:
    # Squares of unresolved values weigh nothing; the values themselves may.
    return ["sigma"] if options["variant"] == "squared" else ["small_end"]


@register(
    # Values that a Gram matrix cannot resolve carry entropy: a rank-deficient matrix
    # would come out with an enclosure of per cents.
    needs=_needs_effective_rank,
    formula="exp(-sum p_i log p_i), p_i = s_i / sum s (squared: s_i^2 / sum s^2)",
    source="Roy & Vetterli (2007), The effective rank, EUSIPCO; squared: variant",
    range=_one_to_k,
    invariances=_ALL,
    check=_check_variant,
)
def effective_rank(s: Spectrum, variant: str | None = None) -> Value:
    r"""Effective rank, the exponential of the entropy of the normalised spectrum.

    Dimensionless, in [1, rank]. Weights :math:`p_i = \sigma_i/\sum\sigma`; variant
    ``squared`` takes :math:`\sigma_i^2/\sum\sigma^2`. Not the entropy itself, and not
    that entropy divided by log k, which other tools call by the same name.
    Source (stated): Roy & Vetterli (2007), The effective rank: a measure of effective
    dimensionality, EUSIPCO.

    Args:
        s: Spectrum with all values.
        variant: None or ``squared``.

    Returns:
        Value with the enclosure of Audenaert's continuity bound.
    """
    sigma, error = sigma_of(s)
    # Relative to the largest: sigma**2 of 1e-200 would underflow.
    x, e = sigma / sigma[0], error / sigma[0]
    if variant == "squared":
        x, e = x.square(), 2.0 * x * e + e.square()
    total = float(x.sum())
    # NumPy: logarithms of torch wake all threads, for a few hundred values.
    p = (x[x > 0] / total).numpy()
    entropy = -float((p * np.log(p)).sum())
    error_sum = float(e.sum())
    shift = error_sum / (total - error_sum) if error_sum < total else 1.0
    rounding = len(sigma) * 2.3e-16 * (1.0 + entropy)
    slack = _entropy_slack(shift, len(sigma)) + rounding
    value = math.exp(entropy)
    return Value(value, value * math.exp(-slack), value * math.exp(slack))


def _needs_numerical_rank(options: Mapping[str, Any]) -> list[Need]:
    return ["sigma"] if options["rtol"] >= _GRAM_RTOL else ["small_end"]


@register(
    needs=_needs_numerical_rank,
    formula="#{i : s_i > rtol * s_1}",
    source="standard; the threshold is relative to s_1 and stated in the row",
    range=_one_to_k,
    invariances=_ALL,
    on_zero=0.0,
    check=lambda options: _check_unit("rtol", options),
)
def numerical_rank(s: Spectrum, rtol: float = 1e-3) -> Value:
    r"""Numerical rank, the number of singular values above ``rtol * sigma_1``.

    A count in [1, k], 0 for a zero matrix. The threshold is relative to the spectral
    norm, not to the Frobenius norm, and is not the machine precision of the dtype.

    Args:
        s: Spectrum with all values.
        rtol: Relative threshold in (0, 1).

    Returns:
        The count; ends differ when values sit within their error of the threshold.
    """
    sigma, error = sigma_of(s)
    top, top_error = float(sigma[0]), float(error[0])
    value = int((sigma > rtol * top).sum())
    lower = int((sigma - error > rtol * (top + top_error)).sum())
    upper = int((sigma + error > rtol * (top - top_error)).sum())
    return Value(float(value), float(min(lower, value)), float(max(upper, value)))


@register(
    needs=["sigma"],
    formula="min{r : sum_{i<=r} s_i^2 >= q * sum s_i^2}",
    source="standard; Eckart-Young: relative Frobenius error at most (1 - q)^(1/2)",
    range=_one_to_k,
    invariances=_ALL,
    check=lambda options: _check_unit("q", options),
)
def energy_rank(s: Spectrum, q: float = 0.99) -> Value:
    r"""Energy rank, the fewest directions that hold a share ``q`` of the energy.

    A count in [1, k]; energy is :math:`\sum_i \sigma_i^2`, squared values, so q = 0.99
    leaves a relative Frobenius error of at most 10 %.

    Args:
        s: Spectrum with all values.
        q: Share of the energy, in (0, 1).

    Returns:
        The count; ends differ when the share is reached within rounding.
    """
    sigma, error = sigma_of(s)
    x, e = sigma / sigma[0], error / sigma[0]
    value = _count_to_share(x, x, q)
    high, low = x + e, (x - e).clamp_min(0.0)
    # Most favourable: the kept values at their upper ends, the rest at their lower.
    lower, upper = _count_to_share(high, low, q), _count_to_share(low, high, q)
    return Value(float(value), float(min(lower, value)), float(max(upper, value)))


def _count_to_share(kept: Tensor, rest: Tensor, q: float) -> int:
    head = kept.square().cumsum(0)
    squares = rest.square()
    tail = squares.flip(0).cumsum(0).flip(0) - squares
    # A sum's rounding must not push the last index out: the share there is 1.
    return min(int((head < q * (head + tail)).sum()) + 1, len(kept))


@register(
    needs=["sigma"],
    formula="sum s_i / s_1 (squared: (sum s_i)^2 / sum s_i^2)",
    source=(
        "||W||_*/||W||_2; squared: ||W||_*^2/||W||_F^2 as in Davis & Drusvyatskiy "
        "(2025), arXiv:2512.04299, abstract"
    ),
    range=_one_to_k,
    invariances=_ALL,
    check=_check_variant,
)
def nuclear_rank(s: Spectrum, variant: str | None = None) -> Value:
    r"""Nuclear rank :math:`\|W\|_*/\|W\|_2`; ``squared``: :math:`\|W\|_*^2/\|W\|_F^2`.

    Dimensionless, in [1, rank] both. Two papers use the one name for the two, so the
    variant is part of every row.

    Args:
        s: Spectrum with all values.
        variant: None or ``squared``.

    Returns:
        Value with an enclosure from those of the norms.
    """
    sigma, error = sigma_of(s)
    # Divide first: the sum of values near 1e308 overflows, that of their ratios is k.
    top = float(sigma[0])
    total = float((sigma / top).sum())
    slack = float((error / top).sum()) + total * len(sigma) * 4.6e-16
    norm = Value.around(total, slack)
    if variant == "squared":
        return (norm / (s.frobenius / top)) ** 2
    return norm / (s.sigma_max / top)


@register(
    needs=["sigma"],
    formula="(sum_{i>k} s_i^2)^(1/2) / ||W||_F",
    source="Eckart & Young (1936); distance to the nearest matrix of rank k",
    range=lambda k: (0.0, 1.0),
    invariances=_ALL,
    check=_check_k,
)
def relative_distance_to_rank(s: Spectrum, k: int = 1) -> Value:
    r"""Relative Frobenius distance to the matrices of rank ``k``.

    :math:`(\sum_{i>k}\sigma_i^2)^{1/2}/\|W\|_F`, dimensionless, in [0, 1]; 0 when k is
    at least min(m, n).

    Args:
        s: Spectrum with all values.
        k: Rank, a whole number from 0.

    Returns:
        Value with the enclosure of the tail.
    """
    sigma, error = sigma_of(s)
    if k >= len(sigma):
        return Value.exact(0.0)
    x, e = sigma / sigma[0], error / sigma[0]
    tail = float(torch.linalg.vector_norm(x[k:]))
    slack = float(torch.linalg.vector_norm(e[k:])) + tail * len(sigma) * 2.3e-16
    whole = s.frobenius / float(sigma[0])
    return Value.around(tail, slack) / whole
