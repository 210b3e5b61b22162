"""``solve``: the potential of every entry of every value of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping

from spectrank.errors import DomainError
from spectrank.invariance.potentials import (
    layers,
    maps,
    moves,
    norms,
    products,
    vectors,
)
from spectrank.invariance.potentials.directions import Directed
from spectrank.invariance.potentials.edges import Edge, differences
from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.reduction import reduce
from spectrank.invariance.potentials.sizes import fan_ins, parameter_shapes
from spectrank.invariance.potentials.solution import Potentials
from spectrank.invariance.potentials.stored import Stored
from spectrank.invariance.potentials.system import System
from spectrank.invariance.potentials.unseen import unseen
from spectrank.model.graph import Graph, Node

Shape = tuple[int, ...]


def solve(
    graph: Graph,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    directed: Mapping[str, Directed] | None = None,
    stored: Mapping[str, Stored] | None = None,
) -> Potentials:
    r"""Find every potential :math:`s` of the entries of a network's values.

    s = 0 at inputs, constants and outputs and on both sides of a map that is not
    homogeneous; a k-homogeneous map multiplies by k; terms of a sum are equal; a
    product adds; a sum over an index needs terms constant along it; a normalisation
    needs one common s and gives zero; entries of a parameter that are used twice need
    one coefficient. The space of solutions is the space of diagonal quadratic laws.
    Source (derived): tests/invariance/potentials/test_brute_force.py.

    Args:
        graph: Of a model, traced or of a Sequential.
        shapes: Name of each parameter to its shape; None to take them from the graph,
            which knows them up to rows that are nowhere used.
        directed: Name of each weight of weight normalisation to its factors, as
            `directed_weights` finds them; None for none.
        stored: Id of each normalisation with a fixed mean to that, as `stored_means`
            finds them; None for none: then no law passes such a normalisation.

    Returns:
        The potentials.

    Raises:
        DomainError: The graph has stated links only.
    """
    if graph.stated is not None:
        raise DomainError(
            "potentials follow the traced steps, this graph has stated links; "
            "make it with an example_input"
        )
    known = {**parameter_shapes(graph), **(shapes or {})}
    system = System(
        graph.frozen, known, fan_ins(graph), directed or {}, stored, unseen(graph)
    )
    nodes: dict[str, Potential] = {}
    for node in graph.nodes:
        nodes[node.id] = _step(system, graph, node, nodes)
    _tie(system)
    return Potentials(
        graph=graph,
        basis=reduce(system.num_classes, system.pairs, system.rows),
        nodes=nodes,
        edges=tuple(system.edges),
        shapes=known,
        reasons=system.reasons,
        eps=system.eps,
        blocked=system.blocked,
        offsets={
            item.offset.parameter: item.offset
            for item in system.stored.values()
            if item.offset is not None
        },
    )


def _step(
    system: System, graph: Graph, node: Node, nodes: Mapping[str, Potential]
) -> Potential:
    inputs = [nodes[source] for source in node.inputs]
    shapes = [graph[source].shape for source in node.inputs]
    kind = node.kind
    if kind == "input":
        return nothing(_rank(node))
    if kind == "constant":
        return _constant(system, node)
    if kind == "output":
        for potential in inputs:
            system.vanish(potential)
        return nothing(_rank(node))
    if kind == "layer":
        return layers.layer(system, node, inputs, shapes)
    if node.op == "getitem" and graph[node.inputs[0]].op == "embedding_bag":
        return inputs[0].ranked(_rank(node))
    if kind == "reshape" and inputs:
        return moves.move(system, node, inputs, shapes)
    if kind == "sum":
        return maps.together(system, inputs, max(p.ndim for p in inputs))
    if kind == "product":
        return products.product(system, node, inputs, shapes)
    if kind == "matmul":
        return products.matmul(system, node, inputs, shapes)
    if kind == "attention":
        return products.attention(system, node, inputs, shapes)
    return _one_input(system, graph, node, inputs, shapes)


def _one_input(
    system: System,
    graph: Graph,
    node: Node,
    inputs: list[Potential],
    shapes: list[Shape | None],
) -> Potential:
    rank = _rank(node)
    if inputs and node.kind in {"scale", "shift"}:
        rule = vectors.scale if node.kind == "scale" else vectors.shift
        return rule(system, node, inputs[0])
    if inputs and node.kind == "norm":
        return norms.norm(system, node, inputs[0], shapes[0])
    if inputs and node.kind == "pool":
        return maps.pool(system, node, inputs[0], shapes[0])
    if inputs and node.kind == "softmax":
        return products.softmax(system, node, inputs[0])
    if inputs and node.kind == "elementwise":
        # A learned slope changes nothing: its edge is parallel to a fixed one.
        system.block(node.parameters.values(), f"slope of {node.op}")
        if maps.floor_of_norm(graph, node):
            system.eps[node.id] = float(node.attributes["min"])
            return inputs[0]
        return maps.elementwise(system, node, inputs)
    names = {*node.parameters.values(), *vectors.altered(graph, node)}
    system.block(names, f"used by {node.op}")
    reason = f"{node.op} is not understood: {node.note}"
    return system.stop(node.id, reason, *inputs, rank=rank)


def _rank(node: Node) -> int:
    # Where nothing was traced, the features alone.
    return 1 if node.shape is None else len(node.shape)


def _constant(system: System, node: Node) -> Potential:
    if node.parameters:
        return vectors.parameter(system, node)
    shape = node.shape or ()
    if node.note in _ZEROS and math.prod(shape) < 1_000_000:
        # A zero has any potential; samples, in front, need not differ.
        return system.fresh((1, *shape[1:]) if shape else ())
    return nothing(len(shape))


_ZEROS = frozenset(["made by zeros", "made by zeros_like", "made by new_zeros"])


def _tie(system: System) -> None:
    """Entries that are used twice have one coefficient."""
    uses: dict[str, list[Edge]] = {}
    for edge in system.edges:
        uses.setdefault(edge.parameter, []).append(edge)
    for name, own in uses.items():
        if name in system.blocked:
            for edge in own:
                _require(system, edge, None)
            continue
        for i, edge in enumerate(own):
            # Equal extents: equality with the first says all.
            for other in own[:i]:
                _require(system, edge, other)
                same = (other.start, other.size) == (edge.start, edge.size)
                if same and other.entries is None and edge.entries is None:
                    break


def _require(system: System, first: Edge, second: Edge | None) -> None:
    for terms in differences(first, second):
        system.vanish(*terms)
