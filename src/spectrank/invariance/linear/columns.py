"""A readable basis of solutions: few parameters each, alike ones together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from spectrank.invariance.hashing import distinct_rows
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


def owners(basis: sparse.sparray, families: Sequence[Family]) -> np.ndarray:
    """Number of the family of each unknown.

    Args:
        basis: (unknowns, solutions).
        families: Which unknowns are entries of parameters.

    Returns:
        (unknowns,); -1 for none.
    """
    owner = np.full(basis.shape[0], -1)
    for k, family in enumerate(families):
        owner[family.unknowns] = k
    return owner


def patterns(basis: sparse.sparray, families: Sequence[Family]) -> tuple[Pattern, ...]:
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
    basis: sparse.sparray, families: Sequence[Family]
) -> list[tuple[Entry, ...]]:
    columns = sparse.csc_array(basis)
    column = np.repeat(np.arange(basis.shape[1]), np.diff(columns.indptr))
    family = owners(basis, families)[columns.indices]
    keep = family >= 0
    keys = [
        column[keep],
        family[keep],
        # -0.0 and 0.0 are one number.
        np.round(columns.data[keep], 9) + 0.0,
    ]
    order = np.lexsort(keys[::-1])
    keys = [key[order] for key in keys]
    new = np.any([np.diff(key, prepend=key[:1] - 1) != 0 for key in keys], axis=0)
    starts = np.flatnonzero(new)
    number = np.diff(starts, append=len(order))
    found: list[list[Entry]] = [[] for _ in range(basis.shape[1])]
    for t, k, value, n in zip(
        *(key[starts].tolist() for key in keys), number.tolist(), strict=True
    ):
        found[t].append((k, value, n))
    return [tuple(item) for item in found]


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
    # Those that move one family evenly, such as a row of positions, help the others.
    single = np.array(
        [
            t
            for t, e in enumerate(entries)
            if e and (times[e] == 1 or (len(e) == 1 and e[0][2] > 1))
        ],
        dtype=int,
    )
    if all(times[entries[t]] > 1 for t in single):
        return basis
    part = sparse.csr_array(shown[:, single])
    _, label = csgraph.connected_components(abs(part).T @ abs(part), directed=False)
    step = sparse.lil_array(sparse.eye_array(basis.shape[1]))
    for k in range(int(label.max()) + 1):
        own = np.flatnonzero(label == k)
        alone = [times[entries[t]] == 1 for t in single[own]]
        if len(own) > 1 and any(alone):
            rows = _distinct_rows(sparse.csr_array(part[:, own])).toarray()
            rows = np.unique(rows, axis=0)
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


def independent(
    basis: sparse.csc_array, families: Sequence[Family], groups: Sequence[Pattern]
) -> Lost:
    """Find solutions that follow from the laws of the single rows of a table.

    Moving all columns of a table together repeats, summed over rows and features, the
    laws of its rows.

    Args:
        basis: (unknowns, solutions).
        families: Which unknowns are entries of parameters.
        groups: Its patterns.

    Returns:
        What to leave out of a count.
    """
    alone = {g.entries[0][0] for g in groups if _uniform(g)}
    rows = {families[k].parameter for k in alone if not families[k].together}
    tables = [k for k, f in enumerate(families) if f.together and f.parameter in rows]
    if not tables:
        return Lost()
    near = [g for g in groups if any(families[k].together for k, _, _ in g.entries)]
    even = [(g, t) for g in near if _uniform(g) for t in g.columns]
    total = [g for g in near if not _uniform(g) and len(g.columns) > 1]
    size = basis.shape[0]
    unit = [_ones(families[k].unknowns, size) for k in tables]
    sums = [
        sparse.csr_array(basis[:, list(g.columns)].sum(axis=1)[:, None]) for g in total
    ]
    shown = sparse.hstack([*unit, basis[:, [t for _, t in even]], *sums], format="csr")
    owned = np.concatenate([f.unknowns for f in families])
    vectors = (
        _distinct_rows(sparse.csr_array(sparse.csr_array(shown)[owned])).toarray().T
    )
    known = _Span()
    for vector in vectors[: len(unit)]:
        known.add(vector)
    start = len(unit)
    lost = {
        t
        for (_, t), v in zip(even, vectors[start : start + len(even)], strict=True)
        if not known.add(v)
    }
    start += len(even)
    dependent = {
        g.entries: 1
        for g, v in zip(total, vectors[start:], strict=True)
        if not known.add(v)
    }
    return Lost(frozenset(lost), dependent)


class _Span:
    """Orthonormal basis that grows by vectors that are not within it."""

    def __init__(self) -> None:
        self._basis: list[np.ndarray] = []

    def add(self, vector: np.ndarray) -> bool:
        """Add a vector; False where it is a combination of those before."""
        rest = vector.astype(np.float64)
        # Twice: once is not orthogonal to rounding.
        for _ in range(2):
            for own in self._basis:
                rest = rest - own * (own @ rest)
        if np.linalg.norm(rest) <= _TOLERANCE * np.linalg.norm(vector):
            return False
        self._basis.append(rest / np.linalg.norm(rest))
        return True


def _ones(unknowns: np.ndarray, size: int) -> sparse.csr_array:
    places = (unknowns, np.zeros(len(unknowns), dtype=int))
    return sparse.csr_array((np.ones(len(unknowns)), places), shape=(size, 1))


def _distinct_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    matrix.sort_indices()
    return sparse.csr_array(matrix[distinct_rows(matrix)])


def _uniform(group: Pattern) -> bool:
    """Whether a solution moves several entries of one family, all alike."""
    return len(group.entries) == 1 and group.entries[0][2] > 1
