"""Elementwise maps with a backward pass of their own, in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor, nn

_aten: Any = torch.ops.aten


class Activation(ABC):
    """An elementwise map.

    Attributes:
        keeps_input: Whether the backward pass needs the input beside the output.
    """

    keeps_input = False

    @abstractmethod
    def forward_(self, values: Tensor) -> None:
        """Replace pre-activations by activations."""

    @abstractmethod
    def backward_(self, gradient: Tensor, values: Tensor) -> None:
        """Multiply a gradient by the derivative.

        Args:
            gradient: With respect to the activations; changed in place.
            values: The activations, or the pre-activations if ``keeps_input``.
        """


@final
class ReLU(Activation):
    """``max(z, 0)``; the derivative at 0 is 0, as in torch."""

    def forward_(self, values: Tensor) -> None:  # noqa: D102
        torch.relu_(values)

    def backward_(self, gradient: Tensor, values: Tensor) -> None:  # noqa: D102
        _aten.threshold_backward.grad_input(gradient, values, 0, grad_input=gradient)


@final
class LeakyReLU(Activation):
    """``z``, or ``slope * z`` below 0; ``slope > 0``: the output has the sign of z."""

    def __init__(self, slope: float) -> None:
        self._slope = slope

    def forward_(self, values: Tensor) -> None:  # noqa: D102
        nn.functional.leaky_relu_(values, self._slope)

    def backward_(self, gradient: Tensor, values: Tensor) -> None:  # noqa: D102
        _aten.leaky_relu_backward.grad_input(
            gradient, values, self._slope, True, grad_input=gradient
        )


@final
class Tanh(Activation):
    """``tanh(z)``."""

    def forward_(self, values: Tensor) -> None:  # noqa: D102
        torch.tanh_(values)

    def backward_(self, gradient: Tensor, values: Tensor) -> None:  # noqa: D102
        _aten.tanh_backward.grad_input(gradient, values, grad_input=gradient)


@final
class Sigmoid(Activation):
    """``1 / (1 + exp(-z))``."""

    def forward_(self, values: Tensor) -> None:  # noqa: D102
        torch.sigmoid_(values)

    def backward_(self, gradient: Tensor, values: Tensor) -> None:  # noqa: D102
        _aten.sigmoid_backward.grad_input(gradient, values, grad_input=gradient)


@final
class GELU(Activation):
    """``z * Phi(z)``, or its approximation by tanh."""

    keeps_input = True

    def __init__(self, approximate: str) -> None:
        self._approximate = approximate

    def forward_(self, values: Tensor) -> None:  # noqa: D102
        _aten.gelu_(values, approximate=self._approximate)

    def backward_(self, gradient: Tensor, values: Tensor) -> None:  # noqa: D102
        _aten.gelu_backward.grad_input(
            gradient, values, approximate=self._approximate, grad_input=gradient
        )


@final
class SiLU(Activation):
    """``z * sigmoid(z)``."""

    keeps_input = True

    def forward_(self, values: Tensor) -> None:  # noqa: D102
        nn.functional.silu(values, inplace=True)

    def backward_(self, gradient: Tensor, values: Tensor) -> None:  # noqa: D102
        _aten.silu_backward.grad_input(gradient, values, grad_input=gradient)


def find_activation(module: nn.Module) -> Activation | None:
    """The map of a module, or None where there is none with a backward pass here.

    Args:
        module: Exactly one of torch's own classes; a subclass may do anything.

    Returns:
        The map.
    """
    if type(module) is nn.LeakyReLU and module.negative_slope > 0:
        return LeakyReLU(module.negative_slope)
    if type(module) is nn.GELU:
        return GELU(module.approximate)
    plain: dict[type[nn.Module], type[Activation]] = {
        nn.ReLU: ReLU,
        nn.Tanh: Tanh,
        nn.Sigmoid: Sigmoid,
        nn.SiLU: SiLU,
    }
    found = plain.get(type(module))
    return None if found is None else found()
