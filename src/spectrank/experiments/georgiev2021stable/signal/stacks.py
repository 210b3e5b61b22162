"""Networks of one spectrum and stable rank in all layers, and their layers' laws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, final

from spectrank.experiments.georgiev2021stable.networks import Point
from spectrank.experiments.georgiev2021stable.signal import laws, spectra
from spectrank.random_nets import RandomMLP

FixedSpectrum = Literal["flat", "spike"]
"""Spectra whose singular values are not random."""


@final
@dataclass(frozen=True)
class Stack:
    """A network of one spectrum at He scale, or its linear counterpart.

    Attributes:
        spectrum: ``flat`` or ``spike``, whose singular values are not random.
        stable_rank: In all layers; at most the narrowest width.
        widths: n_0 to n_L.
        activation: ``relu`` with ||W||_F^2 = 2 m, or ``linear`` with m.
    """

    spectrum: FixedSpectrum
    stable_rank: float
    widths: tuple[int, ...]
    activation: Literal["relu", "linear"] = "relu"

    @property
    def key(self) -> str:
        """Such as ``flat-8``, for a claim's key."""
        return f"{self.spectrum}-{self.stable_rank:.3g}".replace(".", "-")

    @property
    def text(self) -> str:
        """Such as ``flat, stable rank 8``."""
        return f"{self.spectrum}, stable rank {self.stable_rank:.3g}"

    def point(self) -> Point:
        """Where its networks are drawn.

        Returns:
            The point.
        """
        law = RandomMLP(
            self.widths,
            stable_rank=(self.stable_rank,) * (len(self.widths) - 1),
            spectrum=self.spectrum,
            activation=self.activation,
        )
        return Point(self.text, law)

    @cached_property
    def layers(self) -> tuple[laws.LayerLaw, ...]:
        """How each layer passes a signal, first to last."""
        return tuple(
            laws.LayerLaw(self._squares(m, n), n, m, relu=self._relu)
            for m, n in zip(self.widths[1:], self.widths[:-1], strict=True)
        )

    @property
    def output(self) -> tuple[laws.LayerLaw, ...]:
        """As ``layers``, without the ReLU after the last one."""
        return (*self.layers[:-1], replace(self.layers[-1], relu=False))

    @cached_property
    def backward(self) -> tuple[laws.LayerLaw, ...]:
        """How each layer passes a gradient from the output, last layer first.

        Widths change their roles, and the mask of a layer is the one before it: the
        first layer's transpose has none.
        """
        pairs = list(zip(self.widths[1:], self.widths[:-1], strict=True))
        return tuple(
            laws.LayerLaw(self._squares(m, n), m, n, relu=self._relu and layer > 0)
            for layer, (m, n) in reversed(list(enumerate(pairs)))
        )

    def _squares(self, m: int, n: int) -> tuple[float, ...]:
        own: tuple[float, ...] = (
            spectra.flat_squares(self.stable_rank)
            if self.spectrum == "flat"
            else spectra.spike_squares(self.stable_rank, m, n)
        )
        return spectra.scaled(own, 2.0 * m if self._relu else float(m))

    @property
    def _relu(self) -> bool:
        return self.activation == "relu"
