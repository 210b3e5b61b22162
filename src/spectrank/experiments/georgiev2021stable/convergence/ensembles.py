"""Arms of the study: how the hidden weights are drawn, and the networks they go into.

An arm is a law of the singular values at one scale. It decides the hidden weights; the
first weight (Gaussian, He), the readout (Gaussian, variance 1/n) and the biases (0,
trained) are the same in every arm, so that arms differ in one thing only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, final

import torch
from torch import Tensor, nn

from spectrank.experiments.seeds import derive_generator
from spectrank.linalg.ensembles.conv import conv_kernel
from spectrank.linalg.ensembles.ensemble import Ensemble
from spectrank.linalg.ensembles.make import ensemble

Norm = Literal["frobenius", "spectral"]
Scope = Literal["hidden", "all-but-readout"]
"""Which weights an arm decides."""

GAUSSIAN, ORTHOGONAL = "gaussian", "orthogonal"
_RELU_GAIN = math.sqrt(2.0)


@final
@dataclass(frozen=True)
class Arm:
    r"""A law of the hidden weights.

    Attributes:
        spectrum: As `linalg.ensembles.ensemble` has it.
        fraction: Stable rank as a share of min(m, n), in (0, 1]; None for
            ``gaussian`` and ``orthogonal``, which have their own.
        norm: ``frobenius``: :math:`\|W\|_F^2 = 2m` (He). ``spectral``:
            :math:`\|W\|_2 = \sqrt2 (1 + \sqrt{m/n})`, that of a Gaussian He matrix.
        label: Name where the fraction is no simple one.
    """

    spectrum: str
    fraction: float | None = None
    norm: Norm = "frobenius"
    label: str | None = None

    @property
    def name(self) -> str:
        """Such as ``spike 1/4``, with ``, spectral`` at a fixed spectral norm."""
        share = "" if self.fraction is None else f" {Fraction(self.fraction)}"
        name = self.label or f"{self.spectrum}{share}"
        return name if self.norm == "frobenius" else f"{name}, {self.norm}"

    def law(self, m: int, n: int) -> Ensemble:
        """Return the law of an (m, n) weight, at a spectral norm of one.

        Args:
            m: Number of outputs.
            n: Number of inputs.

        Returns:
            The ensemble.
        """
        rank = None if self.fraction is None else self.fraction * min(m, n)
        return ensemble(m, n, stable_rank=rank, spectrum=self.spectrum)

    def size(self, m: int, n: int) -> float:
        """Return the spectral norm of the weight.

        Args:
            m: Number of outputs.
            n: Number of inputs.

        Returns:
            Of every draw; for ``gaussian`` the usual one.
        """
        if self.norm == "spectral":
            return _RELU_GAIN * (1.0 + math.sqrt(m / n))
        return self.law(m, n).spectral_norm(_RELU_GAIN * math.sqrt(m))


def spike_with_participation_ratio(rho: float, p: int) -> float:
    r"""Stable rank of the ``spike`` spectrum of a given participation ratio.

    Solves :math:`r^2 / (1 + (r-1)^2/(p-1)) = \rho`, which has one root in [1, p]: with
    :math:`k = \rho/(p-1)`, :math:`(1-k) r^2 + 2kr - (k + \rho) = 0`.
    Source (derived): tests/experiments/georgiev2021stable_convergence.

    Args:
        rho: Participation ratio, in [1, p].
        p: Number of singular values, at least 2.

    Returns:
        The stable rank, in [1, p].
    """
    k = rho / (p - 1)
    a, b, c = 1.0 - k, k, -(k + rho)
    # The form without cancellation; it is right at a = 0 too.
    return -c / (b + math.sqrt(b * b - a * c))


@final
@dataclass(frozen=True)
class Layer:
    """A weight and who decides it.

    Attributes:
        name: Of the layer in the template.
        shape: Of the weight: (m, n), or a kernel (out, in, *size).
        role: ``first``, ``hidden`` or ``readout``.
    """

    name: str
    shape: tuple[int, ...]
    role: Literal["first", "hidden", "readout"]

    @property
    def matrix(self) -> tuple[int, int]:
        """(m, n) of the weight, unfolded if it is a kernel."""
        return self.shape[0], math.prod(self.shape[1:])

    def draw(self, arm: Arm, num: int, generator: torch.Generator) -> Tensor:
        """Draw the weight of several networks.

        Args:
            arm: The law, if the layer is not the readout.
            num: How many.
            generator: Source of randomness.

        Returns:
            (num, *shape) float32.
        """
        m, n = self.matrix
        if self.role == "readout":
            return arm.law(m, n).sample(
                generator, frobenius_norm=math.sqrt(m), num=num, dtype=torch.float32
            )
        W = arm.law(m, n).sample(
            generator, spectral_norm=arm.size(m, n), num=num, dtype=torch.float32
        )
        if len(self.shape) == 2:
            return W
        return torch.stack([conv_kernel(one, self.shape) for one in W])


@final
@dataclass(frozen=True)
class Network:
    """An architecture and its weights.

    Attributes:
        layers: First to last.
        make: Makes an uninitialised module.
        scope: Which weights an arm decides.
    """

    layers: tuple[Layer, ...]
    make: Callable[[], nn.Sequential]
    scope: Scope = "hidden"

    def sample(self, arm: Arm, num: int, seed: int, *stream: str) -> dict[str, Tensor]:
        """Draw networks of an arm, as the stacked parameters of a fleet.

        Every layer has a stream of its own that does not depend on the arm: what arms
        have in common is drawn alike, and comparisons are paired.

        Args:
            arm: The law.
            num: How many.
            seed: Base seed.
            *stream: Names of the streams.

        Returns:
            Name to (num, *shape); biases zero.
        """
        decided = {"hidden"} if self.scope == "hidden" else {"first", "hidden"}
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            law = arm if layer.role in decided else Arm(GAUSSIAN)
            generator = derive_generator(seed, *stream, "weights", layer.name)
            found[f"{layer.name}.weight"] = layer.draw(law, num, generator)
            found[f"{layer.name}.bias"] = torch.zeros(num, layer.shape[0])
        return found


def mlp(
    num_inputs: int,
    width: int,
    depth: int,
    num_classes: int,
    *,
    scope: Scope = "hidden",
) -> Network:
    """ReLU perceptron of equal widths.

    Args:
        num_inputs: d.
        width: Of every hidden layer.
        depth: Number of weights, at least 3.
        num_classes: Outputs.
        scope: Which weights an arm decides.

    Returns:
        The architecture.
    """
    widths = (num_inputs, *[width] * (depth - 1), num_classes)
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    layers = tuple(
        Layer(str(2 * i), shape, _role(i, depth)) for i, shape in enumerate(pairs)
    )

    def make() -> nn.Sequential:
        modules: list[nn.Module] = []
        for m, n in pairs:
            modules += [nn.Linear(n, m, device="meta"), nn.ReLU()]
        return nn.Sequential(*modules[:-1])

    return Network(layers, make, scope)


def cnn(
    channels: int,
    num_hidden: int,
    num_classes: int,
    *,
    size: int = 32,
    scope: Scope = "hidden",
) -> Network:
    """Convolutional network of 3 x 3 kernels on square colour images.

    Two kernels of stride 2, the rest of stride 1, then the mean of 2 x 2 pixels and a
    linear readout.

    Args:
        channels: Of every convolution.
        num_hidden: Kernels after the first, at least 1.
        num_classes: Outputs.
        size: Of the images, a multiple of 8.
        scope: Which weights an arm decides.

    Returns:
        The architecture.
    """
    inputs = (3, *[channels] * num_hidden)
    strides = (2, 2, *[1] * (num_hidden - 1))
    features = channels * (size // 8) ** 2
    kernels = [
        Layer(str(2 * i), (channels, c, 3, 3), "hidden" if i else "first")
        for i, c in enumerate(inputs)
    ]
    readout = Layer(str(2 * len(inputs) + 2), (num_classes, features), "readout")

    def make() -> nn.Sequential:
        modules: list[nn.Module] = []
        for c, stride in zip(inputs, strides, strict=True):
            modules += [
                nn.Conv2d(c, channels, 3, stride=stride, padding=1, device="meta"),
                nn.ReLU(),
            ]
        modules += [nn.AvgPool2d(2), nn.Flatten()]
        modules.append(nn.Linear(features, num_classes, device="meta"))
        return nn.Sequential(*modules)

    return Network((*kernels, readout), make, scope)


def _role(i: int, depth: int) -> Literal["first", "hidden", "readout"]:
    return "first" if i == 0 else "readout" if i == depth - 1 else "hidden"


def grid(
    spectra: Sequence[str], fractions: Sequence[float], norm: Norm
) -> tuple[Arm, ...]:
    """Return the arms of several spectra at several stable ranks.

    ``mp-spike`` ends at 1/8: at 1/4, its limit, draws are refused.

    Args:
        spectra: Names.
        fractions: Shares of min(m, n), below 1; 1 is ``orthogonal`` for all.
        norm: What is held fixed.

    Returns:
        One arm for each pair that exists.
    """
    return tuple(
        Arm(spectrum, fraction, norm)
        for spectrum in spectra
        for fraction in fractions
        if not (spectrum == "mp-spike" and fraction > 1 / 8)
    )
