r"""Gaussian means of an elementwise map and of its derivative, in closed form.

    (u, v)   centred Gaussian, variances q_x and q_y, covariance k
    dual     E phi(u) phi(v)
    slope    E phi'(u) phi'(v) = d dual / dk        (Price's theorem)
    mean     E phi(u)

Angles come from atan2 of sqrt(q_x q_y - k^2) and k: arccos(k / sqrt(q_x q_y)) loses
half of its digits near one. Angles below about 6e-8 are below the rounding of the
covariances and count as zero, so that a point and its copy are the same point.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

# Relative, on q_x q_y - k^2.
_SAME = 16.0 * torch.finfo(torch.float64).eps


class Dual(ABC):
    """An elementwise map, by what a Gaussian sees of it."""

    @abstractmethod
    def pair(self, k: Tensor, q_x: Tensor, q_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return dual and slope of pairs; the arguments broadcast."""

    @abstractmethod
    def square(self, q: Tensor) -> Tensor:
        """Return E phi(u)^2 for variances q."""

    @abstractmethod
    def mean(self, q: Tensor) -> Tensor:
        """Return E phi(u) for variances q."""


def root(k: Tensor, q_x: Tensor, q_y: Tensor) -> Tensor:
    r""":math:`\sqrt{q_x q_y - k^2}`, zero where it is rounding.

    Args:
        k: Covariances.
        q_x: Variances of the one side.
        q_y: Variances of the other; all three broadcast.

    Returns:
        Not negative.
    """
    # Root by root: the product of two variances of 1e-200 is zero.
    norm = q_x.sqrt() * q_y.sqrt()
    cosine = torch.where(norm > 0.0, k / norm, torch.zeros_like(k))
    rest = (1.0 - cosine) * (1.0 + cosine)
    return torch.where(rest > _SAME, rest, torch.zeros_like(rest)).sqrt() * norm


@final
@dataclass(frozen=True)
class Leaky(Dual):
    r"""max(u, 0) + a min(u, 0): relu at a = 0, the absolute value at a = -1.

    With s = sqrt(q_x q_y - k^2) and theta = atan2(s, k):
    dual = (1-a)^2 (s + k (pi - theta)) / (2 pi) + a k, slope its derivative in k. Where
    a variance is zero the neuron sits on the kink, and its derivative is torch's: a, or
    0 for the absolute value.
    Source (derived): tests/ntk/infinite/test_infinite_duals.py.

    Attributes:
        slope: a.
    """

    slope: float

    def pair(self, k: Tensor, q_x: Tensor, q_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return dual and slope of pairs."""
        s = root(k, q_x, q_y)
        share = (1.0 - self.slope) ** 2 / (2.0 * math.pi)
        left = math.pi - torch.atan2(s, k)
        value = share * (s + k * left) + self.slope * k
        return value, self._at_zero(share * left + self.slope, q_x, q_y)

    def square(self, q: Tensor) -> Tensor:
        """Return E phi(u)^2."""
        return q * (0.5 * (1.0 + self.slope**2))

    def mean(self, q: Tensor) -> Tensor:
        """Return E phi(u)."""
        return (1.0 - self.slope) * (q / (2.0 * math.pi)).sqrt()

    def _at_zero(self, slope: Tensor, q_x: Tensor, q_y: Tensor) -> Tensor:
        kink = 0.0 if self.slope == -1.0 else self.slope
        mean = 0.5 * (1.0 + self.slope)
        # Two Python numbers in torch.where would make float32 of them.
        sides = [(q > 0.0).to(q) * (mean - kink) + kink for q in (q_x, q_y)]
        alive = (q_x > 0.0) & (q_y > 0.0)
        return torch.where(alive, slope, sides[0] * sides[1])


@final
@dataclass(frozen=True)
class Erf(Dual):
    r"""erf(u): dual = (2/pi) arcsin(2k / sqrt((1 + 2 q_x)(1 + 2 q_y))).

    Source (derived): tests/ntk/infinite/test_infinite_duals.py.
    """

    def pair(self, k: Tensor, q_x: Tensor, q_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return dual and slope of pairs."""
        # (1 + 2 q_x)(1 + 2 q_y) - 4 k^2, without the difference.
        rest = root(k, q_x, q_y) ** 2
        other = (1.0 + 2.0 * (q_x + q_y) + 4.0 * rest).sqrt()
        return torch.atan2(2.0 * k, other) * (2.0 / math.pi), 4.0 / (math.pi * other)

    def square(self, q: Tensor) -> Tensor:
        """Return E phi(u)^2."""
        return torch.atan2(2.0 * q, (1.0 + 4.0 * q).sqrt()) * (2.0 / math.pi)

    def mean(self, q: Tensor) -> Tensor:
        """Return E phi(u)."""
        return torch.zeros_like(q)


@final
@dataclass(frozen=True)
class Gelu(Dual):
    r"""u Phi(u), by the error function.

    With A = 1 + q_x, B = 1 + q_y, D = AB - k^2, N = q_x q_y - k^2 + k^2 (1/A + 1/B):
    dual = k/4 + (k atan2(k, sqrt D) + N / sqrt D) / (2 pi), by two integrations by
    parts; slope its derivative in k.
    Source (derived): tests/ntk/infinite/test_infinite_duals.py.
    """

    def pair(self, k: Tensor, q_x: Tensor, q_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return dual and slope of pairs."""
        rest = root(k, q_x, q_y) ** 2
        shrink = 1.0 / (1.0 + q_x) + 1.0 / (1.0 + q_y)
        return _gelu(k, rest, 1.0 + q_x + q_y + rest, shrink)

    def square(self, q: Tensor) -> Tensor:
        """Return E phi(u)^2."""
        zero = torch.zeros_like(q)
        return _gelu(q, zero, 1.0 + 2.0 * q, 2.0 / (1.0 + q))[0]

    def mean(self, q: Tensor) -> Tensor:
        """Return E phi(u)."""
        return q / (2.0 * math.pi * (1.0 + q)).sqrt()


def _gelu(k: Tensor, rest: Tensor, d: Tensor, shrink: Tensor) -> tuple[Tensor, Tensor]:
    below = d.sqrt()
    angle = torch.atan2(k, below)
    top = rest + k**2 * shrink
    dual = 0.25 * k + (k * angle + top / below) / (2.0 * math.pi)
    inner = angle + k * (2.0 * shrink - 1.0) / below + top * k / (d * below)
    return dual, 0.25 + inner / (2.0 * math.pi)


@final
@dataclass(frozen=True)
class Identity(Dual):
    """u itself."""

    def pair(self, k: Tensor, q_x: Tensor, q_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return dual and slope of pairs."""
        return k, torch.ones_like(k)

    def square(self, q: Tensor) -> Tensor:
        """Return E phi(u)^2."""
        return q

    def mean(self, q: Tensor) -> Tensor:
        """Return E phi(u)."""
        return torch.zeros_like(q)
