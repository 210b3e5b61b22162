"""Handlers of recurrent layers: which rows of a packed weight are which gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spectrank.model.graph.calls import Call, shape_of
from spectrank.model.graph.layers import learned_layer, weight_of
from spectrank.model.graph.nodes import MatrixView
from spectrank.model.graph.parameters import Learned
from spectrank.model.graph.reader import Reader, Value

# In the order in which torch stacks them.
GATES = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}
_FACTS = ("train", "bidirectional", "batch_first")


def recurrent(reader: Reader, call: Call) -> Value:
    """Read an LSTM, GRU or RNN, or one of their cells.

    Args:
        reader: Where to put the node.
        call: The call.

    Returns:
        Its value; None where the call is none of these.
    """
    if call.name in {"lstm", "gru", "rnn_tanh", "rnn_relu"}:
        return _sequence(reader, call)
    if call.name in {"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}:
        return _cell(reader, call)
    return None


def _sequence(reader: Reader, call: Call) -> Value:
    if "input" not in call.arguments:
        return reader.unknown(call, "a packed sequence")
    weights = [reader.value(item) for item in call.arguments["params"]]
    roles = _roles(call, len(weights))
    if roles is None:
        return reader.unknown(call, f"{call.name} with {len(weights)} parameters")
    attributes: dict[str, Any] = {"num_layers": call.arguments["num_layers"]}
    attributes |= {key: True for key in _FACTS[1:] if call.arguments.get(key)}
    if call.arguments["train"] and call.arguments["dropout"]:
        attributes["dropout"] = call.arguments["dropout"]
    values = dict(zip(roles, weights, strict=True))
    return _append(reader, call, values, attributes)


def _roles(call: Call, count: int) -> list[str] | None:
    """Local names as torch.nn.LSTM has them, in the order of its flat weights."""
    directions = 2 if call.arguments["bidirectional"] else 1
    per = count / (call.arguments["num_layers"] * directions)
    kinds = ["weight_ih", "weight_hh"]
    if call.arguments["has_biases"]:
        kinds += ["bias_ih", "bias_hh"]
    if per == len(kinds) + 1:
        kinds += ["weight_hr"]
    if per != len(kinds):
        return None
    return [
        f"{kind}_l{layer}{suffix}"
        for layer in range(call.arguments["num_layers"])
        for suffix in ("", "_reverse")[:directions]
        for kind in kinds
    ]


def _cell(reader: Reader, call: Call) -> Value:
    long = {"w_ih": "weight_ih", "w_hh": "weight_hh"}
    long |= {"b_ih": "bias_ih", "b_hh": "bias_hh"}
    values = {role: reader.value(call.arguments.get(s)) for s, role in long.items()}
    return _append(reader, call, values, {})


def _append(
    reader: Reader, call: Call, values: dict[str, Value], attributes: dict[str, Any]
) -> Value:
    hidden = call.arguments["hx"]
    states = reader.value(hidden if isinstance(hidden, list | tuple) else [hidden])
    # Zeros that torch fills in are no input.
    given = [state for state in states if not reader.fixed(state)]
    matrices: list[MatrixView] = []
    first = ""
    for role, value in values.items():
        weight = weight_of(reader, call, value)[0] if value is not None else None
        if isinstance(weight, Learned):
            first = first or weight.name
            if role.startswith("weight"):
                matrices += _gates(call.name.removesuffix("_cell"), role, weight)
    owner = first.rpartition(".")[0]
    outputs = call.result
    return learned_layer(
        reader,
        call,
        call.name,
        [reader.value(call.arguments["input"]), *given],
        values,
        matrices=matrices,
        attributes=attributes,
        name=owner or call.path or call.name,
        shape=shape_of(outputs[0] if isinstance(outputs, list | tuple) else outputs),
    )


def _gates(cell: str, role: str, weight: Learned) -> Sequence[MatrixView]:
    if not weight.whole or len(weight.shown.shape) != 2:
        return []
    m, n = weight.shown.shape
    found = [MatrixView(weight.name, "linear", (m, n))]
    gates = GATES.get(cell, ())
    if gates and not role.startswith("weight_hr"):
        size = m // len(gates)
        found += [
            MatrixView(
                weight.name,
                "linear",
                (size, n),
                (k * size, (k + 1) * size),
                f"gate.{gate}",
            )
            for k, gate in enumerate(gates)
        ]
    return found
