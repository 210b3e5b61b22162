"""Handlers of layers with a weight of their own form: kernels, tables, bilinear."""

from __future__ import annotations

import math

from spectrank.model.graph.calls import Call, nodes_in, shape_of
from spectrank.model.graph.layers import learned_layer, weight_of
from spectrank.model.graph.nodes import MatrixView
from spectrank.model.graph.parameters import Learned
from spectrank.model.graph.reader import Reader, Ref, Value


def kernel(reader: Reader, call: Call) -> Value:
    """Read a convolution, an embedding, a look-up in a learned table or a bilinear.

    Args:
        reader: Where to put the node.
        call: The call.

    Returns:
        Its value; None where the call is none of these.
    """
    handler = _HANDLERS.get(call.name)
    return None if handler is None else handler(reader, call)


def _convolution(reader: Reader, call: Call) -> Value:
    source, weight, bias = [
        reader.value(call.arguments[key]) for key in ("input", "weight", "bias")
    ]
    attributes = call.attributes("bias")
    transposed = bool(attributes.pop("transposed", "transpose" in call.name))
    value = weight_of(reader, call, weight)[0]
    op, rank = call.name, len(reader.shape(value) or ()) - 2
    if op == "convolution":
        op = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    matrices: tuple[MatrixView, ...] = ()
    note = None
    if isinstance(value, Learned) and not value.whole:
        return reader.unknown(call, f"the kernel is a part of {value.name}")
    if isinstance(value, Learned) and transposed:
        note = "transposed convolution: no view gives (outputs, inputs)"
    elif isinstance(value, Learned):
        shape = value.shown.shape
        unfolded = (shape[0], math.prod(shape[1:]))
        matrices = (MatrixView(value.name, "conv-unfolded", unfolded),)
    if isinstance(value, Learned):
        attributes["kernel_size"] = list(value.shown.shape[2:])
    return learned_layer(
        reader,
        call,
        op,
        [source],
        {"weight": weight, "bias": bias},
        matrices=matrices,
        attributes=attributes,
        note=note,
    )


def _embedding(reader: Reader, call: Call) -> Value:
    weight = reader.value(call.arguments["weight"])
    value = weight_of(reader, call, weight)[0]
    others = [
        reader.value(node)
        for key, item in call.arguments.items()
        if key != "weight"
        for node in nodes_in(item)
    ]
    matrices: tuple[MatrixView, ...] = ()
    if isinstance(value, Learned) and value.whole:
        rows, columns = value.shown.shape
        matrices = (MatrixView(value.name, "embedding", (rows, columns)),)
    return learned_layer(
        reader,
        call,
        call.name,
        others,
        {"weight": weight},
        matrices=matrices,
        attributes=call.attributes(),
    )


def _bilinear(reader: Reader, call: Call) -> Value:
    values = {key: reader.value(call.arguments[key]) for key in ("weight", "bias")}
    inputs = [reader.value(call.arguments[key]) for key in ("input1", "input2")]
    note = "one matrix per output: no view gives them"
    return learned_layer(reader, call, "bilinear", inputs, values, note=note)


def _indexed_table(reader: Reader, call: Call) -> Value:
    """Read ``table[ids]`` on a learned table as the embedding it is."""
    table = reader.value(call.arguments["self"])
    if call.name == "index":
        indices = call.arguments["indices"]
        alone = len(indices) == 1 and indices[0] is not None
        ids = reader.value(indices[0]) if alone else None
    else:
        ids = reader.value(call.arguments["index"])
        alone = call.arguments["dim"] == 0
    if not isinstance(table, Learned) or not alone or len(table.shown.shape) != 2:
        return None
    if not table.whole or not isinstance(ids, Ref) or reader.shape(ids) is None:
        return None
    result = shape_of(call.result)
    if result != (*(reader.shape(ids) or ()), table.shown.shape[1]):
        # A boolean mask picks rows, and how many depends on the data.
        return None
    shape = (table.shown.shape[0], table.shown.shape[1])
    matrix = MatrixView(table.name, "embedding", shape)
    return learned_layer(
        reader, call, "embedding", [ids], {"weight": table}, matrices=(matrix,)
    )


_HANDLERS = {
    "embedding": _embedding,
    "embedding_bag": _embedding,
    "bilinear": _bilinear,
    "index": _indexed_table,
    "index_select": _indexed_table,
    "convolution": _convolution,
    **{
        f"{name}{rank}d": _convolution
        for name in ("conv", "conv_transpose")
        for rank in (1, 2, 3)
    },
}
