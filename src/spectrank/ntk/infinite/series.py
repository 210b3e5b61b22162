r"""Gaussian means of any smooth map: its Hermite series.

    phi(sqrt(q) z) = sum_j a_j(q) h_j(z),   h_j orthonormal Hermite polynomials
    E phi(u) phi(v) = sum_j a_j(q_x) a_j(q_y) c^j,   c the correlation   (Mehler)

and the slope from the series of phi'. The a_j are trapezoidal sums over z, which
converge faster than any power of the step for smooth maps. Parseval's identity bounds
what a series of J terms leaves out: sqrt(tail_x tail_y) |c|^J, tail the part of the
mean square beyond J. Terms are added until the bound is below rounding; a map so steep
that 2048 terms do not suffice is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.ntk.infinite.duals import Dual

Function = Callable[[Tensor], Tensor]
# exp(-z^2 / 4) is 7e-17 at 12.2; the factor phi(sqrt(q) z) grows slower than that.
_END = 14.0
_FIRST, _MOST = 64, 2048
_TOLERANCE = 1e-13
# Entries of phi on the nodes at a time: 32 MiB.
_CHUNK = 1 << 22
# Variances beyond it would ask for rules of gigabytes.
_LARGEST = 1e3


@final
@dataclass(frozen=True)
class Smooth(Dual):
    """A map that is smooth on the line, by its Hermite series.

    Attributes:
        function: Elementwise, float64 to float64.
        label: What a refusal calls it.
    """

    function: Function
    label: str

    def pair(self, k: Tensor, q_x: Tensor, q_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return dual and slope of pairs."""
        norm = q_x.sqrt() * q_y.sqrt()
        c = torch.where(norm > 0.0, k / norm, torch.zeros_like(k)).clamp(-1.0, 1.0)
        values = self._series(self.function, c, q_x, q_y)
        return values, self._series(self._derivative, c, q_x, q_y)

    def square(self, q: Tensor) -> Tensor:
        """Return E phi(u)^2."""
        return _mean(lambda u: self.function(u) ** 2, q)

    def mean(self, q: Tensor) -> Tensor:
        """Return E phi(u)."""
        return _mean(self.function, q)

    def _derivative(self, u: Tensor) -> Tensor:
        with torch.enable_grad():
            point = u.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.function(point).sum(), point)
        return slope

    def _series(self, phi: Function, c: Tensor, q_x: Tensor, q_y: Tensor) -> Tensor:
        squares = [_mean(lambda u: phi(u) ** 2, q) for q in (q_x, q_y)]
        num = _FIRST
        while True:
            a, b = _coefficients(phi, q_x, num), _coefficients(phi, q_y, num)
            left = [
                (s - (x**2).sum(-1)).clamp_min(0.0)
                for s, x in zip(squares, (a, b), strict=True)
            ]
            size = (squares[0] * squares[1]).sqrt()
            bound = (left[0] * left[1]).sqrt() * c.abs() ** num
            if bool((bound <= _TOLERANCE * size + 1e-300).all()):
                break
            if num >= _MOST:
                worst = float(torch.max(q_x.max(), q_y.max()))
                raise DomainError(
                    f"a Hermite series of at most {_MOST} terms must hold {self.label} "
                    f"to {_TOLERANCE:g}, got a pre-activation of variance {worst:.3g}; "
                    "state a smaller weight_variance, or use Erf or ReLU"
                )
            num *= 2
        total = torch.zeros_like(c)
        for j in range(num - 1, -1, -1):
            total = total * c + a[..., j] * b[..., j]
        return total


def _step(num: int, q: Tensor) -> float:
    """Step of the nodes: a power of two, so that few rules serve all blocks."""
    variance = float(q.max())
    if variance > _LARGEST:
        raise DomainError(
            "the variance of a pre-activation before a smooth map is at most "
            f"{_LARGEST:g}, got {variance:.3g}; state a smaller weight_variance, or "
            "use Erf or ReLU"
        )
    # Frequencies up to which the sum must be exact: of the highest polynomial, of the
    # density, and of a map whose transform falls like exp(-w pi / 4), as that of
    # tanh(2 u): 1e-16 at 46 a unit of sqrt(q).
    frequency = math.sqrt(num) + 10.0 + 46.0 * math.sqrt(variance)
    return 2.0 ** math.floor(math.log2(2.0 * math.pi / frequency))


@lru_cache(maxsize=8)
def _rule(num: int, step: float) -> tuple[Tensor, Tensor]:
    """Nodes, and (nodes, num) weights that make phi on the nodes coefficients."""
    half = math.ceil(_END / step)
    z = torch.arange(-half, half + 1, dtype=torch.float64) * step
    previous, current = torch.zeros_like(z), torch.exp(-0.25 * z**2)
    rows = []
    for j in range(num):
        rows.append(current)
        following = (z * current - math.sqrt(j) * previous) / math.sqrt(j + 1)
        previous, current = current, following
    density = step * torch.exp(-0.25 * z**2) / math.sqrt(2.0 * math.pi)
    return z, torch.stack(rows, 1) * density[:, None]


def _coefficients(phi: Function, q: Tensor, num: int) -> Tensor:
    """(*q.shape, num) coefficients of phi(sqrt(q) z)."""
    z, weights = (t.to(q.device) for t in _rule(num, _step(num, q)))
    flat = q.reshape(-1, 1).sqrt()
    rows = max(1, _CHUNK // len(z))
    parts = [phi(part * z) @ weights for part in torch.split(flat, rows)]
    return torch.cat(parts).reshape(*q.shape, num)


def _mean(phi: Function, q: Tensor) -> Tensor:
    """E phi(sqrt(q) Z)."""
    return _coefficients(phi, q, 1)[..., 0]
