"""Which parameters are used more than once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from spectrank.model.graph.nodes import Node

# Axis that the rows lie along, first row, one past the last.
_Range = tuple[str, float, float]
_WHOLE: _Range = ("", 0.0, float("inf"))


def reused(nodes: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    """Parameters that several nodes hold, but for nodes that hold different rows.

    Args:
        nodes: Of a graph.

    Returns:
        Name to the ids of the nodes that share rows of it.
    """
    held: dict[str, list[tuple[str, _Range]]] = {}
    for node in nodes:
        for role, name in node.parameters.items():
            held.setdefault(name, []).append((node.id, _rows(node, role, name)))
    found: dict[str, tuple[str, ...]] = {}
    for name, uses in held.items():
        sharing = {
            id_
            for (first, a), (second, b) in combinations(uses, 2)
            if first != second and _overlap(a, b)
            for id_ in (first, second)
        }
        if sharing:
            found[name] = tuple(dict.fromkeys(i for i, _ in uses if i in sharing))
    return found


def _rows(node: Node, role: str, name: str) -> _Range:
    for matrix in node.matrices:
        if matrix.parameter == name and matrix.part is None and role == "weight":
            # Rows of a transposed view are columns of the parameter.
            rows = matrix.rows
            return _WHOLE if rows is None else (matrix.view, *rows)
    own = node.attributes.get("parts", {}).get(role, node.attributes)
    given = own.get("rows") if isinstance(own, dict) else None
    return _WHOLE if given is None else ("linear", given[0], given[1])


def _overlap(a: _Range, b: _Range) -> bool:
    return a[0] != b[0] or (a[1] < b[2] and b[1] < a[2])
