"""Recurrent layers of homogeneous units: one potential per unit at all times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.invariance.potentials.edges import Edge, part
from spectrank.invariance.potentials.potential import Potential
from spectrank.invariance.potentials.system import System
from spectrank.model.graph.nodes import Node


def readable(system: System, node: Node) -> bool:
    """Whether a layer is recurrent with ReLU units, all of it learned.

    Args:
        system: The equations.
        node: Of kind ``layer``.

    Returns:
        The answer.
    """
    units = node.op in {"rnn_relu", "rnn_relu_cell"} and "parts" not in node.attributes
    return units and all(system.learned(name) for name in node.parameters.values())


def recurrent(system: System, node: Node, inputs: Sequence[Potential]) -> Potential:
    """Potential after h_t = relu(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    Source (derived): tests/invariance/potentials/test_brute_force.py.

    Args:
        system: The equations; receives the potential of the last states.
        node: As `readable` accepts it.
        inputs: Potentials of the inputs and, where they are given, of the first
            states; states that are zero have any potential.

    Returns:
        The potential of the outputs.
    """
    rank = len(node.shape or (1,))
    first = system.merge(inputs[0], range(inputs[0].ndim - 1))
    x = first.map(lambda a: a.reshape(-1))
    if node.op.endswith("cell"):
        before = None
        if len(inputs) > 1:
            merged = system.merge(inputs[1], range(inputs[1].ndim - 1))
            before = merged.map(lambda a: a.reshape(-1))
        return _layer(system, node, "", x, before).ranked(rank)
    states = []
    directions = ["", "_reverse"][: 1 + bool(node.attributes.get("bidirectional"))]
    for number in range(int(node.attributes["num_layers"])):
        own = [_layer(system, node, f"_l{number}{d}", x, None) for d in directions]
        states += own
        x = _joined(own, stacked=False)
    system.states[node.id] = _joined(states, stacked=True)
    if len(inputs) > 1:
        _begin(system, inputs[1], system.states[node.id])
    return x.ranked(rank)


def _joined(parts: Sequence[Potential], *, stacked: bool) -> Potential:
    join = np.stack if stacked else np.concatenate
    return Potential(
        join([item.coefficients for item in parts]),
        join([item.classes for item in parts]),
    )


def _begin(system: System, given: Potential, states: Potential) -> None:
    """First states are read like all later ones: (layers, samples, units)."""
    if given.ndim == 3:
        states = states.map(lambda a: a[:, None])
    system.equal(given, states)


def _layer(
    system: System, node: Node, end: str, x: Potential, before: Potential | None
) -> Potential:
    names = node.parameters
    units = system.shapes[names[f"weight_hh{end}"]][1]
    fan_in = system.shapes[names[f"weight_ih{end}"]][1]
    out = system.fresh((units,))
    # States of a sequence are read by their own units; a zero state by any.
    back = (out if before is None else before).times(-1)
    if node.op.endswith("cell") and before is None:
        back = system.fresh((units,))
    for role, size, column in (
        ("weight_ih", fan_in, x.times(-1)),
        ("weight_hh", units, back),
    ):
        view = (units, size)
        parts = (part(view, (0,), out), part(view, (1,), column))
        system.edges.append(Edge(names[role + end], node.id, role, view, parts))
    for role in ("bias_ih", "bias_hh"):
        if role + end in names:
            own = (part((units,), (0,), out),)
            edge = Edge(names[role + end], node.id, role, (units,), own)
            system.edges.append(edge)
    return out
