"""Handlers of the calls between the layers: arithmetic, reshapes, pools, norms."""

from __future__ import annotations

from typing import Any

from torch import fx

from spectrank.model.graph.calls import Call, shape_of
from spectrank.model.graph.catalogue import (
    CASTS,
    DROPOUTS,
    ELEMENTWISE,
    FACTORIES,
    NORMS,
    POOLS,
    RESHAPES,
    SAME,
    SOFTMAXES,
)
from spectrank.model.graph.parameters import Learned
from spectrank.model.graph.reader import Reader, Ref, Value
from spectrank.model.graph.shapes import form, from_end

_CUTS = frozenset(
    """
    chunk split split_with_sizes unsafe_chunk unsafe_split tensor_split
    """.split()  # noqa: SIM905
)


def step(reader: Reader, call: Call) -> Value:
    """Read a call that is no layer.

    Args:
        reader: Where to put the nodes.
        call: The call.

    Returns:
        Its value; None where the call is of no kind known here.
    """
    name = call.name
    for names, handler in _HANDLERS:
        if name in names:
            return handler(reader, call)
    return None


def _first(reader: Reader, call: Call) -> Value:
    return reader.inputs(call)[0]


def _same(reader: Reader, call: Call) -> Value:
    return _first(reader, call)


def _cast(reader: Reader, call: Call) -> Value:
    source = next(v for v in call.arguments.values() if isinstance(v, fx.Node))
    if source.meta["val"].dtype == call.result.dtype:
        return _first(reader, call)
    dtype = str(call.result.dtype).removeprefix("torch.")
    value = _first(reader, call)
    return reader.emit(
        "elementwise", "cast", [value], call=call, attributes={"dtype": dtype}
    )


def _dropout(reader: Reader, call: Call) -> Value:
    if not call.arguments["train"] or call.arguments["p"] == 0:
        return _first(reader, call)
    attributes = {"p": call.arguments["p"]}
    inputs = [_first(reader, call)]
    return reader.emit(
        "elementwise", call.name, inputs, call=call, attributes=attributes
    )


def _constant(reader: Reader, call: Call) -> Value:
    return reader.emit("constant", "constant", call=call, note=f"made by {call.name}")


def _filled(reader: Reader, call: Call) -> Value:
    inputs = reader.inputs(call)
    if not all(reader.fixed(value) for value in inputs[1:]):
        return reader.emit("reshape", "expand", inputs[1:], call=call)
    return _constant(reader, call)


def _copied(reader: Reader, call: Call) -> Value:
    target, source = reader.inputs(call)
    if reader.shape(source) == reader.shape(target) and isinstance(source, Ref):
        return source
    return reader.emit("reshape", "expand", [source], call=call)


def _elementwise(reader: Reader, call: Call) -> Value:
    attributes = call.attributes()
    # pow.Scalar and where.ScalarSelf call a number "self".
    if "self" in attributes:
        attributes["first"] = attributes.pop("self")
    op = "detach" if call.name == "detach" else call.name
    inputs = reader.inputs(call)
    return reader.emit("elementwise", op, inputs, call=call, attributes=attributes)


def _pool(reader: Reader, call: Call) -> Value:
    if len(reader.inputs(call)) == 2 and call.name in {"max", "min"}:
        op = "maximum" if call.name == "max" else "minimum"
        return reader.emit("elementwise", op, reader.inputs(call), call=call)
    if len(reader.inputs(call)) != 1:
        return reader.unknown(call, f"{call.name} of several tensors")
    attributes = call.attributes()
    before = reader.shape(_first(reader, call))
    dim = attributes.get("dim")
    if dim is not None and before is not None:
        dims = dim if isinstance(dim, list) else [dim]
        attributes["dim"] = sorted(from_end(axis, len(before)) for axis in dims)
    if "kernel_size" in attributes:
        attributes.setdefault("stride", attributes["kernel_size"])
        if not attributes["stride"]:
            attributes["stride"] = attributes["kernel_size"]
    op = call.name.removesuffix("_with_indices")
    inputs = reader.inputs(call)
    return reader.emit("pool", op, inputs, call=call, attributes=attributes)


