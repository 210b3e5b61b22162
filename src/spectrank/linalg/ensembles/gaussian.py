r"""Independent Gaussian entries: the reference whose stable rank is its own.

Its largest singular value is random, near :math:`\sqrt v (\sqrt m + \sqrt n)` for
entries of variance v. The law is normalised by that value, so unlike every other
ensemble a draw has spectral norm one only nearly, and a1 is random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from spectrank.linalg.ensembles.law import Law, Matrices, SpectralMoments
from spectrank.linalg.haar import Draws


@final
@dataclass(frozen=True)
class GaussianLaw(Law):
    """Entries independent normal, of variance (sqrt m + sqrt n)^-2.

    Attributes:
        m: Number of rows.
        n: Number of columns.
    """

    m: int
    n: int

    @property
    def stable_rank(self) -> None:
        """None: it is random, near mn / (sqrt m + sqrt n)^2."""
        return

    @property
    def moments(self) -> SpectralMoments:
        r"""Exact, for entries of variance v.

        :math:`E a_1 = vmn`, :math:`E a_1^2 = v^2 mn(mn + 2)`,
        :math:`E a_2 = v^2 mn(m + n + 1)`.
        """
        v, mn = self._deviation**2, float(self.m * self.n)
        a2 = v * v * mn * (self.m + self.n + 1)
        return SpectralMoments(v * mn, v * v * mn * (mn + 2.0), a2)

    def draw(self, draws: Draws) -> Matrices:
        """Return matrices (*num, m, n) in the precision of ``draws``."""
        return draws.normal(self.m, self.n).mul_(self._deviation)

    @property
    def _deviation(self) -> float:
        return 1.0 / (math.sqrt(self.m) + math.sqrt(self.n))
