"""Networks on images, all with linear layers on top, as modules in float64."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, final

import torch
from torch import Tensor, nn

Network = Literal["mlp", "cnn", "residual"]
NUM_VALUES = 16
"""Inputs and outputs of the last hidden layer."""

WORDS: Mapping[Network, str] = MappingProxyType(
    {
        "mlp": "perceptron of two ReLU layers, 32 and 24 wide, three linear layers "
        "16-16-{outputs} on top",
        "cnn": "two 3x3 convolutions with ReLU, 8 and 12 channels, the second of "
        "stride 2, maxima over 2x2, two linear layers 16-{outputs} on top",
        "residual": "residual perceptron 24 wide, two blocks x + U relu(Y x) of 16 "
        "units, two linear layers 16-{outputs} on top",
    }
)


@final
class Block(nn.Module):
    """x + U relu(Y x).

    Args:
        width: Of x.
        inner: Units.
        bias: Whether both layers have one.
    """

    def __init__(self, width: int, inner: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(width, inner, bias)
        self.relu = nn.ReLU()
        self.second = nn.Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: (N, width).

        Returns:
            (N, width).
        """
        out: Tensor = x + self.second(self.relu(self.first(x)))
        return out


def build(
    network: Network, side: int, *, num_outputs: int, bias: bool = True
) -> nn.Sequential:
    """Build a network in float64; its values are to be drawn.

    Args:
        network: Which.
        side: Of the images in pixels.
        num_outputs: Of the last layer.
        bias: Whether its layers have one.

    Returns:
        The network.
    """
    num = side * side
    if network == "cnn":
        layers: list[nn.Module] = [
            nn.Conv2d(1, 8, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12 * (side // 4) ** 2, NUM_VALUES, bias),
        ]
    elif network == "residual":
        layers = [nn.Flatten(), nn.Linear(num, 24, bias)]
        layers += [Block(24, 16, bias=bias), Block(24, 16, bias=bias)]
        layers += [nn.Linear(24, NUM_VALUES, bias)]
    else:
        layers = [nn.Flatten(), nn.Linear(num, 32, bias), nn.ReLU()]
        layers += [nn.Linear(32, 24, bias), nn.ReLU(), nn.Linear(24, NUM_VALUES, bias)]
        layers += [nn.Linear(NUM_VALUES, NUM_VALUES, bias)]
    return nn.Sequential(*layers, nn.Linear(NUM_VALUES, num_outputs, bias)).double()


def draw_(net: nn.Module, generator: torch.Generator) -> None:
    """Draw He's Gaussian weights, and biases N(0, 0.01).

    Args:
        net: Whose parameters are written over.
        generator: Source of randomness.
    """
    with torch.no_grad():
        for parameter in net.parameters():
            value = torch.randn(
                parameter.shape, dtype=parameter.dtype, generator=generator
            )
            fan_in = parameter[0].numel()
            scale = 0.1 if parameter.ndim == 1 else (2.0 / fan_in) ** 0.5
            parameter.copy_(scale * value)


def relus(net: nn.Module) -> tuple[str, ...]:
    """Name the ReLUs of a network.

    Args:
        net: The network.

    Returns:
        In the order of its modules.
    """
    return tuple(k for k, m in net.named_modules() if isinstance(m, nn.ReLU))
