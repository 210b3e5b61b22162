"""Networks with a spectrum and stable rank in each layer, and their kernel's law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

from spectrank.experiments.georgiev2021stable.kernel.laws import (
    KernelLaw,
    layer_moments,
)
from spectrank.experiments.georgiev2021stable.networks import Point
from spectrank.random_nets import RandomMLP


@final
@dataclass(frozen=True)
class Net:
    """A ReLU network, layer by layer.

    Attributes:
        label: Tells its random stream from those of all other points.
        widths: n_0 to n_L.
        spectra: Of each weight.
        stable_ranks: Of each weight; None for ``gaussian``.
        sigmas: Spectral norm of each weight; None for ||W||_F^2 = 2 m (He).
    """

    label: str
    widths: tuple[int, ...]
    spectra: tuple[str, ...]
    stable_ranks: tuple[float | None, ...]
    sigmas: tuple[float, ...] | None = None

    def point(self) -> Point:
        """Where its networks are drawn.

        Returns:
            The point.
        """
        return Point(self.label, self.random())

    def random(self) -> RandomMLP:
        """Return the sampler of its networks.

        Returns:
            The random network.
        """
        return RandomMLP(
            self.widths,
            stable_rank=self.stable_ranks,
            spectrum=self.spectra,
            norm="frobenius" if self.sigmas is None else "spectral",
            sigma=self.sigmas,
        )

    @cached_property
    def law(self) -> KernelLaw:
        """Moments of its K(x, x) / |x|^2."""
        sigmas = self.sigmas or (math.nan,) * len(self.spectra)
        shapes = zip(self.widths[1:], self.widths[:-1], strict=True)
        found = []
        for (m, n), name, rank, sigma in zip(
            shapes, self.spectra, self.stable_ranks, sigmas, strict=True
        ):
            fixed = self.sigmas is not None and rank is not None
            energy = sigma**2 * (rank or 1.0) if fixed else 2.0 * m
            found.append(layer_moments(name, rank, energy, m, n))
        return KernelLaw(tuple(found))


def hidden_net(
    label: str,
    num_in: int,
    width: int,
    depth: int,
    spectrum: str,
    stable_rank: float,
) -> Net:
    """Return a network that differs from a Gaussian one in its square weights.

    The first weight is Gaussian: the relative variance it adds, 2/m, does not depend
    on the number of inputs. The readout is a row of fixed length.

    Args:
        label: Of its random stream.
        num_in: n_0.
        width: Of all hidden layers.
        depth: Number of weights, at least 3.
        spectrum: Of the square weights.
        stable_rank: Of the square weights.

    Returns:
        The network, one output, He scale.
    """
    num = depth - 2
    return Net(
        label,
        (num_in, *[width] * (depth - 1), 1),
        ("gaussian", *[spectrum] * num, "flat"),
        (None, *[stable_rank] * num, 1.0),
    )
