"""Families: the diagonal laws of a network, grouped by place and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import final

import numpy as np

from spectrank.invariance.laws import Law, LawKind, SquareTerm
from spectrank.invariance.potentials.edges import Edge
from spectrank.invariance.potentials.places import touched
from spectrank.invariance.potentials.solution import Potentials
from spectrank.invariance.potentials.terms import (
    Contribution,
    contributions,
    signatures,
)


@final
@dataclass(frozen=True, eq=False)
class Family:
    """Diagonal laws of one kind at one place.

    Attributes:
        law: The laws.
        solutions: (n,) number of the solution that each law is.
    """

    law: Law
    solutions: np.ndarray


def families(
    potentials: Potentials, *, without: np.ndarray | None = None
) -> tuple[Family, ...]:
    """Diagonal laws, one per solution, grouped by the parameters that appear.

    Args:
        potentials: Of a network.
        without: Numbers of solutions that are left out, such as the diagonals of
            matrix laws; None for none.

    Returns:
        The families, in the order of the dataflow.
    """
    items = contributions(potentials)
    marks = touched(potentials)
    left_out = np.zeros(potentials.num_solutions, dtype=bool)
    left_out[[] if without is None else without] = True
    shared = _shared(potentials)
    found = []
    for group in signatures(items, potentials.num_solutions).values():
        own = group[~left_out[group]]
        if len(own):
            found.append(_family(potentials, items, marks, own, shared))
    return _numbered(found)


def _numbered(found: Sequence[Family]) -> tuple[Family, ...]:
    """Tell families of one name apart."""
    used: dict[str, int] = {}
    named = []
    for family in found:
        name = family.law.name
        used[name] = used.get(name, 0) + 1
        law = family.law
        if used[name] > 1:
            law = replace(law, name=f"{name} #{used[name]}")
        named.append(Family(law, family.solutions))
    return tuple(named)


def cuts(found: Sequence[Family]) -> tuple[Law, ...]:
    """Cut laws: the sums of the laws of a family, such as |W_1|^2 - |W_2|^2.

    Each says nothing that its family does not say.

    Args:
        found: Families.

    Returns:
        One law per family of two or more laws of units or channels: a sum of laws of
        scale, of attention or of a stream is no cut.
    """
    laws = []
    for family in found:
        law = family.law
        if len(family.solutions) < 2 or law.kind not in {"vertex", "channel"}:
            continue
        terms = [
            replace(term, laws=np.zeros(len(term.indices), dtype=np.int64))
            for term in law.terms
            if isinstance(term, SquareTerm)
        ]
        laws.append(
            Law(
                name=f"cut {law.name}",
                kind="cut",
                form="squares",
                terms=tuple(terms),
                shape=(1,),
                count=1,
                condition=law.condition,
                source=f"derived: the sum of the laws of {law.name}; Le & Jegelka "
                "2022, Lemma 3 (stated) is the case that every path crosses both sides",
                exact=law.exact,
                offsets=law.offsets,
            )
        )
    return tuple(laws)


def _family(
    potentials: Potentials,
    items: Sequence[Contribution],
    marks: dict[str, np.ndarray],
    own: np.ndarray,
    shared: frozenset[str],
) -> Family:
    laws = np.full(potentials.num_solutions, -1, dtype=np.int64)
    laws[own] = np.arange(len(own))
    members, terms = [], []
    for item in items:
        chosen = laws[item.solutions] >= 0
        if chosen.any():
            members.append((item, item.coefficients[chosen]))
            terms.append(item.term(laws, chosen))
    here = {name: bool(mask[own].any()) for name, mask in marks.items()}
    kind = _kind(potentials, members, here, shared)
    padded = any(
        potentials.graph[item.edge.node].attributes.get("padding_idx", -1) >= 0
        for item, _ in members
    )
    names = dict.fromkeys(item.edge.parameter for item, _ in members)
    offsets = tuple(
        potentials.offsets[name] for name in names if name in potentials.offsets
    )
    label = f"attention.{'qk' if here['scores'] else 'vo'}"
    title = label if kind == "attention" else kind
    law = Law(
        name=f"{title} {_place(potentials, members)}",
        kind=kind,
        form="squares",
        terms=tuple(terms),
        shape=(len(own),),
        count=len(own),
        condition=_condition(here, kind, padded, fixed=bool(offsets)),
        source=_source(potentials, kind, members),
        exact=not here["rounded"],
        offsets=offsets,
    )
    return Family(law, own)


_Members = Sequence[tuple[Contribution, np.ndarray]]


def _kind(
    potentials: Potentials,
    members: _Members,
    here: dict[str, bool],
    shared: frozenset[str],
) -> LawKind:
    graph = potentials.graph
    nodes = [graph[item.edge.node] for item, _ in members]
    entering = [
        node
        for node, (_, factors) in zip(nodes, members, strict=True)
        if (factors > 0).any()
    ]
    directions = all(item.edge.role == "direction" for item, _ in members)
    if here["normalised"] or directions:
        return "scale"
    if here["scores"] or here["values"]:
        return "attention"
    if any(item.edge.parameter in shared for item, _ in members):
        return "tied"
    if here["added"]:
        return "stream"
    if entering and all(node.kind == "norm" for node in entering):
        return "affine"
    if any(node.op.startswith("conv") for node in nodes):
        return "channel"
    return "vertex"


def _shared(potentials: Potentials) -> frozenset[str]:
    """Parameters an entry of which is used twice."""
    uses: dict[str, list[Edge]] = {}
    for edge in potentials.edges:
        uses.setdefault(edge.parameter, []).append(edge)
    return frozenset(
        name
        for name, own in uses.items()
        if any(first.overlaps(second) for first, second in combinations(own, 2))
    )


def _place(potentials: Potentials, members: _Members) -> str:
    """Name of the first layer that writes here."""
    positive = [item for item, factors in members if (factors > 0).any()]
    first = min(positive or [item for item, _ in members], key=lambda i: i.number)
    return potentials.graph[first.edge.node].name or first.edge.parameter


def _condition(
    here: dict[str, bool], kind: LawKind, padded: bool, *, fixed: bool
) -> str:
    parts = ["gradient flow, any data"]
    if kind == "scale":
        parts.append("the mode of the trace kept")
    if here["rounded"]:
        parts.append("eps of the normalisation far below the variance")
    if padded:
        # Its gradient is taken to be zero, so it must add nothing.
        parts.append("the row of the padding index zero")
    if fixed:
        parts.append("the stored mean of the normalisation as it is")
    if kind == "tied":
        parts.append("every use of the shared parameter trained")
    return "; ".join(parts)


def _source(potentials: Potentials, kind: LawKind, members: _Members) -> str:
    """The paper's own case is that of plain linear layers without biases."""
    graph = potentials.graph
    stated = all(
        graph[item.edge.node].op == "linear"
        and item.edge.role == "weight"
        and (np.abs(factors) == 1).all()
        for item, factors in members
    )
    if kind == "vertex" and stated:
        return "Le & Jegelka 2022, Lemma 2 (stated)"
    return _SOURCES[kind]


_SOURCES: dict[LawKind, str] = {
    "vertex": "derived: the complete rule for potentials, of which Le & Jegelka 2022, "
    "Lemma 2 (stated) is the case without biases and of degree one",
    "channel": "derived: the complete rule for potentials, one potential per channel "
    "at all positions",
    "stream": "derived: the complete rule for potentials, terms of a sum equal",
    "scale": "derived: the complete rule for potentials, one potential on all that is "
    "normalised together",
    "affine": "derived: the complete rule for potentials, zero after a normalisation",
    "attention": "derived: the complete rule for potentials, zero before a softmax",
    "tied": "derived: the complete rule for potentials, equal coefficients of all uses",
}
