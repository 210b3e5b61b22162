"""From calls to a graph: every handler in its order, then the rewrites."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from spectrank.model.graph.arithmetic import arithmetic
from spectrank.model.graph.calls import Call
from spectrank.model.graph.graph import Graph
from spectrank.model.graph.kernels import kernel
from spectrank.model.graph.layers import product
from spectrank.model.graph.names import Names
from spectrank.model.graph.packed import with_parts
from spectrank.model.graph.reader import Reader, Value
from spectrank.model.graph.recurrent import recurrent
from spectrank.model.graph.rewrites import renumbered, rewritten
from spectrank.model.graph.steps import step
from spectrank.model.graph.tracing import Trace
from spectrank.model.graph.walk import read_program


def handle(reader: Reader, call: Call) -> Value:
    """Read one call: a layer, a step, or an unknown.

    Args:
        reader: Where to put the nodes.
        call: The call.

    Returns:
        Its value.
    """
    for handler in (product, kernel, recurrent, arithmetic, step):
        value = handler(reader, call)
        if value is not None:
            return value
    return reader.unknown(call, f"{call.aten} is not an operator known here")


def read_trace(model: nn.Module, traced: Trace) -> Graph:
    """Make a graph of a trace.

    Args:
        model: The model that was traced.
        traced: Its trace.

    Returns:
        The graph.
    """
    reader = Reader(Names.of(model))
    values = read_program(reader, traced, handle)
    for name, value in zip(traced.output_names, values, strict=True):
        source = reader.settle(value)
        reader.emit("output", "output", [source], name=name, shape=reader.shape(source))
    return finished(type(model).__name__, reader, traced.dropped)


def finished(label: str, reader: Reader, dropped: Sequence[str] = ()) -> Graph:
    """Rewrite the nodes that were read and make the graph of them.

    Args:
        label: Class name of the model.
        reader: With all nodes.
        dropped: Outputs that are no tensors.

    Returns:
        The graph.
    """
    nodes = with_parts(renumbered(rewritten(reader.nodes).values()))
    names = reader.names
    held = {name for node in nodes for name in node.parameters.values()}
    # A parametrised weight stands for its factors.
    held |= {f for name in held for f in names.computed.get(name, ())}
    return Graph(
        label=label,
        nodes=nodes,
        tied={name: all_ for name, all_ in names.aliases.items() if len(all_) > 1},
        frozen=names.frozen,
        unused=tuple(name for name in names.aliases if name not in held),
        dropped=tuple(dropped),
    )
