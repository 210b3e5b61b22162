r"""Linear layers and convolutions of infinitely many channels.

With Q the mean of E h h' over what an output reads, and n how many numbers that is,

    E z z' = sigma_w^2 Q + sigma_b^2
    standard:  Theta' = n Q + 1 + sigma_w^2 Theta
    ntk:       Theta' = sigma_w^2 Q + sigma_b^2 + sigma_w^2 Theta

(weight term and bias term only where they are trained; Theta averaged as Q is.) In the
standard parametrisation the parameters are the module's own, so n is its own width and
Theta grows with it: it is what ``empirical`` tends to, to leading order in the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.model.graph import Node
from spectrank.ntk.infinite.field import (
    CHANNEL,
    Axes,
    Data,
    Field,
    as_diagonal,
    on_blocks,
    settled,
)
from spectrank.ntk.infinite.inputs import as_field
from spectrank.ntk.infinite.maps import NO_MAP
from spectrank.ntk.infinite.positions import (
    dropped,
    reduced,
    single_positions,
    window_sizes,
    windows,
)
from spectrank.ntk.infinite.scales import Scale

Parametrisation = Literal["standard", "ntk"]


def linear(
    value: Data | Field, node: Node, scale: Scale, kind: Parametrisation, *, full: bool
) -> Field:
    """Send a value through a linear layer.

    Args:
        value: Its input.
        node: The layer.
        scale: Its variances.
        kind: Of the parametrisation.
        full: Whether covariances of different positions are wanted.

    Returns:
        A Gaussian field.

    Raises:
        DomainError: The layer acts on an axis without channels.
        ShapeError: It has another number of inputs.
    """  # noqa: DOC502 - one is raised by the function called
    if isinstance(value, Data):
        rank = value.x.dim() - 1
        axes: Axes = (*((i,) for i in range(rank - 1)), (CHANNEL,))
        value = as_field(value, axes, full=full)
    axis = int(node.attributes.get("axis", -1))
    if CHANNEL not in value.axes[axis]:
        raise DomainError(
            "a linear layer of infinite width acts on the channels, got one along "
            f"positions at {node.name or node.id}; permute before it, or use "
            "spectrank.ntk.empirical"
        )
    field = settled(value)
    field = field if full else as_diagonal(field)
    ids = [i for i in field.axes[axis] if i != CHANNEL]
    inputs = field.channels
    for i in ids:
        inputs *= field.sizes[i]
    read = reduced(field, ids)
    axes = dropped(field.axes, ids)
    return _affine(read, node, scale, kind, inputs, axes)


def convolution(
    value: Data | Field, node: Node, scale: Scale, kind: Parametrisation, *, full: bool
) -> Field:
    """Send a value through a convolution.

    Args:
        value: Its input.
        node: The layer.
        scale: Its variances.
        kind: Of the parametrisation.
        full: Whether covariances of different positions are wanted.

    Returns:
        A Gaussian field.

    Raises:
        DomainError: Groups, or an input whose axes are no channels and positions.
        ShapeError: It has another number of channels.
    """  # noqa: DOC502 - one is raised by the function called
    facts = node.attributes
    kernel = list(facts["kernel_size"])
    rank = len(kernel)
    if facts.get("groups", 1) != 1:
        raise DomainError(
            "a convolution of infinitely many channels has one group, got "
            f"groups={facts['groups']} at {node.name or node.id}; use "
            "spectrank.ntk.empirical"
        )
    if isinstance(value, Data):
        if value.x.dim() != rank + 2:
            raise DomainError(
                f"{node.op} takes (batch, channels, *positions), got an input of "
                f"shape {tuple(value.x.shape)}; add the axes"
            )
        axes: Axes = ((CHANNEL,), *((i,) for i in range(rank)))
        value = as_field(value, axes, full=full)
    field = settled(value)
    field = field if full else as_diagonal(field)
    places = list(range(len(field.axes) - rank, len(field.axes)))
    single_positions(field, places, node.op)
    if field.axes[places[0] - 1] != (CHANNEL,) or len(field.axes) != rank + 1:
        raise DomainError(
            f"{node.op} takes (batch, channels, *positions), got its channels "
            f"elsewhere at {node.name or node.id}; permute before it"
        )
    order = [field.axes[i][0] for i in places]
    options = _options(node, kernel)
    # Positions are numbered by id, the window by axis.
    by_id = {
        key: [options[key][order.index(i)] for i in range(rank)] for key in options
    }

    def mean(block: Tensor) -> Tensor:
        return windows(block, field.sizes, field.copies, **by_id)

    read = on_blocks(field, mean, full=field.full)
    sizes = window_sizes(field.sizes, **by_id)
    inputs = field.channels * math.prod(kernel)
    return _affine(replace(read, sizes=sizes), node, scale, kind, inputs, field.axes)


def _options(node: Node, kernel: Sequence[int]) -> dict[str, Any]:
    facts, rank = node.attributes, len(kernel)

    def each(key: str, default: int) -> list[int]:
        given = facts.get(key, default)
        given = [given] if isinstance(given, int) else list(given)
        return given * rank if len(given) == 1 else given

    dilation = each("dilation", 1)
    padding = facts.get("padding", 0)
    if padding == "same":
        # Torch puts the odd zero at the end.
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [(t // 2, t - t // 2) for t in total]
    elif padding == "valid":
        pads = [(0, 0)] * rank
    else:
        pads = [(p, p) for p in each("padding", 0)]
    return {
        "kernel": list(kernel),
        "stride": each("stride", 1),
        "padding": pads,
        "dilation": dilation,
    }


def _affine(
    read: Field,
    node: Node,
    scale: Scale,
    kind: Parametrisation,
    inputs: int,
    axes: Axes,
) -> Field:
    if inputs != scale.n:
        raise ShapeError(
            f"an output of {node.name or node.id} reads {scale.n} numbers, got "
            f"{inputs}; pass inputs of the shape that the model takes"
        )
    w, b = scale.weight_variance, scale.bias_variance
    weight, bias = (float(inputs), 1.0) if kind == "standard" else (w, b)
    own_weight = weight if scale.weight_trained else 0.0
    own_bias = bias if scale.bias_trained else 0.0
    theta = w * read.theta + own_weight * read.xy + own_bias

    found = on_blocks(read, lambda block: w * block + b, full=read.full)
    num = read.xx.shape[-1]
    zeros = [block.new_zeros(len(block), num) for block in (read.xx, read.yy)]
    return replace(
        found,
        theta=theta,
        mean_x=zeros[0],
        mean_y=zeros[1],
        axes=axes,
        channels=scale.m,
        gaussian=True,
        map=NO_MAP,
        sources=frozenset([node.id]),
        limit=None,
    )
