"""What laws say again of parameters each entry of which is constant by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spectrank.invariance.laws import GramTerm, Law, LinearTerm
from spectrank.invariance.laws.terms import Term

_Masks = dict[str, np.ndarray]


def without_repeats(laws: Sequence[Law]) -> tuple[Law, ...]:
    """Leave out quadratic laws of entries that never change at all.

    A parameter of which no gradient arrives is in a law of kind ``constant``, entry by
    entry; sums of squares and Gram matrices of such entries say nothing more.
    Source (derived): tests/invariance/test_repeats.py, rank of the Jacobian.

    Args:
        laws: Of one network.

    Returns:
        Those that say something that the constants do not say.
    """
    masks = _constant(laws)
    kept = []
    for law in laws:
        if law.form == "linear" or not masks.keys() & set(law.parameters):
            kept.append(law)
            continue
        still = np.ones(law.shape[0], dtype=bool)
        for term in law.terms:
            _move(still, term, masks.get(term.parameter))
        if still.all():
            continue
        if law.form == "squares" and still.any():
            law = _chosen(law, np.flatnonzero(~still))
        kept.append(law)
    return tuple(kept)


def _constant(laws: Sequence[Law]) -> _Masks:
    """Entries of parameters that are constant by themselves."""
    masks: _Masks = {}
    for law in laws:
        if law.kind != "constant":
            continue
        for term in law.terms:
            assert isinstance(term, LinearTerm)
            sizes = [term.view[axis] for axis in term.axes]
            if math.prod(sizes) != math.prod(term.view):
                continue
            chosen = np.zeros(math.prod(sizes), dtype=bool)
            chosen[term.indices] = True
            # Back from the order of the kept axes to that of the parameter.
            shaped = chosen.reshape(sizes).transpose(np.argsort(term.axes))
            own = masks.setdefault(term.parameter, np.zeros(chosen.size, dtype=bool))
            own |= shaped.reshape(-1)
    return masks


def _move(still: np.ndarray, term: Term, mask: np.ndarray | None) -> None:
    """Note the laws, or features, into which a term puts an entry that changes."""
    kept = math.prod(term.view[axis] for axis in term.axes)
    rows = np.zeros((kept, 1), dtype=bool)
    if mask is not None:
        others = [axis for axis in range(len(term.view)) if axis not in term.axes]
        ordered = mask.reshape(term.view).transpose(*term.axes, *others)
        rows = ordered.reshape(kept, -1)
    if not isinstance(term, GramTerm):
        changes = ~np.logical_and.reduce(rows, axis=1)
        still[term.laws[changes[term.indices]]] = False
        return
    if mask is not None and term.columns is not None:
        rows = rows[:, term.columns]
    if term.rows is not None:
        rows = rows[term.rows]
    still &= rows.all() if term.summed else rows.all(axis=1)


def _chosen(law: Law, numbers: np.ndarray) -> Law:
    """Some of the laws of a family."""
    place = np.full(law.shape[0], -1)
    place[numbers] = np.arange(len(numbers))
    terms = []
    for term in law.terms:
        assert not isinstance(term, GramTerm)
        own = place[term.laws] >= 0
        if own.any():
            terms.append(
                replace(
                    term,
                    laws=place[term.laws[own]],
                    indices=term.indices[own],
                    coefficients=term.coefficients[own],
                )
            )
    count = len(numbers)
    return replace(law, terms=tuple(terms), shape=(count,), count=count)
