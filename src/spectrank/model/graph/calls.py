"""One call of an ATen operator, its arguments bound to their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

# Arguments that say how or where a result is computed, not what it is.
_IGNORED = frozenset(
    {
        "dtype",
        "layout",
        "device",
        "pin_memory",
        "memory_format",
        "non_blocking",
        "copy",
        "inplace",
        "generator",
        "cudnn_enable",
        "cudnn_enabled",
        "momentum",
        "sparse",
        "scale_grad_by_freq",
        "implicit",
    }
)
_RENAMED = {
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "__xor__": "bitwise_xor",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "subtract": "sub",
    "negative": "neg",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "arctan": "atan",
    "matrix_H": "mH",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
    "special_expit": "sigmoid",
    "special_erf": "erf",
}


@dataclass(frozen=True)
class Call:
    """An operator and its arguments.

    Attributes:
        name: Base name, ``relu`` for ``aten::relu_``; with its namespace where that
            is not aten.
        aten: Full name, such as ``aten.relu_.default``.
        arguments: Every argument of the schema, defaults filled in.
        defaults: Those of the schema that have one.
        written: The node that the call changes in place, if it does.
        result: What the trace knows of the result: a tensor without values, a list of
            them, or None.
        path: Module path in which it was called.
    """

    name: str
    aten: str
    arguments: Mapping[str, Any]
    defaults: Mapping[str, Any]
    written: fx.Node | None
    result: Any
    path: str

    def attributes(self, *without: str) -> dict[str, Any]:
        """Arguments that are no tensors and differ from their default, as JSON.

        Args:
            *without: Names to leave out.

        Returns:
            Name to value.
        """
        kept = {}
        for name, value in self.arguments.items():
            if name in without or name in _IGNORED or holds_nodes(value):
                continue
            # eps is told always: it decides how exact a law of scale is.
            default = self.defaults.get(name) if name != "eps" else None
            if value == default or (
                isinstance(value, list)
                and value
                and all(item == default for item in value)
            ):
                continue
            if value is not None:
                kept[name] = as_json(value)
        return kept


def bind(node: fx.Node, path: str) -> Call:
    """Bind the arguments of a call in a traced graph.

    Args:
        node: A node that calls an operator with a schema.
        path: Module path in which it was called.

    Returns:
        The call.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    namespace, base = schema.name.split("::")
    arguments: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    written = None
    for number, item in enumerate(schema.arguments):
        if item.has_default_value():
            defaults[item.name] = item.default_value
        if number < len(node.args) and not item.kwarg_only:
            value: Any = node.args[number]
        else:
            value = node.kwargs.get(item.name, item.default_value)
        arguments[item.name] = value
        writes = item.alias_info is not None and item.alias_info.is_write
        if writes and isinstance(value, fx.Node):
            written = value
    if written is not None and base.endswith("_") and not base.endswith("__"):
        base = base[:-1]
    name = _RENAMED.get(base, base)
    if namespace != "aten":
        name = f"{namespace}::{base}"
    return Call(
        name=name,
        aten=str(node.target),
        arguments=arguments,
        defaults=defaults,
        written=written,
        result=node.meta.get("val"),
        path=path,
    )


def holds_nodes(value: Any) -> bool:
    """Whether an argument is a traced value or contains one.

    Args:
        value: Any argument.

    Returns:
        The answer.
    """
    if isinstance(value, list | tuple):
        return any(holds_nodes(item) for item in value)
    return isinstance(value, fx.Node)


def nodes_in(value: Any) -> list[fx.Node]:
    """Traced values in an argument, in order.

    Args:
        value: Any argument.

    Returns:
        The nodes.
    """
    if isinstance(value, list | tuple):
        return [node for item in value for node in nodes_in(item)]
    return [value] if isinstance(value, fx.Node) else []


def as_json(value: Any) -> Any:
    """Make an argument plain JSON.

    Args:
        value: Number, text, dtype, device or a list of these.

    Returns:
        The same in JSON; what JSON lacks becomes text.
    """
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        # JSON has no infinity.
        if isinstance(value, float) and value - value != 0.0:
            return str(value)
        return value
    return str(value).removeprefix("torch.")


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Shape of a traced result; None where it is no tensor of known shape.

    Args:
        value: What the trace knows of it.

    Returns:
        The shape.
    """
    if not isinstance(value, Tensor):
        return None
    shape = tuple(value.shape)
    return shape if all(type(size) is int for size in shape) else None


def storage_of(value: Any) -> int | None:
    """Identity of the memory of a traced result: equal for views of each other.

    Args:
        value: What the trace knows of it.

    Returns:
        A number; None where it is no dense tensor.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return None
    return int(value.untyped_storage()._cdata)
