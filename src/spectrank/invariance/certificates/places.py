"""Where the features of one linear map stand in what the next one reads.

Between two maps of a tail entries may be moved, pooled over positions and scaled, all
features alike. Each entry is followed as a pair (feature, position).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spectrank.model.graph.catalogue import LINEAR_POOLS, SCALINGS
from spectrank.model.graph.nodes import Node

_MOVES = frozenset(["reshape", "flatten", "permute"])
# Feature and position of every entry, both of the shape of the value.
_Places = tuple[Tensor, Tensor]
Gather = tuple[tuple[int, ...], ...]


def passes(node: Node) -> bool:
    """Whether a step is linear, holds no parameter and acts on all features alike.

    Args:
        node: A step.

    Returns:
        False for anything that is not certain to be so.
    """
    if node.parameters or len(node.inputs) != 1:
        return False
    if node.kind == "reshape":
        return node.op in _MOVES
    if node.kind == "pool":
        return node.op in LINEAR_POOLS
    return node.kind == "elementwise" and node.op in SCALINGS


def gathered(
    source: Node, source_axis: int, steps: Sequence[Node], target: Node, axis: int
) -> Gather | str | None:
    """Which inputs of a map read which feature of the map below it.

    Args:
        source: What the features stand in.
        source_axis: Axis of its features, from the end.
        steps: On the way, first to last; each of them ``passes``.
        target: The map.
        axis: Axis of its inputs, from the end.

    Returns:
        Feature to its inputs, by position; None where input c is feature c; a reason
        where it is not known or not the same for all features.
    """
    if not steps and axis == source_axis:
        return None
    if source.shape is None or any(step.shape is None for step in steps):
        return "shapes are not known; give an example_input"
    places: _Places | None = _numbered(source.shape, source_axis)
    still = True
    for step in steps:
        if places is None:
            break
        if step.kind == "pool":
            if not still:
                return f"{step.op} pools entries that were moved before"
            places = _pooled(step, places, source.shape, source_axis)
        elif step.kind == "reshape":
            places, still = _moved(step, places), False
    if places is None:
        return "a step between mixes features"
    return _grouped(places, axis, source.shape[source_axis])


def _numbered(shape: Sequence[int], axis: int) -> _Places:
    """Features along their axis; positions over all other axes but the first."""
    features = torch.arange(shape[axis]).view([-1] + [1] * (-axis - 1)).expand(*shape)
    rest = list(shape)
    rest[axis] = 1
    rest[0] = 1
    count = torch.Size(rest).numel()
    return features, torch.arange(count).view(rest).expand(*shape)


def _pooled(
    step: Node, places: _Places, shape: Sequence[int], axis: int
) -> _Places | None:
    """Places after a pooling of positions: features stay, positions are new."""
    assert step.shape is not None
    place = len(shape) + axis
    if step.op in {"mean", "sum"}:
        dims = {d % len(shape) for d in step.attributes.get("dim", [])}
        if not dims or dims & {0, place}:
            return None
        kept = len(step.shape) == len(shape)
        place -= 0 if kept else sum(d < place for d in dims)
    elif place != len(shape) - 1 - int(step.op[-2]) or place != 1:
        return None
    if step.shape[place] != shape[axis] or step.shape[0] != shape[0]:
        return None
    return _numbered(step.shape, place - len(step.shape))


def _moved(step: Node, places: _Places) -> _Places:
    assert step.shape is not None
    if step.op == "permute":
        dims = step.attributes["dims"]
        return places[0].permute(dims), places[1].permute(dims)
    return places[0].reshape(step.shape), places[1].reshape(step.shape)


def _grouped(places: _Places, axis: int, count: int) -> Gather | str | None:
    if places[0].dim() < -axis:
        return "what is read has too few axes"
    features, positions = (
        p.movedim(axis, -1).reshape(-1, p.shape[axis]) for p in places
    )
    if not bool((features == features[0]).all()):
        return "a step between mixes features"
    order = torch.argsort(features[0] * (positions.max() + 1) + positions[0])
    if len(order) % count:
        return "features are not read equally often"
    index = order.view(count, -1)
    if not torch.equal(
        features[0][index], torch.arange(count)[:, None].expand_as(index)
    ):
        return "features are not read equally often"
    if not bool((positions[:, index] == positions[:, index[:1]]).all()):
        return "positions are read in another order for some features"
    if index.shape[1] == 1 and torch.equal(index[:, 0], torch.arange(count)):
        return None
    return tuple(tuple(row) for row in index.tolist())
