"""Linear laws of recurrent layers: two biases of one gate have one gradient."""

from __future__ import annotations

import math

import numpy as np

from spectrank.invariance.laws import Law, LinearTerm
from spectrank.invariance.potentials import Potentials
from spectrank.model.graph import Node

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent_laws(potentials: Potentials) -> tuple[Law, ...]:
    """Differences b_ih - b_hh of the gates that add both.

    All gates of an LSTM and of a plain RNN; of a GRU the reset and update gates, not
    the candidate, whose b_hh is multiplied by the reset gate. They survive Adam.
    Source (derived): tests/invariance/linear/test_linear_laws.py, brute force.

    Args:
        potentials: Of the graph.

    Returns:
        One law per layer and direction.
    """
    found: dict[str, Law] = {}
    for node in potentials.graph.nodes:
        kind = node.op.removesuffix("_cell")
        if node.kind != "layer" or kind not in _GATES:
            continue
        for role in node.parameters:
            if role.startswith("bias_ih"):
                law = _difference(potentials, node, role, kind)
                if law is not None:
                    # A cell that is called at every step is one layer.
                    found.setdefault(law.name, law)
    return tuple(found.values())


def _difference(potentials: Potentials, node: Node, role: str, kind: str) -> Law | None:
    first = node.parameters[role]
    second = node.parameters.get(role.replace("_ih", "_hh"))
    frozen = potentials.graph.frozen
    if second is None or first == second or first in frozen or second in frozen:
        return None
    size = _size(potentials, node, role, first)
    if size is None or "parts" in node.attributes:
        return None
    # The candidate comes last.
    number = size * 2 // 3 if kind == "gru" else size
    every = np.arange(number)
    terms = tuple(
        LinearTerm(name, (size,), (0,), every, every, sign * np.ones(number))
        for name, sign in ((first, 1.0), (second, -1.0))
    )
    return Law(
        name=f"equal-gradient {first} - {second}",
        kind="equal-gradient",
        form="linear",
        terms=terms,
        shape=(number,),
        count=number,
        condition="these entries always have one gradient",
        source="derived: parallel edges from one source",
    )


def _size(potentials: Potentials, node: Node, role: str, name: str) -> int | None:
    if name in potentials.shapes:
        return math.prod(potentials.shapes[name])
    weight = node.parameters.get(role.replace("bias_ih", "weight_ih"))
    whole = [
        view.shape[0]
        for view in node.matrices
        if view.parameter == weight and view.part is None
    ]
    return whole[0] if whole else None
