"""Packed projections: which rows of one matrix are query, key and value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from spectrank.model.graph.flow import rows
from spectrank.model.graph.links import links
from spectrank.model.graph.nodes import Link, MatrixView, Node

_PARTS = ("query", "key", "value")


def with_parts(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Add a view per role to each linear layer that feeds several roles of attention.

    Args:
        nodes: Of a graph, inputs first.

    Returns:
        The nodes.
    """
    by_id = {node.id: node for node in nodes}
    ways: dict[str, list[Link]] = {}
    for link in links(nodes):
        cut = _until_attention(link)
        if cut is not None and by_id[link.source].op == "linear":
            ways.setdefault(link.source, []).append(cut)
    found = []
    for node in nodes:
        given = ways.get(node.id, [])
        if len({way.reason for way in given}) > 1 and node.matrices:
            node = _parted(node, rows(by_id, given))
        found.append(node)
    return tuple(found)


def _until_attention(link: Link) -> Link | None:
    """The way to the first attention, its role in ``reason``."""
    for i, step in enumerate(link.through):
        _, _, role = step.partition(":")
        if role in _PARTS:
            return replace(
                link, through=link.through[:i], path=link.path[:i], reason=role
            )
        if link.path and role == "mask":
            return None
    return None


def _parted(node: Node, found: dict[str, tuple[int, int]] | None) -> Node:
    whole = node.matrices[0]
    if found is None:
        return node
    ranges = sorted(found.values())
    # One range for two roles is one projection read twice, not two packed in one.
    apart = all(a[1] <= b[0] for a, b in pairwise(ranges))
    if not apart:
        return node
    start = 0 if whole.rows is None else whole.rows[0]
    parts = tuple(
        MatrixView(
            whole.parameter,
            whole.view,
            (last - first, whole.shape[1]),
            (start + first, start + last),
            role,
        )
        for role in _PARTS
        if role in found
        for first, last in [found[role]]
    )
    return replace(node, matrices=(whole, *parts))
