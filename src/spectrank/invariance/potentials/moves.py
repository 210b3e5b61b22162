"""Steps that move entries: potentials move with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System
from spectrank.model.graph.nodes import Node

Shape = tuple[int, ...]


def move(
    system: System,
    node: Node,
    inputs: Sequence[Potential],
    shapes: Sequence[Shape | None],
) -> Potential:
    """Potential after a step that moves, repeats or leaves out entries.

    Args:
        system: The equations.
        node: Of kind ``reshape``.
        inputs: Potentials of what it reads.
        shapes: Full shapes of what it reads.

    Returns:
        Potential of the output. Of a move that depends on data all entries are equal,
        which is right for any move.
    """
    facts, first, shape = node.attributes, inputs[0], node.shape
    known = all(item is not None for item in shapes) and shape is not None
    if node.op == "flatten" and not known:
        return _flattened(system, node, first)
    if not known or shape is None or shapes[0] is None:
        return _mixed(system, inputs, first.ndim)
    first = first.ranked(len(shapes[0]))
    if node.op in {"reshape", "flatten"}:
        return regrouped(first, shapes[0], shape)
    if node.op in {"cat", "stack"}:
        return _joined(node, inputs, shapes, shape)
    if node.op in {"pad", "constant_pad_nd"}:
        return _padded(system, facts, first, shapes[0], shape)
    if node.op == "getitem" and facts["index"] == 1 and node.inputs[0] in system.states:
        states = system.states[node.inputs[0]]
        return states if len(shape) == 2 else states.map(lambda a: a[:, None])
    simple = _simple(node.op, facts, first, shapes[0], shape)
    return _mixed(system, inputs, len(shape)) if simple is None else simple


def _mixed(system: System, inputs: Sequence[Potential], rank: int) -> Potential:
    merged = [system.merge_all(item) for item in inputs if item.classes.size]
    for other in merged[1:]:
        system.equal(merged[0].flat(), other.flat())
    return merged[0].map(lambda a: a.reshape((1,) * rank))


def regrouped(potential: Potential, before: Shape, after: Shape) -> Potential:
    """Change the sizes, entries in the same order.

    Args:
        potential: Of a tensor of shape ``before``.
        before: Sizes.
        after: Sizes with the same product.

    Returns:
        The potential; axes that do not change stay of length one.
    """
    sizes: list[int] = []
    reached: list[int] = []
    for own, made in groups(before, after):
        changes = any(potential.shape[axis] > 1 for axis in own)
        sizes += [before[axis] if changes else 1 for axis in own]
        reached += [after[axis] if changes else 1 for axis in made]
    return potential.spread(sizes).map(lambda a: a.reshape(reached))


def groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of axes whose sizes have equal products, as short as possible.

    Args:
        before: Sizes.
        after: Sizes with the same product.

    Returns:
        Pairs of axes of ``before`` and of ``after``.
    """
    found = []
    i = j = 0
    while i < len(before) or j < len(after):
        own, made = [], []
        left = right = 1
        if i < len(before):
            own, left, i = [i], before[i], i + 1
        if j < len(after) and (left != 1 or not own or after[j] == 1):
            made, right, j = [j], after[j], j + 1
        while left != right:
            if (left < right and i < len(before)) or j >= len(after):
                own, left, i = [*own, i], left * before[i], i + 1
            else:
                made, right, j = [*made, j], right * after[j], j + 1
        found.append((own, made))
    return found


