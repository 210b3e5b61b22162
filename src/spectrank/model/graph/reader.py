"""Nodes in the making: values of a trace, constants, and writes in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from spectrank.model.graph.calls import Call, nodes_in, shape_of, storage_of
from spectrank.model.graph.catalogue import RESHAPES, SAME
from spectrank.model.graph.names import Names
from spectrank.model.graph.nodes import Kind, MatrixView, Node
from spectrank.model.graph.parameters import Layout, Learned


@dataclass(frozen=True)
class Ref:
    """The value of a node."""

    id: str


# A traced value: a node, a parameter not yet used, several of them, or plain data.
Value = Any


@dataclass(frozen=True)
class Origin:
    """Parameters a value is computed from, whether an input is fed in, module path."""

    parameters: frozenset[str]
    fed: bool
    path: str


class Reader:
    """Builds nodes from calls, in order.

    Attributes:
        names: Names of the parameters of the model.
        nodes: Id to node, in an order in which inputs come first.
        origins: Id to what the value is computed from.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.nodes: dict[str, Node] = {}
        self.origins: dict[str, Origin] = {}
        self._values: dict[fx.Node, Value] = {}
        self._viewers: dict[int, list[fx.Node]] = {}
        self._memory: dict[str, int] = {}
        self._count = 0

    def emit(
        self,
        kind: Kind,
        op: str,
        inputs: Iterable[Value] = (),
        *,
        call: Call | None = None,
        name: str | None = None,
        parameters: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        shape: tuple[int, ...] | None = None,
        matrices: Sequence[MatrixView] = (),
        note: str | None = None,
    ) -> Ref:
        """Append a node.

        Args:
            kind: Its kind; what is computed from constants alone is a constant.
            op: Its operation.
            inputs: Values it reads; a parameter among them becomes a constant node.
            call: The call it stands for, which gives name and shape.
            name: Where it stands in the model.
            parameters: Role to name.
            attributes: Plain JSON.
            shape: Of its output, where the call does not tell.
            matrices: Of a layer.
            note: What else there is to know.

        Returns:
            The value of the node.
        """
        ids = [self.settle(value).id for value in inputs]
        path = call.path if call is not None else ""
        if shape is None and call is not None:
            shape = shape_of(call.result)
        held = dict(parameters or {})
        fixed = bool(ids) and not held and kind not in {"unknown", "output"}
        if fixed and all(self.fixed(Ref(id_)) for id_ in ids):
            note = f"computed from constants by {op}"
            kind, op, ids, attributes = "constant", "constant", [], {}
        id_ = f"v{self._count}"
        self._count += 1
        self.nodes[id_] = Node(
            id=id_,
            kind=kind,
            op=op,
            name=path if name is None else name,
            inputs=tuple(ids),
            parameters=held,
            attributes=dict(attributes or {}),
            shape=shape,
            matrices=tuple(matrices),
            note=note,
        )
        before = [self.origins[i] for i in ids]
        self.origins[id_] = Origin(
            frozenset(held.values()).union(*(item.parameters for item in before)),
            kind == "input" or any(item.fed for item in before),
            path,
        )
        return Ref(id_)

    def unknown(self, call: Call, reason: str) -> Ref:
        """Append a node that is not understood, with everything that it reads.

        Args:
            call: The call.
            reason: Why.

        Returns:
            Its value.
        """
        inputs = [v for v in self.inputs(call) if isinstance(v, Ref | Learned)]
        return self.emit(
            "unknown",
            call.name,
            inputs,
            call=call,
            attributes={"aten": call.aten, **call.attributes()},
            note=reason,
        )

    def settle(self, value: Value) -> Ref:
        """Make a value one that a node can read.

        Args:
            value: A node's value, or a parameter, which becomes a constant node.

        Returns:
            The value of a node.
        """
        if isinstance(value, Ref):
            return value
        assert isinstance(value, Learned), value
        return self.emit(
            "constant",
            "parameter",
            name=value.name,
            parameters={"value": value.name},
            attributes=value.attributes(),
            shape=value.shown.shape,
        )

    def fixed(self, value: Value) -> bool:
        """Whether a value is a constant that is not learned.

        Args:
            value: Any value.

        Returns:
            The answer; a parameter and what is computed from one is not.
        """
        if not isinstance(value, Ref):
            return False
        node = self.nodes[value.id]
        return node.kind == "constant" and not node.parameters

    def shape(self, value: Value) -> tuple[int, ...] | None:
        """Shape of a value.

        Args:
            value: A node's value or a parameter.

        Returns:
            Its shape; None where the trace does not tell.
        """
        if isinstance(value, Learned):
            return value.shown.shape
        return self.nodes[value.id].shape if isinstance(value, Ref) else None

    def value(self, argument: Any) -> Value:
        """The value of an argument of a call.

        Args:
            argument: A traced node, a list with such, or plain data.

        Returns:
            The values in the same structure; plain data as it is.
        """
        if isinstance(argument, fx.Node):
            return self._values[argument]
        if isinstance(argument, list | tuple):
            return [self.value(item) for item in argument]
        return argument

    def inputs(self, call: Call) -> list[Value]:
        """Values that a call reads, in the order of its arguments.

        Args:
            call: The call.

        Returns:
            The values.
        """
        return [
            self._values[node]
            for argument in call.arguments.values()
            for node in nodes_in(argument)
        ]

    def set(self, node: fx.Node, value: Value) -> None:
        """Remember the value of a traced node.

        Args:
            node: Of the trace.
            value: What it is.
        """
        self._values[node] = value
        storage = storage_of(node.meta.get("val"))
        if storage is not None:
            self._viewers.setdefault(storage, []).append(node)

    def bind_parameter(self, name: str, result: Any) -> Value:
        """The value of a parameter, known again later by its memory.

        Args:
            name: Its first name.
            result: What the trace knows of it.

        Returns:
            Its value.
        """
        storage = storage_of(result)
        if storage is None:
            held = {"value": name}
            return self.emit("constant", "parameter", name=name, parameters=held)
        full = Layout.of(result)
        self._memory[name] = storage
        return Learned(name, full, full)

    def shown(self, call: Call) -> Value:
        """The view of a parameter that a call makes, which is that parameter still.

        Args:
            call: The call.

        Returns:
            One or several views; None where the call does more than show.
        """
        inputs = self.inputs(call)
        if call.name not in RESHAPES | SAME or len(inputs) != 1:
            return None
        before = inputs[0]
        if not isinstance(before, Learned):
            return None
        results = call.result if isinstance(call.result, list | tuple) else None
        views = [
            Learned(before.name, before.full, Layout.of(item))
            for item in (results or [call.result])
            if storage_of(item) == self._memory[before.name]
        ]
        if results is not None:
            return views if len(views) == len(results) else None
        return views[0] if views else None

    def write(self, written: fx.Node, value: Value) -> None:
        """Give the new value to every traced value that shows the same memory.

        Args:
            written: What was changed in place.
            value: Its value afterwards.
        """
        storage = storage_of(written.meta.get("val"))
        if not isinstance(value, Ref) or storage is None:
            return
        changed = Layout.of(written.meta["val"])
        for node in self._viewers.get(storage, [written]):
            before = self._values[node]
            if not isinstance(before, Ref | Learned):
                continue
            other = Layout.of(node.meta["val"])
            if node is written or other == changed:
                self._values[node] = value
                continue
            share = changed.share(other)
            if share > 0:
                self._values[node] = self.emit(
                    "reshape",
                    "overwrite",
                    [value] if share == 1 else [before, value],
                    name=self.nodes[value.id].name,
                    shape=other.shape,
                )
