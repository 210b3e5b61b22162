"""Learned vectors and bare parameters: scales, shifts, values of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectrank.invariance.potentials.edges import Edge, Part, part
from spectrank.invariance.potentials.maps import rank_of
from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System
from spectrank.model.graph import Graph
from spectrank.model.graph.nodes import Node

Shape = tuple[int, ...]
# What tells a view of a parameter from the whole.
_PARTS = frozenset(["rows", "strides", "offset"])


def scale(system: System, node: Node, given: Potential) -> Potential:
    """Potential after a product with a learned vector.

    Args:
        system: The equations.
        node: Of kind ``scale``.
        given: Potential of what it reads.

    Returns:
        The potential of the output.
    """
    rank = rank_of(node, given)
    x = given.ranked(rank)
    name = node.parameters["scale"]
    if not system.learned(name):
        return x
    axes = list(node.attributes["axes"])
    sizes = _sizes(system, node, name, axes)
    shape = list(x.shape)
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    out = system.fresh(shape)
    others = [axis for axis in range(-rank, 0) if axis not in axes]
    # The coefficient out - in is the same along the axes that the vector lacks.
    system.vanish(out, x.times(-1), out.first(others).times(-1), x.first(others))
    edge = [out.first(others), x.first(others).times(-1)]
    system.edges.append(_vector_edge(node, "scale", name, axes, sizes, edge))
    return out


def shift(system: System, node: Node, given: Potential) -> Potential:
    """Potential after a sum with a learned vector.

    Args:
        system: The equations.
        node: Of kind ``shift``.
        given: Potential of what it reads.

    Returns:
        The potential of the output.
    """
    rank = rank_of(node, given)
    x = given.ranked(rank)
    name = node.parameters["shift"]
    if not system.learned(name):
        system.vanish(x)
        return nothing(rank)
    axes = list(node.attributes["axes"])
    sizes = _sizes(system, node, name, axes)
    x = system.merge(x, [axis for axis in range(-rank, 0) if axis not in axes])
    system.edges.append(_vector_edge(node, "shift", name, axes, sizes, [x]))
    return x


def _sizes(system: System, node: Node, name: str, axes: Sequence[int]) -> list[int]:
    if node.shape is not None:
        return [node.shape[axis] for axis in axes]
    return [node.attributes["size"]] if len(axes) == 1 else list(system.shapes[name])


def _vector_edge(
    node: Node,
    role: str,
    name: str,
    axes: Sequence[int],
    sizes: Sequence[int],
    terms: Sequence[Potential],
) -> Edge:
    """Edge of a vector that lies along some axes of the output, others at index 0."""
    view = tuple(sizes) if axes else (1,)
    parts = []
    for term in terms:
        order = [axis % term.ndim for axis in axes]
        index = tuple(slice(None) if i in order else 0 for i in range(term.ndim))
        kept = _at(term, index)
        parts.append(part(view, range(len(view)), kept))
    facts = {k: v for k, v in node.attributes.items() if k in _PARTS}
    entries = strided(facts, view) if facts else None
    return Edge(name, node.id, role, view, tuple(parts), entries)


def parameter(system: System, node: Node) -> Potential:
    """Potential of a parameter that stands for itself: its edge from the constant 1.

    Args:
        system: The equations.
        node: Of kind ``constant``, with a parameter.

    Returns:
        The potential.
    """
    name = node.parameters["value"]
    shape = node.shape or system.shapes.get(name, ())
    if not system.learned(name):
        return nothing(len(shape))
    entries = None
    if node.attributes:
        entries = strided(node.attributes, tuple(shape))
    if entries is None:
        made = system.fresh(shape)
        view = tuple(shape) or (1,)
        own = made.map(lambda a: a.reshape(view))
        parts: tuple[Part, ...] = (part(view, range(len(view)), own),)
        system.edges.append(Edge(name, node.id, "value", view, parts))
        return made
    # A view may show an entry several times: it is one unknown.
    distinct, place = np.unique(entries, return_inverse=True)
    made = system.fresh((len(distinct),))
    parts = (part((len(distinct),), (0,), made),)
    edge = Edge(name, node.id, "value", (len(distinct),), parts, distinct)
    system.edges.append(edge)
    shown = made.map(lambda a: a[place.reshape(shape)])
    strides = node.attributes.get("strides", [1] * len(shape))
    return shown.first([i for i, stride in enumerate(strides) if stride == 0])


def altered(graph: Graph, node: Node) -> tuple[str, ...]:
    """Parameters that a step writes to in place, such as a table that it renormalises.

    Args:
        graph: Of the model.
        node: A step that is not understood.

    Returns:
        Names; none of a step that returns a new value.
    """
    operator = str(node.attributes.get("aten", "..")).split(".")[1]
    if not operator.endswith("_"):
        return ()
    # Torch detaches before it writes; a detached or reshaped value shares its memory.
    reached = [graph[source] for source in node.inputs[:1]]
    for before in reached:
        if before.op == "detach" or before.kind == "reshape":
            reached += [graph[source] for source in before.inputs]
    return tuple(name for item in reached for name in item.parameters.values())


def _at(potential: Potential, index: tuple[Any, ...]) -> Potential:
    return potential.map(lambda a: np.asarray(a[index]))


def strided(facts: Mapping[str, Any], shape: Shape) -> np.ndarray:
    """Numbers of the entries of a parameter that a view shows.

    Args:
        facts: ``rows``, or ``strides`` and ``offset``, as a node's attributes.
        shape: Of the view.

    Returns:
        Flat numbers in the order of the view.
    """
    if "rows" in facts:
        start = facts["rows"][0] * math.prod(shape[1:])
        return np.arange(start, start + math.prod(shape))
    numbers = np.full(shape, facts["offset"])
    for axis, stride in enumerate(facts["strides"]):
        sizes = [1] * len(shape)
        sizes[axis] = shape[axis]
        numbers = numbers + (np.arange(shape[axis]) * stride).reshape(sizes)
    return numbers.reshape(-1)
