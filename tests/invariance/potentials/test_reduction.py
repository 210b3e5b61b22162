"""Sparse elimination against the singular value decomposition of the same equations."""

import numpy as np
import pytest

from spectrank.invariance.potentials.potential import Potential
from spectrank.invariance.potentials.reduction import null_space, reduce
from spectrank.invariance.potentials.system import System


def dense(num_classes, pairs, rows):
    """All equations as one matrix; the first column is the unknown that is zero."""
    found = [np.eye(1, num_classes)]
    for block in pairs:
        for a, b in block:
            found.append(np.eye(1, num_classes, a) - np.eye(1, num_classes, b))
    for factors, classes in rows:
        for f, c in zip(factors, classes, strict=True):
            row = np.zeros((1, num_classes))
            np.add.at(row[0], c, f)
            found.append(row)
    return np.concatenate(found)


def random_equations(seed):
    rng = np.random.default_rng(seed)
    n = 40
    pairs = [rng.integers(0, n, (6, 2))]
    rows = []
    for terms, count in ((2, 9), (3, 5), (4, 4)):
        factors = rng.choice([-2.0, -1.0, 0.5, 1.0, 2.0], (count, terms))
        rows.append((factors, rng.integers(0, n, (count, terms))))
    return n, pairs, rows


@pytest.mark.parametrize("seed", range(40))
def test_the_basis_spans_the_null_space(seed):
    n, pairs, rows = random_equations(seed)
    matrix = dense(n, pairs, rows)
    basis = reduce(n, pairs, rows).toarray()
    assert np.abs(matrix @ basis).max(initial=0.0) < 1e-12
    assert basis.shape[1] == n - np.linalg.matrix_rank(matrix)
    assert np.linalg.matrix_rank(basis) == basis.shape[1]


def test_a_cycle_of_ratios_that_disagrees_is_zero():
    # x = 2 y, y = 3 z, x = 6 z agree; with x = 5 z all three are zero.
    cycle = np.array([[1, 2], [2, 3], [1, 3]])
    factors = np.array([[1.0, -2.0], [1.0, -3.0], [1.0, -6.0]])
    kept = reduce(4, [], [(factors, cycle)]).toarray()
    assert kept.shape == (4, 1)
    np.testing.assert_allclose(kept[1:, 0] / kept[3, 0], [6.0, 3.0, 1.0])
    factors[2, 1] = -5.0
    assert reduce(4, [], [(factors, cycle)]).shape == (4, 0)


def test_what_is_computed_is_expressed_by_what_it_is_computed_from():
    # Unknown 3 = 1 + 2: the free numbers are those of 1 and 2.
    rows = [(np.array([[1.0, -1.0, -1.0]]), np.array([[3, 1, 2]]))]
    basis = reduce(4, [], rows).toarray()
    np.testing.assert_array_equal(basis, [[0, 0], [1, 0], [0, 1], [1, 1]])


def test_a_deficient_block_keeps_all_its_free_unknowns():
    matrix = np.array([[1.0, 1, 1, 0], [2, 2, 2, 0], [0, 1, -1, 1]])
    basis = null_space(matrix)
    assert basis.shape == (4, 2)
    np.testing.assert_allclose(matrix @ basis, 0, atol=1e-14)


def test_zero_terms_of_an_equation_are_left_out_entry_by_entry():
    system = System((), {}, {}, {})
    x = system.fresh((3,))
    # Entry 0: x0 + x0 = 0; entry 1: x1 = 0 as the other is zero; entry 2: x2 = x2.
    other = Potential(np.array([1.0, 0.0, -1.0]), x.classes)
    system.vanish(x, other)
    basis = reduce(system.num_classes, system.pairs, system.rows).toarray()
    np.testing.assert_array_equal(basis, [[0], [0], [0], [1]])
