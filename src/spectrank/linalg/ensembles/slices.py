r"""Uniform singular values: (t_2..t_p) uniform on {0 <= t <= 1, sum = r - 1}, t_1 = 1.

Sampler: from equal values, sweeps over random disjoint pairs; of a pair with sum T one
takes a uniform value of [max(0, T - 1), min(1, T)] and the other the rest. Every sweep
leaves the uniform law as it is and keeps the sum. The excess of the second moment
shrinks by 2/3 a sweep or faster.

Moments: with q = p - 1 independent uniform numbers and B_q the density of their sum
(Irwin-Hall), E t_2^2 = g(x) / B_q(x) at x = r - 1, where g is the convolution of
t^2 on [0, 1] with B_{q-1}. Its Laplace transform gives

    g(x) = sum_j 2(j + 1) [B_{q+2}(x - j) - B_{q+1}(x - 1 - j)] - B_q(x - 1 - j).

B_n comes from its recurrence, whose terms are all positive; for x > q/2 the slice is
reflected, t -> 1 - t, so the sum over j is short and loses about four digits at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch

from spectrank.linalg.ensembles.assembly import assemble
from spectrank.linalg.ensembles.law import Law, Matrices, Profiles, SpectralMoments
from spectrank.linalg.haar import Draws

NUM_SWEEPS = 50


def draw_slice(p: int, r: float, draws: Draws) -> Profiles:
    """Draw squared singular values uniformly from the slice.

    Args:
        p: Number of values, the first of which is one.
        r: Their sum, in [1, p].
        draws: Source of randomness.

    Returns:
        (*num, p) float64, each descending.
    """
    lead = () if draws.num is None else (draws.num,)
    one = torch.ones(*lead, 1, dtype=torch.float64, device=draws.device)
    if p == 1:
        return one
    q = p - 1
    t = one.new_full((*lead, q), (r - 1.0) / q)
    half = q // 2
    if half and 1.0 < r < p:
        for _ in range(NUM_SWEEPS):
            # With q odd the last of the shuffled indices sits out.
            order = draws.uniform(q).argsort(-1)
            first, second = order[..., :half], order[..., half : 2 * half]
            total = t.gather(-1, first) + t.gather(-1, second)
            low = (total - 1.0).clamp_min(0.0)
            high = total.clamp_max(1.0)
            drawn = low + draws.uniform(half) * (high - low)
            t = t.scatter(-1, first, drawn).scatter(-1, second, total - drawn)
    return torch.cat([one, t.clamp(0.0, 1.0).sort(-1, descending=True)[0]], dim=-1)


def slice_a2(p: int, r: float) -> float:
    r"""Exact :math:`E \sum t_i^2` of the slice; about p r / 2 operations.

    Args:
        p: Number of values, the first of which is one.
        r: Their sum, in [1, p].

    Returns:
        The moment, in [r^2 / p, r].
    """
    q, x = p - 1, r - 1.0
    if q == 0 or x == 0.0:
        return 1.0
    if q == 1:
        return 1.0 + x * x
    if x <= q / 2:
        return 1.0 + q * _second_moment(q, x)
    y = p - r
    return 1.0 + (q - 2.0 * y + (q * _second_moment(q, y) if y > 0.0 else 0.0))


def _second_moment(q: int, x: float) -> float:
    """E t^2 of one of q uniform numbers given their sum x, 0 < x <= q / 2."""
    y = x - np.arange(math.floor(x) + 1)
    B = np.where((y >= 0.0) & (y < 1.0), 1.0, 0.0)
    for n in range(2, q + 1):
        B = _next_density(B, y, n)
        # Only the ratios of the last three matter; B itself leaves float64's range.
        B = B / B.max()
    at_q = B
    at_q1 = _next_density(at_q, y, q + 1)
    at_q2 = _next_density(at_q1, y, q + 2)
    j = np.arange(1.0, len(y) + 1.0)
    g = 2.0 * (j @ at_q2) - 2.0 * (j[:-1] @ at_q1[1:]) - at_q[1:].sum()
    return float(g / at_q[0])


def _next_density(B: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Irwin-Hall density of n numbers at y, y - 1, ... from that of n - 1."""
    after: np.ndarray = (y * B + (n - y) * np.append(B[1:], 0.0)) / (n - 1)
    return after


@final
@dataclass(frozen=True)
class SliceLaw(Law):
    """Haar factors around singular values uniform on the slice.

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
        """Exact."""
        a2 = slice_a2(min(self.m, self.n), self.r)
        return SpectralMoments(self.r, self.r**2, a2)

    def draw(self, draws: Draws) -> Matrices:
        """Return matrices (*num, m, n) in the precision of ``draws``."""
        t = draw_slice(min(self.m, self.n), self.r, draws)
        return assemble(t.sqrt(), self.m, self.n, draws)
