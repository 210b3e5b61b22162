"""The linear tail of a network, found on its graph: from the output down.

A tail ends where anything stands between two layers that is not linear or does not
treat all features alike, or where the features of a layer are read more than once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from spectrank.invariance.certificates.stages import Stage
from spectrank.invariance.certificates.walk import Found, Stop, Walk, place_name
from spectrank.model.graph import Graph, Node
from spectrank.model.graph.catalogue import LINEAR_POOLS, SCALINGS

# What follows the last map does not matter to its gap, as long as it is not learned.
_AFTER = frozenset(["reshape", "elementwise", "softmax", "pool"])
_ACTIVATIONS = frozenset(["relu", "leaky_relu"])


@final
@dataclass(frozen=True)
class Tail:
    """The linear maps that a network ends with.

    Attributes:
        stages: The lowest first; the last one gives the outputs.
        stopped: Why the tail does not reach further down.
        at: Name of the step at which it stops.
        below: The layer under a single relu or leaky relu right below the tail, read
            by the lowest stage unit by unit; None where there is none.
        shifts: Whether the outputs are logits of one position each, so that a loss of
            their differences conserves the column sums of the last map.
    """

    stages: tuple[Stage, ...]
    stopped: str
    at: str
    below: Stage | None = None
    shifts: bool = False


def find_tail(graph: Graph) -> Tail:
    """Find the linear tail of a network, whatever the rest of it is.

    Consecutive linear layers, linear convolutions (of one group, transposed ones
    included), x + W x and blocks U Y x + Z x of either, with nothing between but moves,
    linear pooling of positions and scalings. Frozen, shared, packed and computed
    weights end it.

    Args:
        graph: Of the network.

    Returns:
        The tail; it has no stage where the network does not end with a linear map.
    """
    if graph.stated is not None:
        reason = "links are stated, so the steps between are not known"
        return Tail((), reason, graph.label)
    outputs = [node for node in graph.nodes if node.kind == "output"]
    if len(outputs) != 1:
        reason = f"a tail ends in one output, the model has {len(outputs)}"
        return Tail((), reason, graph.label)
    walk = Walk(graph)
    try:
        top, after = _top(graph, outputs[0])
        found = walk.stage(top)
    except Stop as stop:
        return Tail((), stop.reason, place_name(stop.node))
    shifts = _shifts(top, after, outputs[0])
    stages = [found.stage]
    while True:
        try:
            source, steps = walk.down(found)
            lower = walk.stage(source)
            stages[0] = walk.joined(found, source, steps)
        except Stop as stop:
            below = _below(walk, found, stop.node)
            if below is not None:
                stages[0], under = below
                return Tail(
                    tuple(stages), stop.reason, place_name(stop.node), under, shifts
                )
            return Tail(
                tuple(stages), stop.reason, place_name(stop.node), shifts=shifts
            )
        stages.insert(0, lower.stage)
        found = lower


def _top(graph: Graph, output: Node) -> tuple[Node, list[Node]]:
    """The node that gives the outputs, and what is done to them after."""
    node, after = output, []
    while node.kind == "output" or (node.kind in _AFTER and not node.parameters):
        if len(node.inputs) != 1:
            raise Stop(node, f"{node.op} before the output reads several values")
        if node.kind != "output":
            after.append(node)
        node = graph[node.inputs[0]]
    return node, after


def _shifts(top: Node, after: Sequence[Node], output: Node) -> bool:
    linear = all(
        step.kind in {"reshape", "softmax"}
        or (step.kind == "pool" and step.op in LINEAR_POOLS)
        or (step.kind == "elementwise" and step.op in SCALINGS)
        for step in after
    )
    if not linear or top.shape is None or output.shape is None:
        return linear and not after
    # A softmax over several positions of a channel is shifted by no column sum.
    axis = 1 if top.op.startswith("conv") else -1
    return math.prod(output.shape) == top.shape[0] * top.shape[axis] or axis == -1


def _below(walk: Walk, found: Found, stop: Node) -> tuple[Stage, Stage] | None:
    """The layer under one activation right below the tail, and who reads it."""
    if stop.op not in _ACTIVATIONS or len(stop.inputs) != 1:
        return None
    try:
        source, steps = walk.down(found, through=stop)
        under = walk.stage(source)
        reader = walk.joined(found, source, steps)
    except Stop:
        return None
    direct = [step for step in steps if step.id != stop.id]
    if direct or under.stage.kind != "dense":
        return None
    return reader, under.stage
