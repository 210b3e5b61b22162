"""The walk through a traced program: every call, regions inside it included."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import ConstantArgument, InputKind

from spectrank.model.graph.calls import Call, bind, nodes_in, shape_of, storage_of
from spectrank.model.graph.catalogue import ASSERTIONS
from spectrank.model.graph.parameters import Layout, Learned
from spectrank.model.graph.reader import Reader, Ref, Value
from spectrank.model.graph.tracing import PREFIX, Trace

Handle = Callable[[Reader, Call], Value]
# Regions under another mode of autograd or autocast: their calls are read as others.
_REGIONS = frozenset(["wrap_with_set_grad_enabled", "wrap_with_autocast"])


def read_program(
    reader: Reader, trace: Trace, handle: Handle, prefix: str = ""
) -> list[Value]:
    """Read a whole trace.

    Args:
        reader: Where to put the nodes.
        trace: The program and the names of its inputs.
        handle: Gives the value of a call.
        prefix: Of module paths and parameter names, with its dot.

    Returns:
        The values of the outputs.
    """
    program = trace.program
    names = iter(trace.input_names)
    given: dict[tuple[int | None, Layout], Ref] = {}
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    specs = program.graph_signature.input_specs
    for node, spec in zip(placeholders, specs, strict=True):
        target = prefix + (spec.target or "").removeprefix(PREFIX)
        shape = shape_of(node.meta.get("val"))
        value: Value
        if spec.kind == InputKind.USER_INPUT:
            name = next(names)
            if isinstance(spec.arg, ConstantArgument):
                value = spec.arg.value
            else:
                value = _input(reader, node, name, given)
        elif target in reader.names.first:
            first = reader.names.first[target]
            value = reader.bind_parameter(first, node.meta.get("val"))
        else:
            value = reader.emit("constant", "constant", name=target, shape=shape)
        reader.set(node, value)
    return _walk(reader, program.graph_module, handle, prefix, prefix.removesuffix("."))


def _input(
    reader: Reader,
    node: fx.Node,
    name: str,
    given: dict[tuple[int | None, Layout], Ref],
) -> Ref:
    """An input; a tensor that was passed twice is one input, whatever its names."""
    result = node.meta["val"]
    key = (storage_of(result), Layout.of(result))
    if key in given:
        before = reader.nodes[given[key].id]
        known = f"{before.note}, {name}" if before.note else f"passed again as {name}"
        reader.nodes[before.id] = replace(before, note=known)
        return given[key]
    found = reader.emit("input", "input", name=name, shape=shape_of(result))
    if key[0] is not None:
        given[key] = found
    return found


def splice(
    reader: Reader, trace: Trace, value: Value, path: str, handle: Handle
) -> Value:
    """Read the trace of one layer that has one input and one output.

    Args:
        reader: Where to put the nodes.
        trace: Of the layer by itself.
        value: What it reads.
        path: Where the layer stands in the model.
        handle: Gives the value of a call.

    Returns:
        Its output.
    """
    before = set(reader.nodes)
    [found] = read_program(reader, trace, handle, f"{path}." if path else "")
    # The input of the layer's own trace gives way to what it reads here.
    [own] = [
        id_
        for id_, node in reader.nodes.items()
        if node.kind == "input" and id_ not in before
    ]
    del reader.nodes[own]
    for id_, node in reader.nodes.items():
        if own in node.inputs:
            inputs = tuple(value.id if i == own else i for i in node.inputs)
            reader.nodes[id_] = replace(node, inputs=inputs)
    return value if found == Ref(own) else found


def _walk(
    reader: Reader, module: fx.GraphModule, handle: Handle, prefix: str, path: str
) -> list[Value]:
    for node in module.graph.nodes:
        if node.op == "output":
            return [reader.value(item) for item in node.args[0]]
        if node.op == "get_attr":
            reader.set(node, _attribute(reader, module, str(node.target)))
        elif node.op == "call_function":
            here = _module_path(node, prefix, path)
            reader.set(node, _call(reader, node, handle, prefix, here))
    return []


def _attribute(reader: Reader, module: fx.GraphModule, target: str) -> Value:
    found = operator.attrgetter(target)(module)
    if isinstance(found, Tensor):
        return reader.emit(
            "constant", "constant", name=target, shape=tuple(found.shape)
        )
    return found


def _call(
    reader: Reader, node: fx.Node, handle: Handle, prefix: str, path: str
) -> Value:
    if node.target is operator.getitem:
        return _getitem(reader, node, path)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return _region(reader, node, handle, prefix, path)
    if not hasattr(node.target, "_schema"):
        return _foreign(reader, node, list(node.args), path, "no operator of torch")
    call = bind(node, path)
    if call.name in ASSERTIONS:
        return None
    shown = reader.shown(call)
    if shown is not None:
        return shown
    value = handle(reader, call)
    if call.written is not None:
        reader.write(call.written, value)
    return value


def _foreign(
    reader: Reader, node: fx.Node, arguments: Sequence[Any], path: str, reason: str
) -> Value:
    name, result = str(node.target), node.meta.get("val")
    call = Call(name, name, {"arguments": arguments}, {}, None, result, path)
    return reader.unknown(call, reason)


def _getitem(reader: Reader, node: fx.Node, path: str) -> Value:
    value, index = reader.value(node.args[0]), node.args[1]
    if isinstance(value, list):
        return value[index]  # type: ignore[index]
    return reader.emit(
        "reshape",
        "getitem",
        [value],
        name=path,
        attributes={"index": index},
        shape=shape_of(node.meta.get("val")),
    )


def _region(
    reader: Reader, node: fx.Node, handle: Handle, prefix: str, path: str
) -> Value:
    name = str(node.target)
    graphs = [
        i
        for i, item in enumerate(node.args)
        if isinstance(item, fx.Node) and isinstance(reader.value(item), fx.GraphModule)
    ]
    if name not in _REGIONS or len(graphs) != 1:
        others = [
            item
            for item in nodes_in(list(node.args))
            if not isinstance(reader.value(item), fx.GraphModule)
        ]
        reason = "control flow, or another operator that takes functions"
        return _foreign(reader, node, others, path, reason)
    number = graphs[0]
    module = reader.value(node.args[number])
    inside = [item for item in module.graph.nodes if item.op == "placeholder"]
    for place, argument in zip(inside, node.args[number + 1 :], strict=True):
        reader.set(place, reader.value(argument))
    values = _walk(reader, module, handle, prefix, path)
    if name == "wrap_with_set_grad_enabled" and node.args[0] is False:
        return [_detached(reader, value, path) for value in values]
    return values


def _detached(reader: Reader, value: Value, path: str) -> Value:
    if not isinstance(value, Ref | Learned) or reader.fixed(value):
        return value
    shape = reader.shape(value)
    return reader.emit("elementwise", "detach", [value], name=path, shape=shape)


def _module_path(node: fx.Node, prefix: str, default: str) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return default
    # A module called twice is told apart as "name@1".
    path = str(list(stack.values())[-1][0]).split("@")[0]
    own = "" if path == PREFIX[:-1] else path.removeprefix(PREFIX)
    return (prefix + own).removesuffix(".")
