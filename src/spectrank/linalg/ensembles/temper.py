r"""Singular values of a Gaussian matrix raised to a power, W = U diag((s/s_1)^g) V^T.

The power is found per draw so that the stable rank is as asked: 0 gives an orthogonal
matrix, 1 the Gaussian itself, a large one a spike. U and V are drawn anew: those of a
Gaussian matrix are Haar and independent of s, so the law is the same.

No closed form of E sum t^2 is known. It is averaged over singular values drawn by the
bidiagonal form of a Gaussian matrix (diagonal chi_m, chi_{m-1}, ...; above it
chi_{n-1}, chi_{n-2}, ...; m >= n), with a seed of its own, and has a standard error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import final

import numpy as np
import torch
from scipy.linalg import eigvalsh_tridiagonal

from spectrank.linalg.ensembles.assembly import assemble
from spectrank.linalg.ensembles.law import Law, Matrices, Profiles, SpectralMoments
from spectrank.linalg.ensembles.profiles import tempered
from spectrank.linalg.haar import Draws

# E sum t^2 self-averages over the p values of a draw, so large matrices need few draws:
# eight of 4096 x 4096, 1.6 s each, know it to a percent.
_NUM_VALUES = 1 << 14
_NUM_DRAWS = (8, 2048)
_SEED = 20211005


def gaussian_log_values(m: int, n: int, num: int, rng: np.random.Generator) -> Profiles:
    """Draw log(s / s_1) of Gaussian (m, n) matrices, each in O(p^2).

    Args:
        m: Number of rows.
        n: Number of columns.
        num: Number of matrices.
        rng: Source of randomness.

    Returns:
        (num, p) float64, each descending from 0.
    """
    long, short = max(m, n), min(m, n)
    # The tridiagonal form of [0 B; B^T 0] has the singular values and their negatives,
    # each to rounding of the largest; B^T B would lose half the digits.
    off = np.empty((num, 2 * short - 1))
    off[:, 0::2] = np.sqrt(
        rng.chisquare(np.arange(long, long - short, -1), (num, short))
    )
    off[:, 1::2] = np.sqrt(rng.chisquare(np.arange(short - 1, 0, -1), (num, short - 1)))
    zeros = np.zeros(2 * short)
    values = np.stack([eigvalsh_tridiagonal(zeros, row) for row in off])
    s = np.maximum(values[:, : short - 1 : -1], np.finfo(float).tiny)
    return torch.from_numpy(np.log(s / s[:, :1]))


# A memo: a2, and log moments of W and of W^T, at every stable rank have the same draws.
@lru_cache(maxsize=8)
def drawn_log_values(long: int, short: int) -> Profiles:
    """Draws of log(s / s_1) with a seed of their own, from which moments are taken.

    Args:
        long: Larger size of the matrix.
        short: Smaller size.

    Returns:
        (num, short) float64, 8 to 2048 draws, fewer the larger; not to be written to.
    """
    fewest, most = _NUM_DRAWS
    num = min(max(_NUM_VALUES // short, fewest), most)
    return gaussian_log_values(long, short, num, np.random.default_rng(_SEED))


@final
@dataclass(frozen=True)
class TemperLaw(Law):
    """Haar factors around tempered singular values of a Gaussian matrix.

    Attributes:
        m: Number of rows.
        n: Number of columns.
        r: Stable rank.
    """

    m: int
    n: int
    r: float

    @property
    def stable_rank(self) -> float:
        """As prescribed."""
        return self.r

    @cached_property
    def moments(self) -> SpectralMoments:
        """a1 exact, a2 a mean over drawn spectra with its standard error."""
        logs = drawn_log_values(max(self.m, self.n), min(self.m, self.n))
        a2 = tempered(logs, self.r).square().sum(-1)
        stderr = float(a2.std()) / math.sqrt(len(a2))
        return SpectralMoments(self.r, self.r**2, float(a2.mean()), stderr)

    def draw(self, draws: Draws) -> Matrices:
        """Return matrices (*num, m, n) in the precision of ``draws``."""
        s = torch.linalg.svdvals(draws.normal(self.m, self.n).double())
        t = tempered((s / s[..., :1]).log(), self.r)
        return assemble(t.sqrt(), self.m, self.n, draws)
