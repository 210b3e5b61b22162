"""Tables and bilinear maps."""

from __future__ import annotations

from collections.abc import Sequence

from spectrank.invariance.potentials.edges import Edge, part
from spectrank.invariance.potentials.maps import rank_of
from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System
from spectrank.model.graph.nodes import Node

Shape = tuple[int, ...]


def plain_table(node: Node, inputs: Sequence[Potential]) -> bool:
    """Whether a layer looks rows up in a whole table.

    Args:
        node: An embedding or a bag of them.
        inputs: Potentials of what it reads.

    Returns:
        The answer.
    """
    # A third input of a bag weighs its samples; a part of a table has no matrix.
    plain = "max_norm" not in node.attributes and len(inputs) <= 2
    return plain and bool(node.matrices)


def table(system: System, node: Node) -> Potential:
    """Potential after a look-up: every row may stand anywhere.

    Args:
        system: The equations.
        node: As `plain_table` accepts it.

    Returns:
        One unknown per column.
    """
    name = node.parameters["weight"]
    view = node.matrices[0].shape
    rank = 1 if node.shape is None else len(node.shape)
    if not system.learned(name):
        return nothing(rank)
    made = system.fresh((view[1],))
    parts = (part(view, (1,), made),)
    system.edges.append(Edge(name, node.id, "weight", view, parts))
    return made.ranked(rank)


def whole_bilinear(system: System, node: Node, shapes: Sequence[Shape | None]) -> bool:
    """Whether a bilinear map takes a whole parameter as it is stored.

    Args:
        system: The equations.
        node: A bilinear map.
        shapes: Full shapes of what it reads.

    Returns:
        The answer.
    """
    sizes = [None if shape is None else shape[-1] for shape in (node.shape, *shapes)]
    return sizes == list(system.shapes.get(node.parameters["weight"], ()))


def bilinear(system: System, node: Node, inputs: Sequence[Potential]) -> Potential:
    """Potential after x^T W_k y + b_k: the edge of an entry is out minus both.

    Args:
        system: The equations.
        node: As `whole_bilinear` accepts it.
        inputs: Potentials of the two.

    Returns:
        The potential of the output.
    """
    rank = rank_of(node, inputs[0])
    ranked = [item.ranked(rank) for item in inputs]
    lead = list(range(rank - 1))
    left, right = [system.merge(item, lead).flat() for item in ranked]
    weight, bias = node.parameters["weight"], node.parameters.get("bias")
    view = system.shapes[weight]
    if not system.learned(weight) or bias in system.frozen:
        system.block([n for n in (weight, bias) if n], "a bilinear map in part frozen")
        return system.stop(
            node.id, "a bilinear map in part frozen", left, right, rank=rank
        )
    out = system.fresh((view[0],))
    parts = (
        part(view, (0,), out),
        part(view, (1,), left.times(-1)),
        part(view, (2,), right.times(-1)),
    )
    system.edges.append(Edge(weight, node.id, "weight", view, parts))
    if bias is not None:
        own = (part((view[0],), (0,), out),)
        system.edges.append(Edge(bias, node.id, "bias", (view[0],), own))
    return out.ranked(rank)
