"""Where branches of the dataflow meet: which of them is a skip, and of what kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spectrank.model.graph.catalogue import LINEAR_POOLS, SCALINGS
from spectrank.model.graph.nodes import Node

BranchKind = Literal[
    "identity",
    "scaled",
    "diagonal",
    "reshaped",
    "elementwise",
    "learned",
    "block",
    "constant",
    "separate",
]
_ORDER: tuple[BranchKind, ...] = (
    "identity",
    "scaled",
    "diagonal",
    "reshaped",
    "elementwise",
    "learned",
    "block",
)


@dataclass(frozen=True)
class Branch:
    """One of the values that a sum adds.

    Attributes:
        input: Id of the node that is added.
        kind: What lies between the fork and here: nothing (``identity``), a number
            (``scaled``), a learned vector (``diagonal``), moves and linear pools
            (``reshaped``), no layer but more than that (``elementwise``), one layer
            and nothing that is not linear (``learned``), anything else (``block``).
            ``constant`` is not computed from an input; ``separate`` has no fork.
        layers: Ids of the layers on the way.
        skip: Whether it bypasses another branch.
    """

    input: str
    kind: BranchKind
    layers: tuple[str, ...]
    skip: bool


@dataclass(frozen=True)
class Junction:
    """A sum of two or more branches.

    Attributes:
        node: Id of the sum.
        fork: Id of the last node that all branches come from; None where none is.
        branches: One per input of the sum.
    """

    node: str
    fork: str | None
    branches: tuple[Branch, ...]


def junctions(nodes: Sequence[Node]) -> tuple[Junction, ...]:
    """Every sum of two values that are computed from inputs.

    Args:
        nodes: Of a graph, inputs first.

    Returns:
        The junctions, in order.
    """
    place = {node.id: i for i, node in enumerate(nodes)}
    # Bit i: depends on node i.
    above: list[int] = []
    for i, node in enumerate(nodes):
        bits = 1 << i
        for source in node.inputs:
            bits |= above[place[source]]
        above.append(bits)
    fed = 0
    for i, node in enumerate(nodes):
        if node.kind == "input":
            fed |= 1 << i
    return tuple(
        _junction(nodes, place, above, fed, node)
        for node in nodes
        if node.kind == "sum"
    )


def _junction(
    nodes: Sequence[Node],
    place: dict[str, int],
    above: list[int],
    fed: int,
    node: Node,
) -> Junction:
    ends = [place[source] for source in node.inputs]
    live = [end for end in ends if above[end] & fed]
    common = -1
    for end in live:
        common &= above[end]
    fork = common.bit_length() - 1 if len(live) > 1 and common > 0 else None
    found = []
    for end in ends:
        if end not in live:
            found.append(Branch(nodes[end].id, "constant", (), False))
        elif fork is None:
            found.append(Branch(nodes[end].id, "separate", (), False))
        else:
            inside = _between(nodes, place, above, fork, end)
            kind = _kind(inside)
            layers = tuple(item.id for item in inside if item.kind == "layer")
            found.append(Branch(nodes[end].id, kind, layers, False))
    marked = tuple(_marked(item, found) for item in found)
    return Junction(node.id, None if fork is None else nodes[fork].id, marked)


def _marked(branch: Branch, all_: Sequence[Branch]) -> Branch:
    ranks = [_ORDER.index(item.kind) for item in all_ if item.kind in _ORDER]
    if branch.kind not in _ORDER:
        return branch
    # A branch is a skip beside one that does more; two alike are two branches. What
    # lies beside nothing but an elementwise map bypasses no layer.
    rank = _ORDER.index(branch.kind)
    skip = rank < max(ranks) and max(ranks) >= _ORDER.index("learned")
    return Branch(branch.input, branch.kind, branch.layers, skip)


def _between(
    nodes: Sequence[Node],
    place: dict[str, int],
    above: list[int],
    fork: int,
    end: int,
) -> list[Node]:
    """Nodes after the fork that lead to the end and depend on the fork."""
    found: set[int] = set()
    waiting = [end]
    while waiting:
        i = waiting.pop()
        if i == fork or i in found or not above[i] >> fork & 1:
            continue
        found.add(i)
        waiting += [place[source] for source in nodes[i].inputs]
    return [nodes[i] for i in sorted(found)]


def _kind(inside: Sequence[Node]) -> BranchKind:
    if not inside:
        return "identity"
    layers = [node for node in inside if node.kind == "layer"]
    rest = [node for node in inside if node.kind != "layer"]
    if len(layers) == 1 and all(_linear(node) for node in rest):
        return "learned"
    if layers:
        return "block"
    if all(_scaling(node) for node in inside):
        return "scaled"
    if all(_scaling(node) or node.kind == "scale" for node in inside):
        return "diagonal"
    if all(_linear(node) and node.kind not in {"norm", "shift"} for node in inside):
        return "reshaped"
    simple = {"elementwise", "reshape", "scale", "shift", "pool", "product", "norm"}
    return "elementwise" if all(node.kind in simple for node in inside) else "block"


def _scaling(node: Node) -> bool:
    return node.kind == "elementwise" and node.op in SCALINGS


def _linear(node: Node) -> bool:
    """Whether a step is linear, a normalisation after a learned skip included."""
    pools = node.kind == "pool" and node.op in LINEAR_POOLS
    kinds = {"reshape", "scale", "shift", "norm"}
    return node.kind in kinds or pools or _scaling(node)
