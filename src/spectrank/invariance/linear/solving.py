"""Solve the equations on shifts: first what stands in one equation only."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from spectrank.invariance.hashing import bits, distinct_rows, first_alike
from spectrank.invariance.potentials.reduction import reduce
from spectrank.invariance.potentials.system import System

_TOLERANCE = 1e-9


def solutions(system: System) -> sparse.csr_array:
    """All shifts that a network does not see.

    The shift of a bias that is added to a stream stands in one equation: that of the
    sum. It is expressed by the stream before and after, so that what is left is as
    small as the number of sums, not of features.

    Args:
        system: The equations.

    Returns:
        (unknowns, solutions) basis; row 0, the unknown that is zero, is empty.
    """
    basis = reduce(system.num_classes, system.pairs, [])
    rows = _rows(system) @ basis
    while True:
        rows = _distinct(sparse.csr_array(rows))
        step = _merged(rows)
        step = _expressed(rows) if step is None else step
        if step is None:
            break
        basis, rows = sparse.csr_array(basis @ step), rows @ step
    size = basis.shape[1]
    left = [
        (rows.data[own][None], rows.indices[own][None].astype(np.int64) + 1)
        for own in (
            slice(rows.indptr[i], rows.indptr[i + 1]) for i in range(rows.shape[0])
        )
    ]
    rest = reduce(size + 1, [], left)[1:]
    return sparse.csr_array(basis @ rest)


def _rows(system: System) -> sparse.csr_array:
    blocks = [
        sparse.csr_array(
            (
                factors.reshape(-1),
                (
                    np.repeat(np.arange(len(factors)), factors.shape[1]),
                    classes.reshape(-1),
                ),
            ),
            shape=(len(factors), system.num_classes),
        )
        for factors, classes in system.rows
    ]
    empty = sparse.csr_array((0, system.num_classes))
    return sparse.csr_array(sparse.vstack([empty, *blocks], format="csr"))


def _distinct(rows: sparse.csr_array) -> sparse.csr_array:
    """Equations without those that say nothing or repeat another."""
    rows.sum_duplicates()
    rows.data[np.abs(rows.data) < _TOLERANCE] = 0.0
    rows.eliminate_zeros()
    rows = sparse.csr_array(rows[np.diff(rows.indptr) > 0])
    return sparse.csr_array(rows[distinct_rows(rows)])


def _merged(rows: sparse.csr_array) -> sparse.csr_array | None:
    """Unknowns that are equal because two equations are alike but for them."""
    # A bias b_f that is added where every feature moves alike, before and after, is
    # the same for all features f.
    count = np.diff(rows.indptr)
    pairs = []
    for size in (2, 3, 4):
        first = rows.indptr[:-1][count == size]
        place = first[:, None] + np.arange(size)
        unknowns, factors = rows.indices[place], rows.data[place]
        factors = np.round(factors / factors[:, :1], 9) if len(place) else factors
        for k in range(size):
            keys = [*np.delete(unknowns, k, axis=1).T, *bits(factors).T]
            other = unknowns[first_alike(keys), k]
            pairs.append(np.stack([unknowns[:, k], other], axis=1))
    joined = np.concatenate([np.zeros((0, 2), dtype=int), *pairs])
    joined = joined[joined[:, 0] != joined[:, 1]]
    if not len(joined):
        return None
    size = rows.shape[1]
    links = (np.ones(len(joined)), (joined[:, 0], joined[:, 1]))
    graph = sparse.csr_array(links, shape=(size, size))
    number, label = csgraph.connected_components(graph, directed=False)
    return sparse.csr_array(
        (np.ones(size), (np.arange(size), label)), shape=(size, number)
    )


def _expressed(rows: sparse.csr_array) -> sparse.csr_array | None:
    """Unknowns of one equation, one for each equation that has such."""
    size = rows.shape[1]
    count = np.bincount(rows.indices, minlength=size)
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    alone = np.flatnonzero(count[rows.indices] == 1)
    if not len(alone):
        return None
    # The latest of an equation: what a step computes by what it reads.
    last = np.append(np.diff(row[alone]) != 0, True)
    chosen = alone[last]
    kept = np.setdiff1d(np.arange(size), rows.indices[chosen])
    column = np.full(size, -1)
    column[kept] = np.arange(len(kept))
    pivot = np.full(rows.shape[0], -1)
    pivot[row[chosen]] = chosen
    others = np.flatnonzero((pivot[row] >= 0) & (pivot[row] != np.arange(len(row))))
    by = pivot[row[others]]
    data = np.concatenate([np.ones(len(kept)), -rows.data[others] / rows.data[by]])
    places = np.concatenate([kept, rows.indices[by]])
    columns = np.concatenate([column[kept], column[rows.indices[others]]])
    return sparse.csr_array((data, (places, columns)), shape=(size, len(kept)))
