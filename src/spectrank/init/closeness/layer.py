"""What is measured of one matrix: its spectrum free of scale, and its entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from spectrank.init.closeness.references import NORMAL_EXCESS, UNIFORM_EXCESS
from spectrank.init.closeness.tridiagonal import Array
from spectrank.linalg import Spectrum
from spectrank.linalg.shapes import Matrix

# Entries converted to float64 at a time.
_CHUNK = 1 << 20
# Standard errors within which a kurtosis is that of a law.
_NEAR = 5.0
# Standard errors below that of normal entries from which it is not theirs.
_CLEAR = 2.5

Entries = Literal["normal", "uniform", "other"]


@final
@dataclass(frozen=True, eq=False)
class Layer:
    """A finite matrix with at least one entry that is not zero.

    Attributes:
        m: Number of rows.
        n: Number of columns.
        frobenius: Frobenius norm.
        stable_rank: Stable rank.
        participation_ratio: Participation ratio.
        squares: (p,) squared singular values over the largest, descending; None where
            only norms were measured.
        excess: Excess kurtosis of the entries about zero.
        rounding: Relative error of a singular value that the stored precision makes.
    """

    m: int
    n: int
    frobenius: float
    stable_rank: float
    participation_ratio: float
    squares: Array | None
    excess: float
    rounding: float

    @property
    def size(self) -> int:
        """Number of singular values."""
        return min(self.m, self.n)

    @property
    def excess_scores(self) -> tuple[float, float]:
        """Standard errors of the kurtosis from that of normal and of uniform entries.

        The variance of the ratio m4 / m2^2 over N entries is 24/N for normal and,
        9x^4 - 10.8x^2 having variance 1.3166 for x uniform on [-1, 1], that over N.
        """
        root = math.sqrt(self.m * self.n)
        normal = (self.excess - NORMAL_EXCESS) * root / math.sqrt(24.0)
        uniform = (self.excess - UNIFORM_EXCESS) * root / math.sqrt(1.3166)
        return normal, uniform

    @property
    def entries(self) -> Entries:
        """The law that the kurtosis of the entries points to."""
        normal, uniform = (abs(score) for score in self.excess_scores)
        if min(normal, uniform) > _NEAR:
            return "other"
        return "normal" if normal <= uniform else "uniform"

    @property
    def counted_excess(self) -> float:
        """Excess kurtosis that the statistics are corrected for, at most 0.

        That of uniform entries or what was measured, once it is clear of normal ones;
        heavy tails are not taken out, they are what training makes.
        """
        normal, uniform = self.excess_scores
        if normal > -_CLEAR:
            return NORMAL_EXCESS
        return UNIFORM_EXCESS if abs(uniform) <= _NEAR else self.excess

    @property
    def edge_shift(self) -> float:
        r"""Log of the factor on s_1^2 that the law of the entries makes.

        To first order :math:`1 + \kappa / \sqrt{mn}`; of that shift, 0.4 deviations of
        log s_1^2 for uniform entries at 64 x 64, 0.6 are there at 20 x 20 and 0.8 at
        80 x 80. Source (derived): the cubic terms of the self-consistent equations,
        -1/a = w + g b + g e a b^2 and -1/b = w + a + e b a^2 with e = kappa / L,
        g = p / L and w^2 the squared singular value, move their edge (1 + sqrt g)^2 by
        the factor 1 + e / sqrt g; tests/init/closeness/test_closeness_layer.py.
        """
        return math.log1p(max(self.counted_excess / math.sqrt(self.m * self.n), -0.9))

    def statistics(self) -> Array:
        """Log stable rank and log participation ratio as of normal entries.

        E sum s^4 = v^2 mn (m + n + 1 + kappa) for independent entries of any law.

        Returns:
            (2,).
        """
        return np.array([math.log(self.normal_rank), -math.log(self._normal_fourth)])

    @property
    def normal_rank(self) -> float:
        """Stable rank as of normal entries."""
        rank = self.stable_rank * math.exp(self.edge_shift)
        return min(max(rank, 1.0), float(self.size))

    @property
    def _normal_fourth(self) -> float:
        """Sum of s^4 over the squared sum of s^2, as of normal entries."""
        return 1.0 / self.participation_ratio - self.counted_excess / (self.m * self.n)

    @property
    def rest_share(self) -> float:
        """Share of the squared Frobenius norm beyond the first singular value."""
        return max(1.0 - 1.0 / self.stable_rank, 0.0)

    def rest_ranks(self) -> tuple[float, float]:
        """Stable rank (NaN from norms alone) and participation ratio without s_1."""
        if self.squares is not None:
            rest = self.squares[1:] / self.squares[1]
            return float(rest.sum()), float(rest.sum() ** 2 / np.square(rest).sum())
        top = 1.0 / self.stable_rank
        fourth = max(1.0 / self.participation_ratio - top * top, 0.0)
        ratio = self.rest_share**2 / fourth if fourth > 0.0 else math.nan
        return math.nan, min(ratio, float(self.size - 1))

    def rest_statistics(self) -> Array:
        """As `statistics`, of the singular values after the first; from norms only rho.

        Returns:
            (2,) or, from norms alone, (1,).
        """
        stable, ratio = self.rest_ranks()
        r = self.normal_rank
        fourth = self._normal_fourth - 1.0 / (r * r)
        if self.counted_excess != NORMAL_EXCESS and r > 1.0 and fourth > 0.0:
            # Norms, first and second value all as of normal entries.
            ratio = (1.0 - 1.0 / r) ** 2 / fourth
            stable *= (r - 1.0) / (self.stable_rank - 1.0)
        first = [] if math.isnan(stable) else [math.log(stable)]
        return np.array([*first, math.log(ratio)])


def make_layer(W: Matrix, s: Spectrum) -> Layer:
    """Collect what the report reads of a matrix.

    Args:
        W: (m, n), finite, not zero.
        s: Its spectrum with norms and perhaps all values.

    Returns:
        The facts.
    """
    assert s.schatten4 is not None
    m, n = s.shape
    squares = None
    if s.sigma is not None:
        squares = np.square((s.sigma / s.sigma[0]).numpy())
        stable = float(squares.sum())
        ratio = float(squares.sum() ** 2 / np.square(squares).sum())
    else:
        stable = (s.frobenius.value / s.sigma_max.value) ** 2
        ratio = (s.frobenius.value / s.schatten4.value) ** 4
    top = float(min(m, n))
    return Layer(
        m,
        n,
        s.frobenius.value,
        min(max(stable, 1.0), top),
        min(max(ratio, 1.0), top),
        squares,
        excess_kurtosis(W),
        max(1e-5, 2.0 * torch.finfo(W.dtype).eps),
    )


def excess_kurtosis(W: Tensor) -> float:
    r"""Excess kurtosis of the entries about zero, mn sum w^4 / (sum w^2)^2 - 3.

    Args:
        W: (m, n), finite, not zero.

    Returns:
        In [-2, mn - 3]; 0 for normal entries, -1.2 for uniform ones.
    """
    # Scaled by the largest entry: a fourth power overflows from 1e77.
    scale = max(float(part.abs().max()) for part in _parts(W))
    second = fourth = 0.0
    for part in _parts(W):
        # A copy: the part is the user's own memory, in float64 `double` is too.
        squares = part.to(torch.float64, copy=True).div_(scale).square_()
        second += float(squares.sum())
        fourth += float(squares.square_().sum())
    return W.numel() * (fourth / second) / second - 3.0


def _parts(W: Tensor) -> tuple[Tensor, ...]:
    return torch.split(W, max(1, _CHUNK // W.shape[1]))
