r"""The Marchenko-Pastur law: the bulk of the spectrum of noise.

W (N, k) with independent entries of mean 0 and variance v: for large sizes the
eigenvalues of :math:`W^T W / N` have the law below with ratio q = k/N. In terms of
singular values of an (m, n) matrix the bulk ends at
:math:`\sqrt v\,|\sqrt m \pm \sqrt n|`.

Angles: x = v (1 + q + 2 sqrt(q) cos(phi)) turns density and distribution function into
elementary functions of phi in [0, pi], smooth up to both edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError

# Halvings of [0, pi] after which an angle is known to its last bit.
_BISECTIONS = 56


@final
@dataclass(frozen=True)
class MarchenkoPastur:
    r"""Limit law of the eigenvalues of :math:`W^T W / N`, with its atom at zero.

    Source (stated): Marchenko & Pastur (1967), Math. USSR-Sbornik 1, for the law;
    (derived) for the closed form of its distribution function:
    tests/linalg/test_marchenko_pastur.py.

    Attributes:
        ratio: q = k/N, columns over rows, positive; above 1 the law has an atom.
        variance: v of the entries, positive.

    Raises:
        DomainError: If an attribute is not positive and finite.

    Example:
        >>> law = MarchenkoPastur(0.25)
        >>> law.lower, law.upper, law.atom
        (0.25, 2.25, 0.0)
    """

    ratio: float
    variance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ratio", "variance"):
            x = getattr(self, name)
            if not (math.isfinite(x) and x > 0.0):
                raise DomainError(
                    f"{name} must be positive and finite, got {x}; "
                    "e.g. MarchenkoPastur(ratio=0.5, variance=1.0)"
                )

    @property
    def lower(self) -> float:
        r"""Lower edge of the continuous part, :math:`v (1 - \sqrt q)^2`."""
        return self.variance * (1.0 - math.sqrt(self.ratio)) ** 2

    @property
    def upper(self) -> float:
        r"""Upper edge, :math:`v (1 + \sqrt q)^2`."""
        return self.variance * (1.0 + math.sqrt(self.ratio)) ** 2

    @property
    def atom(self) -> float:
        """Mass at zero, 1 - 1/q where q > 1: columns beyond the number of rows."""
        return max(1.0 - 1.0 / self.ratio, 0.0)

    def density(self, x: Tensor) -> Tensor:
        r"""Density of the continuous part, whose mass is 1 - ``atom``.

        :math:`\sqrt{(x_+ - x)(x - x_-)} / (2 \pi q v x)` between the edges, else 0.
        For q = 1 it grows like :math:`x^{-1/2}` at zero and is infinite there.

        Args:
            x: Points, any shape.

        Returns:
            float64, of the shape of ``x``.
        """
        x = x.to(torch.float64)
        inside = (x > self.lower) & (x < self.upper)
        root = ((self.upper - x) * (x - self.lower)).clamp_min(0.0).sqrt()
        value = root / (2.0 * math.pi * self.ratio * self.variance * x)
        value = torch.where(inside, value, torch.zeros_like(value))
        at_zero = (x == 0.0) & (self.lower == 0.0)
        return torch.where(at_zero, torch.full_like(value, math.inf), value)

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function, the atom included.

        Args:
            x: Points, any shape.

        Returns:
            float64 in [0, 1], of the shape of ``x``; absolute error of about
            1e-16 over the ratio.
        """
        x = x.to(torch.float64)
        # 4 sqrt(q) cos^2(phi/2) = (x - x_-)/v, sin with the upper edge: an arc cosine
        # would lose half of the digits at the edges.
        cosine = (x - self.lower).clamp_min(0.0).sqrt()
        sine = (self.upper - x).clamp_min(0.0).sqrt()
        inside = self.atom + self._below(2.0 * torch.atan2(sine, cosine))
        # The atom counts from zero on.
        return torch.where(x < 0.0, torch.zeros_like(inside), inside).clamp(0.0, 1.0)

    def quantile(self, p: Tensor | float) -> Tensor:
        """Smallest x whose distribution function is at least p.

        Args:
            p: Probabilities in [0, 1], any shape.

        Returns:
            float64, of the shape of ``p``; 0 up to the atom.

        Raises:
            DomainError: If a probability lies outside [0, 1].
        """
        p = torch.as_tensor(p, dtype=torch.float64)
        if not bool(((p >= 0.0) & (p <= 1.0)).all()):
            raise DomainError(
                f"probabilities must lie in [0, 1], got {p.tolist()}; "
                "the median is quantile(0.5)"
            )
        wanted = p - self.atom
        # The angle falls as x grows.
        low, high = torch.zeros_like(p), torch.full_like(p, math.pi)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            above = self._below(middle) >= wanted
            low, high = (
                torch.where(above, middle, low),
                torch.where(above, high, middle),
            )
        q = self.ratio
        # (1 - sqrt q)^2 + 4 sqrt(q) cos^2(phi / 2): no cancellation at the lower edge.
        x = (1.0 - math.sqrt(q)) ** 2 + 4.0 * math.sqrt(q) * (0.5 * low).cos().square()
        x = torch.where(p >= 1.0, torch.full_like(x, self.upper / self.variance), x)
        return self.variance * torch.where(wanted <= 0.0, self._bottom(p), x)

    def _bottom(self, p: Tensor) -> Tensor:
        # Where there is no atom, p = 0 is the lower edge.
        edge = 0.0 if self.atom else self.lower / self.variance
        return torch.full_like(p, edge)

    def _below(self, phi: Tensor) -> Tensor:
        """Mass below the angle: 2/pi int_phi^pi sin^2 / (1 + q + 2 sqrt(q) cos)."""
        q = self.ratio
        r = math.sqrt(q)
        # The antiderivative with A = 1 + q, B = 2 sqrt(q), A^2 - B^2 = (1 - q)^2, at pi
        # and phi; atan(t tan(phi/2)) as atan2, which knows the pole at pi.
        half = 0.5 * phi
        turn = torch.atan2(abs(1.0 - r) * half.sin(), (1.0 + r) * half.cos())
        at_pi = (1.0 + q) * math.pi - abs(1.0 - q) * math.pi
        at_phi = (1.0 + q) * phi - 2.0 * r * phi.sin() - 2.0 * abs(1.0 - q) * turn
        return (at_pi - at_phi) / (2.0 * math.pi * q)
