"""Spectrum: what is known of a matrix's singular values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from spectrank.linalg.shapes import Spectral
from spectrank.linalg.value import ErrorKind, Status, Value

Need = Literal["frobenius", "sigma_max", "schatten4", "sigma", "small_end"]
# A value counts as resolved by a Gram matrix up to this relative error.
RESOLVED = 1e-4

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
        reason: Why the status is not ``ok``.
        num_resolved: Values whose error is below themselves; the rest are only known
            to be small. None without ``sigma``.
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
        return known or self.route == "svd"

    @property
    def num_resolved(self) -> int | None:
        """Number of values whose error is smaller than they are."""
        if self.sigma is None or self.sigma_error is None:
            return None
        return int((self.sigma_error < self.sigma).sum())


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
