"""The two factors of a gradient: what a layer takes, and what reaches its output.

    n  samples        T  positions, of all uses of a parameter one after another
    R  groups of a convolution (1 for other layers)      V  rows of an embedding
    p  inputs, one more for a bias        q  outputs

The gradient of sample a is ``sum_t g_t h_t^T`` per group, h (n, R, T, p) and g
(n, R, T, q). An embedding has indices (n, T) for h, which stand for rows of the
identity; a vector of parameters has its gradient for g and None for h, which stands
for a single one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from spectrank.model.capture.recorder import Call
from spectrank.model.capture.rows import (
    as_rows,
    feature_axis,
    patch_columns,
    patches,
)
from spectrank.ntk.layerwise.rules import BIAS, CONV, EMBEDDING, NORM, Group

Axes = Mapping[str, int]


def input_factor(
    group: Group,
    calls: Sequence[Call],
    num_samples: int,
    axes: Axes,
    *,
    columns: bool = False,
) -> Tensor | None:
    """What the gradients of a group are multiplied by.

    Args:
        group: Of parameters.
        calls: Every call of its layers.
        num_samples: n.
        axes: By layer, 0 where samples come first, 1 where positions do.
        columns: Whether patches of a convolution have their positions innermost in
            memory, as products over positions like them.

    Returns:
        h as above; None for vectors of parameters.
    """
    if group.rule in {NORM, BIAS}:
        return None
    parts = [_inputs(group, call, num_samples, axes, columns=columns) for call in calls]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2 + _flat(group))
    if group.bias is None or group.rule == EMBEDDING:
        return joined
    return F.pad(joined, (0, 1), value=1.0)


def gradient_factor(
    group: Group,
    calls: Sequence[Call],
    gradients: Sequence[Tensor | None],
    num_samples: int,
    axes: Axes,
) -> Tensor:
    """What reaches the outputs of the layers of a group, for one scalar of the model.

    Args:
        group: Of parameters.
        calls: Every call of its layers.
        gradients: With respect to ``call.tap``, summed over samples of the scalar;
            None for zero.
        num_samples: n.
        axes: By layer, 0 where samples come first, 1 where positions do.

    Returns:
        g (n, R, T, q); a vector of parameters has R = T = 1.
    """
    parts = []
    for call, gradient in zip(calls, gradients, strict=True):
        given = torch.zeros_like(call.tap) if gradient is None else gradient.detach()
        parts.append(_gradients(group, call, call.arrange(given), num_samples, axes))
    if group.rule in {NORM, BIAS}:
        return sum(parts[1:], start=parts[0])
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _flat(group: Group) -> int:
    # Indices (n, T) lack the last axis.
    return 1 if group.rule == EMBEDDING else 0


def _inputs(
    group: Group,
    call: Call,
    num_samples: int,
    axes: Axes,
    *,
    columns: bool,
) -> Tensor:
    module: Any = call.layer.module
    assert call.inputs is not None
    inputs = _samples_first(call, call.arrange(call.inputs), axes)
    if group.rule == EMBEDDING:
        return inputs.reshape(num_samples, -1)
    if group.rule == CONV and columns and len(inputs) == num_samples:
        unfolded = patch_columns(module, inputs)
        split = (num_samples, module.groups, _patch_size(module), -1)
        return unfolded.reshape(split).mT
    if group.rule == CONV:
        unfolded = patches(module, inputs)
        rows = unfolded.reshape(num_samples, -1, module.groups, _patch_size(module))
        return rows.transpose(1, 2)
    return inputs.reshape(num_samples, 1, -1, inputs.shape[-1])


def _patch_size(module: Any) -> int:
    return int(module.weight[0].numel())


def _gradients(
    group: Group, call: Call, gradient: Tensor, num_samples: int, axes: Axes
) -> Tensor:
    module: Any = call.layer.module
    gradient = _samples_first(call, gradient, axes)
    if group.rule == NORM:
        return _norm_gradient(group, call, gradient, num_samples, axes)
    apart = len(gradient) == num_samples and isinstance(module, _ConvNd)
    if group.rule == BIAS and apart:
        return gradient.flatten(2).sum(2)[:, None, None]
    if group.rule == CONV and apart:
        # Channels first: a view, as a copy would cost as much as the product.
        return gradient.reshape(
            num_samples, module.groups, -1, prod(gradient.shape[2:])
        ).mT
    features = feature_axis(module, gradient.ndim, None)
    rows = as_rows(gradient, features).reshape(
        num_samples, -1, gradient.shape[features]
    )
    if group.rule == BIAS:
        return rows.sum(1)[:, None, None]
    if group.rule == CONV:
        split = rows.reshape(num_samples, rows.shape[1], module.groups, -1)
        return split.transpose(1, 2)
    if group.rule == EMBEDDING and module.padding_idx is not None:
        assert call.inputs is not None
        index = _samples_first(call, call.inputs, axes).reshape(num_samples, -1, 1)
        # torch gives the row of the padding no gradient.
        rows = rows.masked_fill(index == module.padding_idx, 0.0)
    return rows[:, None]


def _norm_gradient(
    group: Group, call: Call, gradient: Tensor, num_samples: int, axes: Axes
) -> Tensor:
    """Gradients of scale and shift, one after the other: (n, 1, 1, q)."""
    module = call.layer.module
    assert call.inputs is not None
    parts = []
    if group.weight is not None:
        inputs = _samples_first(call, call.inputs, axes)
        scaled = gradient * _normalised(module, inputs)
        parts.append(_over_positions(module, scaled, num_samples))
    if group.bias is not None:
        parts.append(_over_positions(module, gradient, num_samples))
    return torch.cat(parts, dim=1)[:, None, None]


def _over_positions(module: nn.Module, values: Tensor, num_samples: int) -> Tensor:
    """Sum over the positions of a sample: (n, parameters)."""
    shape = getattr(module, "normalized_shape", None)
    values = values.movedim(1, -1) if shape is None else values.flatten(-len(shape))
    return values.reshape(num_samples, -1, values.shape[-1]).sum(1)


def _normalised(module: Any, inputs: Tensor) -> Tensor:
    """What the layer multiplies by its weight."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(inputs, list(module.normalized_shape), eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(inputs, module.num_groups, eps=module.eps)
    assert isinstance(module, _BatchNorm)
    return F.batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)


def _samples_first(call: Call, tensor: Tensor, axes: Axes) -> Tensor:
    return tensor.transpose(0, 1) if axes[call.layer.name] == 1 else tensor
