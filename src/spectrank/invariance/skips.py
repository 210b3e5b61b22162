r"""Skips past a square linear map: x + W x is one learned map, I + W.

The gradient of W is that of M = I + W, whatever the rest of the network is. So the laws
of the network with M in place of the sum are its laws, of W with the identity added.
With factors, a x + b (W x + c) = b ((a/b I + W) x + c).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

import numpy as np

from spectrank.invariance.laws import Offset
from spectrank.model.graph import Graph, Node
from spectrank.model.graph.flow import feature_axis

_CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d"])


@final
@dataclass(frozen=True)
class _Skip:
    """A sum of a value and a square linear map of it.

    Attributes:
        total: The sum.
        layer: The map.
        between: Scalings between the two.
        factor: b, by which the outputs of the map are multiplied.
        ratio: a / b.
    """

    total: Node
    layer: Node
    between: tuple[Node, ...]
    factor: float
    ratio: float


def without_skips(graph: Graph) -> tuple[Graph, dict[str, Offset]]:
    """Replace sums x + W x by one map each.

    Linear layers and convolutions that keep the shape, with nothing but scalings
    between; not weights that are shared, frozen, computed or in groups.
    Source (derived): tests/invariance/test_skips.py, rate test and brute force.

    Args:
        graph: Of a network; not changed.

    Returns:
        A graph in which the map stands for the sum, and for each weight what its laws
        take off it: minus the identity.
    """
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for source in node.inputs:
            readers[source].append(node)
    found = [_skip(graph, readers, node) for node in graph.nodes if node.kind == "sum"]
    skips = {s.total.id: s for s in found if s is not None and _plain(graph, s)}
    if not skips:
        return graph, {}
    gone = {node.id for skip in skips.values() for node in skip.between}
    nodes = tuple(
        _scaled(skips[node.id]) if node.id in skips else node
        for node in graph.nodes
        if node.id not in gone
    )
    offsets = {}
    for skip in skips.values():
        name = skip.layer.parameters["weight"]
        indices = _diagonal(_shape(skip.layer))
        offsets[name] = Offset(name, indices, np.full(len(indices), -skip.ratio))
    return replace(graph, nodes=nodes), offsets


def _skip(
    graph: Graph, readers: Mapping[str, Sequence[Node]], total: Node
) -> _Skip | None:
    factors = total.attributes.get("coefficients", [1.0, 1.0])
    numbers = all(isinstance(item, int | float) and item for item in factors)
    if len(total.inputs) != 2 or total.shape is None or not numbers:
        return None
    for own, other in ((0, 1), (1, 0)):
        layer, between, factor = _scalings(graph, total.inputs[other])
        if layer.kind != "layer" or len(layer.inputs) != 1:
            continue
        path = [layer, *between[::-1], total]
        alone = all(readers[a.id] == [b] for a, b in pairwise(path))
        # The value that is added is the one that the map reads, of the same shape.
        added, _, multiple = _scalings(graph, total.inputs[own], to=layer.inputs[0])
        if alone and added.id == layer.inputs[0] and added.shape == total.shape:
            factor *= float(factors[other])
            ratio = multiple * float(factors[own]) / factor
            return _Skip(total, layer, tuple(between), factor, ratio)
    return None


def _scalings(
    graph: Graph, start: str, *, to: str | None = None
) -> tuple[Node, list[Node], float]:
    """Go back through steps that multiply by a number, at most to a node."""
    node, factor = graph[start], 1.0
    passed: list[Node] = []
    while node.id != to and (step := _factor(node)) is not None:
        passed.append(node)
        factor *= step
        node = graph[node.inputs[0]]
    return node, passed, factor


def _factor(node: Node) -> float | None:
    """By what a step multiplies; None of any other step."""
    if node.kind != "elementwise" or len(node.inputs) != 1:
        return None
    found: object = None
    if node.op == "mul":
        found = node.attributes.get("factor")
    elif node.op == "div" and isinstance(node.attributes.get("divisor"), int | float):
        found = 1.0 / node.attributes["divisor"]
    elif node.op == "neg":
        found = -1.0
    return float(found) if isinstance(found, int | float) and found else None


def _plain(graph: Graph, skip: _Skip) -> bool:
    """Whether the map is one whole square matrix, or kernel, of its own."""
    layer, total = skip.layer, skip.total
    name = layer.parameters.get("weight")
    if name is None or layer.shape != total.shape or layer.note is not None:
        return False
    if name in graph.frozen or name in graph.reused or len(layer.matrices) != 1:
        return False
    matrix = layer.matrices[0]
    if matrix.rows is not None or matrix.part is not None:
        return False
    shape, facts = _shape(layer), layer.attributes
    if shape[0] != shape[1]:
        return False
    if layer.op == "linear":
        return feature_axis(layer) == -1
    return (
        layer.op in _CONVOLUTIONS
        and facts.get("groups", 1) == 1
        and all(step == 1 for step in facts.get("stride", [1]))
        # Of an odd kernel that keeps the shape the middle reads an entry in its place.
        and all(size % 2 == 1 for size in shape[2:])
    )


def _shape(layer: Node) -> tuple[int, ...]:
    """(out, in), or (out, in, kernel) of a convolution."""
    m, n = layer.matrices[0].shape
    kernel = tuple(layer.attributes.get("kernel_size", ()))
    return (m, n // math.prod(kernel), *kernel)


def _diagonal(shape: tuple[int, ...]) -> np.ndarray:
    """Flat entries of a weight that the identity stands at."""
    middle = math.prod(shape[2:]) // 2
    every = np.arange(shape[0])
    return (every * shape[1] + every) * math.prod(shape[2:]) + middle


def _scaled(skip: _Skip) -> Node:
    """The step that stands for the sum: the outputs of the map by a factor."""
    return replace(
        skip.total,
        kind="elementwise",
        op="mul",
        inputs=(skip.layer.id,),
        attributes={"factor": skip.factor},
    )
