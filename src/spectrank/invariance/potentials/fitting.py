"""An input that fits a Sequential, found by trying sizes on tensors without values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

# Sides of images: the small ones, then those of the usual data sets.
_SIDES = (8, *range(1, 65), 96, 112, 128, 160, 192, 224, 256, 299, 384, 512)


def fitting_input(model: nn.Module) -> Tensor | None:
    """Make an input of a Sequential from its first layer with a weight.

    The laws do not depend on the sizes of images, so any side that passes will do. The
    model computes nothing: its forward pass runs on tensors without values.

    Args:
        model: Any module.

    Returns:
        A batch of two zeros; None where the model is no Sequential, starts with another
        layer than a linear, an embedding or a convolution, or accepts no square image.
    """
    if not isinstance(model, nn.Sequential):
        return None
    # Lazy layers have no sizes yet.
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if any(
        type(item).__name__.startswith("Uninitialized") for item in tensors.values()
    ):
        return None
    shadows = {name: item.detach().to("meta") for name, item in tensors.items()}
    for candidate in _candidates(model):
        try:
            with torch.no_grad():
                torch.func.functional_call(model, shadows, (candidate.to("meta"),))
        except (RuntimeError, ValueError, TypeError):
            continue
        return candidate
    return None


def _candidates(model: nn.Sequential) -> Iterator[Tensor]:
    first = next((m for m in model.modules() if _has_weight(m)), None)
    if isinstance(first, nn.Embedding):
        yield torch.zeros(2, 3, dtype=torch.int64)
    elif isinstance(first, nn.Linear):
        yield torch.zeros(2, first.in_features).to(first.weight)
    elif isinstance(first, _ConvNd):
        axes = len(first.kernel_size)
        for side in _SIDES:
            yield torch.zeros(2, first.in_channels, *(side,) * axes).to(first.weight)


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)
