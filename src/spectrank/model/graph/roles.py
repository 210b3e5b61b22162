"""Which input of an attention is query, key, value or mask, also one written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectrank.model.graph.nodes import Node

_FUSED = ("query", "key", "value", "mask")
# Between the scores and the softmax, and between the softmax and the values.
_BEFORE = frozenset({"mul", "div", "masked_fill", "where", "clamp", "cast"})
_AFTER = frozenset({"dropout", "cast", "masked_fill", "mul"})


def attention_roles(nodes: Sequence[Node]) -> dict[tuple[str, int], str]:
    """Role of each input of each attention.

    An attention that is written out is softmax(a b) c, whatever scales or masks the
    scores: a is the query, b the key, c the value.

    Args:
        nodes: Of a graph, inputs first.

    Returns:
        (id, position of the input) to query, key, value or mask.
    """
    by_id = {node.id: node for node in nodes}
    found: dict[tuple[str, int], str] = {}
    for node in nodes:
        if node.kind == "attention":
            found |= {
                (node.id, i): role
                for i, role in zip(range(len(node.inputs)), _FUSED, strict=False)
            }
        elif node.kind == "matmul" and len(node.inputs) == 2 and node.op == "matmul":
            weights = _back(by_id, node.inputs[0], _AFTER)
            if weights.kind != "softmax" or weights.attributes.get("dim") != -1:
                continue
            scores = _back(by_id, weights.inputs[0], _BEFORE)
            if scores.kind == "matmul" and scores.op == "matmul":
                found[node.id, 1] = "value"
                found[scores.id, 0] = "query"
                found[scores.id, 1] = "key"
    return found


def _back(by_id: Mapping[str, Node], start: str, ops: frozenset[str]) -> Node:
    """The first node, going back, that only scales or masks not."""
    node = by_id[start]
    while True:
        if node.kind == "elementwise" and node.op in ops:
            # Of where(mask, scores, number) the scores are the last input.
            place = -1 if node.op == "where" else 0
            node = by_id[node.inputs[place]]
        elif node.kind == "reshape" and node.op in {"reshape", "flatten"}:
            node = by_id[node.inputs[0]]
        elif node.kind == "sum" and _masked(by_id, node) is not None:
            node = by_id[_masked(by_id, node) or ""]
        else:
            return node


def _masked(by_id: Mapping[str, Node], node: Node) -> str | None:
    """Of scores + mask the scores: the one input that is a product of activations."""
    candidates = [
        source
        for source in node.inputs
        if _back(by_id, source, _BEFORE).kind == "matmul"
    ]
    return candidates[0] if len(candidates) == 1 else None
