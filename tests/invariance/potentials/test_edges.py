"""Ties: two uses of a parameter get equal coefficients, entry by entry."""

import itertools

import numpy as np
import pytest

from spectrank.invariance.potentials.edges import Edge, differences, part
from spectrank.invariance.potentials.reduction import reduce
from spectrank.invariance.potentials.system import System


def use(system, view, groups, *, start=0, entries=None):
    parts = tuple(
        part(view, axes, system.fresh(tuple(view[axis] for axis in axes)))
        for axes in groups
    )
    return Edge("w", "n0", "weight", view, parts, entries, start)


def coefficients(edge, values):
    """Entry of the parameter to coefficient, by loops over the view."""
    found = {}
    numbers = edge.numbers()
    for flat, index in enumerate(itertools.product(*map(range, edge.view))):
        total = 0.0
        for item in edge.parts:
            own = tuple(index[axis] for axis in item.axes)
            value = values[item.potential.classes[own]]
            total += item.potential.coefficients[own] * value
        found[int(numbers[flat])] = total
    return found


def tied(first, second):
    """Two uses and the values of all unknowns of a general solution."""
    system = System((), {}, {}, {})
    uses = [use(system, **facts) for facts in (first, second)]
    for terms in differences(*uses):
        system.vanish(*terms)
    basis = reduce(system.num_classes, system.pairs, system.rows).toarray()
    return uses, basis, system.num_classes


def expected_dimension(uses, num_classes):
    """Dimension by the dense equations of the common entries."""
    rows = [np.eye(1, num_classes)[0]]
    unit = np.eye(num_classes)
    tables = [
        [coefficients(item, unit[k]) for k in range(num_classes)] for item in uses
    ]
    common = set(tables[0][0]) & set(tables[1][0])
    pairs = list(zip(*tables, strict=True))
    rows += [np.array([a[entry] - b[entry] for a, b in pairs]) for entry in common]
    return num_classes - np.linalg.matrix_rank(np.array(rows))


MATRIX = {"view": (3, 4), "groups": [(0,), (1,)]}
CASES = {
    "a matrix twice": (MATRIX, MATRIX),
    "a table and a head": ({"view": (3, 4), "groups": [(1,)]}, MATRIX),
    "overlapping rows": (MATRIX, {**MATRIX, "view": (2, 4), "start": 4}),
    "a matrix and its transpose": (
        MATRIX,
        {
            "view": (4, 3),
            "groups": [(0,), (1,)],
            "entries": np.arange(12).reshape(3, 4).T.reshape(-1),
        },
    ),
    "groups of kernels": (
        {"view": (2, 2, 3, 2), "groups": [(0, 1), (0, 2)]},
        {"view": (2, 2, 3, 2), "groups": [(0, 1), (0, 2)]},
    ),
    "three sides": (
        {"view": (2, 3, 2), "groups": [(0,), (1,), (2,)]},
        {"view": (2, 3, 2), "groups": [(0,), (1,), (2,)]},
    ),
    "a matrix and its entries": (MATRIX, {"view": (12,), "groups": [(0,)]}),
}


@pytest.mark.parametrize("name", CASES)
def test_uses_agree_on_common_entries_and_nothing_more_is_asked(name):
    uses, basis, num_classes = tied(*CASES[name])
    values = basis @ np.random.default_rng(0).standard_normal(basis.shape[1])
    first, second = [coefficients(item, values) for item in uses]
    common = set(first) & set(second)
    assert common
    for entry in common:
        assert first[entry] == pytest.approx(second[entry], abs=1e-12)
    assert basis.shape[1] == expected_dimension(uses, num_classes)


def test_a_blocked_parameter_has_coefficient_zero():
    system = System((), {}, {}, {})
    edge = use(system, **MATRIX)
    for terms in differences(edge, None):
        system.vanish(*terms)
    basis = reduce(system.num_classes, system.pairs, system.rows).toarray()
    # Rows up by one number and columns down by it: the sum is zero.
    assert basis.shape[1] == 1
    assert set(coefficients(edge, basis[:, 0]).values()) == {0.0}


def test_uses_of_the_same_entries_are_known_however_they_are_listed():
    system = System((), {}, {}, {})
    plain = use(system, (2, 3), [(0,), (1,)], start=3)
    assert plain.same_entries(use(system, (3, 2), [(0,)], start=3))
    assert not plain.same_entries(use(system, (2, 3), [(0,)], start=4))
    assert not plain.same_entries(use(system, (2, 2), [(0,)], start=3))
    listed = use(system, (2, 3), [(0,)], entries=np.arange(3, 9))
    assert plain.same_entries(listed)
    assert listed.same_entries(plain)
    turned = use(system, (2, 3), [(0,)], entries=np.arange(3, 9)[::-1])
    assert not plain.same_entries(turned)
