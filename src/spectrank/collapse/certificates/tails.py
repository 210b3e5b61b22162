r"""Distances to low rank and sums of enclosed numbers, in three norms.

    frobenius  (sum_{i>k} sigma_i^2)^(1/2)
    spectral   sigma_{k+1}
    nuclear    sum_{i>k} sigma_i

are the distances of a matrix to the matrices of rank k (Eckart-Young-Mirsky). All three
norms are unitarily invariant and 1 on unit rank-one matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import Need, Spectrum, Value, spectrum
from spectrank.linalg.shapes import Matrix
from spectrank.metrics.norms import nuclear_norm, sigma_of
from spectrank.metrics.ranks import relative_distance_to_rank

Norm = Literal["frobenius", "spectral", "nuclear"]
NORMS: tuple[Norm, ...] = ("frobenius", "spectral", "nuclear")

# What a spectrum has to know for the norm itself.
_NEEDS: dict[Norm, Need] = {
    "frobenius": "frobenius",
    "spectral": "sigma_max",
    "nuclear": "sigma",
}
# One summand's share of the rounding of a sum.
_ROUNDOFF = 2.3e-16
# Relative width of a distance from which the Gram matrix serves.
_RESOLVED = 1e-6


def dist_to_rank(weight: Matrix, k: int, norm: Norm = "frobenius") -> Value:
    r"""Distance :math:`\min_{\operatorname{rank} X\le k}\|W-X\|` to low rank.

    In units of the weight, in [0, norm of W]; exactly 0 for k at least min(m, n) and
    for a zero matrix. Not relative: divide by the norm for that.
    Source (derived): tests/collapse/certificates/test_collapse_tails.py.

    Args:
        weight: (m, n) real matrix.
        k: Rank, a whole number from 0.
        norm: ``frobenius``, ``spectral`` or ``nuclear``.

    Returns:
        Value with its rounding error; NaN with the reason for a matrix that is not
        finite.

    Raises:
        DomainError: ``k`` is negative.
        UnknownNameError: No such norm.
    """  # noqa: DOC502 - the latter by the check called
    check_norm(norm)
    if k < 0:
        raise DomainError(
            f"a rank is a whole number from 0, got k={k}; count from the zero matrix"
        )
    return tail(values_of(weight, (k,), (norm,)), k, norm)


def values_of(
    matrix: Matrix,
    ranks: Iterable[int],
    norms: Iterable[Norm] = NORMS,
    *,
    rtol: float = _RESOLVED,
) -> Spectrum:
    """Return the singular values, so exact that the distances to these ranks are.

    By the Gram matrix where it resolves every distance to ``rtol`` of itself, else by a
    dense SVD, which resolves all down to the roundoff of the largest value.

    Args:
        matrix: (m, n) real matrix.
        ranks: Ranks k.
        norms: Which distances.
        rtol: Largest relative width of an enclosure.

    Returns:
        Spectrum with ``sigma``.
    """
    s = spectrum(matrix, ("sigma",))
    if s.status != "ok" or s.route == "svd":
        return s
    wanted = [tail(s, k, norm) for k in ranks for norm in norms]
    if all(distance.relative_width <= rtol for distance in wanted):
        return s
    return spectrum(matrix, ("small_end",))


def check_norm(norm: str) -> None:
    """Refuse a norm that is none of the three.

    Args:
        norm: Its name.

    Raises:
        UnknownNameError: It is not.
    """
    if norm not in NORMS:
        raise UnknownNameError(
            f"norm must be one of {', '.join(NORMS)}, got {norm!r}; "
            "'frobenius' is the usual one"
        )


def needs_of(norms: tuple[Norm, ...]) -> tuple[Need, ...]:
    """Return what a spectrum has to know for these norms of a whole matrix."""
    return tuple(_NEEDS[norm] for norm in norms)


def norm_of(s: Spectrum, norm: Norm) -> Value:
    """Return a norm of a matrix from its spectrum; exactly 0 for a zero matrix.

    Args:
        s: Spectrum that knows what ``needs_of`` names.
        norm: Which.

    Returns:
        The enclosed norm; NaN with the reason where there is none.
    """
    if s.status == "degenerate":
        return Value.exact(0.0)
    if s.status != "ok":
        return Value.undefined(s.status, s.reason or s.status)
    if norm == "nuclear":
        return nuclear_norm(s)
    return s.frobenius if norm == "frobenius" else s.sigma_max


def tail(s: Spectrum, k: int, norm: Norm) -> Value:
    """Return the distance to rank k from a spectrum with all values.

    Args:
        s: Spectrum with ``sigma``.
        k: Rank, from 0.
        norm: Which distance.

    Returns:
        The enclosed distance; NaN with the reason where there is none.
    """
    if s.status not in {"ok", "degenerate"}:
        return Value.undefined(s.status, s.reason or s.status)
    if s.status == "degenerate" or k >= min(s.shape):
        return Value.exact(0.0)
    if k == 0:
        return norm_of(s, norm)
    if norm == "frobenius":
        return relative_distance_to_rank(s, k=k) * s.frobenius
    sigma, error = sigma_of(s)
    if norm == "spectral":
        return Value.around(float(sigma[k]), float(error[k]))
    total = float(sigma[k:].sum())
    rounding = total * len(sigma) * _ROUNDOFF
    return Value.around(total, float(error[k:].sum()) + rounding)


def tail_of_values(sigma: Tensor, k: int, norm: Norm) -> Value:
    """Return the distance to rank k of a matrix with these singular values.

    Args:
        sigma: (r,) float64 values, descending, each within r spacings of the first.
        k: Rank, from 0.
        norm: Which distance.

    Returns:
        The enclosed distance, exactly 0 from k = r on.
    """
    if k >= len(sigma):
        return Value.exact(0.0)
    rest = sigma[k:]
    order = {"frobenius": 2.0, "spectral": math.inf, "nuclear": 1.0}[norm]
    error = len(sigma) * len(rest) * _ROUNDOFF * float(sigma[0])
    return Value.around(float(torch.linalg.vector_norm(rest, order)), error)


def add(a: Value, b: Value) -> Value:
    """Return the sum, with the weaker promise of the two.

    Args:
        a: First summand.
        b: Second summand.

    Returns:
        The sum, its ends rounded outwards.
    """
    # The product has the sum's promise, failure probability and status.
    promise = a * b
    return replace(
        promise,
        value=a.value + b.value,
        lower=max(math.nextafter(a.lower + b.lower, -math.inf), 0.0),
        upper=math.nextafter(a.upper + b.upper, math.inf),
    )


def widen(value: Value, error: float) -> Value:
    """Return the value with an error of its argument added to the enclosure.

    Args:
        value: Enclosed number.
        error: Absolute, non-negative.

    Returns:
        The wider enclosure.
    """
    if error == 0.0:
        return value
    # An error that is a stated multiple of the roundoff proves nothing.
    promise = value * Value.around(1.0, 0.0)
    return replace(
        promise, lower=max(value.lower - error, 0.0), upper=value.upper + error
    )


def ratio(top: Value, bottom: Value, reason: str) -> Value:
    """Return a quotient, or NaN with the reason where the divisor is zero.

    Args:
        top: Numerator.
        bottom: Denominator.
        reason: Why it can be zero.

    Returns:
        The enclosed quotient; ``degenerate`` where there is none.
    """
    if bottom.value == 0.0:
        return Value.undefined("degenerate", f"{reason}, nothing to divide by")
    return top / bottom
