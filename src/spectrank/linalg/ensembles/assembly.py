r"""A matrix with given singular values between independent Haar factors.

W = U diag(s) V^T needs as many columns of U and V as there are singular values other
than zero. Where many equal one value c, fewer will do: with m >= n, Q = U V^T is Haar
and independent of V, and

    W = Q (c I + V_k diag(s_k - c) V_k^T),

where the k columns V_k belong to the singular values other than c. Same law exactly;
one QR instead of two for an orthogonal matrix or one spike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.linalg.ensembles.law import Law, Matrices, Profiles, SpectralMoments
from spectrank.linalg.haar import Draws, frame


def assemble(s: Profiles, m: int, n: int, draws: Draws) -> Matrices:
    """Draw U diag(s) V^T with independent Haar U and V.

    Args:
        s: (*num, p) descending, p = min(m, n).
        m: Number of rows.
        n: Number of columns.
        draws: Source of randomness.

    Returns:
        (*num, m, n) in the precision of ``draws``.
    """
    s = s.to(draws.device)
    k = int((s > 0.0).any(0).sum()) if s.ndim > 1 else int((s > 0.0).sum())
    if s.ndim == 1:
        common = _common_value(s)
        others = s[s != common]
        if _polar_cost(m, n, len(others)) < _product_cost(m, n, k):
            return _polar(float(common), others, m, n, draws)
    U = frame(m, k, draws)
    V = frame(n, k, draws)
    weights = s[..., :k].to(draws.dtype).unsqueeze(-2)
    return (U * weights) @ V.mT


def _common_value(s: Tensor) -> Tensor:
    """Most frequent value other than zero."""
    values, counts = torch.unique(s[s > 0.0], return_counts=True)
    common: Tensor = values[counts.argmax()]
    return common


def _polar(c: float, others: Tensor, m: int, n: int, draws: Draws) -> Tensor:
    long, short = max(m, n), min(m, n)
    W = frame(long, short, draws).mul_(c)
    if len(others):
        V = frame(short, len(others), draws)
        weights = ((others - c) / c).to(draws.dtype)
        add_product(W, W @ V * weights, V.mT)
    return W if m >= n else W.mT


def add_product(W: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Add ``left @ right`` to W in place, without a matrix between.

    Args:
        W: (m, n), or (num, m, n).
        left: (m, k), or (num, m, k).
        right: (k, n), or (num, k, n).

    Returns:
        W.
    """
    return W.addmm_(left, right) if W.ndim == 2 else W.baddbmm_(left, right)


def _qr_cost(m: int, k: int) -> float:
    """Operations of the factorisation and of forming Q."""
    return 4.0 * k * k * (m - k / 3.0)


def _product_cost(m: int, n: int, k: int) -> float:
    return _qr_cost(m, k) + _qr_cost(n, k) + 2.0 * m * n * k


def _polar_cost(m: int, n: int, k: int) -> float:
    long, short = max(m, n), min(m, n)
    return _qr_cost(long, short) + _qr_cost(short, k) + 4.0 * m * n * k


@final
@dataclass(frozen=True)
class FixedLaw(Law):
    """Haar factors around singular values that are not random.

    Attributes:
        m: Number of rows.
        n: Number of columns.
        squares: The min(m, n) squared singular values, descending, the first one.
    """

    m: int
    n: int
    squares: tuple[float, ...]

    @property
    def stable_rank(self) -> float:
        """Sum of the squares."""
        return float(self._t.sum())

    @property
    def moments(self) -> SpectralMoments:
        """Exact sums."""
        a1 = self.stable_rank
        return SpectralMoments(a1, a1**2, float(self._t.square().sum()))

    def draw(self, draws: Draws) -> Matrices:
        """Return matrices (*num, m, n) in the precision of ``draws``."""
        return assemble(self._t.sqrt(), self.m, self.n, draws)

    @property
    def _t(self) -> Tensor:
        return torch.tensor(self.squares, dtype=torch.float64, device="cpu")
