"""Edges: the coefficient of every entry of a parameter, as a sum of potentials.

The edge of an entry w from u to v has coefficient s_v - s_u in a law. Over a weight
matrix that is a function of the row plus one of the column, so it is kept as parts,
each over some axes of a view of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from spectrank.invariance.potentials.potential import Potential


@final
@dataclass(frozen=True, eq=False)
class Part:
    """A term of the coefficients of a parameter.

    Attributes:
        axes: Axes of the view along which it varies, ascending.
        potential: In the shape of these axes, signs included.
    """

    axes: tuple[int, ...]
    potential: Potential


@final
@dataclass(frozen=True, eq=False)
class Edge:
    """One use of a parameter: the coefficient of each entry that is used.

    Attributes:
        parameter: Name; of a tied parameter its first.
        node: Id of the node that uses it.
        role: What it is there: ``weight``, ``bias``, ``scale``, ``value``, ...
        view: Shape of the used entries.
        parts: Their sum is the coefficient of an entry.
        entries: Numbers of the used entries in the flat parameter, in the order of
            the view; None where they are consecutive from ``start``.
        start: First used entry.
    """

    parameter: str
    node: str
    role: str
    view: tuple[int, ...]
    parts: tuple[Part, ...]
    entries: np.ndarray | None = None
    start: int = 0

    @property
    def size(self) -> int:
        """Number of entries that are used."""
        return math.prod(self.view)

    def numbers(self) -> np.ndarray:
        """Numbers of the used entries in the flat parameter, flat.

        Returns:
            int64 array.
        """
        if self.entries is not None:
            return self.entries.reshape(-1)
        return np.arange(self.start, self.start + self.size)

    def same_entries(self, other: Edge) -> bool:
        """Whether two uses of a parameter use the same entries in the same order.

        Args:
            other: A use of the same parameter.

        Returns:
            The answer; tables of millions of entries are not listed for it.
        """
        if self.entries is None and other.entries is None:
            return (self.start, self.size) == (other.start, other.size)
        return np.array_equal(self.numbers(), other.numbers())

    def overlaps(self, other: Edge) -> bool:
        """Whether an entry of the parameter is used by both.

        Args:
            other: A use of the same parameter.

        Returns:
            The answer.
        """
        if self.entries is None and other.entries is None:
            last, end = self.start + self.size, other.start + other.size
            return self.start < end and other.start < last
        return bool(np.isin(self.numbers(), other.numbers()).any())

    def spread(self, part: Part) -> Potential:
        """A part over all used entries, flat.

        Args:
            part: One of ``parts``.

        Returns:
            One entry per used entry of the parameter.
        """
        sizes = [n if i in part.axes else 1 for i, n in enumerate(self.view)]
        shaped = part.potential.map(lambda a: a.reshape(sizes))
        return shaped.spread(self.view).flat()


def part(edge_view: Sequence[int], axes: Sequence[int], potential: Potential) -> Part:
    """Make a part, repeated along axes where the potential does not change.

    Args:
        edge_view: View of the edge.
        axes: Axes of the view, ascending.
        potential: Broadcastable to their sizes.

    Returns:
        The part.
    """
    sizes = tuple(edge_view[axis] for axis in axes)
    return Part(tuple(axes), potential.spread(sizes))


def differences(first: Edge, second: Edge | None) -> Iterator[list[Potential]]:
    """Sums of potentials that vanish iff two uses have equal coefficients.

    Args:
        first: A use.
        second: Another of the same parameter; None for the coefficient zero.

    Yields:
        Terms of one shape, whose sum is zero.
    """
    if second is None or _alike(first, second):
        minus = () if second is None else second.parts
        signed = [(p.axes, p.potential) for p in first.parts]
        signed += [(p.axes, p.potential.times(-1)) for p in minus]
        # A sum F(a) + G(b) vanishes iff F(a) + G(0) and F(0) + G(b) do.
        for axes in sorted({axes for axes, _ in signed}):
            yield [_restricted(axes, own, potential) for own, potential in signed]
        return
    common, at, of = np.intersect1d(
        first.numbers(), second.numbers(), return_indices=True
    )
    if not len(common):
        return
    terms = [_taken(first.spread(p), at) for p in first.parts]
    terms += [_taken(second.spread(p), of).times(-1) for p in second.parts]
    yield terms


def _taken(potential: Potential, index: np.ndarray) -> Potential:
    return potential.map(lambda a: a[index])


def _alike(first: Edge, second: Edge) -> bool:
    plain = first.entries is None and second.entries is None
    return plain and first.view == second.view and first.start == second.start


def _restricted(
    axes: tuple[int, ...], own: tuple[int, ...], potential: Potential
) -> Potential:
    """A part at index 0 of the axes that are not asked for, in the shape of those."""
    index = tuple(slice(None) if axis in axes else 0 for axis in own)
    kept = potential.map(lambda a: np.asarray(a[index]))
    sizes = iter(kept.shape)
    shape = tuple(next(sizes) if axis in own else 1 for axis in axes)
    return kept.map(lambda a: a.reshape(shape))
