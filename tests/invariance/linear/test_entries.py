"""Entries of features are those that numpy finds by moving axes."""

import math

import numpy as np
import pytest

from spectrank.invariance.linear.entries import Entries
from spectrank.invariance.potentials import Edge

CASES = [
    ((3, 4), (0,)),
    ((3, 4), (1,)),
    ((3, 4, 2), (0,)),
    ((3, 4, 2), (1,)),
    ((3, 4, 2), (0, 1)),
    ((3, 1, 2), (1, 2)),
    ((3, 4, 1), (1,)),
    ((1, 3), (0,)),
    ((2, 1), (0, 1)),
    ((5,), (0,)),
]


def by_moving(edge, axes):
    grid = np.moveaxis(edge.numbers().reshape(edge.view), axes, range(len(axes)))
    return grid.reshape(math.prod(edge.view[axis] for axis in axes), -1)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("view", "axes"), CASES)
def test_entries_of_features(view, axes, listed, start):
    size = math.prod(view)
    some = start + np.random.default_rng(0).permutation(size) if listed else None
    edge = Edge("w", "n", "weight", view, (), some, start)
    entries, expected = Entries(edge, axes), by_moving(edge, axes)
    assert (entries.num_features, entries.times) == expected.shape
    chosen = np.arange(len(expected))[::-1]
    np.testing.assert_array_equal(entries.numbers(chosen), expected[chosen])


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("view", "axes"), CASES)
def test_a_matrix_of_the_whole_parameter_has_these_entries(view, axes, listed):
    size = math.prod(view)
    edge = Edge("w", "n", "weight", view, (), np.arange(size) if listed else None)
    expected, matrix = by_moving(edge, axes), Entries(edge, axes).matrix(size)
    if matrix is None:
        assert (view, axes) == ((3, 4, 2), (1,))
        return
    shape, axis = matrix
    found = np.moveaxis(np.arange(size).reshape(shape), axis, 0)
    np.testing.assert_array_equal(found, expected)


def test_a_part_of_a_parameter_is_no_matrix_of_it():
    edge = Edge("w", "n", "weight", (3, 4), (), None, 0)
    assert Entries(edge, (0,)).matrix(24) is None
    moved = Edge("w", "n", "weight", (3, 4), (), np.arange(12)[::-1])
    assert Entries(moved, (0,)).matrix(12) is None