def _softmax(reader: Reader, call: Call) -> Value:
    before = reader.shape(_first(reader, call)) or ()
    attributes = {"dim": from_end(call.arguments["dim"], len(before))}
    inputs = reader.inputs(call)
    return reader.emit("softmax", call.name, inputs, call=call, attributes=attributes)


def _norm(reader: Reader, call: Call) -> Value:
    parameters, affine = {}, ("weight", "bias")
    for role in affine:
        argument = call.arguments.get(role)
        if argument is None:
            continue
        value = reader.value(argument)
        if not isinstance(value, Learned) or not value.whole:
            what = "is computed" if isinstance(value, Ref) else "is part of another"
            return reader.unknown(call, f"the {role} of the normalisation {what}")
        parameters[role] = value.name
    source = call.arguments.get("input", call.arguments.get("self"))
    attributes = call.attributes()
    if call.name in {"batch_norm", "instance_norm"}:
        attributes.setdefault("training", False)
        if call.name == "instance_norm":
            attributes["training"] = bool(attributes.pop("use_input_stats", False))
    names = [name.rpartition(".")[0] for name in parameters.values()]
    return reader.emit(
        "norm",
        call.name,
        [reader.value(source)],
        call=call,
        name=names[0] if names else None,
        parameters=parameters,
        attributes=attributes,
    )


def _attention(reader: Reader, call: Call) -> Value:
    return reader.emit(
        "attention",
        call.name,
        reader.inputs(call),
        call=call,
        attributes=call.attributes("attn_mask"),
    )


def _reshape(reader: Reader, call: Call) -> Value:
    inputs = reader.inputs(call)
    before, after = reader.shape(inputs[0]), shape_of(call.result)
    arguments = {
        key: value
        for key, value in call.attributes().items()
        if key not in {"self", "tensors"}
    }
    # Defaults matter here: a slice starts at the first axis.
    for key, value in call.defaults.items():
        if isinstance(value, int):
            arguments.setdefault(key, value)
    if before is None:
        return reader.unknown(call, "the size of its input is not known")
    if call.name in _CUTS or call.name == "unbind":
        return _cut(reader, call, arguments, before)
    if after is None:
        return reader.unknown(call, "the size of its result depends on the data")
    if call.name == "cat":
        # A cache starts as an empty tensor: nothing is joined then.
        full = [v for v in inputs if 0 not in (reader.shape(v) or (0,))]
        inputs = full or inputs
        if len(inputs) == 1:
            return inputs[0]
    op, attributes = form(call.name, arguments, before, after)
    if op == "same":
        return inputs[0]
    return reader.emit("reshape", op, inputs, call=call, attributes=attributes)


def _cut(
    reader: Reader, call: Call, arguments: dict[str, Any], before: tuple[int, ...]
) -> Value:
    source = _first(reader, call)
    axis = from_end(arguments.get("dim", 0), len(before))
    found: list[Value] = []
    start = 0
    for item in call.result:
        shape = tuple(item.shape)
        if call.name == "unbind":
            op, attributes = "select", {"dim": axis, "index": len(found)}
        else:
            stop = start + shape[axis]
            op, attributes = "slice", {"dim": axis, "start": start, "stop": stop}
            start = stop
        piece = source
        if shape != before:
            piece = reader.emit(
                "reshape",
                op,
                [source],
                name=call.path,
                attributes=attributes,
                shape=shape,
            )
        found.append(piece)
    return found


_HANDLERS: tuple[tuple[frozenset[str], Any], ...] = (
    (SAME, _same),
    (CASTS, _cast),
    (DROPOUTS, _dropout),
    (FACTORIES, _constant),
    (ELEMENTWISE, _elementwise),
    (RESHAPES, _reshape),
    (frozenset(["fill", "zero"]), _filled),
    (frozenset(["copy"]), _copied),
    (POOLS, _pool),
    (SOFTMAXES, _softmax),
    (NORMS, _norm),
    (frozenset(["scaled_dot_product_attention"]), _attention),
)
