"""Gaussian mixtures and the small networks that learn them, in float64.

K  classes    d  inputs    n  hidden width
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeVar, final

import torch
from torch import Tensor, nn

from spectrank.experiments.data import gaussian_mixture

Net = TypeVar("Net", bound=nn.Module)
Activation = Literal["tanh", "relu", "linear"]
_MODULES: Mapping[Activation, Callable[[], nn.Module]] = MappingProxyType(
    {"tanh": nn.Tanh, "relu": nn.ReLU, "linear": nn.Identity}
)


@final
@dataclass(frozen=True)
class Mixture:
    """K Gaussian clusters, a class each, with centres uniform on a sphere.

    Attributes:
        num_classes: K.
        per_class: Samples of each class.
        dimension: d.
        centre_norm: Length of every centre.
    """

    num_classes: int = 4
    per_class: int = 50
    dimension: int = 20
    centre_norm: float = 2.0

    def sample(self, noise: float, seed: int) -> tuple[Tensor, Tensor]:
        """Draw centres and samples; one seed has the same of both at every noise.

        Args:
            noise: Standard deviation around a centre in each direction.
            seed: Of the draw.

        Returns:
            (K * per_class, d) float64 inputs and int64 labels.
        """
        data = gaussian_mixture(
            self.num_classes * self.per_class,
            num_classes=self.num_classes,
            clusters_per_class=1,
            dimension=self.dimension,
            centre_norm=self.centre_norm,
            noise=noise,
            seed=seed,
        )
        return data.rows(dtype=torch.float64), data.labels

    def text(self) -> str:
        """Return the mixture in words, for a claim's protocol.

        Returns:
            A clause.
        """
        return (
            f"Gaussian mixtures of {self.num_classes} classes in "
            f"R^{self.dimension}, {self.per_class} samples each, centres of norm "
            f"{self.centre_norm:g}"
        )


@final
class Residual(nn.Module):
    """Embedding, blocks h + V phi(W h + b) + c, readout; no normalisation."""

    def __init__(self, widths: Sequence[int], num_blocks: int) -> None:
        """Make the layers, without values.

        Args:
            widths: Of inputs, of the stream and of the outputs.
            num_blocks: Number of blocks.
        """
        super().__init__()
        d, n, c = widths
        self.embedding = _linear(d, n, bias=True)
        self.outer = nn.ModuleList(_linear(n, n, bias=True) for _ in range(num_blocks))
        self.inner = nn.ModuleList(_linear(n, n, bias=True) for _ in range(num_blocks))
        self.readout = _linear(n, c, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x: (N, d) inputs.

        Returns:
            (N, c).
        """
        h = self.embedding(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + outer(torch.tanh(inner(h)))
        logits: Tensor = self.readout(h)
        return logits


@final
class Bypassed(nn.Module):
    """tanh network without biases; its second layer sees more than its first.

    The inputs are two blocks of d columns: layer 1 reads the first, layer 2 what layer
    1 gave and the second block.
    """

    def __init__(
        self, dimension: int, width: int, num_classes: int, generator: torch.Generator
    ) -> None:
        """Draw the layers with torch's default law.

        Args:
            dimension: d.
            width: Of both hidden layers.
            num_classes: Outputs.
            generator: Source of randomness.
        """
        super().__init__()
        self.first = _linear(dimension, width, bias=False)
        self.second = _linear(width + dimension, width, bias=False)
        self.readout = _linear(width, num_classes, bias=False)
        _drawn(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x: (N, 2d) inputs.

        Returns:
            (N, c).
        """
        left, right = x.chunk(2, 1)
        h = torch.cat([torch.tanh(self.first(left)), right], 1)
        logits: Tensor = self.readout(torch.tanh(self.second(h)))
        return logits


def mlp(
    widths: Sequence[int],
    generator: torch.Generator,
    *,
    activation: Activation = "tanh",
    bias: bool = True,
) -> nn.Sequential:
    """Draw a perceptron with torch's default law, uniform within 1/sqrt(fan-in).

    Args:
        widths: Inputs, hidden layers, outputs.
        generator: Source of randomness.
        activation: After every layer but the last.
        bias: Whether layers have biases.

    Returns:
        The network, float64.
    """
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(widths):
        layers += [_linear(n, m, bias=bias), _MODULES[activation]()]
    return _drawn(nn.Sequential(*layers[:-1]), generator)


def residual(
    widths: Sequence[int], num_blocks: int, generator: torch.Generator
) -> Residual:
    """Draw a residual network with torch's default law.

    Args:
        widths: Of inputs, of the stream and of the outputs.
        num_blocks: Number of blocks.
        generator: Source of randomness.

    Returns:
        The network, float64.
    """
    return _drawn(Residual(widths, num_blocks), generator)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by name, in the order they were made.

    Args:
        model: A network of this module.

    Returns:
        Name to layer.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def _linear(n: int, m: int, *, bias: bool) -> nn.Linear:
    # Values come from the caller's generator, not from the global one.
    layer = nn.Linear(n, m, bias=bias, dtype=torch.float64, device="meta")
    return layer.to_empty(device="cpu")


def _drawn(model: Net, generator: torch.Generator) -> Net:
    with torch.no_grad():
        for layer in linear_layers(model).values():
            bound = 1.0 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return model
