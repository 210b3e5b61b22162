"""Which entries of a parameter belong to a feature, without a list of all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from spectrank.invariance.potentials import Edge


@final
@dataclass(frozen=True, eq=False)
class Entries:
    """Entries that an edge uses, as a matrix (features, rest).

    Attributes:
        edge: The use of the parameter.
        axes: Those of its view that number the features, in this order; along the
            others lie the entries of one feature.
    """

    edge: Edge
    axes: tuple[int, ...]

    @property
    def num_features(self) -> int:
        """Number of features."""
        return math.prod(self.edge.view[axis] for axis in self.axes)

    @property
    def times(self) -> int:
        """Number of entries of one feature."""
        return self.edge.size // max(self.num_features, 1)

    def numbers(self, features: np.ndarray) -> np.ndarray:
        """Flat entries of the parameter that belong to some features.

        Args:
            features: (k,) numbers of features.

        Returns:
            (k, times) int64 array.
        """
        rest = [i for i in range(len(self.edge.view)) if i not in self.axes]
        own = self._offsets(self.axes)[features][:, None]
        flat: np.ndarray = own + self._offsets(rest)
        if self.edge.entries is None:
            return flat + self.edge.start
        found: np.ndarray = self.edge.entries.reshape(-1)[flat]
        return found

    def matrix(self, size: int) -> tuple[tuple[int, int], int] | None:
        """The whole parameter as a matrix one axis of which numbers the features.

        Args:
            size: Number of entries of the parameter.

        Returns:
            Shape and axis; None where the features are no axis of a matrix.
        """
        edge, f, r = self.edge, self.num_features, self.times
        if f * r != size:
            return None
        if edge.entries is not None:
            numbers, grid = self.numbers(np.arange(f)), np.arange(size)
            first = np.array_equal(numbers, grid.reshape(f, r))
            last = np.array_equal(numbers, grid.reshape(r, f).T)
        else:
            # Axes of length one may stand anywhere.
            long = [i for i, n in enumerate(edge.view) if n > 1]
            own = [i for i in self.axes if edge.view[i] > 1]
            first = own == long[: len(own)]
            last = own == long[len(long) - len(own) :]
        return ((f, r), 0) if first else ((r, f), 1) if last else None

    def _offsets(self, axes: tuple[int, ...] | list[int]) -> np.ndarray:
        view = self.edge.view
        total = np.zeros(1, dtype=np.int64)
        for axis in axes:
            step = math.prod(view[axis + 1 :])
            total = (total[:, None] + step * np.arange(view[axis])).reshape(-1)
        return total
