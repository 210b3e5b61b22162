"""Edits of a graph in the making: drop, redirect and collapse nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spectrank.model.graph.nodes import Node

Nodes = dict[str, Node]


def collapsed(nodes: Nodes) -> Nodes:
    """Make what a parametrisation computes one learned constant.

    A weight that a layer uses is known by its name and needs none of this; what is
    left here is used in another way.

    Args:
        nodes: Id to node, inputs first.

    Returns:
        The nodes; what is inside a parametrisation is left without readers.
    """
    found = dict(nodes)
    origins: dict[str, frozenset[str]] = {}
    inner: dict[str, str] = {}
    for id_, node in nodes.items():
        held = frozenset(node.parameters.values())
        origins[id_] = held.union(*(origins[i] for i in node.inputs))
        start, mark, rest = f".{node.name}".partition(".parametrizations.")
        if mark and node.kind not in {"input", "output"}:
            inner[id_] = f"{start}{mark}{rest.split('.')[0]}"
    for id_, node in nodes.items():
        for source in node.inputs:
            if source in inner and inner.get(id_) != inner[source]:
                names = sorted(origins[source])
                if names:
                    found[source] = _computed(nodes[source], names)
    return found


def _computed(node: Node, names: list[str]) -> Node:
    return Node(
        id=node.id,
        kind="constant",
        op="computed",
        name=node.name,
        parameters={f"value{i}": name for i, name in enumerate(names)},
        shape=node.shape,
        note=f"computed from {', '.join(names)}",
    )


def pruned(nodes: Nodes) -> Nodes:
    """Keep the inputs, the outputs and what the outputs depend on.

    Args:
        nodes: Id to node, inputs first.

    Returns:
        A part of them, in order.
    """
    needed = {id_ for id_, node in nodes.items() if node.kind in {"output", "input"}}
    for id_ in reversed(list(nodes)):
        if id_ in needed:
            needed.update(nodes[id_].inputs)
    return {id_: node for id_, node in nodes.items() if id_ in needed}


def readers(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """Which nodes read each node; one that reads it twice stands there twice.

    Args:
        nodes: Id to node.

    Returns:
        Id to ids.
    """
    found: dict[str, list[str]] = {id_: [] for id_ in nodes}
    for id_, node in nodes.items():
        for source in node.inputs:
            found[source].append(id_)
    return found


def redirect(nodes: Nodes, old: str, new: str) -> None:
    """Make every reader of one node read another; in place.

    Args:
        nodes: Id to node.
        old: Id that is read no more.
        new: Id that is read instead.
    """
    for id_, node in nodes.items():
        if old in node.inputs and id_ != new:
            inputs = tuple(new if item == old else item for item in node.inputs)
            nodes[id_] = replace(node, inputs=inputs)
