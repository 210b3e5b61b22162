"""Reduction: all solutions of the equations between potentials, as a sparse basis.

Most equations say that two unknowns are equal; those are merged. Equations with two
unknowns fix a ratio; those are followed along a tree. What is left is small and falls
into independent blocks, each brought to reduced echelon form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

# Coefficients are products of degrees of homogeneity, such as 1, -1, 2 and 1/2.
_TOLERANCE = 1e-9
Rows = Sequence[tuple[np.ndarray, np.ndarray]]


def reduce(
    num_classes: int, pairs: Sequence[np.ndarray], rows: Rows
) -> sparse.csr_array:
    """Solve the equations.

    Args:
        num_classes: Number of unknowns, number 0 of which is zero.
        pairs: Blocks (k, 2) of unknowns that are equal.
        rows: Blocks (coefficients (k, t), unknowns (k, t)) of equations.

    Returns:
        (num_classes, number of solutions) matrix B: every solution is B t, and its
        columns are independent.
    """
    basis = _merged(num_classes, pairs)
    equations = _matrix(num_classes, rows)
    while True:
        current = _clean(equations @ basis)
        count = np.diff(current.indptr)
        if not (count > 0).any():
            return basis
        step = _single(current, count)
        step = _ratios(current[count == 2]) if step is None else step
        step = _blocks(current[count > 0]) if step is None else step
        basis = _clean(basis @ step)


def _clean(matrix: sparse.csr_array) -> sparse.csr_array:
    matrix = sparse.csr_array(matrix)
    matrix.sum_duplicates()
    matrix.data[np.abs(matrix.data) < _TOLERANCE] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _merged(num_classes: int, pairs: Sequence[np.ndarray]) -> sparse.csr_array:
    """Classes to groups of equal ones; the group of zero has no column."""
    joined = np.concatenate([*pairs, np.zeros((1, 2), dtype=np.int64)])
    graph = sparse.coo_array(
        (np.ones(len(joined), dtype=np.int8), (joined[:, 0], joined[:, 1])),
        shape=(num_classes, num_classes),
    )
    count, labels = csgraph.connected_components(graph, directed=False)
    return _columns(labels, np.ones(num_classes), labels == labels[0], count)


def _columns(
    labels: np.ndarray, weights: np.ndarray, vanishing: np.ndarray, count: int
) -> sparse.csr_array:
    """Row i has weights[i] in the column of labels[i], unless it vanishes."""
    kept = np.flatnonzero(~vanishing)
    used = np.unique(labels[kept])
    number = np.full(count, -1, dtype=np.int64)
    number[used] = np.arange(len(used))
    return sparse.csr_array(
        (weights[kept], (kept, number[labels[kept]])), shape=(len(labels), len(used))
    )


def _matrix(num_classes: int, rows: Rows) -> sparse.csr_array:
    start, values, places, columns = 0, [], [], []
    for factors, classes in rows:
        k, t = factors.shape
        values.append(factors.reshape(-1))
        columns.append(classes.reshape(-1))
        places.append(np.repeat(np.arange(start, start + k), t))
        start += k
    if not values:
        return sparse.csr_array((0, num_classes))
    return sparse.csr_array(
        (np.concatenate(values), (np.concatenate(places), np.concatenate(columns))),
        shape=(start, num_classes),
    )


def _single(current: sparse.csr_array, count: np.ndarray) -> sparse.csr_array | None:
    """Unknowns that stand alone in an equation are zero."""
    alone = current[count == 1]
    if alone.shape[0] == 0:
        return None
    size = current.shape[1]
    vanishing = np.zeros(size, dtype=bool)
    vanishing[alone.indices] = True
    return _columns(np.arange(size), np.ones(size), vanishing, size)


def _ratios(two: sparse.csr_array) -> sparse.csr_array | None:
    """Equations a x + b y = 0: one unknown per connected set, the others multiples."""
    if two.shape[0] == 0:
        return None
    size = two.shape[1]
    ends = two.indices.reshape(-1, 2).astype(np.int64)
    factors = two.data.reshape(-1, 2)
    # Entry (x, y) numbers an equation that says y = ratio * x.
    links = sparse.csr_array(
        (np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size)
    )
    count, labels = csgraph.connected_components(links, directed=False)
    ratio = {}
    for (x, y), (a, b) in zip(ends.tolist(), factors.tolist(), strict=True):
        ratio[x, y], ratio[y, x] = -a / b, -b / a
    _, roots = np.unique(labels, return_index=True)
    # One more vertex joined to the first of every set makes one tree of all.
    top = sparse.csr_array(
        (np.ones(count), (np.full(count, size), roots)), shape=(size + 1, size + 1)
    )
    links.resize((size + 1, size + 1))
    order, before = csgraph.breadth_first_order(
        sparse.csr_array(links + top), size, directed=False
    )
    weights = np.ones(size + 1)
    for item in order[1:].tolist():
        parent = int(before[item])
        if parent != size:
            weights[item] = weights[parent] * ratio[parent, item]
    # An equation that disagrees with the tree is left with one unknown, which is zero.
    vanishing = np.zeros(size, dtype=bool)
    return _columns(labels, weights[:size], vanishing, count)


def _blocks(current: sparse.csr_array) -> sparse.csr_array:
    """Null space, block by block of unknowns that share equations."""
    size = current.shape[1]
    graph = sparse.csr_array(abs(current).T @ abs(current))
    count, labels = csgraph.connected_components(graph, directed=False)
    row_label = labels[current.indices[current.indptr[:-1]]]
    row_order = np.argsort(row_label, kind="stable")
    row_start = np.searchsorted(row_label[row_order], np.arange(count + 1))
    column_order = np.argsort(labels, kind="stable")
    column_start = np.searchsorted(labels[column_order], np.arange(count + 1))
    parts, columns = [], []
    for k in range(count):
        own = column_order[column_start[k] : column_start[k + 1]]
        rows = row_order[row_start[k] : row_start[k + 1]]
        if len(rows):
            parts.append(null_space(current[rows][:, own].toarray()))
        else:
            parts.append(np.eye(len(own)))
        columns.append(own)
    stacked = sparse.csr_array(sparse.block_diag(parts, format="csr"))
    back = np.argsort(np.concatenate(columns))
    assert stacked.shape[0] == size
    return sparse.csr_array(stacked[back])


def null_space(matrix: np.ndarray) -> np.ndarray:
    """Basis of the vectors x with matrix x = 0, in reduced echelon form.

    Later unknowns are expressed by earlier ones: what a step computes by what it reads.

    Args:
        matrix: (k, n), with entries of order one.

    Returns:
        (n, n - rank), with the unit matrix in the rows of the unknowns that are free.
    """
    a = matrix[:, ::-1].astype(np.float64)
    k, n = a.shape
    pivots: list[int] = []
    for column in range(n):
        row = len(pivots)
        if row == k:
            break
        best = row + int(np.argmax(np.abs(a[row:, column])))
        if abs(a[best, column]) < _TOLERANCE:
            continue
        a[[row, best]] = a[[best, row]]
        a[row] /= a[row, column]
        others = a[:, column].copy()
        others[row] = 0.0
        a -= np.outer(others, a[row])
        pivots.append(column)
    free = [column for column in range(n) if column not in set(pivots)]
    found = np.zeros((n, len(free)))
    found[free, np.arange(len(free))] = 1.0
    found[pivots] = -a[: len(pivots)][:, free]
    return found[::-1, ::-1]
