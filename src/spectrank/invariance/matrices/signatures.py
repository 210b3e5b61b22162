"""Signatures: which free potentials stand everywhere as translates of one another.

Two features of a layer that every step treats alike may be rotated into each other.
In each tensor one then stands where the other stands, moved along the axis of the
features. A signature collects, for every free potential, all places at which it stands
up to such a move; equal signatures make one block of a matrix law.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

import numpy as np

from spectrank.invariance.hashing import hashed


@final
class Signatures:
    """Collects places of free potentials; potentials of one signature are a block.

    Attributes:
        size: Number of free potentials.
        touched: Those that some step treats differently from all others.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.touched = np.zeros(size, dtype=bool)
        # Two independent 64-bit sums: places are added in any order.
        self._sums = np.zeros((2, size), dtype=np.uint64)
        self._seen = np.zeros(size, dtype=bool)
        self._tags = 0

    def touch(self, free: np.ndarray) -> None:
        """Note that a step acts on these potentials entry by entry.

        Args:
            free: Numbers of free potentials; negative ones are none.
        """
        self.touched[free[free >= 0]] = True

    def record(
        self,
        free: np.ndarray,
        factors: np.ndarray,
        *,
        exact: Collection[int] = (),
        groups: tuple[int, int] | None = None,
    ) -> None:
        """Add the places at which free potentials stand in a tensor.

        Args:
            free: Number of the free potential of each entry; negative for none.
            factors: Its multiple, of the same shape.
            exact: Axes along which places count as they are; along the others relative
                to the first place of the same potential.
            groups: Axis and number of its equal parts that count as they are.
        """
        self._tags += 1
        # Traces hold scalars too.
        free, factors = np.atleast_1d(free), np.atleast_1d(factors)
        places = np.nonzero(free >= 0)
        own = free[places]
        if not len(own):
            return
        keys = [np.full(len(own), self._tags), _bits(factors[places].reshape(-1))]
        for axis, place in enumerate(places):
            keys.append(place if axis in exact else place - self._least(own, place))
            if groups is not None and axis == groups[0]:
                keys.append(place // max(free.shape[axis] // groups[1], 1))
        for row, salt in enumerate((1, 2)):
            np.add.at(self._sums[row], own, hashed(keys, salt))
        self._seen[own] = True

    def _least(self, own: np.ndarray, place: np.ndarray) -> np.ndarray:
        least = np.full(self.size, np.iinfo(np.int64).max)
        np.minimum.at(least, own, place)
        found: np.ndarray = least[own]
        return found

    def blocks(self) -> list[np.ndarray]:
        """Free potentials of one signature, together.

        Returns:
            Blocks of two or more, sorted; untouched potentials only.
        """
        usable = np.flatnonzero(self._seen & ~self.touched)
        if not len(usable):
            return []
        _, label = np.unique(self._sums[:, usable], axis=1, return_inverse=True)
        order = np.argsort(label.reshape(-1), kind="stable")
        cuts = np.flatnonzero(np.diff(label.reshape(-1)[order])) + 1
        return [block for block in np.split(usable[order], cuts) if len(block) > 1]


def _bits(factors: np.ndarray) -> np.ndarray:
    # Multiples are products of few degrees: rounded, equal ones have equal bits.
    return np.round(factors * 2**20).astype(np.int64)
