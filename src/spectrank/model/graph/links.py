"""Links between layers, derived from the nodes: every way from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spectrank.model.graph.junctions import junctions
from spectrank.model.graph.nodes import Link, Node
from spectrank.model.graph.roles import attention_roles

# Ways from one source to one node that are told apart; x + f(x), repeated, doubles
# them at every step.
MAX_WAYS = 32


class _Way(NamedTuple):
    source: str
    through: tuple[str, ...]
    path: tuple[str, ...]
    reason: str | None


def links(nodes: Sequence[Node]) -> tuple[Link, ...]:
    """Which layer's outputs feed which layer's inputs, and through which steps.

    Ends of a link are layers, inputs, learned constants, outputs and unknowns. A
    constant that is not learned is a source only where a node has no other.

    Args:
        nodes: Of a graph, inputs first.

    Returns:
        The links, by target and then by source, in the order of the nodes.
    """
    labels = _labels(nodes)
    arriving: dict[str, list[_Way]] = {}
    plain = {n.id for n in nodes if n.kind == "constant" and not n.parameters}
    order = {node.id: i for i, node in enumerate(nodes)}
    found: list[Link] = []
    for node in nodes:
        if node.kind in {"layer", "output", "unknown"}:
            found += _ending(node, arriving, plain, order)
        if node.kind in {"layer", "unknown", "input", "constant"}:
            reason = node.note if node.kind == "unknown" else None
            arriving[node.id] = [_Way(node.id, (), (), reason)]
            continue
        ways: dict[_Way, None] = {}
        for position, source in enumerate(node.inputs):
            step = labels.get((node.id, position), node.op)
            for way in arriving[source]:
                through, path = (*way.through, step), (*way.path, node.id)
                ways[way._replace(through=through, path=path)] = None
        arriving[node.id] = _limited(list(ways))
    return tuple(found)


def _labels(nodes: Sequence[Node]) -> dict[tuple[str, int], str]:
    """Names of steps that depend on the input by which they are entered."""
    by_id = {node.id: node for node in nodes}
    found = {
        (id_, position): f"{by_id[id_].op}:{role}"
        for (id_, position), role in attention_roles(nodes).items()
    }
    for junction in junctions(nodes):
        for position, branch in enumerate(junction.branches):
            if branch.skip:
                found[junction.node, position] = f"sum:{branch.kind}"
    return found


def _ending(
    node: Node,
    arriving: dict[str, list[_Way]],
    plain: set[str],
    order: dict[str, int],
) -> list[Link]:
    found = [
        Link(way.source, node.id, way.through, way.path, position, way.reason)
        for position, source in enumerate(node.inputs)
        for way in arriving[source]
    ]
    if any(link.source not in plain for link in found):
        found = [link for link in found if link.source not in plain]
    return sorted(found, key=lambda link: order[link.source])


def _limited(ways: list[_Way]) -> list[_Way]:
    """Ways to a node, those of a source with too many merged into one."""
    counts: dict[str, int] = {}
    for way in ways:
        counts[way.source] = counts.get(way.source, 0) + 1
    if max(counts.values(), default=0) <= MAX_WAYS:
        return ways
    kept: dict[_Way, None] = {}
    for way in ways:
        if counts[way.source] > MAX_WAYS:
            reason = f"more than {MAX_WAYS} ways lead here; the nodes tell them apart"
            way = _Way(way.source, ("...",), (), reason)
        kept[way] = None
    return list(kept)
