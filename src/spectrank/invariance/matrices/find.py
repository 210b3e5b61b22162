"""``matrix_laws``: the symmetric matrices that a network conserves as a whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from spectrank.invariance.laws import GramTerm, Law, LawKind, Offset
from spectrank.invariance.matrices.assembly import block_terms
from spectrank.invariance.matrices.steps import Reading
from spectrank.invariance.pairs import matrix_count
from spectrank.invariance.potentials import Potentials
from spectrank.model.graph import Node

_SOURCES = {
    "matrix": "derived: all that is linear on both sides; Le & Jegelka 2022, Theorem 1 "
    "(stated) is the case of two layers without biases",
    "stream": "derived: all that writes the stream minus all that reads it",
    "attention": "derived: scores and heads are unchanged by a map of one head",
    "pair": "derived: units of one slope on every sample; Le & Jegelka 2022, Lemma 2, "
    "second half (stated) is the case of linear layers without biases",
}
# Where the setting is that of the paper: linear layers and convolutions, no biases.
_STATED: dict[str, str] = {
    "matrix": "Le & Jegelka 2022, Theorem 1 (stated)",
    "pair": "Le & Jegelka 2022, Lemma 2, second half (stated)",
}
_CONDITIONS = {
    "matrix": "no step between acts on single features",
    "stream": "no step acts on single features of the stream",
    "attention": "no step acts on single features of a head",
    "pair": "the same slope on every sample",
}


@final
@dataclass(frozen=True, eq=False)
class Block:
    """A matrix law and the free potentials that its diagonal consists of.

    Attributes:
        law: Of form ``gram``.
        solutions: (n,) numbers of the free potentials, in the order of its rows.
    """

    law: Law
    solutions: np.ndarray


def matrix_laws(potentials: Potentials, *, coactive: bool = False) -> tuple[Block, ...]:
    """Find the blocks of features that every step of a network treats alike.

    Two features are of one block iff in every tensor one stands as the translate of the
    other along the axis of the features, and no step acts on single features: no
    activation, maximum, dropout, normalisation, gate or learned scale. The gap matrix
    of a block is conserved as a whole; its diagonal repeats the diagonal laws of these
    features, which it replaces.
    Source (derived): tests/invariance/matrices, rate test and brute force.

    Args:
        potentials: Of the graph, as ``solve`` finds them.
        coactive: Whether activations of degree one count as acting alike: the blocks
            are then the candidates of pair laws, and hold for units of one slope on
            every sample.

    Returns:
        Blocks of two features or more, in the order of the dataflow.
    """
    reading = Reading(potentials, coactive=coactive)
    reading.run()
    found = []
    for solutions in reading.signatures.blocks():
        made = block_terms(reading, solutions)
        if made is not None and made[0]:
            terms, order = made
            found.append((_place(reading, terms), terms, order))
    found.sort(key=lambda item: (item[0], int(item[2].min())))
    kinds = [_kind(reading, order, coactive=coactive) for _, _, order in found]
    names = [
        _name(reading, kind, terms, order)
        for kind, (_, terms, order) in zip(kinds, found, strict=True)
    ]
    total, seen = Counter(names), Counter[str]()
    blocks = []
    every = tuple(potentials.offsets.values())
    uncovered = _uncovered(reading)
    for name, kind, (_, terms, order) in zip(names, kinds, found, strict=True):
        part = "head" if kind == "attention" else "block"
        full = name if total[name] == 1 else f"{name} {part} {seen[name]}"
        seen[name] += 1
        law = _law(full, kind, terms, every)
        stated = not uncovered & set(order.tolist())
        blocks.append(Block(_qualified(law, potentials, stated=stated), order))
    return tuple(blocks)


def _law(
    name: str,
    kind: LawKind,
    terms: tuple[GramTerm, ...],
    offsets: tuple[Offset, ...],
) -> Law:
    n = terms[0].num_features
    count = matrix_count(n, sum(term.num_columns for term in terms))
    return Law(
        name=name,
        kind=kind,
        form="gram",
        terms=terms,
        shape=(n, n),
        count=count,
        condition=_CONDITIONS[kind],
        source=_SOURCES[kind],
        # Those of other parameters are dropped.
        offsets=offsets,
    )


def _qualified(law: Law, potentials: Potentials, *, stated: bool) -> Law:
    """Add what the uses of its parameters say: what it needs, and who stated it."""
    graph = potentials.graph
    uses = [
        (graph[edge.node], edge.role)
        for edge in potentials.edges
        if edge.parameter in law.parameters
    ]
    condition, source = law.condition, law.source
    if any(node.attributes.get("padding_idx", -1) >= 0 for node, _ in uses):
        # Its gradient is taken to be zero, so it must add nothing.
        condition += "; the row of the padding index zero"
    stated &= len(uses) == len(law.parameters) and law.kind in _STATED
    stated &= all(_plain(node, role) for node, role in uses)
    signs = [term.coefficient for term in law.terms if isinstance(term, GramTerm)]
    if stated and all(abs(sign) == 1 for sign in signs):
        source = _STATED[law.kind]
    return replace(law, condition=condition, source=source)


def _uncovered(reading: Reading) -> set[int]:
    """Free potentials that pass steps of which the paper says nothing, as pooling."""
    found: set[int] = set()
    for node in reading.potentials.graph.nodes:
        relu = reading.coactive and node.op in {"relu", "leaky_relu"}
        if node.kind not in {"input", "layer", "reshape", "sum", "output"} and not relu:
            for id_ in (node.id, *node.inputs):
                found |= set(reading.value(id_)[0].reshape(-1).tolist())
    return found


def _plain(node: Node, role: str) -> bool:
    """Whether a weight is that of a layer of the paper: linear, without a group."""
    kernel = node.op in {"conv1d", "conv2d", "conv3d"}
    grouped = node.attributes.get("groups", 1) != 1
    return role == "weight" and (node.op == "linear" or (kernel and not grouped))


def _place(reading: Reading, terms: tuple[GramTerm, ...]) -> int:
    """Number of the first use, in the order of the dataflow."""
    edges = [edge.parameter for edge in reading.potentials.edges]
    return min(edges.index(term.parameter) for term in terms)


def _kind(reading: Reading, order: np.ndarray, *, coactive: bool) -> LawKind:
    if coactive:
        return "pair"
    own = set(order.tolist())
    if own & (reading.attended["qk"] | reading.attended["vo"]):
        return "attention"
    return "stream" if own & reading.streams else "matrix"


def _name(
    reading: Reading, kind: LawKind, terms: tuple[GramTerm, ...], order: np.ndarray
) -> str:
    writes = [term.parameter for term in terms if term.coefficient > 0]
    first = (writes or [terms[0].parameter])[0]
    graph = reading.potentials.graph
    node = next(
        (e.node for e in reading.potentials.edges if e.parameter == first), None
    )
    layer = first if node is None else graph[node].name or first
    if kind != "attention":
        return f"{kind} {layer}"
    role = "qk" if set(order.tolist()) & reading.attended["qk"] else "vo"
    return f"attention.{role} {layer}"
