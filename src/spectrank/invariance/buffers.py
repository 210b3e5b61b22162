r"""Buffers of an optimizer beside weights that are rescaled: the function stays.

Where w_e -> s_e w_e leaves a function as it is, the gradient becomes g_e / s_e. A sum
of past gradients is rescaled like a gradient, a sum of their squares like its square:
buffers are then those that the same past would have left at the new weights. What
coupled weight decay has put into them is rescaled with the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from spectrank.errors import ArgumentTypeError, DomainError

# Power of the factor s by which a buffer is multiplied.
_POWERS: Mapping[str, int] = {
    **dict.fromkeys(["momentum_buffer", "exp_avg", "grad_avg", "exp_inf", "prev"], -1),
    **dict.fromkeys(["exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"], -2),
    # The running mean of the weights.
    "ax": 1,
}
Buffers = dict[str, list[tuple[int, Tensor]]]


def buffers_of(optimizer: Optimizer, model: nn.Module) -> Buffers:
    """Buffers that an optimizer keeps for the parameters of a model.

    Args:
        optimizer: Not changed.
        model: Its model.

    Returns:
        Name of the parameter to buffers of its shape, each with the power of a factor
        of the parameter by which it is multiplied.

    Raises:
        ArgumentTypeError: It is no optimizer.
        DomainError: It keeps something that is known to go with no rescaling.
    """
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(
            "buffers are those of a torch.optim.Optimizer, got "
            f"{type(optimizer).__name__}; pass the optimizer itself"
        )
    found: Buffers = {}
    for name, parameter in model.named_parameters():
        # A state that is asked for by a parameter without one would be made.
        for key, value in _state(optimizer, parameter).items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                continue
            if key not in _POWERS or value.shape != parameter.shape:
                raise DomainError(
                    "buffers are sums of gradients or of their squares, got "
                    f"{key!r} of {type(optimizer).__name__} for {name!r}; balance "
                    "before the optimizer is made"
                )
            power = _POWERS[key]
            if key == "momentum_buffer" and isinstance(optimizer, RMSprop):
                # A sum of steps g / |g|, which no factor changes.
                power = 0
            found.setdefault(name, []).append((power, value))
    return found


def rescale_buffers_(buffers: Buffers, logs: Mapping[str, Tensor]) -> None:
    """Let buffers follow the parameters, in place.

    Args:
        buffers: Of ``buffers_of``.
        logs: Name of a parameter to the logarithm of its factor, entry by entry.
    """
    with torch.no_grad():
        for name, log in logs.items():
            for power, buffer in buffers.get(name, []):
                moved = buffer.double() * (power * log.to(buffer.device)).exp()
                buffer.copy_(moved.to(buffer.dtype))


def _state(optimizer: Optimizer, parameter: nn.Parameter) -> Mapping[str, Any]:
    found: Mapping[str, Any] = optimizer.state.get(parameter, {})
    return found
