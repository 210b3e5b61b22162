"""What every ensemble tells of itself: its moments, and how to draw a matrix.

A law is normalised to a largest singular value of one. ``s``: singular values,
descending; ``t = s^2``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from spectrank.linalg.haar import Draws
from spectrank.linalg.shapes import Shaped

Matrices = Shaped[Tensor, "*num m n"]
Profiles = Shaped[Tensor, "*num p"]


@final
@dataclass(frozen=True)
class SpectralMoments:
    r"""Moments of the squared singular values, all that second-order theory needs.

    Where the stable rank is prescribed, a1 is not random and ``a1_squared = a1**2``.

    Attributes:
        a1: :math:`E \sum s_i^2 = E \|W\|_F^2`.
        a1_squared: :math:`E (\sum s_i^2)^2`.
        a2: :math:`E \sum s_i^4`.
        a2_stderr: Standard error of ``a2``; 0 where it is exact, as for every spectrum
            but ``temper``.
    """

    a1: float
    a1_squared: float
    a2: float
    a2_stderr: float = 0.0

    @property
    def participation_ratio(self) -> float:
        r""":math:`\rho = E (\sum s^2)^2 / E \sum s^4`, in [1, min(m, n)].

        The ratio of expectations, which is what moment formulas read, not the mean of
        the random ratio.
        """
        return self.a1_squared / self.a2

    def scaled(self, spectral_norm: float) -> SpectralMoments:
        """Return the moments of ``spectral_norm * W``.

        Args:
            spectral_norm: Factor on every singular value.

        Returns:
            a1 times its square; the others times its fourth power; inf or 0 where
            that leaves the range of float64.
        """
        square = squared(spectral_norm)
        fourth = squared(square)
        return SpectralMoments(
            self.a1 * square,
            self.a1_squared * fourth,
            self.a2 * fourth,
            # Not 0 * inf.
            self.a2_stderr * fourth if self.a2_stderr else 0.0,
        )


def squared(x: float) -> float:
    """Return x^2, inf where it leaves the range of float64.

    Args:
        x: Any number.

    Returns:
        The square.
    """
    # Not x * x, which may differ from it in the last bit.
    try:
        return x**2
    except OverflowError:
        return math.inf


class Law(ABC):
    """A bi-orthogonally invariant law of an (m, n) matrix with s_1 = 1."""

    @property
    @abstractmethod
    def stable_rank(self) -> float | None:
        """Stable rank of every draw; None where it is random."""

    @property
    @abstractmethod
    def moments(self) -> SpectralMoments:
        """Moments at s_1 = 1."""

    @property
    def a1(self) -> float:
        """E sum s^2: the stable rank where there is one; never expensive."""
        r = self.stable_rank
        return self.moments.a1 if r is None else r

    @abstractmethod
    def draw(self, draws: Draws) -> Matrices:
        """Return matrices (*num, m, n) in the precision of ``draws``."""
