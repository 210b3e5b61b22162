"""Hashes of rows of integers: equal rows are found without sorting the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def hashed(keys: Sequence[np.ndarray], salt: int) -> np.ndarray:
    """A number of 64 bits for each place of several arrays of integers.

    Args:
        keys: Arrays of one length; their order counts.
        salt: Numbers of different salts are independent.

    Returns:
        uint64 array of that length.
    """
    value = np.full(len(keys[0]), salt, dtype=np.uint64)
    for key in keys:
        value = _mixed(value + _GOLDEN + key.astype(np.uint64))
    return value


def bits(numbers: np.ndarray) -> np.ndarray:
    """Bits of floating-point numbers; of 0 and -0 the same.

    Args:
        numbers: float64 array.

    Returns:
        uint64 array of its shape.
    """
    return np.ascontiguousarray(numbers + 0.0).view(np.uint64)


def first_alike(keys: Sequence[np.ndarray]) -> np.ndarray:
    """The first place with the same keys, for each place.

    Two independent hashes of 64 bits are compared, not the keys.

    Args:
        keys: Arrays of integers of one length.

    Returns:
        int64 array of that length; a place that is the first is its own.
    """
    return _first_alike(hashed(keys, 1), hashed(keys, 2))


def distinct_rows(matrix: sparse.csr_array) -> np.ndarray:
    """Numbers of the rows that repeat no earlier one, empty ones included.

    Args:
        matrix: With sorted indices, without duplicates and stored zeros.

    Returns:
        Ascending.
    """
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    sums = np.zeros((2, matrix.shape[0]), dtype=np.uint64)
    for salt, own in enumerate(sums):
        np.add.at(own, row, hashed([matrix.indices, bits(matrix.data)], salt))
    found: np.ndarray = np.unique(_first_alike(*sums))
    return found


def _first_alike(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    order = np.lexsort((two, one))
    # A stable order: the first of each run is the first of its places.
    one, two = one[order], two[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (one[1:] != one[:-1]) | (two[1:] != two[:-1])
    found = np.empty(len(order), dtype=np.int64)
    found[order] = order[np.flatnonzero(new)][np.cumsum(new) - 1]
    return found


def _mixed(value: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: every bit depends on every bit."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed
