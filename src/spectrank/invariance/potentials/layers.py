"""Layers: which rule reads which; linear maps and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spectrank.invariance.potentials import recurrent, tables
from spectrank.invariance.potentials.edges import Edge, part
from spectrank.invariance.potentials.maps import rank_of
from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System
from spectrank.invariance.potentials.vectors import strided
from spectrank.model.graph.nodes import Node

Shape = tuple[int, ...]


def layer(
    system: System,
    node: Node,
    inputs: Sequence[Potential],
    shapes: Sequence[Shape | None],
) -> Potential:
    """Potential after a layer; a step that is not read stops every law.

    Args:
        system: The equations.
        node: Of kind ``layer``.
        inputs: Potentials of what it reads.
        shapes: Full shapes of what it reads.

    Returns:
        The potential of the output.
    """
    rank = rank_of(node, inputs[0]) if inputs else len(node.shape or ())
    if node.note and "is computed from" in node.note and not _directed(system, node):
        factors = node.note.rpartition(" is computed from ")[2].split(", ")
        system.block([*node.parameters.values(), *factors], node.note)
        return system.stop(node.id, node.note, *inputs, rank=rank)
    if recurrent.readable(system, node):
        return recurrent.recurrent(system, node, inputs)
    if node.op == "linear" and _readable(system, node, _fan_in(node, shapes[0])):
        return _linear(system, node, inputs[0], _fan_in(node, shapes[0]))
    if node.op.startswith("conv"):
        return _convolution(system, node, inputs[0])
    if node.op in {"embedding", "embedding_bag"} and tables.plain_table(node, inputs):
        return tables.table(system, node)
    if node.op == "bilinear" and tables.whole_bilinear(system, node, shapes):
        return tables.bilinear(system, node, inputs)
    system.block(node.parameters.values(), f"used by {node.op}")
    reason = f"no diagonal law is known through this {node.op}"
    return system.stop(node.id, reason, *inputs, rank=rank)


def _directed(system: System, node: Node) -> bool:
    """Whether the weight is a magnitude times a direction, of a readable layer."""
    whole = node.op == "linear" and [m.view for m in node.matrices] == ["linear"]
    kernel = node.op.startswith("conv") and "transpose" not in node.op
    found = system.directed.get(node.parameters.get("weight", ""))
    return found is not None and (whole or kernel) and found.direction in system.shapes


def _direction(system: System, node: Node) -> None:
    """The norm of a direction changes nothing: one potential of its own per row."""
    name = system.directed[node.parameters["weight"]].direction
    if system.learned(name):
        m, *rest = system.shapes[name]
        view = (m, math.prod(rest))
        parts = (part(view, (0,), system.fresh((m,))),)
        system.edges.append(Edge(name, node.id, "direction", view, parts))


# ---- linear maps ------------------------------------------------------------------


def _fan_in(node: Node, before: Shape | None) -> int:
    if node.matrices:
        return node.matrices[0].shape[1]
    assert before is not None
    return before[int(node.attributes.get("axis", -1)) if len(before) > 1 else -1]


def _linear(system: System, node: Node, given: Potential, fan_in: int) -> Potential:
    axis = int(node.attributes.get("axis", -1))
    x = given.ranked(max(-axis, 1)).map(lambda a: np.moveaxis(a, axis, -1))
    weight, bias = node.parameters["weight"], node.parameters.get("bias")
    lead = list(range(x.ndim - 1))
    if bias is not None:
        # A bias gets the same coefficient at every position.
        x = system.merge(x, lead)
    if _directed(system, node):
        # As a map by the magnitudes of one common input.
        _direction(system, node)
        weight = system.directed[weight].magnitude
        x, fan_in = system.merge(x, [-1]), 1
    if not system.learned(weight):
        # Fixed edges: all that they join is equal.
        out = system.merge(x, [-1])
    else:
        fixed = bias in system.frozen and node.id not in system.unseen
        out = _learned_product(system, node, x, fan_in, fixed)
    out = _bias(system, node, out, bias)
    if _vector(node):
        return out.map(lambda a: a[..., 0])
    return out.map(lambda a: np.moveaxis(a, -1, axis))


def _learned_product(
    system: System, node: Node, x: Potential, fan_in: int, zero: bool
) -> Potential:
    """Outputs get unknowns of their own; the edge of an entry is out minus in."""
    outputs = 1 if _vector(node) else _outputs(node)
    flat = x.map(lambda a: a.reshape(-1, a.shape[-1]))
    made = nothing(2) if zero else system.fresh((flat.shape[0], outputs))
    # Over positions t: in[t, i] - in[0, i] is the same for all i, and out's too.
    steps = [flat, flat.first([0]).times(-1)]
    base = [item.first([1]).times(-1) for item in steps]
    if flat.shape[0] > 1:
        system.vanish(*steps, *base)
        system.vanish(made, made.first([0]).times(-1), *base)
    row = made.map(lambda a: a[0])
    column = flat.map(lambda a: a[0]).times(-1)
    system.edges.append(_matrix_edge(system, node, row, column, fan_in))
    lead = x.shape[:-1]
    if zero:
        return nothing(x.ndim)
    return made.map(lambda a: a.reshape((*lead, outputs)))


def _outputs(node: Node) -> int:
    if node.matrices:
        return node.matrices[0].shape[0]
    assert node.shape is not None
    return node.shape[int(node.attributes.get("axis", -1))]


def _vector(node: Node) -> bool:
    return not node.matrices and "part" not in node.attributes


def _readable(system: System, node: Node, fan_in: int) -> bool:
    """Whether it is certain which entries of the parameter the matrix shows."""
    full = system.shapes.get(node.parameters["weight"], ())
    if node.matrices:
        return True
    if _vector(node):
        return math.prod(full) == fan_in
    facts = node.attributes["part"]
    if len(full) != 2:
        return False
    # A view gives rows used as (outputs, inputs): these are used as (inputs, outputs).
    if "rows" in facts:
        return full[1] == _outputs(node)
    # Columns used as (outputs, inputs). Used the other way round they are no view only
    # where rows are left out too, which the sizes rule out.
    columns = sorted(facts["strides"]) == [1, full[1]]
    m = _outputs(node)
    return columns and full[0] == m <= fan_in < full[1]


def _matrix_edge(
    system: System, node: Node, row: Potential, column: Potential, fan_in: int
) -> Edge:
    """Edge of a matrix (outputs, inputs), stored as it is or transposed."""
    name = node.parameters["weight"]
    entries, start = None, 0
    if _directed(system, node):
        name = system.directed[name].magnitude
        view: Shape = (_outputs(node), 1)
    elif node.matrices:
        matrix = node.matrices[0]
        m, n = matrix.shape
        start = 0 if matrix.rows is None else matrix.rows[0]
        if matrix.view == "linear-transposed" and matrix.rows is not None:
            width = system.shapes[name][1]
            grid = np.arange(n)[:, None] * width + np.arange(start, start + m)
            entries, start = grid.reshape(-1), 0
        if matrix.view == "linear-transposed":
            view = (n, m)
            parts = (part(view, (1,), row), part(view, (0,), column))
            return Edge(name, node.id, "weight", view, parts, entries, start)
        view = (m, n)
        start *= n
    elif _vector(node):
        view = (1, fan_in)
    else:
        facts, m = node.attributes["part"], _outputs(node)
        if "rows" in facts:
            parts = (part((fan_in, m), (1,), row), part((fan_in, m), (0,), column))
            start = facts["rows"][0] * m
            return Edge(name, node.id, "weight", (fan_in, m), parts, None, start)
        view = (m, fan_in)
        entries = strided({**facts, "strides": [max(facts["strides"]), 1]}, view)
    parts = (part(view, (0,), row), part(view, (1,), column))
    return Edge(name, node.id, "weight", view, parts, entries, start)


def _bias(system: System, node: Node, out: Potential, name: str | None) -> Potential:
    """A learned bias has the coefficient of its output; a fixed one makes it zero."""
    if name is None:
        return out
    if name in system.frozen and node.id in system.unseen:
        return out
    if name in system.frozen:
        system.vanish(out)
        return nothing(out.ndim)
    size = _outputs(node) if not _vector(node) else 1
    vector = out.map(lambda a: a.reshape(-1, a.shape[-1])[0])
    if node.id in system.unseen:
        vector = _unseen(system, node, size)
    facts = node.attributes.get("parts", {}).get("bias")
    entries = None if facts is None else strided(facts, (size,))
    parts = (part((size,), (0,), vector),)
    system.edges.append(Edge(name, node.id, "bias", (size,), parts, entries))
    return out


def _unseen(system: System, node: Node, size: int) -> Potential:
    """Coefficients of a bias that is subtracted again: those of its other uses."""
    if system.unseen[node.id]:
        return system.fresh((size,))
    return nothing(1).spread((size,))


# ---- convolutions -----------------------------------------------------------------


def _convolution(system: System, node: Node, given: Potential) -> Potential:
    kernel = node.attributes["kernel_size"]
    groups = int(node.attributes.get("groups", 1))
    axis = -1 - len(kernel)
    x = given.ranked(-axis)
    x = system.merge(x, [i for i in range(-x.ndim, 0) if i != axis]).flat()
    outputs, inputs = _channels(system, node, groups)
    x = x.spread((inputs,)).map(lambda a: a.reshape(groups, -1))
    weight, bias = node.parameters["weight"], node.parameters.get("bias")
    if bias in system.frozen and node.id in system.unseen:
        bias = None
    positions = math.prod(kernel)
    if _directed(system, node):
        _direction(system, node)
        weight = system.directed[weight].magnitude
        x, inputs, positions = system.merge(x, [1]), groups, 1
    if not system.learned(weight):
        out = system.merge(x, [1]).spread((groups, outputs // groups))
    elif bias in system.frozen:
        out = nothing(2).spread((groups, outputs // groups))
    else:
        out = system.fresh((groups, outputs // groups))
    if system.learned(weight):
        sizes = (inputs if "transpose" in node.op else outputs) // groups
        other = (outputs if "transpose" in node.op else inputs) // groups
        view = (groups, sizes, other, positions)
        own = (out, x.times(-1))
        first, second = own[::-1] if "transpose" in node.op else own
        parts = (part(view, (0, 1), first), part(view, (0, 2), second))
        system.edges.append(Edge(weight, node.id, "weight", view, parts))
    rank = rank_of(node, given.ranked(-axis))
    shape = [1] * rank
    shape[axis] = outputs
    shaped = out.map(lambda a: a.reshape(shape))
    if bias in system.frozen:
        system.vanish(shaped)
        return nothing(rank)
    if bias is not None:
        hidden = node.id in system.unseen
        inner = _unseen(system, node, outputs) if hidden else out.flat()
        own_bias = (part((outputs,), (0,), inner),)
        system.edges.append(Edge(bias, node.id, "bias", (outputs,), own_bias))
    return shaped


def _channels(system: System, node: Node, groups: int) -> tuple[int, int]:
    name = node.parameters["weight"]
    if _directed(system, node):
        name = system.directed[name].direction
    shape = system.shapes[name]
    if "transpose" in node.op:
        return shape[1] * groups, shape[0]
    return shape[0], shape[1] * groups
