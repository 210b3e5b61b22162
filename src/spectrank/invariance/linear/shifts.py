"""Shifts: how far values move when a parameter is moved by a constant.

A linear law <c, w> says that the network does not see w -> w + t c. Moving a bias moves
the values after it by a constant; moving every row of a weight alike moves them by one
number per position, that of an input. Both are followed to where they are taken away: a
normalisation that subtracts a mean, the other terms of a sum, a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from spectrank.invariance.linear.entries import Entries
from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System

# The source of shifts that are one constant for all samples and positions.
CONSTANT = "1"
Origin = Literal["sum", "softmax", "score"]


@final
@dataclass(frozen=True, eq=False)
class Shift:
    """How far each entry of a value moves, in units of one source.

    Attributes:
        value: Multiple of an unknown, entry by entry.
        slots: Which number of the source an entry is moved by; None for a constant.
    """

    value: Potential
    slots: np.ndarray | None = None

    def times(self, factor: float) -> Shift:
        """Multiply by a number.

        Args:
            factor: The number.

        Returns:
            The multiple.
        """
        return Shift(self.value.times(factor), self.slots)


Shifts = dict[str, Shift]


@final
@dataclass(frozen=True, eq=False)
class Family:
    """Entries of a parameter that are moved together, and the unknowns of the moves.

    Attributes:
        parameter: Name.
        size: Number of entries of the parameter.
        unknowns: (f,) one for each feature that is written.
        entries: Those of each feature. Moved one by one, each with a source of its
            own, or all entries of a feature together.
        together: Whether all entries of a feature are moved together.
    """

    parameter: str
    size: int
    unknowns: np.ndarray
    entries: Entries
    together: bool


class Sinks:
    """Collects the equations on shifts, and where they are taken away.

    Attributes:
        system: The equations.
        taken: Where a shift is taken away and what is left of it there.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.taken: list[tuple[Origin, Potential]] = []

    def stop(self, shifts: Shifts) -> None:
        """Require that nothing moves.

        Args:
            shifts: Of a value.
        """
        for shift in shifts.values():
            self.system.vanish(shift.value)

    def take(self, shifts: Shifts, axes: Sequence[int], origin: Origin) -> None:
        """Take away a mean: what moves alike along axes is not seen.

        Args:
            shifts: Of a value.
            axes: Along which entries have to move alike.
            origin: What takes it away.
        """
        for shift in shifts.values():
            slots = shift.slots
            if slots is not None and any(
                slots.shape[a] > 1 and np.ptp(slots, axis=a).any() for a in axes
            ):
                self.system.vanish(shift.value)
            else:
                kept = self.system.merge(shift.value, axes)
                self.taken.append((origin, kept))

    def added(self, terms: Sequence[Shifts], rank: int) -> Shifts:
        """Shifts of a sum.

        Args:
            terms: Of its terms, coefficients included.
            rank: Number of axes.

        Returns:
            Of the sum.
        """
        found: dict[str, list[Shift]] = {}
        for term in terms:
            for source, shift in term.items():
                found.setdefault(source, []).append(ranked(shift, rank))
        total: Shifts = {}
        for source, own in found.items():
            slots = own[0].slots
            if len(own) == 1:
                total[source] = own[0]
            elif any(not _same(slots, item.slots) for item in own):
                self.stop({str(i): item for i, item in enumerate(own)})
            else:
                values = [item.value for item in own]
                shape = np.broadcast_shapes(*(value.shape for value in values))
                made = self.system.fresh(shape)
                self.system.vanish(made, *(value.times(-1) for value in values))
                total[source] = Shift(made, slots)
        return total


def ranked(shift: Shift, rank: int) -> Shift:
    """Add axes of length one in front.

    Args:
        shift: A shift.
        rank: Number of axes wanted.

    Returns:
        It, with at least that many axes.
    """
    slots = shift.slots
    if slots is not None and slots.ndim < rank:
        slots = slots.reshape((1,) * (rank - slots.ndim) + slots.shape)
    return Shift(shift.value.ranked(rank), slots)


def as_potential(slots: np.ndarray) -> Potential:
    """Slots in the form in which entries are moved.

    Args:
        slots: Numbers, not negative.

    Returns:
        A potential whose classes they are.
    """
    return Potential(np.ones(slots.shape), slots)


def still(rank: int) -> Shift:
    """A shift by nothing.

    Args:
        rank: Number of axes.

    Returns:
        It.
    """
    return Shift(nothing(rank))


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and bool((first == second).all())
