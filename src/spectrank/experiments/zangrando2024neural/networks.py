"""Networks of the sweeps: perceptrons and small convolutional ones.

He's Gaussian weights and no biases at the start: ours, the paper's are not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import nn

NUM_CLASSES = 10


class Network(Protocol):
    """An architecture that is drawn at random."""

    @property
    def num_layers(self) -> int:
        """Number of weight matrices."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """min(m, n) of every weight matrix, kernels unfolded."""

    def draw(self, generator: torch.Generator) -> nn.Sequential:
        """Draw one network.

        Args:
            generator: Source of randomness.

        Returns:
            The network, float32.
        """

    def text(self) -> str:
        """Return the architecture in words, for a claim's protocol.

        Returns:
            A clause.
        """


@final
@dataclass(frozen=True)
class Mlp:
    """Linear layers with ReLU between them.

    Attributes:
        num_inputs: d.
        width: Of every hidden layer.
        depth: Number of weight matrices, at least 1.
        normalised: Whether BatchNorm, of the batch's own statistics and without
            learned scale, stands after every hidden linear layer.
    """

    num_inputs: int
    width: int
    depth: int
    normalised: bool = False

    @property
    def num_layers(self) -> int:
        """Number of weight matrices."""
        return self.depth

    @property
    def sizes(self) -> tuple[int, ...]:
        """min(m, n) of every weight matrix."""
        widths = [self.num_inputs, *[self.width] * (self.depth - 1), NUM_CLASSES]
        return tuple(map(min, widths, widths[1:]))

    def draw(self, generator: torch.Generator) -> nn.Sequential:
        """Draw one network.

        Args:
            generator: Source of randomness.

        Returns:
            The network, float32.
        """
        widths = [self.num_inputs, *[self.width] * (self.depth - 1)]
        modules: list[nn.Module] = []
        for num_in in widths[:-1]:
            modules.append(_started(nn.Linear(num_in, self.width), generator))
            if self.normalised:
                modules.append(_norm(nn.BatchNorm1d, self.width))
            modules.append(nn.ReLU())
        last = _started(nn.Linear(widths[-1], NUM_CLASSES), generator)
        return nn.Sequential(*modules, last)

    def text(self) -> str:
        """Return the architecture in words, for a claim's protocol.

        Returns:
            A clause.
        """
        widths = [self.num_inputs, *[self.width] * (self.depth - 1), NUM_CLASSES]
        norm = " with BatchNorm after every hidden layer" if self.normalised else ""
        return f"ReLU network {'-'.join(map(str, widths))}{norm}"


@final
@dataclass(frozen=True)
class Cnn:
    """Convolutions 3 x 3 of stride 2 with ReLU, a mean over positions, a linear layer.

    Attributes:
        num_channels: Of the images.
        widths: Output channels of each convolution.
        normalised: Whether BatchNorm, of the batch's own statistics and without
            learned scale, stands after every convolution.
    """

    num_channels: int
    widths: tuple[int, ...]
    normalised: bool = False

    @property
    def num_layers(self) -> int:
        """Number of weight matrices, kernels unfolded."""
        return len(self.widths) + 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """min(m, n) of every weight matrix, kernels unfolded."""
        channels = (self.num_channels, *self.widths)
        kernels = (min(m, 9 * n) for n, m in zip(channels, self.widths, strict=False))
        return (*kernels, min(channels[-1], NUM_CLASSES))

    def draw(self, generator: torch.Generator) -> nn.Sequential:
        """Draw one network.

        Args:
            generator: Source of randomness.

        Returns:
            The network, float32.
        """
        modules: list[nn.Module] = []
        num_in = self.num_channels
        for width in self.widths:
            conv = nn.Conv2d(num_in, width, 3, stride=2, padding=1)
            modules.append(_started(conv, generator))
            if self.normalised:
                modules.append(_norm(nn.BatchNorm2d, width))
            modules.append(nn.ReLU())
            num_in = width
        modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        last = _started(nn.Linear(num_in, NUM_CLASSES), generator)
        return nn.Sequential(*modules, last)

    def text(self) -> str:
        """Return the architecture in words, for a claim's protocol.

        Returns:
            A clause.
        """
        norm = " with BatchNorm after each" if self.normalised else ""
        widths = ", ".join(map(str, self.widths))
        return (
            f"ReLU network of convolutions 3 x 3 of stride 2 with {widths} channels"
            f"{norm}, mean over positions, linear layer"
        )


def _started(
    layer: nn.Linear | nn.Conv2d, generator: torch.Generator
) -> nn.Linear | nn.Conv2d:
    fan_in = layer.weight[0].numel()
    with torch.no_grad():
        layer.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
        assert layer.bias is not None
        layer.bias.zero_()
    return layer


def _norm(kind: type[nn.Module], width: int) -> nn.Module:
    # Running statistics are no parameters, so a fleet cannot train them; without a
    # scale of its own the layer's output does not see the scale of the weight.
    return kind(width, affine=False, track_running_stats=False)
