r"""One singular value above a Marchenko-Pastur bulk, in O(mn) and without iteration.

With independent uniform unit vectors u, v and a Gaussian G projected to the complement
of both, H = (I - uu^T) G (I - vv^T),

    W = u v^T + c H,    c = sqrt(r - 1) / ||H||_F,

has the exact singular triplet (1, u, v) and ||W||_F^2 = r, so its stable rank is r as
long as c ||H||_2 <= 1. In the basis of the complements H is an (m-1) x (n-1) Gaussian
matrix, so with M = m - 1, N = n - 1: P(||H||_2 > sqrt M + sqrt N + t) <= e^(-t^2/2)
(Gordon's inequality and concentration), and E sum t^2 = 1 + (r-1)^2 (M+N+1)/(MN+2).

A draw whose bulk sticks out is refused, never bent: an ensemble that conditions on
success would have other moments. Whether it does is decided by the cheapest that can:

1. r <= 2: never, because c ||H||_F <= 1.
2. r above 1 + mn / (sqrt m + sqrt n)^2: no bulk leaves room, refused when asked for.
3. c (sqrt M + sqrt N + t) <= 1 with e^(-t^2/2) = 1e-9: it does not, but for that
   probability. Decides up to 90 % of that limit at 4096 x 4096, 40 % at 64 x 64.
4. Else c ||H||_2 is measured: an SVD up to min(m, n) = 256, above it an enclosure,
   sharpened until it lies on one side of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.linalg.ensembles.assembly import add_product
from spectrank.linalg.ensembles.law import Law, Matrices, SpectralMoments
from spectrank.linalg.haar import Draws
from spectrank.linalg.measure import DEFAULT_FAILURE_PROBABILITY, spectrum
from spectrank.linalg.tracy_widom import largest_eigenvalue_law

# Relative excess of the bulk over the spike that rounding alone can make; twice it is
# what the stable rank may lose.
_ROUNDING = {torch.float64: 2e-11, torch.float32: 2e-5}
# The Tracy-Widom law of real matrices lies above this with probability 1e-6, by its
# tail exp(-2/3 s^(3/2)) / (4 sqrt(pi) s^(3/4)).
_TAIL = 6.3
# Up to this many singular values a dense SVD beats an enclosure.
_DENSE = 256


def largest_typical(m: int, n: int) -> float:
    r"""Largest stable rank that the bulk leaves room for.

    :math:`1 + mn / (\sqrt m + \sqrt n)^2`; at least 2, at most min(m, n). Near it
    a draw fails with a probability between 2 % and 22 %.
    Source (derived): the edge of the Marchenko-Pastur law.

    Args:
        m: Number of rows.
        n: Number of columns.

    Returns:
        The limit; 1 for a vector.
    """
    # (sqrt m + sqrt n)^2, without rounding where mn is a square: 1 + n/4 is a request.
    edge = 1.0 + m * n / (m + n + 2.0 * math.sqrt(m * n))
    return min(max(edge, 2.0), float(min(m, n)))


def largest_sure(m: int, n: int) -> float:
    r"""Largest stable rank at which a draw fails with probability below 1e-9.

    :math:`1 + (\sqrt{MN - 1/2} - t)^2 / (\sqrt M + \sqrt N + t)^2` with M = m - 1,
    N = n - 1 and :math:`e^{-t^2/2}` half that probability; at least 2, at most the
    typical limit.
    Source (derived): tests/linalg/ensembles/test_ensembles_mp_spike.py.

    Args:
        m: Number of rows.
        n: Number of columns.

    Returns:
        The limit; 1 for a vector.
    """
    top = largest_typical(m, n)
    if min(m, n) < 3:
        return top
    M, N = m - 1, n - 1
    t = math.sqrt(2.0 * math.log(2.0 / DEFAULT_FAILURE_PROBABILITY))
    # E chi_k >= sqrt(k - 1/2).
    shortest = max(math.sqrt(M * N - 0.5) - t, 0.0)
    return min(max(1.0 + (shortest / _longest(m, n, t)) ** 2, 2.0), top)


def largest_reliable(m: int, n: int) -> float:
    r"""Largest stable rank at which about one draw in a million is refused.

    What a stable rank shared by many layers is lowered to. The largest singular value
    of H is put at the 1 - 1e-6 quantile of its Tracy-Widom law, centred and scaled to
    second order, and ||H||_F three deviations below its mean: an estimate, where
    `largest_sure` is a bound. At least that, at most the typical limit.
    Source (stated): Johnstone (2001), Ann. Statist. 29, Theorem 1.1, for the limit law;
    (derived): tests/linalg/ensembles/test_ensembles_mp_spike.py for the refusals.

    Args:
        m: Number of rows.
        n: Number of columns.

    Returns:
        The limit; 1 for a vector.
    """
    top = largest_typical(m, n)
    if min(m, n) < 3:
        return top
    centre, width = largest_eigenvalue_law(m - 1, n - 1)
    longest = math.sqrt(centre + _TAIL * width)
    shortest = max(math.sqrt((m - 1) * (n - 1)) - 3.0 / math.sqrt(2.0), 0.0)
    return min(max(1.0 + (shortest / longest) ** 2, largest_sure(m, n)), top)


def _longest(m: int, n: int, t: float) -> float:
    """What ||H||_2 exceeds with probability below exp(-t^2 / 2)."""
    return math.sqrt(m - 1) + math.sqrt(n - 1) + t


@final
@dataclass(frozen=True)
class MpSpikeLaw(Law):
    """One outlier over a Gaussian bulk.

    Attributes:
        m: Number of rows.
        n: Number of columns.
        r: Stable rank, in [1, largest_typical(m, n)].
    """

    m: int
    n: int
    r: float

    @property
    def stable_rank(self) -> float:
        """As prescribed."""
        return self.r

    @property
    def moments(self) -> SpectralMoments:
        """Exact over all draws, refused ones included."""
        m, n, rest = self.m, self.n, self.r - 1.0
        a2 = 1.0 + rest**2 * (m + n - 1) / ((m - 1) * (n - 1) + 2.0)
        return SpectralMoments(self.r, self.r**2, a2)

    def draw(self, draws: Draws) -> Matrices:
        """Return matrices (*num, m, n) in the precision of ``draws``.

        Raises:
            DomainError: If the bulk of a draw has a singular value above the spike.
        """  # noqa: DOC502 - raised by the check
        u = _unit(draws.normal(self.m))
        v = _unit(draws.normal(self.n))
        if self.r == 1.0:
            return u.unsqueeze(-1) * v.unsqueeze(-2)
        H = draws.normal(self.m, self.n)
        norm = _project(H, u, v)
        self._check(H, norm)
        H.mul_((math.sqrt(self.r - 1.0) / norm).to(H.dtype)[..., None, None])
        return add_product(H, u.unsqueeze(-1), v.unsqueeze(-2))

    def _check(self, H: Tensor, norm: Tensor) -> None:
        """Refuse a bulk above the spike: a priori, by an SVD or by an enclosure."""
        c = math.sqrt(self.r - 1.0) / norm
        t = math.sqrt(-2.0 * math.log(DEFAULT_FAILURE_PROBABILITY))
        doubtful = (self.r > 2.0) & (c * _longest(self.m, self.n, t) > 1.0)
        if not bool(doubtful.any()):
            return
        rounding = _ROUNDING[H.dtype]
        for bulk, factor in zip(
            H[doubtful].reshape(-1, self.m, self.n),
            c[doubtful].reshape(-1),
            strict=True,
        ):
            size = _largest(bulk, float(factor), rounding)
            if size > 1.0 + rounding:
                raise DomainError(
                    f"an mp-spike matrix needs a bulk below its spike, got one of "
                    f"{size:.4g} times the spike at stable_rank = {self.r:g} on "
                    f"{self.m} x {self.n}; spectrum='temper' reaches every stable "
                    f"rank, mp-spike surely up to {largest_sure(self.m, self.n):.4g}"
                )


def _unit(x: Tensor) -> Tensor:
    return torch.div(x, torch.linalg.vector_norm(x, dim=-1, keepdim=True))


def _project(H: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Project in place; returns Frobenius norms in float64."""
    before = _frobenius(H)
    while True:
        # (I - uu^T) H (I - vv^T) = H - u a^T - b v^T, a = H^T u, b = H v - u (u^T H v).
        a = (u.unsqueeze(-2) @ H).squeeze(-2)
        b = (H @ v.unsqueeze(-1)).squeeze(-1)
        b = b - u * (a * v).sum(-1, keepdim=True)
        left = torch.stack([-u, -b], dim=-1)
        right = torch.stack([a, v], dim=-2)
        add_product(H, left, right)
        after = _frobenius(H)
        # Rounding left along u and v is relative to what was there before: where most
        # of a small matrix goes away, once is not enough.
        if bool((after >= 0.5 * before).all()):
            return after
        before = after


def _frobenius(H: Tensor) -> Tensor:
    """Frobenius norms, summed in float64 over rows."""
    rows = torch.linalg.vector_norm(H, dim=-1).to(torch.float64)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms


def _largest(bulk: Tensor, factor: float, rounding: float) -> float:
    """``factor * ||bulk||_2``, as sharp as the comparison with one needs it."""
    if min(bulk.shape) <= _DENSE:
        return factor * float(torch.linalg.matrix_norm(bulk.double(), 2))
    for rtol in (1e-2, 1e-4, rounding):
        top = spectrum(bulk, ("sigma_max",), rtol=rtol).sigma_max
        if factor * top.upper <= 1.0 or factor * top.lower > 1.0:
            break
    return factor * top.value
