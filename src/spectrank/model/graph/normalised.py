"""Which normalisation follows a layer, with nothing but linear steps between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spectrank.model.graph.catalogue import DROPOUTS, LINEAR_POOLS, SCALINGS
from spectrank.model.graph.nodes import Node


@dataclass(frozen=True)
class Normalisation:
    """A norm that reads the outputs of a layer through linear steps.

    Attributes:
        layer: Id of the layer.
        norm: Id of the norm.
        path: Ids of the steps between.
        alone: Whether nothing else reads the outputs on the way and nothing is added
            to them: then the loss does not see the scale of the layer's weight and
            bias together.
    """

    layer: str
    norm: str
    path: tuple[str, ...]
    alone: bool


def norms_after(nodes: Sequence[Node], layer: str) -> tuple[Normalisation, ...]:
    """Norms that a layer's outputs reach through linear steps.

    Args:
        nodes: Of a graph, inputs first.
        layer: Id of a node.

    Returns:
        One per norm and way, in the order of the nodes.
    """
    uses: dict[str, list[str]] = {node.id: [] for node in nodes}
    for node in nodes:
        for source in dict.fromkeys(node.inputs):
            uses[source].append(node.id)
    # Ways to each node: the steps, and whether the outputs are alone so far.
    ways: dict[str, list[tuple[tuple[str, ...], bool]]] = {layer: [((), True)]}
    found = []
    for node in nodes:
        arriving = [
            (path, alone and len(uses[source]) == 1)
            for source in dict.fromkeys(node.inputs)
            for path, alone in ways.get(source, [])
        ]
        if not arriving:
            continue
        if node.kind == "norm":
            found += [Normalisation(layer, node.id, p, alone) for p, alone in arriving]
        elif _linear(node):
            adds = node.kind in {"sum", "shift"} or len(node.inputs) > 1
            ways[node.id] = [
                ((*path, node.id), alone and not adds) for path, alone in arriving
            ][:32]
    return tuple(found)


def _linear(node: Node) -> bool:
    if node.kind == "elementwise":
        return node.op in SCALINGS or node.op in DROPOUTS
    if node.kind == "pool":
        return node.op in LINEAR_POOLS
    return node.kind in {"reshape", "scale", "shift", "sum"}
