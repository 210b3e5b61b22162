"""Rows that are alike are found by hashes as by sorting the rows themselves."""

import numpy as np
import pytest
from scipy import sparse

from spectrank.invariance.hashing import bits, distinct_rows, first_alike


def first_by_sorting(rows):
    seen = {}
    return np.array([seen.setdefault(tuple(row), i) for i, row in enumerate(rows)])


@pytest.mark.parametrize("seed", range(3))
def test_the_first_of_rows_that_are_alike_is_found(seed):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 4, size=(200, 3))
    found = first_alike(list(keys.T))
    np.testing.assert_array_equal(found, first_by_sorting(keys))


def test_the_order_of_keys_and_every_bit_of_a_number_count():
    np.testing.assert_array_equal(
        first_alike([np.array([1, 2]), np.array([2, 1])]), [0, 1]
    )
    close = np.array([1.0, np.nextafter(1.0, 2.0), 1.0, 0.0, -0.0])
    np.testing.assert_array_equal(first_alike([bits(close)]), [0, 1, 0, 3, 3])


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_a_sparse_matrix_are_told_apart_by_place_and_value(seed):
    random = np.random.default_rng(seed)
    dense = random.integers(-1, 2, size=(300, 4)) * random.choice([1.0, 0.5], (300, 1))
    found = distinct_rows(sparse.csr_array(dense))
    np.testing.assert_array_equal(found, np.unique(first_by_sorting(dense)))


def test_no_rows_have_no_distinct_ones():
    assert distinct_rows(sparse.csr_array((0, 3))).tolist() == []
    assert distinct_rows(sparse.csr_array((2, 3))).tolist() == [0]
