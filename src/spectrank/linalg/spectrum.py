"""Spectrum: what is known of a matrix's singular values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from spectrank.linalg.operand import ldexp
from spectrank.linalg.shapes import Spectral
from spectrank.linalg.value import ErrorKind, Status, Value

Need = Literal["frobenius", "sigma_max", "schatten4", "sigma", "small_end"]
# A value counts as resolved by a Gram matrix up to this relative error.
RESOLVED = 1e-4
# Routes that end in a dense SVD.
_BY_SVD = frozenset(["svd", "block-svd", "qr-core", "fft-blocks-svd", "padded-svd"])
# The smallest normal and the smallest positive float64.
_NORMAL, _TINY = 2.0**-1022, 2.0**-1074

NEEDS: tuple[Need, ...] = ("frobenius", "sigma_max", "schatten4", "sigma", "small_end")


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """Singular values of a matrix, or only its norms, each with an error.

    Attributes:
        shape: (m, n) of the matrix.
        frobenius: Frobenius norm.
        sigma_max: Largest singular value.
        schatten4: Schatten-4 norm ``(sum sigma^4)^(1/4)``; None when not needed.
        sigma: (k,) float64, descending, on the CPU; None when only norms are known.
        sigma_error: (k,) absolute error of each value.
        route: How the numbers were made.
        status: ``ok``, ``degenerate`` (zero or empty), ``nonfinite`` or
            ``not_converged``.
        reason: Why the status is not ``ok``, or why there are no values where all were
            asked for.
        num_resolved: Values whose error is below themselves, or zero; the rest are only
            known to be small. None without ``sigma``.
    """

    shape: tuple[int, int]
    frobenius: Value
    sigma_max: Value
    schatten4: Value | None
    sigma: Spectral | None
    sigma_error: Spectral | None
    route: str
    status: Status = "ok"
    reason: str | None = None

    def __repr__(self) -> str:
        m, n = self.shape
        known = "norms only" if self.sigma is None else f"{len(self.sigma)} values"
        return (
            f"Spectrum({m} x {n}, {known}, sigma_max={self.sigma_max.value:.6g}, "
            f"frobenius={self.frobenius.value:.6g}, route={self.route!r}, "
            f"status={self.status!r})"
        )

    @property
    def resolves_small_end(self) -> bool:
        """Whether all values are known to 1e-4 of themselves, or by a dense SVD."""
        if self.sigma is None or self.sigma_error is None:
            return False
        known = bool((self.sigma_error <= RESOLVED * self.sigma).all())
        return known or self.route in _BY_SVD

    @property
    def num_resolved(self) -> int | None:
        """Number of values whose error is smaller than they are, or zero."""
        if self.sigma is None or self.sigma_error is None:
            return None
        # A value may be known to be exactly zero: that of a product of thin factors.
        exact = self.sigma_error == 0.0
        return int(((self.sigma_error < self.sigma) | exact).sum())


def without_values(
    shape: tuple[int, int], x: float, status: Status, reason: str
) -> Spectrum:
    """Return the spectrum of a matrix that has none: every number is ``x``.

    Args:
        shape: (m, n) of the matrix.
        x: Zero or NaN.
        status: Why there are no singular values.
        reason: The same in words.

    Returns:
        A spectrum whose every number carries the status.
    """
    kind: ErrorKind = "rounding" if math.isnan(x) else "certified"
    value = Value(x, x, x, kind, 0.0, status, reason)
    sigma = torch.full((min(shape),), x, dtype=torch.float64, device="cpu")
    return Spectrum(
        shape,
        value,
        value,
        value,
        sigma,
        torch.zeros_like(sigma),
        "none",
        status,
        reason,
    )


def rescaled(s: Spectrum, exponent: int) -> Spectrum:
    """The spectrum of the matrix times ``2**exponent``.

    Args:
        s: Of a matrix scaled for the sake of range.
        exponent: The power of two that was taken out of it.

    Returns:
        The spectrum, exact but at the ends of float64's range; every number NaN, with
        the reason, where a norm is beyond it.
    """
    if not exponent:
        return s
    sigma_max, frobenius = _times(s.sigma_max, exponent), _times(s.frobenius, exponent)
    if math.isinf(sigma_max.value) or math.isinf(frobenius.value):
        reason = "its norms leave the range of float64; rescale the matrix"
        return without_values(s.shape, math.nan, "nonfinite", reason)
    error = s.sigma_error
    return replace(
        s,
        frobenius=frobenius,
        sigma_max=sigma_max,
        schatten4=None if s.schatten4 is None else _times(s.schatten4, exponent),
        sigma=None if s.sigma is None else ldexp(s.sigma, exponent),
        # Among subnormal numbers the scaling itself rounds; an exact zero stays exact.
        sigma_error=None
        if error is None
        else torch.where(error > 0.0, ldexp(error, exponent) + _TINY, error),
    )


def _times(value: Value, exponent: int) -> Value:
    """Undo a scaling, exactly unless the result leaves float64's range."""
    lower, upper = _ldexp(value.lower, exponent), _ldexp(value.upper, exponent)
    if upper < _NORMAL:
        # Among subnormal numbers the scaling itself rounds.
        lower, upper = max(lower - _TINY, 0.0), upper + _TINY
    return replace(value, value=_ldexp(value.value, exponent), lower=lower, upper=upper)


def _ldexp(x: float, exponent: int) -> float:
    try:
        return math.ldexp(x, exponent)
    except OverflowError:
        return math.inf
