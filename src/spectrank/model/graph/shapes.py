"""Canonical forms of the operators that only move entries.

Axes count from the end, sizes are told as far as they do not depend on the batch, and
what changes nothing is no step, so that a net wrapped twice reads as the plain one.
"""

from __future__ import annotations

from typing import Any

_SIZE_ONLY = frozenset(
    """
    view reshape _unsafe_view _reshape_alias flatten unflatten squeeze unsqueeze
    reshape_as
    """.split()  # noqa: SIM905
)
_PERMUTES = frozenset(
    """
    permute transpose t numpy_T mT mH H adjoint swapaxes swapdims movedim moveaxis
    """.split()  # noqa: SIM905
)
_EXPANDS = frozenset(["expand", "expand_as", "broadcast_to"])
Shape = tuple[int, ...]
Form = tuple[str, dict[str, Any]]


def from_end(axis: int, rank: int) -> int:
    """Count an axis from the end: -1 is the last.

    Args:
        axis: As given, from either end.
        rank: Number of axes.

    Returns:
        A negative number.
    """
    return axis - rank if axis >= 0 else axis


def regroup(before: Shape, after: Shape) -> Form | None:
    """What a change of sizes does to the axes.

    Args:
        before: Sizes of the input.
        after: Sizes of the output, the same number of entries in the same order.

    Returns:
        ``flatten`` where the last axes become one, else ``reshape`` with groups
        [number of axes, [sizes they become]], the first size of each and those of the
        first axis left open as -1; None where the sizes stay.
    """
    if before == after:
        return None
    start = len(after) - 1
    if len(before) > len(after) > 0 and before[:start] == after[:start]:
        return "flatten", {"start_dim": start}
    if 0 in before:
        return "reshape", {"sizes": list(after)}
    groups: list[list[Any]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        if (left == 1 and right != 1) or j == len(after):
            groups.append([1, []])
            i += 1
            continue
        if (right == 1 and left != 1) or i == len(before):
            groups.append([0, [1]])
            j += 1
            continue
        first_i, first_j = i, j
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        told = list(after[first_j + 1 : j])
        # What the first axis becomes depends on the size of the batch.
        groups.append([i - first_i, [-1, *(told if first_i else [-1] * len(told))]])
    return "reshape", {"groups": groups}


def form(name: str, arguments: dict[str, Any], before: Shape, after: Shape) -> Form:
    """Canonical operation and attributes of a move of entries.

    Args:
        name: Of the operator.
        arguments: Its arguments that are not tensors.
        before: Sizes of its first input.
        after: Sizes of its output.

    Returns:
        The operation, ``same`` where nothing moves, and its attributes.
    """
    rank = len(before)
    if name in _SIZE_ONLY:
        return regroup(before, after) or ("same", {})
    if name in _PERMUTES:
        order = permutation(name, arguments, rank)
        same = order == list(range(rank))
        return ("same", {}) if same else ("permute", {"dims": order})
    if name in _EXPANDS:
        if before == after:
            return "same", {}
        padded = (1,) * (len(after) - rank) + before
        pairs = zip(padded, after, strict=True)
        grown = [i - len(after) for i, (a, b) in enumerate(pairs) if a != b]
        return "expand", {"dims": grown, "added": len(after) - rank}
    if name in {"slice", "narrow"}:
        return _slice(name, arguments, before, after)
    kept = {key: value for key, value in arguments.items() if value is not None}
    if name == "pad":
        kept.setdefault("mode", "constant")
        if not kept.get("value"):
            kept.pop("value", None)
    if isinstance(kept.get("dims"), list):
        kept["dims"] = [from_end(axis, rank) for axis in kept["dims"]]
    if "dim" in kept and isinstance(kept["dim"], int):
        # stack counts its axis in the output.
        kept["dim"] = from_end(kept["dim"], len(after) if name == "stack" else rank)
    return name, kept


def permutation(name: str, arguments: dict[str, Any], rank: int) -> list[int]:
    """Order of the axes that a permuting operator makes.

    Args:
        name: Of the operator.
        arguments: Its arguments that are not tensors.
        rank: Number of axes.

    Returns:
        For each axis of the output the axis of the input.
    """
    order = list(range(rank))
    if name == "permute":
        return [axis % rank for axis in arguments["dims"]]
    if name in {"numpy_T"}:
        return order[::-1]
    if name in {"t", "mT", "mH", "H", "adjoint"}:
        return order[:-2] + order[-2:][::-1]
    if name in {"movedim", "moveaxis"}:
        source, target = arguments["source"], arguments["destination"]
        source = [source] if isinstance(source, int) else source
        target = [target] if isinstance(target, int) else target
        source, target = [a % rank for a in source], [a % rank for a in target]
        order = [axis for axis in order if axis not in source]
        for place, axis in sorted(zip(target, source, strict=True)):
            order.insert(place, axis)
        return order
    first, second = [
        arguments[key] % rank
        for key in ("dim0", "dim1", "axis0", "axis1")
        if key in arguments
    ]
    order[first], order[second] = order[second], order[first]
    return order


def _slice(name: str, arguments: dict[str, Any], before: Shape, after: Shape) -> Form:
    if before == after:
        return "same", {}
    rank = len(before)
    axis = from_end(arguments.get("dim", 0), rank)
    size = before[axis]
    start = arguments.get("start") or 0
    start = max(start + size if start < 0 else start, 0)
    step = arguments.get("step", 1) if name == "slice" else 1
    stop = start + (after[axis] - 1) * step + 1
    found = {"dim": axis, "start": start, "stop": stop}
    return "slice", found if step == 1 else {**found, "step": step}
