"""Sums of squares: what each free number adds up of which parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import sparse

from spectrank.invariance.laws import SquareTerm
from spectrank.invariance.potentials.edges import Edge, Part
from spectrank.invariance.potentials.solution import Potentials


@final
@dataclass(frozen=True, eq=False)
class Contribution:
    """What one part of one use of a parameter adds to the laws.

    Attributes:
        edge: The use.
        number: Place of the edge in ``Potentials.edges``.
        view: Shape to which the whole parameter is reshaped.
        axes: Kept axes of it.
        indices: Flat index over the kept axes.
        solutions: Number of the solution that receives the sum of squares there.
        coefficients: The factor.
    """

    edge: Edge
    number: int
    view: tuple[int, ...]
    axes: tuple[int, ...]
    indices: np.ndarray
    solutions: np.ndarray
    coefficients: np.ndarray

    def term(self, laws: np.ndarray, chosen: np.ndarray) -> SquareTerm:
        """Make the term of some laws.

        Args:
            laws: Number of the law of every solution.
            chosen: Mask over the entries.

        Returns:
            The term.
        """
        return SquareTerm(
            self.edge.parameter,
            self.view,
            self.axes,
            laws[self.solutions[chosen]],
            self.indices[chosen],
            self.coefficients[chosen],
        )


def contributions(potentials: Potentials) -> tuple[Contribution, ...]:
    """All sums of squares that appear in the solutions, each entry once.

    Args:
        potentials: Of a network.

    Returns:
        In the order of the dataflow.
    """
    covered: dict[str, list[Edge]] = {}
    found: list[Contribution] = []
    for number, edge in enumerate(potentials.edges):
        before = covered.setdefault(edge.parameter, [])
        new = _new(edge, before)
        before.append(edge)
        if new is None or new.any():
            found += _of_edge(potentials, number, edge, new)
    return tuple(found)


def _new(edge: Edge, before: Sequence[Edge]) -> np.ndarray | None:
    """Mask of the entries that no earlier use covers; None where that is all."""
    own = np.ones(edge.size, dtype=bool)
    for other in before:
        if not edge.overlaps(other):
            continue
        plain = edge.entries is None and other.entries is None
        ends = edge.start + edge.size <= other.start + other.size
        if plain and other.start <= edge.start and ends:
            return np.zeros(edge.size, dtype=bool)
        own &= ~np.isin(edge.numbers(), other.numbers())
    return None if own.all() else own


def _of_edge(
    potentials: Potentials, number: int, edge: Edge, new: np.ndarray | None
) -> Iterator[Contribution]:
    total = math.prod(potentials.shapes.get(edge.parameter, (edge.size,)))
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    for part in edge.parts:
        if new is not None or edge.entries is not None:
            own = edge.numbers()
            rows = sparse.coo_array(potentials.matrix(edge.spread(part)))
            kept = np.ones(len(rows.row), bool) if new is None else new[rows.row]
            shape, axes = (total,), (0,)
            index = own[rows.row[kept]]
            columns, data = rows.col[kept], rows.data[kept]
        else:
            rows = sparse.coo_array(potentials.matrix(part.potential))
            shape, axes, grid = _placed(edge, part, total)
            index = grid[rows.row].reshape(-1)
            columns = np.repeat(rows.col, grid.shape[1])
            data = np.repeat(rows.data, grid.shape[1])
        if len(data):
            yield Contribution(edge, number, shape, axes, index, columns, data)


def _placed(
    edge: Edge, part: Part, total: int
) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """View of the whole parameter, kept axes, and indices of each entry of a part."""
    size = math.prod(edge.view[axis] for axis in part.axes)
    every = np.arange(size)[:, None]
    if edge.size == total:
        return edge.view, part.axes, every
    # Rows of a matrix, or entries of a vector: blocks of the first axis.
    inner = edge.view[1:]
    per = math.prod(inner)
    first, count, rows = edge.start // per, edge.view[0], total // per
    if part.axes and part.axes[0] == 0:
        return (rows, *inner), part.axes, every + edge.start // per * (size // count)
    block = math.gcd(first, count, rows)
    blocks = np.arange(first // block, (first + count) // block)
    view = (rows // block, block, *inner)
    axes = (0, *(axis + 1 for axis in part.axes))
    return view, axes, blocks[None, :] * size + every


def signatures(
    items: Sequence[Contribution], num_solutions: int
) -> Mapping[int, np.ndarray]:
    """Group the solutions by the uses of parameters in which they appear.

    Args:
        items: Contributions.
        num_solutions: Number of solutions.

    Returns:
        Group to its solutions, ascending, by the first use; solutions in which no
        parameter appears are left out.
    """
    # Exact: the set of contributions as the sorted rows of an incidence matrix.
    rows, columns = [], []
    for number, item in enumerate(items):
        distinct = np.unique(item.solutions)
        rows.append(distinct)
        columns.append(np.full(len(distinct), number))
    if not rows:
        return {}
    shape = (num_solutions, len(items))
    ones = np.ones(sum(map(len, rows)), dtype=np.int8)
    index = (np.concatenate(rows), np.concatenate(columns))
    incidence = sparse.csr_array((ones, index), shape=shape)
    incidence.sort_indices()
    found: dict[tuple[int, ...], list[int]] = {}
    for solution in range(num_solutions):
        low, high = incidence.indptr[solution], incidence.indptr[solution + 1]
        key = tuple(incidence.indices[low:high].tolist())
        if key:
            found.setdefault(key, []).append(solution)
    order = sorted(found.items())
    return {i: np.array(own) for i, (_, own) in enumerate(order)}
