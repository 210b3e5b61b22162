"""One text per structure: equal for nets that differ in names and wrapping only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from spectrank.model.graph.nodes import Node

_COMMUTES = frozenset(["sum", "product"])


def signature(nodes: Sequence[Node]) -> str:
    """SHA-256 over what the nodes do and how they are joined.

    Counted: operations, their attributes, sizes of matrices, order of inputs where it
    matters, which parameters are shared. Not counted: names, how a weight is stored,
    sizes of activations.

    Args:
        nodes: Of a graph, inputs first.

    Returns:
        Hexadecimal digest.
    """
    colours = _colours(nodes)
    by_id = {node.id: node for node in nodes}
    numbers: dict[str, int] = {}
    parameters: dict[str, int] = {}
    lines: list[str] = []

    def visit(start: str) -> None:
        waiting = [start]
        while waiting:
            id_ = waiting[-1]
            inputs = _ordered(by_id[id_], colours)
            missing = [item for item in inputs if item not in numbers]
            if missing:
                waiting += missing[::-1]
                continue
            waiting.pop()
            if id_ in numbers:
                continue
            numbers[id_] = len(numbers)
            node = by_id[id_]
            held = {
                role: parameters.setdefault(name, len(parameters))
                for role, name in sorted(node.parameters.items())
            }
            line = [_facts(node), held, [numbers[item] for item in inputs]]
            lines.append(json.dumps(line, sort_keys=True))

    for node in nodes:
        if node.kind == "output":
            visit(node.id)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _facts(node: Node) -> list[object]:
    sizes = [
        [list(item.shape), item.part, None if item.rows is None else list(item.rows)]
        for item in node.matrices
    ]
    attributes = dict(node.attributes)
    # Which input a coefficient belongs to is told by the colours.
    attributes.pop("coefficients", None)
    return [node.kind, node.op, attributes, sizes, _coefficients(node)]


def _coefficients(node: Node) -> list[object]:
    if node.op != "sum" or "coefficients" not in node.attributes:
        return []
    return sorted(node.attributes["coefficients"])


def _ordered(node: Node, colours: dict[str, str]) -> list[str]:
    if node.op not in _COMMUTES or node.kind not in {"sum", "product"}:
        return list(node.inputs)
    weights = node.attributes.get("coefficients", [1] * len(node.inputs))
    pairs = zip(weights, node.inputs, strict=True)
    ordered = sorted(pairs, key=lambda pair: (str(pair[0]), colours[pair[1]]))
    return [item for _, item in ordered]


def _colours(nodes: Sequence[Node]) -> dict[str, str]:
    """Colour refinement over nodes and parameters, in both directions."""
    colours = _seen_from_ends(nodes)
    count = -1
    while len(set(colours.values())) > count:
        count = len(set(colours.values()))
        shared: dict[str, list[str]] = {}
        for node in nodes:
            for role, name in node.parameters.items():
                shared.setdefault(name, []).append(role + colours[node.id])
        readers = _readers(nodes, colours)
        fresh = {}
        for node in nodes:
            held = [
                [role, sorted(shared[name])]
                for role, name in sorted(node.parameters.items())
            ]
            around = [_above(node, colours), held, sorted(readers[node.id])]
            fresh[node.id] = _hash([colours[node.id], *around])
        colours = fresh
    return colours


def _seen_from_ends(nodes: Sequence[Node]) -> dict[str, str]:
    """Colours that already tell all that lies before and after each node."""
    # One sweep each way: by single rounds alone a deep net would need one per layer.
    down: dict[str, str] = {}
    for node in nodes:
        down[node.id] = _hash([_facts(node), _above(node, down)])
    up: dict[str, str] = {}
    after: dict[str, list[str]] = {node.id: [] for node in nodes}
    for node in reversed(nodes):
        up[node.id] = _hash([down[node.id], sorted(after[node.id])])
        for position, source in enumerate(node.inputs):
            after[source].append(_place(node, position) + up[node.id])
    return up


def _above(node: Node, colours: dict[str, str]) -> list[str]:
    above = [colours[item] for item in node.inputs]
    if node.op not in _COMMUTES:
        return above
    weights = node.attributes.get("coefficients", [1] * len(above))
    return sorted(str(w) + c for w, c in zip(weights, above, strict=True))


def _readers(nodes: Sequence[Node], colours: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {node.id: [] for node in nodes}
    for node in nodes:
        for position, source in enumerate(node.inputs):
            found[source].append(_place(node, position) + colours[node.id])
    return found


def _place(node: Node, position: int) -> str:
    # By its position; in a sum by its coefficient alone.
    if node.op not in _COMMUTES:
        return str(position)
    weights = node.attributes.get("coefficients")
    return "" if weights is None else str(weights[position])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
