"""``linear_laws``: the weighted sums of parameters that a network does not see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import sparse

from spectrank.invariance.laws import Law, LawKind, LinearTerm
from spectrank.invariance.linear.columns import (
    Pattern,
    independent,
    owners,
    patterns,
    sparsified,
)
from spectrank.invariance.linear.losses import LossLike, sees_differences
from spectrank.invariance.linear.recurrent import recurrent_laws
from spectrank.invariance.linear.shifts import Family, Origin
from spectrank.invariance.linear.solving import solutions
from spectrank.invariance.linear.steps import Reading
from spectrank.invariance.linear.terms import family_term
from spectrank.invariance.potentials import Potentials
from spectrank.invariance.potentials.potential import Potential

_CONDITIONS: dict[LawKind, str] = {
    "softmax": "a loss of differences of logits, as softmax cross-entropy",
    "sum": "all that reads it subtracts a mean over features",
    "constant": "its gradient is zero: what follows subtracts it",
    "equal-gradient": "these entries always have one gradient",
}
_SOURCES: dict[LawKind, str] = {
    "softmax": "derived: a softmax does not see a number added to all logits",
    "sum": "derived: a mean that is subtracted takes a common shift away",
    "constant": "derived: a mean that is subtracted takes the bias away",
    "equal-gradient": "derived: parallel edges from one source",
}


@final
@dataclass(frozen=True, eq=False)
class _Space:
    """Shifts that the network does not see.

    Attributes:
        basis: (unknowns, solutions).
        families: Which unknowns are entries of parameters.
        owner: Number of the family of each unknown; -1 for none.
        taken: By what takes a shift away, the unknowns that are left there.
    """

    basis: sparse.csc_array
    families: tuple[Family, ...]
    owner: np.ndarray
    taken: dict[Origin, np.ndarray]


def linear_laws(
    potentials: Potentials, *, loss: LossLike | None = "cross_entropy"
) -> tuple[Law, ...]:
    r"""Find the linear laws :math:`\langle c, w\rangle` of a network.

    Column sums of a head under a softmax, biases before a normalisation that subtracts
    them, key biases, sums over features of all that writes a value that is read through
    LayerNorms, differences of parameters with one gradient, sums of a token embedding
    minus sums of a position embedding. Under stochastic gradient descent with or
    without momentum they do not drift at all.
    Source (derived): tests/invariance/linear, rate test and brute force.

    Args:
        potentials: Of the graph, as ``solve`` finds them.
        loss: As `find` takes it; of one that is not known, the laws for any loss.

    Returns:
        The laws, in the order of the dataflow; independent of one another.

    Raises:
        UnknownNameError: No loss has that name.
    """  # noqa: DOC502 - raised by the functions called
    reading = Reading(potentials, differences=bool(sees_differences(loss)))
    reading.run()
    basis = solutions(reading.system)
    families = tuple(reading.writes.families.values())
    empty = np.diff(basis.indptr) == 0
    seen = [
        name
        for name, unknowns in reading.writes.reread.items()
        if empty[unknowns].any()
    ]
    if seen:
        # What the table moves is seen where the table is read as a linear map.
        for family in families:
            if family.parameter in seen:
                unknowns = family.unknowns
                reading.system.vanish(Potential(np.ones(unknowns.shape), unknowns))
        basis = solutions(reading.system)
    laws = _laws(_space(sparsified(basis, families), families, reading.sinks.taken))
    return (*laws, *recurrent_laws(potentials))


def _space(
    basis: sparse.csr_array,
    families: tuple[Family, ...],
    taken: Sequence[tuple[Origin, Potential]],
) -> _Space:
    found: dict[Origin, np.ndarray] = {}
    for origin, left in taken:
        own = found.setdefault(origin, np.zeros(basis.shape[0], dtype=bool))
        own[left.classes] = True
    return _Space(sparse.csc_array(basis), families, owners(basis, families), found)


def _laws(space: _Space) -> list[Law]:
    found: list[Law] = []
    names: Counter[str] = Counter()
    groups = patterns(space.basis, space.families)
    lost = independent(space.basis, space.families, groups)
    for pattern in groups:
        columns = [t for t in pattern.columns if t not in lost.columns]
        if not columns:
            continue
        kind, condition = _kind(space, pattern)
        parts = dict.fromkeys(
            space.families[k].parameter for k, _, _ in pattern.entries
        )
        name = f"{kind} {' - '.join(parts)}"
        names[name] += 1
        name = name if names[name] == 1 else f"{name} ({names[name]})"
        terms, number = _terms(space, columns)
        count = number - lost.patterns.get(pattern.entries, 0)
        if count:
            found.append(
                Law(
                    name=name,
                    kind=kind,
                    form="linear",
                    terms=terms,
                    shape=(number,),
                    count=count,
                    condition=condition,
                    source=_SOURCES[kind],
                )
            )
    return found


def _kind(space: _Space, pattern: Pattern) -> tuple[LawKind, str]:
    """Kind, and what it needs to hold: of a loss wherever a loss takes part."""
    moved = sparse.csc_array(space.basis[:, [pattern.columns[0]]]).indices
    origins = {origin for origin, left in space.taken.items() if left[moved].any()}
    kind: LawKind = "softmax" if origins == {"softmax"} else "sum"
    if len(pattern.entries) == 1 and pattern.entries[0][2] == 1:
        kind = "constant"
    elif not origins:
        kind = "equal-gradient"
    condition = _CONDITIONS[kind]
    if kind == "softmax" or "softmax" not in origins:
        return kind, condition
    return kind, f"{condition}; {_CONDITIONS['softmax']}"


def _terms(space: _Space, columns: Sequence[int]) -> tuple[tuple[LinearTerm, ...], int]:
    """Terms of the laws of some solutions, and how many laws they are."""
    # A family that is moved column by column makes a law of each of its columns.
    chosen = sparse.csr_array(space.basis[:, list(columns)])
    moved = np.flatnonzero(np.diff(chosen.indptr))
    touched = np.unique(space.owner[moved])
    own = [space.families[k] for k in touched if k >= 0]
    copies = max(1 if f.together else f.entries.times for f in own)
    terms = tuple(
        family_term(f, sparse.coo_array(chosen[f.unknowns]), copies) for f in own
    )
    return terms, len(columns) * copies
