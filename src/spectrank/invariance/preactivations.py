"""Which layers of a model a relu reads directly, found on its graph.

Only there is the sign of an output the pattern of a unit. Of a convolution before a
normalisation it is not: what the relu reads is the output of the normalisation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import nn

from spectrank.errors import DomainError
from spectrank.model.capture.choose import is_weight_layer
from spectrank.model.capture.tensors import moved
from spectrank.model.capture.unpack import ModelCall, Unpack, unpack_batch
from spectrank.model.graph import Graph, Node, graph

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
_OPS = frozenset(["relu", "leaky_relu", "prelu"])


@final
@dataclass(frozen=True)
class Chosen:
    """Modules to look at.

    Attributes:
        layers: Names: of layers, whose outputs a relu reads, and of relus that read
            something else.
        several: Relus that are called at several places, each with units of its own.
        skipped: Name of each other layer to the reason.
    """

    layers: tuple[str, ...]
    several: frozenset[str] = frozenset()
    skipped: Mapping[str, str] = field(default_factory=dict)


def preactivations(model: nn.Module, first: Any, unpack: Unpack | None) -> Chosen:
    """Modules whose outputs, or of relus whose inputs, are pre-activations.

    Args:
        model: A module.
        first: The first batch of the data; its shapes count.
        unpack: As in `spectrank.capture`; None for the customs.

    Returns:
        The modules. Of a model that cannot be traced its relus, each taken to be
        called at one place.

    Raises:
        DomainError: There is none.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    try:
        found = _on_graph(_traced(model, first, unpack), modules)
    except DomainError as error:
        relus = [name for name, m in modules.items() if isinstance(m, ACTIVATIONS)]
        why = f"the model cannot be traced, so what reads it is not known: {error}"
        found = Chosen(tuple(relus), skipped=_others(modules, set(), why))
    if not found.layers:
        raise DomainError(
            "patterns are those of units that a relu reads, got "
            f"{type(model).__name__} without a layer or module of that kind; name "
            "modules in layers= to have the signs of their outputs"
        )
    return found


def _traced(model: nn.Module, first: Any, unpack: Unpack | None) -> Graph:
    device = next((p.device for p in model.parameters()), None)
    raw = first if device is None else moved(first, device, None)
    call = unpack_batch(raw, model, keep_targets=False) if not unpack else unpack(raw)
    if not isinstance(call, ModelCall):
        # The pass over the data refuses it, with a way out.
        raise DomainError("unpack returns no ModelCall")
    return graph(model, tuple(call.args), kwargs=dict(call.kwargs) or None)


def _on_graph(found: Graph, modules: Mapping[str, nn.Module]) -> Chosen:
    readers: dict[str, list[Node]] = {node.id: [] for node in found.nodes}
    for node in found.nodes:
        for source in node.inputs:
            readers[source].append(node)
    by_id = {node.id: node for node in found.nodes}
    layers: list[str] = []
    reasons: dict[str, str] = {}
    for node in found.layers:
        if node.name in modules and is_weight_layer(modules[node.name]):
            read = [reader.op for reader in readers[node.id]]
            if _OPS.isdisjoint(read):
                reasons[node.name] = _reason(read)
            elif node.name not in layers:
                layers.append(node.name)
    # A layer that is called at several places is one of a relu at all of them.
    layers = [name for name in layers if name not in reasons]
    relus = [
        node.name
        for node in found.nodes
        if node.op in _OPS and isinstance(modules.get(node.name), ACTIVATIONS)
    ]
    places = Counter(relus)
    direct = {
        node.name
        for node in found.nodes
        if node.op in _OPS and by_id[node.inputs[0]].name in layers
    }
    own = [n for n in places if places[n] > 1 or n not in direct]
    several = frozenset(name for name in own if places[name] > 1)
    known = {*layers, *reasons}
    unseen = _others(modules, known, "the graph of the model has no step of that name")
    return Chosen((*layers, *own), several, reasons | unseen)


def _reason(read: list[str]) -> str:
    ops = ", ".join(dict.fromkeys(read)) or "nothing"
    return f"no relu reads its output, but {ops}: a sign of it is no pattern"


def _others(
    modules: Mapping[str, nn.Module], known: set[str], why: str
) -> dict[str, str]:
    layers = (name for name, m in modules.items() if is_weight_layer(m))
    return {name: why for name in layers if name not in known}
