"""Handlers of matrix products: linear layers, however they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spectrank.model.graph.calls import Call
from spectrank.model.graph.names import layer_name
from spectrank.model.graph.nodes import MatrixView
from spectrank.model.graph.parameters import Layout, Learned, matrix_of
from spectrank.model.graph.reader import Reader, Ref, Value


def product(reader: Reader, call: Call) -> Value:
    """Read a matrix product: a linear layer, or a product of two activations.

    Args:
        reader: Where to put the nodes.
        call: The call.

    Returns:
        Its value; None where the call multiplies nothing.
    """
    handler = _HANDLERS.get(call.name)
    return None if handler is None else handler(reader, call)


def weight_of(reader: Reader, call: Call, value: Value) -> tuple[Value, str | None]:
    """The parameter that a value is; of a parametrised weight the computed name.

    Args:
        reader: Of the graph.
        call: What uses it.
        value: What stands in the place of a weight.

    Returns:
        A ``Learned`` and a note where it is a parameter, the value as it was and None
        where it is not.
    """
    if isinstance(value, Learned):
        return value, None
    origin = reader.origins[value.id]
    if origin.fed or not origin.parameters:
        return value, None
    shape = reader.shape(value)
    if shape is None:
        return value, None
    name = reader.names.computed_weight(
        origin.parameters, shape, made=origin.path, used=call.path, op=call.name
    )
    if name is None:
        return value, None
    factors = ", ".join(sorted(origin.parameters))
    strides = [1] * len(shape)
    for i in reversed(range(len(shape) - 1)):
        strides[i] = strides[i + 1] * shape[i + 1]
    layout = Layout(shape, tuple(strides), 0)
    return Learned(name, layout, layout), f"{name} is computed from {factors}"


def learned_layer(
    reader: Reader,
    call: Call,
    op: str,
    inputs: Sequence[Value],
    values: Mapping[str, Value],
    *,
    matrices: Sequence[MatrixView] = (),
    attributes: Mapping[str, Any] | None = None,
    note: str | None = None,
    name: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> Value:
    """Append a layer, or an unknown where a parameter of it is computed.

    Args:
        reader: Where to put the node.
        call: The call.
        op: Name of the operation.
        inputs: What it reads.
        values: Role to value; None for a role that is not taken.
        matrices: Its matrices.
        attributes: Plain JSON.
        note: What else there is to know.
        name: Of the layer; else that of its first parameter.
        shape: Of its output, where the call does not tell.

    Returns:
        The value of the node.
    """
    parameters: dict[str, str] = {}
    rows: dict[str, Any] = {}
    notes = [note] if note else []
    for role, given in values.items():
        if given is None:
            continue
        value, how = weight_of(reader, call, given)
        if not isinstance(value, Learned):
            return _not_a_parameter(reader, call, op, role, value)
        parameters[role] = value.name
        notes += [how] if how else []
        if role != "weight" and value.attributes():
            rows[role] = value.attributes()
    first = next(iter(parameters.values()))
    names = reader.names.aliases.get(first, (first,))
    return reader.emit(
        "layer",
        op,
        inputs,
        call=call,
        name=name or layer_name(names, call.path, op),
        parameters=parameters,
        attributes={**(attributes or {}), **({"parts": rows} if rows else {})},
        matrices=matrices,
        shape=shape,
        note="; ".join(notes) or None,
    )


def _not_a_parameter(
    reader: Reader, call: Call, op: str, role: str, value: Value
) -> Value:
    origin = reader.origins[value.id]
    if origin.parameters and not origin.fed:
        names = ", ".join(sorted(origin.parameters))
        return reader.unknown(call, f"the {role} of {op} is computed from {names}")
    if role != "weight":
        return reader.unknown(call, f"the {role} of {op} is no parameter")
    return reader.emit(
        "matmul", op, reader.inputs(call), call=call, attributes=call.attributes()
    )


def linear_layer(
    reader: Reader,
    call: Call,
    source: Value,
    weight: Value,
    bias: Value = None,
    *,
    transposed: bool = False,
    axis: int = -1,
) -> Value:
    """Append ``source`` times a learned matrix.

    Args:
        reader: Where to put the node.
        call: The call.
        source: What it reads.
        weight: The matrix: (outputs, inputs), or its transpose.
        bias: Added to the outputs; None for none.
        transposed: Whether ``weight`` is (inputs, outputs).
        axis: Axis of the source that the matrix acts on, from the end.

    Returns:
        The value of the node.
    """
    value, how = weight_of(reader, call, weight)
    attributes: dict[str, Any] = {} if axis == -1 else {"axis": axis}
    matrices: tuple[MatrixView, ...] = ()
    note = how
    if isinstance(value, Learned) and len(value.shown.shape) == 2:
        shown = value.shown
        if transposed:
            shown = Layout(shown.shape[::-1], shown.strides[::-1], shown.offset)
        matrix = matrix_of(Learned(value.name, value.full, shown))
        matrices = () if matrix is None else (matrix,)
        if matrix is None:
            note = f"no view gives this part of {value.name}"
            attributes["part"] = value.attributes()
    elif isinstance(value, Learned):
        note = "a vector of weights: one output"
    # A bias that is no parameter is an activation, or a constant, added afterwards.
    added = bias if isinstance(bias, Ref) and isinstance(value, Learned) else None
    product = learned_layer(
        reader,
        call,
        "linear",
        [source],
        {"weight": weight, "bias": bias if added is None else None},
        matrices=matrices,
        attributes=attributes,
        note=note if how is None else None,
    )
    if added is None:
        return product
    return reader.emit("sum", "sum", [product, added], call=call)


def _linear(reader: Reader, call: Call) -> Value:
    given = [reader.value(call.arguments[key]) for key in ("input", "weight", "bias")]
    source, weight, bias = given
    bias = bias if isinstance(bias, Ref | Learned) else None
    if isinstance(source, Learned):
        source = reader.settle(source)
    return linear_layer(reader, call, source, weight, bias)


def _matmul(reader: Reader, call: Call) -> Value:
    first, second = reader.inputs(call)
    left, right = weight_of(reader, call, first)[0], weight_of(reader, call, second)[0]
    ranks = [len(reader.shape(v) or ()) for v in (left, right)]
    if isinstance(left, Learned) == isinstance(right, Learned):
        return _activations(reader, call, [first, second])
    if isinstance(right, Learned) and ranks[1] <= 2 and call.name != "dot":
        transposed = call.name != "inner"
        return linear_layer(reader, call, first, second, transposed=transposed)
    if isinstance(left, Learned) and ranks[0] == 2 and call.name != "inner":
        axis = -1 if ranks[1] == 1 else -2
        return linear_layer(reader, call, second, first, axis=axis)
    weight, source = (second, first) if isinstance(right, Learned) else (first, second)
    values = {"weight": weight}
    note = "several matrices, or a vector, that no view gives"
    return learned_layer(reader, call, call.name, [source], values, note=note)


def _activations(reader: Reader, call: Call, inputs: Sequence[Value]) -> Value:
    op = "einsum" if call.name == "einsum" else "matmul"
    attributes = {"equation": call.arguments["equation"]} if op == "einsum" else {}
    return reader.emit("matmul", op, inputs, call=call, attributes=attributes)


def _addmm(reader: Reader, call: Call) -> Value:
    bias, first, second = reader.inputs(call)
    plain = call.arguments.get("beta", 1) == 1 and call.arguments.get("alpha", 1) == 1
    learned = isinstance(weight_of(reader, call, second)[0], Learned)
    if not plain or not learned or call.name in {"baddbmm", "addbmm"}:
        return reader.unknown(call, f"{call.name} of this form")
    return linear_layer(reader, call, first, second, bias, transposed=True)


def _einsum(reader: Reader, call: Call) -> Value:
    inputs = reader.inputs(call)
    equation = str(call.arguments["equation"]).replace(" ", "")
    learned = [isinstance(weight_of(reader, call, v)[0], Learned) for v in inputs]
    if sum(learned) == 0:
        return _activations(reader, call, inputs)
    found = _einsum_linear(equation, learned)
    if found is not None:
        place, transposed = found
        source, weight = inputs[1 - place], inputs[place]
        return linear_layer(reader, call, source, weight, transposed=transposed)
    if sum(learned) != 1 or len(inputs) != 2:
        return reader.unknown(call, f"einsum {equation} of several parameters")
    place = learned.index(True)
    return learned_layer(
        reader,
        call,
        "einsum",
        [inputs[1 - place]],
        {"weight": inputs[place]},
        attributes={"equation": equation, "place": place},
        note=f"einsum {equation}: no view gives this map",
    )


def _einsum_linear(equation: str, learned: Sequence[bool]) -> tuple[int, bool] | None:
    """Place of the weight and whether it is (inputs, outputs), for x W^T on the end."""
    terms, arrow, result = equation.partition("->")
    parts = terms.split(",")
    if not arrow or len(parts) != 2 or sum(learned) != 1:
        return None
    place = list(learned).index(True)
    source, weight = parts[1 - place], parts[place]
    if len(weight) != 2 or len(set(weight)) != 2:
        return None
    for inner, outer, transposed in (
        (weight[1], weight[0], False),
        (weight[0], weight[1], True),
    ):
        ends = source.endswith(inner) and source.count(inner) == 1
        if ends and outer not in source and result == source[:-1] + outer:
            return place, transposed
    return None


_HANDLERS = {
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "mv": _matmul,
    "dot": _matmul,
    "inner": _matmul,
    "addmm": _addmm,
    "addmv": _addmm,
    "baddbmm": _addmm,
    "addbmm": _addmm,
    "einsum": _einsum,
}
