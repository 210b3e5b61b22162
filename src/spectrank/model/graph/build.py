"""``graph``: which layer feeds which, read from a trace, a Sequential or a wiring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from spectrank.errors import ArgumentTypeError
from spectrank.model.graph.assemble import read_trace
from spectrank.model.graph.graph import Graph
from spectrank.model.graph.sequential import sequential_graph
from spectrank.model.graph.stated import stated_graph
from spectrank.model.graph.tracing import trace


def graph(
    model: nn.Module,
    example_input: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    wiring: Sequence[tuple[str, str] | tuple[str, str, Sequence[str]]] | None = None,
) -> Graph:
    """Read which layer of a model feeds which, and through what.

    With an input the model is traced once by torch.export, in the mode it is in, on
    tensors without values; hooks run. Control flow is that of this one trace. Without
    an input an ``nn.Sequential`` of layers of torch is read as it stands, and any
    other model needs ``wiring``. The model is left bit for bit as it was.

    Args:
        model: Any module.
        example_input: A tensor, a tuple of arguments or a mapping of keyword
            arguments; only shapes and dtypes count.
        kwargs: Further keyword arguments of the model.
        wiring: Links that the user states, instead of a trace: (source layer, target
            layer) or (source layer, target layer, [steps]), by module or parameter
            names; other names are inputs where nothing leads to them, and outputs.

    Returns:
        The graph; what is not understood is a node of kind ``unknown`` with a reason.

    Raises:
        ArgumentTypeError: The model is no module, or the input of a wrong type.
        DomainError: The model cannot be traced, or there is neither an input nor a
            wiring and it is no Sequential of known layers.
        UnknownNameError: ``wiring`` names nothing of the model.
    """  # noqa: DOC502 - raised by the functions called
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"a model graph is read from a torch.nn.Module, got "
            f"{type(model).__name__}; a state dict does not say what feeds what"
        )
    if wiring is not None:
        return stated_graph(model, wiring)
    if example_input is None and kwargs is None:
        return sequential_graph(model)
    given = () if example_input is None else example_input
    return read_trace(model, trace(model, given, kwargs or {}))
