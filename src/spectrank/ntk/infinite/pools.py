"""Poolings that are linear: they mix positions, so covariances of pairs are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.model.graph import Node
from spectrank.ntk.infinite.field import CHANNEL, Data, Field, settled
from spectrank.ntk.infinite.positions import (
    dropped,
    single_positions,
    spatial_map,
)
from spectrank.ntk.infinite.refusals import refusal

# Attributes that the functions of torch take by these names.
_OPTIONS = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)


def pool(value: Data | Field, node: Node, *, full: bool) -> Data | Field:
    """Send a value through an average pooling or a mean over positions.

    Args:
        value: Its input.
        node: The pooling.
        full: Whether covariances of different positions are wanted afterwards.

    Returns:
        The value; a Gaussian field stays one.

    Raises:
        DomainError: It is of another kind, or averages the channels.
    """  # noqa: DOC502 - raised by the functions called
    if node.op in {"mean", "sum"}:
        return _mean(value, node, full=full)
    step = _spatial(node)
    rank = int(node.op[-2])
    if isinstance(value, Data):
        return Data(step(value.x), step(value.y))
    axes = list(range(len(value.axes) - rank, len(value.axes)))
    single_positions(value, axes, node.op)
    ids = [value.axes[axis][0] for axis in axes]
    return spatial_map(settled(value), ids, step, full=full)


def _spatial(node: Node) -> Callable[[Tensor], Tensor]:
    facts, name = node.attributes, node.op
    if name.startswith("avg_pool"):
        options = {key: facts[key] for key in _OPTIONS if facts.get(key) is not None}
    elif name.startswith("adaptive_avg_pool"):
        options = {"output_size": facts["output_size"]}
    else:
        raise DomainError(
            refusal(node, "this pooling is not followed", "use average pooling")
        )
    function = getattr(functional, name)

    def step(t: Tensor) -> Tensor:
        found: Tensor = function(t, **options)
        return found

    return step


def _mean(value: Data | Field, node: Node, *, full: bool) -> Data | Field:
    dims = [int(d) for d in node.attributes.get("dim") or ()]
    keep = bool(node.attributes.get("keepdim", False))
    if not dims:
        raise DomainError(
            refusal(node, "it averages the batch too", "name the dimensions")
        )
    if isinstance(value, Data):
        if value.x.dim() + min(dims) == 0:
            raise DomainError(
                refusal(node, "it averages the batch", "keep the batch first")
            )
        act = Tensor.mean if node.op == "mean" else Tensor.sum
        return Data(act(value.x, dims, keepdim=keep), act(value.y, dims, keepdim=keep))
    axes = [len(value.axes) + d for d in dims]
    ids = [i for a in axes if a >= 0 for i in value.axes[a]]
    if min(axes) < 0 or CHANNEL in ids:
        raise DomainError(
            refusal(node, "it averages channels or the batch", "average positions")
        )
    field = settled(value)
    for i in ids:
        field = spatial_map(
            field, [i], _all(mean=node.op == "mean"), full=full or i != ids[-1]
        )
    if keep:
        return field
    left = tuple(a for i, a in enumerate(field.axes) if i not in axes)
    sizes = tuple(s for i, s in enumerate(field.sizes) if i not in ids)
    return replace(field, axes=dropped(left, ids), sizes=sizes)


def _all(*, mean: bool) -> Callable[[Tensor], Tensor]:
    if mean:
        return lambda t: t.mean(2, keepdim=True)
    return lambda t: t.sum(2, keepdim=True)
