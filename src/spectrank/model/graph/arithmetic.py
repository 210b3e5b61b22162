"""Handlers of sums and products: skips, learned scales and shifts, gates."""

from __future__ import annotations

import math
from typing import Any

from spectrank.model.graph.calls import Call, shape_of
from spectrank.model.graph.parameters import Learned
from spectrank.model.graph.reader import Reader, Ref, Value


def arithmetic(reader: Reader, call: Call) -> Value:
    """Read a sum, difference, product, quotient, gate or learned slope.

    Args:
        reader: Where to put the nodes.
        call: The call.

    Returns:
        Its value; None where the call is none of these.
    """
    handler = _HANDLERS.get(call.name)
    return None if handler is None else handler(reader, call)


def _operands(reader: Reader, call: Call) -> tuple[Value, Value]:
    first, second = call.arguments["self"], call.arguments["other"]
    return reader.value(first), reader.value(second)


def _add(reader: Reader, call: Call) -> Value:
    first, second = _operands(reader, call)
    factor = call.arguments.get("alpha", 1)
    coefficients = {"add": (1, factor), "sub": (1, -factor), "rsub": (-factor, 1)}
    pair = coefficients[call.name]
    if not isinstance(second, Ref | Learned):
        return _with_number(reader, call, first, pair, second)
    shifted = _learned_operand(reader, call, first, second)
    if shifted is not None:
        source, vector, place = shifted
        if pair[1 - place] == 1:
            attributes = _vector_attributes(vector, shape_of(call.result) or ())
            if pair[place] != 1:
                attributes["coefficient"] = pair[place]
            return reader.emit(
                "shift",
                "shift",
                [source],
                call=call,
                parameters={"shift": vector.name},
                attributes=attributes,
            )
    attributes = {} if pair == (1, 1) else {"coefficients": list(pair)}
    return reader.emit("sum", "sum", [first, second], call=call, attributes=attributes)


def _with_number(
    reader: Reader, call: Call, value: Value, pair: tuple[Any, Any], number: Any
) -> Value:
    amount = pair[1] * number
    if pair[0] == 1 and amount == 0:
        return value
    attributes = {"amount": amount}
    if pair[0] != 1:
        attributes["factor"] = pair[0]
    return reader.emit("elementwise", "add", [value], call=call, attributes=attributes)


def _mul(reader: Reader, call: Call) -> Value:
    first, second = _operands(reader, call)
    if not isinstance(second, Ref | Learned):
        return first if second == 1 else _scaled(reader, call, first, second)
    found = _learned_operand(reader, call, first, second)
    if found is not None:
        source, vector, _ = found
        return reader.emit(
            "scale",
            "scale",
            [source],
            call=call,
            parameters={"scale": vector.name},
            attributes=_vector_attributes(vector, shape_of(call.result) or ()),
        )
    return reader.emit("product", "product", [first, second], call=call)


def _scaled(reader: Reader, call: Call, value: Value, factor: Any) -> Value:
    attributes = {"factor": factor}
    return reader.emit("elementwise", "mul", [value], call=call, attributes=attributes)


def _div(reader: Reader, call: Call) -> Value:
    first, second = _operands(reader, call)
    if call.arguments.get("rounding_mode") is not None:
        inputs = [v for v in (first, second) if isinstance(v, Ref | Learned)]
        return reader.emit(
            "elementwise",
            "div_rounded",
            inputs,
            call=call,
            attributes=call.attributes("self"),
        )
    if not isinstance(second, Ref | Learned):
        if second == 1:
            return first
        attributes = {"divisor": second}
        return reader.emit(
            "elementwise", "div", [first], call=call, attributes=attributes
        )
    return reader.emit("product", "div", [first, second], call=call)


def _learned_operand(
    reader: Reader, call: Call, first: Value, second: Value
) -> tuple[Ref, Learned, int] | None:
    """The activation, the learned vector and the place of the latter, if it is one."""
    # None where both or neither are parameters, where the activation is a constant, or
    # where it is the one that is repeated: x (n, 1) times w (d,) is a linear map.
    for source, vector, place in ((first, second, 1), (second, first, 0)):
        if not isinstance(source, Ref) or not isinstance(vector, Learned):
            continue
        same = reader.shape(source) == shape_of(call.result)
        if same and vector.vector and not reader.fixed(source):
            return source, vector, place
    return None


def _vector_attributes(vector: Learned, result: tuple[int, ...]) -> dict[str, Any]:
    """Axes of the result, from the end, along which the vector varies."""
    shape = vector.shown.shape
    axes = [i - len(shape) for i, size in enumerate(shape) if size != 1]
    if len(shape) == 1:
        # A vector of length one lies along the last axis all the same.
        axes = [-1] if result and shape[0] == result[-1] else axes
    return {"axes": axes, "size": math.prod(shape), **vector.attributes()}


def _glu(reader: Reader, call: Call) -> Value:
    inputs = reader.inputs(call)
    rank = len(reader.shape(inputs[0]) or (0,))
    dim = call.arguments.get("dim", -1)
    attributes = {"dim": dim if dim < 0 else dim - rank}
    return reader.emit("product", "glu", inputs, call=call, attributes=attributes)


def _prelu(reader: Reader, call: Call) -> Value:
    slope = reader.value(call.arguments["weight"])
    source = reader.value(call.arguments["self"])
    if not isinstance(slope, Learned) or not slope.whole:
        return reader.emit("elementwise", "prelu", [source, slope], call=call)
    return reader.emit(
        "elementwise",
        "prelu",
        [source],
        call=call,
        parameters={"slope": slope.name},
        attributes={"size": math.prod(slope.shown.shape)},
    )


_HANDLERS = {
    "add": _add,
    "sub": _add,
    "rsub": _add,
    "mul": _mul,
    "div": _div,
    "glu": _glu,
    "prelu": _prelu,
}
