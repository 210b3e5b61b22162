"""Matrix laws from blocks of features: which rows of which parameter add up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spectrank.invariance.laws import GramTerm
from spectrank.invariance.matrices.steps import Reading
from spectrank.invariance.potentials import Edge

Shape = tuple[int, ...]


def block_terms(
    reading: Reading, block: np.ndarray
) -> tuple[tuple[GramTerm, ...], np.ndarray] | None:
    """Terms of the matrix law of a block of free potentials.

    Args:
        reading: What was read.
        block: Numbers of the free potentials.

    Returns:
        The terms and the block in the order of their rows; None where two uses of one
        parameter do not act alike.
    """
    uses: dict[str, list[tuple[Edge, list[tuple[Shape, np.ndarray, np.ndarray]]]]] = {}
    order: np.ndarray | None = None
    # Equal signatures: where one feature stands, all of them do.
    for edge, parts in reading.standing(int(block[0])):
        found = []
        for axes, free, factors in parts:
            places = _places(free, block if order is None else order)
            if order is None:
                first = np.argsort(places[:, 0], kind="stable")
                order, places = block[first], places[first]
            found.append((axes, places, factors[places[0]]))
        uses.setdefault(edge.parameter, []).append((edge, found))
    if order is None:
        return None
    terms: list[GramTerm] = []
    for own in uses.values():
        kept = _distinct(own)
        if kept is None:
            return None
        for edge, found in kept:
            size = math.prod(reading.potentials.shapes.get(edge.parameter, edge.view))
            for axes, places, factors in found:
                made = _terms(edge, size, axes, places, factors)
                if made is None:
                    return None
                terms += made
    return tuple(terms), order


def _places(flat: np.ndarray, block: np.ndarray) -> np.ndarray:
    """(features, k) flat places of each feature, ascending."""
    rank = np.full(int(max(flat.max(initial=-1), block.max())) + 1, -1)
    rank[block] = np.arange(len(block))
    own = np.where(flat >= 0, rank[np.maximum(flat, 0)], -1)
    places = np.flatnonzero(own >= 0)
    sorted_places = places[np.argsort(own[places], kind="stable")]
    # Equal signatures: every feature stands at as many places.
    return sorted_places.reshape(len(block), -1)


def _distinct(
    uses: Sequence[tuple[Edge, list[tuple[Shape, np.ndarray, np.ndarray]]]],
) -> list[tuple[Edge, list[tuple[Shape, np.ndarray, np.ndarray]]]] | None:
    """Uses of different entries; None where two of the same entries do not agree."""
    kept: list[tuple[Edge, list[tuple[Shape, np.ndarray, np.ndarray]]]] = []
    for edge, found in uses:
        same = [item for item in kept if len(_common(item[0], edge))]
        if not same:
            kept.append((edge, found))
            continue
        before, other = same[0]
        alike = before.view == edge.view and len(found) == len(other)
        alike = alike and all(
            a[0] == b[0] and np.array_equal(a[1], b[1]) and np.allclose(a[2], b[2])
            for a, b in zip(
                sorted(found, key=lambda t: t[0]),
                sorted(other, key=lambda t: t[0]),
                strict=True,
            )
        )
        if not alike or not before.same_entries(edge):
            return None
    return kept


def _common(first: Edge, second: Edge) -> np.ndarray:
    if first.entries is None and second.entries is None:
        low = max(first.start, second.start)
        high = min(first.start + first.size, second.start + second.size)
        return np.arange(low, max(low, min(high, low + 1)))
    return np.intersect1d(first.numbers(), second.numbers())


def _terms(
    edge: Edge, size: int, axes: Shape, places: np.ndarray, factors: np.ndarray
) -> list[GramTerm] | None:
    if edge.entries is not None:
        # Entries of a view: each is a feature of its own.
        if axes != tuple(range(len(edge.view))):
            return None
        numbers = edge.numbers()
        return [
            GramTerm(edge.parameter, (size,), (0,), numbers[own], float(factor))
            for own, factor in zip(places.T, factors, strict=True)
        ]
    view, shift = _whole_view(edge, size)
    if view is None:
        return None
    columns = None
    if 0 in axes:
        inner = math.prod(edge.view[axis] for axis in axes if axis != 0)
        # Axis 0 is the first of the kept ones: its places lie `inner` apart.
        places = places + shift * inner
    elif view[0] != edge.view[0]:
        rest = math.prod(n for i, n in enumerate(view) if i not in axes and i != 0)
        columns = np.arange(shift * rest, (shift + edge.view[0]) * rest)
    split = _split(view, axes, places, factors)
    if split is not None and columns is None:
        view, axes, rows = split
        return [GramTerm(edge.parameter, view, axes, rows, float(factors[0]))]
    return [
        GramTerm(edge.parameter, view, axes, own, float(factor), columns)
        for own, factor in zip(places.T, factors, strict=True)
    ]


def _whole_view(edge: Edge, size: int) -> tuple[Shape | None, int]:
    """View of the whole parameter and the first used place along its first axis."""
    if not edge.view or edge.size == size:
        return edge.view, 0
    inner = math.prod(edge.view[1:])
    if size % inner or edge.start % inner:
        return None, 0
    return (size // inner, *edge.view[1:]), edge.start // inner


def _split(
    view: Shape, axes: Shape, places: np.ndarray, factors: np.ndarray
) -> tuple[Shape, Shape, np.ndarray] | None:
    """Places that repeat regularly along one axis, as an axis of their own."""
    # A flattened channel has all its positions in a row, or a fixed number apart.
    times = places.shape[1]
    if len(axes) != 1 or times == 1 or not np.all(factors == factors[0]):
        return None
    axis, start = axes[0], places[:, 0]
    steps = np.unique(places - start[:, None] - np.arange(times))
    size, before, after = view[axis], view[:axis], view[axis + 1 :]
    if len(steps) == 1 and size % times == 0 and not np.any(start % times):
        made = (*before, size // times, times, *after)
        return made, (axis,), start // times
    step = int(places[0, 1] - places[0, 0])
    regular = np.array_equal(places, start[:, None] + step * np.arange(times))
    if regular and step * times == size and int(start.max()) < step:
        return (*before, times, step, *after), (axis + 1,), start
    return None
