r"""Gaussian matrices by their tridiagonal form: any symmetric function in O(p) a draw.

Householder reflections bring an (L, p) matrix of independent standard normal entries,
L >= p, to a bidiagonal B with independent chi_L, chi_{L-1}, ... on the diagonal and
chi_{p-1}, chi_{p-2}, ... above it, so that T = B^T B has the law of its Gram matrix.
Of T the trace, the trace of the square, the largest eigenvalue and det(xI - T) are
read without an eigendecomposition, all draws at once.

    L  max(m, n)        p  min(m, n)        d  number of draws
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh_tridiagonal

Array = npt.NDArray[np.float64]

# Each step halves the bracket of the largest eigenvalue, at first as wide as itself.
_NUM_BISECTIONS = 28
# What the rows left out may add to it, relative; a statistic varies by 1e-4 or more.
_ROOM = 4e-9


@final
@dataclass(frozen=True, eq=False)
class Tridiagonals:
    """Draws of T.

    Attributes:
        diagonal: (p, d).
        squared_off: (p - 1, d), squares of the off-diagonal.
    """

    diagonal: Array
    squared_off: Array

    @property
    def trace(self) -> Array:
        """Sum of the eigenvalues, (d,): squared Frobenius norms of the matrices."""
        total: Array = self.diagonal.sum(axis=0)
        return total

    @property
    def trace_of_square(self) -> Array:
        """Sum of the squared eigenvalues, (d,)."""
        squares = np.square(self.diagonal).sum(axis=0)
        total: Array = squares + 2.0 * self.squared_off.sum(axis=0)
        return total

    def largest(self) -> Array:
        """Largest eigenvalues, (d,), by bisection, to 1e-8 of themselves."""
        p = len(self.diagonal)
        # Its vector lives on the first O(p^(1/3)) rows and decays fast after them; one
        # pass over all rows proves that they were enough.
        rows = min(p, 40 + 20 * math.ceil(p ** (1 / 3)))
        high = self._bisect(rows)
        if rows < p and not bool(self._all_below(high, p).all()):
            high = self._bisect(p)
        return high

    def _bisect(self, rows: int) -> Array:
        """Upper ends of the largest eigenvalues of the leading block."""
        off = np.sqrt(self.squared_off[: rows - 1])
        # Gershgorin's discs; a diagonal entry is a Rayleigh quotient.
        discs = self.diagonal[:rows].copy()
        discs[:-1] += off
        discs[1:] += off
        low, high = self.diagonal[:rows].max(axis=0), discs.max(axis=0)
        for _ in range(_NUM_BISECTIONS):
            middle = 0.5 * (low + high)
            above = self._all_below(middle, rows)
            high = np.where(above, middle, high)
            low = np.where(above, low, middle)
        values: Array = high * (1.0 + _ROOM)
        return values

    def _all_below(self, x: Array, rows: int) -> npt.NDArray[np.bool_]:
        """Whether the leading block has all eigenvalues below x, (d,)."""
        pivot = self.diagonal[0] - x
        worst, step = pivot.copy(), np.empty_like(pivot)
        # A pivot of zero gives an infinite one next, of either sign: not all below.
        with np.errstate(divide="ignore", invalid="ignore"):
            for i in range(1, rows):
                np.divide(self.squared_off[i - 1], pivot, out=step)
                np.subtract(self.diagonal[i], x, out=pivot)
                pivot -= step
                np.maximum(worst, pivot, out=worst)
        below: npt.NDArray[np.bool_] = worst < 0.0
        return below

    def log_det(self, x: Array) -> Array:
        r""":math:`\log\det(I - T/x)` where x is above every eigenvalue.

        Args:
            x: (d,), positive.

        Returns:
            (d,); minus infinity where an eigenvalue is x or more.
        """
        # Pivots of I - T/x in the order of elimination: all positive or not definite.
        pivots = 1.0 - self.diagonal / x
        definite = pivots[0] > 0.0
        for i in range(1, len(pivots)):
            last = np.where(definite, pivots[i - 1], 1.0)
            pivots[i] -= self.squared_off[i - 1] / x / x / last
            definite &= pivots[i] > 0.0
        pivots[:, ~definite] = 1.0
        total = np.log(pivots, out=pivots).sum(axis=0)
        return np.where(definite, total, -math.inf)

    def eigenvalues(self, draw: int) -> Array:
        """All eigenvalues of one draw in O(p^2), (p,), descending."""
        off = np.sqrt(self.squared_off[:, draw])
        values: Array = eigvalsh_tridiagonal(self.diagonal[:, draw], off)
        return np.maximum(values[::-1], 0.0)


def gaussian_tridiagonals(
    m: int, n: int, num: int, rng: np.random.Generator
) -> Tridiagonals:
    """Draw the Gram matrices of (m, n) standard normal matrices, tridiagonal.

    Args:
        m: Number of rows.
        n: Number of columns.
        num: Number of draws; memory is 16 min(m, n) bytes each.
        rng: Source of randomness.

    Returns:
        The draws.
    """
    long, short = max(m, n), min(m, n)
    on = rng.chisquare(np.arange(long, long - short, -1)[:, None], (short, num))
    above = rng.chisquare(np.arange(short - 1, 0, -1)[:, None], (short - 1, num))
    squared_off = on[:-1] * above
    on[1:] += above
    return Tridiagonals(on, squared_off)
