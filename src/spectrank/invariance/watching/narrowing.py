r"""Matrix laws of many features: some entries in full, all features in two sums.

Of H = sum_t c_t M_t M_t^T three parts are followed: the entries of evenly spread
features, the diagonal, which are the squared norms of all features, and s^T H s for one
fixed vector s of random signs, which a change of any row moves, unless it is orthogonal
to the rest of that sum. With S and T the features of either sign, and sum_S the sum of
their rows,

    ||sum_S - sum_T||^2 = 2 ||sum_S||^2 + 2 ||sum_T||^2 - ||sum_S + sum_T||^2,

three terms that a law can hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from spectrank.invariance.laws import GramTerm, Law, Laws, SquareTerm
from spectrank.invariance.pairs import restrict

Features = int | Literal["all"]
# Of the signs: the same in every run, so that runs can be compared.
_SEED = 20_220_131


@final
@dataclass(frozen=True, eq=False)
class Narrowed:
    """Families that are followed, in place of the laws given.

    Attributes:
        laws: The families; of a matrix law of many features three.
        groups: For each law given, the numbers of its families.
        partly: For each law given, what is followed of it in words; None for all.
    """

    laws: Laws
    groups: tuple[tuple[int, ...], ...]
    partly: tuple[str | None, ...]


def narrowed(laws: Laws, features: Features) -> Narrowed:
    """Families that stand for laws of which matrix ones may be large.

    Args:
        laws: All.
        features: Largest number of features of which all entries are kept; ``all``.

    Returns:
        The families.
    """
    found: list[Law] = []
    groups, partly = [], []
    for law in laws:
        own, said = _families(law, features)
        groups.append(tuple(range(len(found), len(found) + len(own))))
        partly.append(said)
        found += own
    return Narrowed(Laws(tuple(found), laws.skipped), tuple(groups), tuple(partly))


def _families(law: Law, features: Features) -> tuple[tuple[Law, ...], str | None]:
    n = law.shape[0]
    if features == "all" or law.form != "gram" or n <= features:
        return (law,), None
    units = np.unique(np.linspace(0, n - 1, features).round().astype(np.int64))
    said = (
        f"followed in the entries of {len(units)} of {n} features, and in the norms "
        "and one signed sum of all"
    )
    return (restrict(law, units), _norms(law), _signed(law)), said


def _norms(law: Law) -> Law:
    """The diagonal of a matrix law, as sums of squares."""
    terms = tuple(_norm(term) for term in law.terms if isinstance(term, GramTerm))
    n = law.shape[0]
    return replace(
        law,
        name=f"{law.name} (norms)",
        form="squares",
        terms=terms,
        shape=(n,),
        count=n,
    )


def _norm(term: GramTerm) -> SquareTerm:
    every = np.arange(term.num_rows)
    rows = every if term.rows is None else term.rows
    if term.columns is None:
        factors = np.full(len(rows), term.coefficient)
        return SquareTerm(term.parameter, term.view, term.axes, every, rows, factors)
    # Single entries: rows by the columns that are read.
    others = tuple(a for a in range(len(term.view)) if a not in term.axes)
    width = math.prod(term.view[a] for a in others)
    entries = (rows[:, None] * width + term.columns[None]).reshape(-1)
    laws = np.repeat(every, len(term.columns))
    factors = np.full(len(entries), term.coefficient)
    axes = (*term.axes, *others)
    return SquareTerm(term.parameter, term.view, axes, laws, entries, factors)


def _signed(law: Law) -> Law:
    """s^T H s of a matrix law, s of random signs."""
    n = law.shape[0]
    order = np.random.default_rng(_SEED).permutation(n)
    plus, minus = np.sort(order[: n // 2]), np.sort(order[n // 2 :])
    terms = []
    for term in law.terms:
        assert isinstance(term, GramTerm)
        rows = np.arange(n) if term.rows is None else term.rows
        for chosen, factor in ((plus, 2.0), (minus, 2.0), (np.arange(n), -1.0)):
            c = factor * term.coefficient
            terms.append(replace(term, rows=rows[chosen], coefficient=c, summed=True))
    name = f"{law.name} (signed sum)"
    return replace(law, name=name, terms=tuple(terms), shape=(1, 1), count=1)
