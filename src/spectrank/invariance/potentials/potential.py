"""Potential: one number per entry of a tensor, as multiple of an unknown.

Axes along which the number does not change have length one, so that a whole layer of a
transformer takes as much room as one token of one sample; axes count from the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

# The unknown that is zero: inputs, outputs, constants.
ZERO = 0


@final
@dataclass(frozen=True, eq=False)
class Potential:
    """Potential s = coefficient * (value of the class) of every entry of a tensor.

    Attributes:
        coefficients: float64, of the shape of ``classes``.
        classes: int64 numbers of the unknowns, broadcastable to the tensor.
    """

    coefficients: np.ndarray
    classes: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes; one along an axis without change."""
        return self.classes.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.classes.ndim

    @property
    def zero(self) -> bool:
        """Whether every entry is zero already, before anything is solved."""
        return not bool(np.any(self.coefficients))

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Potential:
        """Move entries.

        Args:
            function: From array to array; entries are moved, repeated or left out.

        Returns:
            The moved potential.
        """
        return Potential(function(self.coefficients), function(self.classes))

    def times(self, factor: float) -> Potential:
        """Multiply by a number.

        Args:
            factor: The number.

        Returns:
            The multiple.
        """
        return Potential(self.coefficients * factor, self.classes)

    def ranked(self, rank: int) -> Potential:
        """Add axes of length one in front.

        Args:
            rank: Number of axes wanted.

        Returns:
            The potential with at least that many axes.
        """
        missing = rank - self.ndim
        if missing <= 0:
            return self
        return self.map(lambda a: a.reshape((1,) * missing + a.shape))

    def spread(self, sizes: Sequence[int]) -> Potential:
        """Repeat along axes of length one.

        Args:
            sizes: Sizes wanted.

        Returns:
            The potential in that shape.
        """
        return self.map(lambda a: np.broadcast_to(a, tuple(sizes)))

    def first(self, axes: Sequence[int]) -> Potential:
        """Keep the first entry along axes, as length one.

        Args:
            axes: Which.

        Returns:
            The smaller potential.
        """
        index = [slice(None)] * self.ndim
        for axis in axes:
            index[axis] = slice(0, 1)
        return self.map(lambda a: a[tuple(index)])

    def flat(self) -> Potential:
        """All entries along one axis.

        Returns:
            The potential with one axis.
        """
        return self.map(lambda a: a.reshape(-1))


def nothing(rank: int) -> Potential:
    """Potential zero everywhere.

    Args:
        rank: Number of axes.

    Returns:
        It, with all axes of length one.
    """
    shape = (1,) * rank
    return Potential(np.zeros(shape), np.full(shape, ZERO, dtype=np.int64))