def _flattened(system: System, node: Node, first: Potential) -> Potential:
    """Flatten where sizes are not traced: the reader's fan-in says the positions."""
    fan_in = system.fan_in.get(node.id)
    features = first.shape[0] if first.ndim else 1
    if fan_in is None or fan_in % features:
        return _mixed(system, [first], 1)
    kept = system.merge(first, range(1, first.ndim)).flat()
    return kept.map(lambda a: np.repeat(a, fan_in // features))


def _joined(
    node: Node,
    inputs: Sequence[Potential],
    shapes: Sequence[Shape | None],
    shape: Shape,
) -> Potential:
    axis = int(node.attributes.get("dim", 0))
    axis = axis + len(shape) if axis < 0 else axis
    given = []
    for potential, size in zip(inputs, shapes, strict=True):
        assert size is not None
        ranked = potential.ranked(len(size))
        if node.op == "stack":
            ranked = ranked.map(lambda a: np.expand_dims(a, axis))
        sizes = list(ranked.shape)
        sizes[axis] = 1 if node.op == "stack" else size[axis]
        given.append(ranked.spread(sizes))
    common = np.broadcast_shapes(
        *((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in given)
    )
    spread = [
        p.spread((*common[:axis], p.shape[axis], *common[axis + 1 :])) for p in given
    ]
    return Potential(
        np.concatenate([p.coefficients for p in spread], axis=axis),
        np.concatenate([p.classes for p in spread], axis=axis),
    )


def _padded(
    system: System, facts: Any, first: Potential, before: Shape, after: Shape
) -> Potential:
    """Zeros that are added have any potential; other numbers have potential zero."""
    grown = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    mode = facts.get("mode", "constant")
    if all(first.shape[axis] == 1 for axis in grown) and mode != "constant":
        return first
    if mode != "constant":
        return system.merge(first, grown)
    if facts.get("value"):
        inside = system.merge(first, grown)
        system.vanish(inside)
        return nothing(len(after))
    # Positions of a channel that share one number go on sharing it.
    pads = list(facts["pad"])
    ends = [(0, 0)] * (len(after) - len(pads) // 2)
    ends += list(zip(pads[-2::-2], pads[-1::-2], strict=True))
    for axis in grown:
        if first.shape[axis] == 1 and axis > 1 - (len(after) < 3):
            ends[axis] = (0, 0)
            continue
        sizes = list(first.shape)
        sizes[axis] = before[axis]
        first = first.spread(sizes)
    low = [max(0, -a) for a, _ in ends]
    high = [max(0, -b) for _, b in ends]
    cut = tuple(slice(a, n - b) for a, b, n in zip(low, high, first.shape, strict=True))
    first = first.map(lambda a: a[cut])
    sizes = [
        n + max(0, a) + max(0, b) for n, (a, b) in zip(first.shape, ends, strict=True)
    ]
    made = system.fresh(sizes)
    inner = tuple(
        slice(max(0, a), max(0, a) + n)
        for n, (a, _) in zip(first.shape, ends, strict=True)
    )
    made.coefficients[inner] = first.coefficients
    made.classes[inner] = first.classes
    return made


def _simple(
    op: str, facts: Any, first: Potential, before: Shape, after: Shape
) -> Potential | None:
    """Moves that numpy or torch makes on the numbers of the unknowns as well."""
    if op == "permute":
        return first.map(lambda a: a.transpose(facts["dims"]))
    if op == "expand":
        return first.ranked(len(after))
    if op == "getitem" and facts["index"] == 0 and before == after:
        return first
    if op == "slice":
        axis, step = facts["dim"], facts.get("step", 1)
        if first.shape[axis] == 1 and before[axis] > 1:
            return first
        index = [slice(None)] * first.ndim
        index[axis] = slice(facts["start"], facts["stop"], step)
        return first.map(lambda a: a[tuple(index)])
    if op == "select":
        axis = facts["dim"]
        place = facts["index"] if first.shape[axis] > 1 else 0
        return first.map(lambda a: np.take(a, place, axis=axis))
    function = _TORCH.get(op)
    if function is None or math.prod(before) > 10_000_000:
        return None
    full = first.spread(before)
    return compressed(full.map(lambda a: _by_torch(function, facts, a)))


def _by_torch(function: Any, facts: Any, array: np.ndarray) -> np.ndarray:
    arguments = {key: value for key, value in facts.items() if key != "self"}
    tensor = torch.tensor(np.ascontiguousarray(array))
    return np.asarray(function(tensor, **arguments).numpy())


def compressed(potential: Potential) -> Potential:
    """Find axes along which a potential does not change.

    Args:
        potential: Any.

    Returns:
        It, with these axes of length one.
    """
    axes = []
    for axis in range(potential.ndim):
        start = potential.first([axis])
        same = (potential.classes == start.classes).all()
        if same and (potential.coefficients == start.coefficients).all():
            axes.append(axis)
    return potential.first(axes)


_TORCH: dict[str, Any] = {
    "flip": lambda x, dims: torch.flip(x, dims),
    "roll": lambda x, shifts, dims=(): torch.roll(x, shifts, dims),
    "repeat": lambda x, repeats: x.repeat(repeats),
    "tile": lambda x, dims: torch.tile(x, dims),
    "pixel_shuffle": torch.pixel_shuffle,
    "pixel_unshuffle": torch.pixel_unshuffle,
    "channel_shuffle": torch.channel_shuffle,
    "diagonal": torch.diagonal,
    "unfold": lambda x, dimension, size, step: x.unfold(dimension, size, step),
    "repeat_interleave": lambda x, repeats, dim=None: torch.repeat_interleave(
        x, repeats, dim
    ),
}
