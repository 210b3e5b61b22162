"""A readable basis of solutions: few parameters each, alike ones together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from spectrank.invariance.linear.shifts import Family

_TOLERANCE = 1e-9
# Family, multiple and number of entries.
Entry = tuple[int, float, int]


@final
@dataclass(frozen=True, eq=False)
class Pattern:
    """Solutions that are alike: so many entries of the same families each.

    Attributes:
        entries: What one solution moves.
        columns: Numbers of the solutions.
    """

    entries: tuple[Entry, ...]
    columns: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Lost:
    """What follows from the laws of the single rows of a table.

    Attributes:
        columns: Solutions that do.
        patterns: Number of dependences within the solutions of a pattern.
    """

    columns: frozenset[int] = frozenset()
    patterns: dict[tuple[Entry, ...], int] = field(default_factory=dict)


def patterns(
    basis: sparse.csr_array, families: Sequence[Family]
) -> tuple[Pattern, ...]:
    """Group solutions that are alike.

    Args:
        basis: (unknowns, solutions).
        families: Which unknowns are entries of parameters.

    Returns:
        The groups, by the first family; solutions that move no parameter are in none.
    """
    found: dict[tuple[Entry, ...], list[int]] = {}
    for column, entries in enumerate(_entries(basis, families)):
        if entries:
            found.setdefault(entries, []).append(column)
    return tuple(
        Pattern(entries, tuple(columns)) for entries, columns in sorted(found.items())
    )


def _entries(
    basis: sparse.csr_array, families: Sequence[Family]
) -> list[tuple[Entry, ...]]:
    owner = np.full(basis.shape[0], -1)
    for k, family in enumerate(families):
        owner[family.unknowns] = k
    columns = sparse.csc_array(basis)
    found = []
    for t in range(columns.shape[1]):
        own = slice(columns.indptr[t], columns.indptr[t + 1])
        counted = Counter(
            (int(owner[row]), round(float(value), 9))
            for row, value in zip(columns.indices[own], columns.data[own], strict=True)
            if owner[row] >= 0
        )
        found.append(tuple(sorted((k, v, n) for (k, v), n in counted.items())))
    return found


def sparsified(basis: sparse.csr_array, families: Sequence[Family]) -> sparse.csr_array:
    """Recombine solutions so that each moves few parameters.

    Solutions that are alike, such as one for each feature, are as they should be; the
    others are brought to reduced echelon form, set by set of those that share entries.

    Args:
        basis: (unknowns, solutions).
        families: Which unknowns are entries of parameters.

    Returns:
        Another basis of the same space.
    """
    owned = np.concatenate([np.zeros(0, dtype=int), *(f.unknowns for f in families)])
    shown = sparse.csr_array(basis[owned])
    times = Counter(entries := _entries(basis, families))
    single = np.array([t for t, e in enumerate(entries) if e and times[e] == 1], int)
    if len(single) < 2:
        return basis
    part = sparse.csr_array(shown[:, single])
    _, label = csgraph.connected_components(abs(part).T @ abs(part), directed=False)
    step = sparse.lil_array(sparse.eye_array(basis.shape[1]))
    for k in range(int(label.max()) + 1):
        own = np.flatnonzero(label == k)
        if len(own) > 1:
            rows = np.unique(part[:, own].toarray(), axis=0)
            step[np.ix_(single[own], single[own])] = _echelon(rows)
    return sparse.csr_array(basis @ sparse.csr_array(step))


def _echelon(rows: np.ndarray) -> np.ndarray:
    """Square T such that the columns of ``rows @ T`` are in reduced echelon form."""
    size = rows.shape[1]
    # Rows of few columns first: what one solution alone moves stays with it.
    order = np.argsort((np.abs(rows) > _TOLERANCE).sum(axis=1), kind="stable")
    a = np.concatenate([rows[order], np.eye(size)])
    done = 0
    for row in range(len(rows)):
        if done == size:
            break
        best = done + int(np.argmax(np.abs(a[row, done:])))
        if abs(a[row, best]) < _TOLERANCE:
            continue
        a[:, [done, best]] = a[:, [best, done]]
        a[:, done] /= a[row, done]
        others = a[row].copy()
        others[done] = 0.0
        a -= np.outer(a[:, done], others)
        done += 1
    return np.where(np.abs(a[len(rows) :]) < _TOLERANCE, 0.0, a[len(rows) :])


def independent(basis: sparse.csr_array, families: Sequence[Family]) -> Lost:
    """Find solutions that follow from the laws of the single rows of a table.

    Moving all columns of a table together repeats, summed over rows and features, the
    laws of its rows.

    Args:
        basis: (unknowns, solutions).
        families: Which unknowns are entries of parameters.

    Returns:
        What to leave out of a count.
    """
    groups = patterns(basis, families)
    alone = {g.entries[0][0] for g in groups if _uniform(g, families)}
    rows = {families[k].parameter for k in alone if not families[k].together}
    tables = [k for k, f in enumerate(families) if f.together and f.parameter in rows]
    if not tables:
        return Lost()
    owned = np.concatenate([f.unknowns for f in families])
    shown = sparse.csc_array(basis[owned])
    owner = np.concatenate(
        [np.full(len(f.unknowns), k) for k, f in enumerate(families)]
    )
    base = [(owner == k).astype(float) for k in tables]
    near = [g for g in groups if any(families[k].together for k, _, _ in g.entries)]
    lost: set[int] = set()
    for group in near:
        for t in group.columns if _uniform(group, families) else ():
            vector = shown[:, [t]].toarray()[:, 0]
            if _within(base, vector):
                lost.add(t)
            else:
                base.append(vector)
    dependent: dict[tuple[Entry, ...], int] = {}
    for group in near:
        total = shown[:, list(group.columns)].sum(axis=1)
        fits = not _uniform(group, families) and len(group.columns) > 1
        if fits and _within(base, np.asarray(total).reshape(-1)):
            dependent[group.entries] = 1
    return Lost(frozenset(lost), dependent)


def _uniform(group: Pattern, families: Sequence[Family]) -> bool:
    """Whether a solution moves several entries of one family, all alike."""
    return len(group.entries) == 1 and group.entries[0][2] > 1


def _within(base: Sequence[np.ndarray], vector: np.ndarray) -> bool:
    stacked = np.unique(np.stack([*base, vector], axis=1), axis=0)
    known, own = stacked[:, :-1], stacked[:, -1]
    found = np.linalg.lstsq(known, own, rcond=None)[0]
    return bool(np.abs(known @ found - own).max() < _TOLERANCE * np.abs(own).max())
