"""Terms of linear laws: sums over whole rows and columns are kept as such."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from spectrank.invariance.laws import LinearTerm
from spectrank.invariance.linear.shifts import Family


def family_term(family: Family, block: sparse.coo_array, copies: int) -> LinearTerm:
    """Term of the entries of one family in the laws of some solutions.

    Args:
        family: The entries.
        block: (features, solutions) multiples by which they are moved.
        copies: Number of laws of each solution: one for each column of a family that
            is moved column by column.

    Returns:
        The term. Laws are numbered solution by solution.
    """
    num_features, times = family.entries.num_features, family.entries.times
    column = np.asarray(block.col, dtype=np.int64)
    row = np.asarray(block.row, dtype=np.int64)
    view = family.entries.matrix(family.size)
    if view is not None:
        shape, features = view
        rest = 1 - features
        count = np.bincount(column)
        even = _even(column, block.data) and bool((count == num_features).all())
        first = np.unique(column, return_index=True)[1]
        if family.together and even:
            zeros, scale = np.zeros(len(first), dtype=np.int64), block.data[first]
            return _term(family, shape, (), column[first], zeros, scale)
        if family.together:
            return _term(family, shape, (features,), column, row, block.data)
        if even:
            every = np.arange(times)
            laws = (column[first][:, None] * copies + every).reshape(-1)
            scale = np.repeat(block.data[first], times)
            return _term(
                family, shape, (rest,), laws, np.tile(every, len(first)), scale
            )
    numbers = family.entries.numbers(row)
    law = column[:, None] * copies + (0 if family.together else np.arange(times))
    laws = np.broadcast_to(law, numbers.shape).reshape(-1)
    scale = np.repeat(block.data, times)
    return _term(family, (family.size,), (0,), laws, numbers.reshape(-1), scale)


def _term(
    family: Family,
    view: tuple[int, ...],
    axes: tuple[int, ...],
    laws: np.ndarray,
    indices: np.ndarray,
    scale: np.ndarray,
) -> LinearTerm:
    return LinearTerm(family.parameter, view, axes, laws, indices, scale)


def _even(column: np.ndarray, data: np.ndarray) -> bool:
    """Whether each solution moves all its entries by one number."""
    first, place = np.unique(column, return_index=True, return_inverse=True)[1:]
    return bool((data == data[first][place.reshape(-1)]).all())
