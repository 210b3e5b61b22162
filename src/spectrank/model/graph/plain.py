"""A graph as plain JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spectrank.errors import DomainError
from spectrank.model.graph.nodes import Link, MatrixView, Node

if TYPE_CHECKING:
    from spectrank.model.graph.graph import Graph

_VERSION = 1


def as_dict(graph: Graph) -> dict[str, Any]:
    """Return the condensed form of a graph, and under ``full`` the rest of it.

    Args:
        graph: Any graph.

    Returns:
        Plain JSON.
    """
    ends = {end for link in graph.links for end in (link.source, link.target)}
    kinds = {"input", "layer", "output", "unknown"}
    return {
        "version": _VERSION,
        "nodes": [
            {
                "id": node.id,
                "kind": node.kind,
                "name": node.name,
                "op": node.op,
                "parameters": dict(node.parameters),
                "shape": None if (s := node.matrix_shape) is None else list(s),
                "note": node.note,
            }
            for node in graph.nodes
            if node.kind in kinds or node.id in ends
        ],
        "links": [
            {
                "source": link.source,
                "target": link.target,
                "through": list(link.through),
                "reason": link.reason,
            }
            for link in graph.links
        ],
        "full": {
            "label": graph.label,
            "nodes": [_node_as_dict(node) for node in graph.nodes],
            "tied": {name: list(names) for name, names in graph.tied.items()},
            "frozen": list(graph.frozen),
            "unused": list(graph.unused),
            "dropped": list(graph.dropped),
            "stated": graph.stated is not None,
        },
    }


def from_dict(data: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a graph from what ``as_dict`` returned.

    Args:
        data: The dictionary, also after a trip through JSON.

    Returns:
        Field to value.

    Raises:
        DomainError: It is of another version or lacks a part.
    """
    if data.get("version") != _VERSION or "full" not in data:
        raise DomainError(
            f"a graph is read from what as_dict() of version {_VERSION} returned, "
            f"got version {data.get('version')!r} with keys {sorted(data)}; "
            "make the graph again"
        )
    full = data["full"]
    stated = tuple(
        Link(
            item["source"],
            item["target"],
            tuple(item["through"]),
            reason=item["reason"],
        )
        for item in data["links"]
    )
    return {
        "label": full["label"],
        "nodes": tuple(_node_from_dict(item) for item in full["nodes"]),
        "tied": {name: tuple(names) for name, names in full["tied"].items()},
        "frozen": tuple(full["frozen"]),
        "unused": tuple(full["unused"]),
        "dropped": tuple(full["dropped"]),
        "stated": stated if full["stated"] else None,
    }


def _node_as_dict(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "kind": node.kind,
        "op": node.op,
        "name": node.name,
        "inputs": list(node.inputs),
        "parameters": dict(node.parameters),
        "attributes": dict(node.attributes),
        "shape": None if node.shape is None else list(node.shape),
        "matrices": [
            {
                "parameter": item.parameter,
                "view": item.view,
                "shape": list(item.shape),
                "rows": None if item.rows is None else list(item.rows),
                "part": item.part,
            }
            for item in node.matrices
        ],
        "note": node.note,
    }


def _node_from_dict(data: Mapping[str, Any]) -> Node:
    shape = data["shape"]
    return Node(
        id=data["id"],
        kind=data["kind"],
        op=data["op"],
        name=data["name"],
        inputs=tuple(data["inputs"]),
        parameters=dict(data["parameters"]),
        attributes=dict(data["attributes"]),
        shape=None if shape is None else tuple(shape),
        matrices=tuple(
            MatrixView(
                parameter=item["parameter"],
                view=item["view"],
                shape=(item["shape"][0], item["shape"][1]),
                rows=None if item["rows"] is None else tuple(item["rows"]),
                part=item["part"],
            )
            for item in data["matrices"]
        ),
        note=data["note"],
    )
