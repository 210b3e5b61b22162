"""Where a layer's activation can be read: read from the graph, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from spectrank.errors import SpectrankError
from spectrank.model.capture.undisturbed import undisturbed
from spectrank.model.capture.unpack import ModelCall
from spectrank.model.graph import Graph, Node, graph
from spectrank.propagation.measurement.wording import told
from spectrank.random_nets import activation_gain

_MAPS: Mapping[str, Callable[..., Tensor]] = {
    name: getattr(nn.functional, name)
    for name in (
        *("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "mish", "relu6"),
        *("elu", "selu", "celu", "softplus", "hardtanh", "hardswish", "hardsigmoid"),
    )
}
_MAPS = {**_MAPS, "abs": torch.abs, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@final
@dataclass(frozen=True)
class Activation:
    """How to read what follows a layer.

    Attributes:
        module: Name of the module whose output it is; None where it is a function.
        function: Map from the layer's outputs to it; None where it is a module.
    """

    module: str | None = None
    function: Callable[[Tensor], Tensor] | None = None


@final
@dataclass(frozen=True)
class Sites:
    """What is known of the layers of a model.

    Attributes:
        activations: Module name of a layer to its activation.
        outputs: Layers whose outputs leave the model as they are.
        reasons: Module name of a layer to the reason why no activation is read.
        general: Why nothing is known of any layer; None where there is a graph.
    """

    activations: Mapping[str, Activation]
    outputs: frozenset[str]
    reasons: Mapping[str, str]
    general: str | None = None


def find_sites(model: nn.Module, layers: list[str], call: ModelCall) -> Sites:
    """Find the activation that follows each layer.

    Args:
        model: The user's model.
        layers: Module names of the captured layers.
        call: The first batch.

    Returns:
        What was found.
    """
    try:
        with undisturbed(model, "eval"):
            found = graph(model, tuple(call.args), kwargs=dict(call.kwargs))
    except SpectrankError as error:
        return Sites({}, frozenset(), {}, f"the model gives no graph: {told(error)}")
    activations: dict[str, Activation] = {}
    outputs, reasons = set(), {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in layers:
        nodes = _nodes_of(found, name, modules[name])
        if len(nodes) != 1:
            times = f"{len(nodes)} nodes" if nodes else "no node"
            reasons[name] = f"the graph has {times} for this layer"
            continue
        follower = _follow(found, nodes[0], modules)
        if isinstance(follower, Activation):
            activations[name] = follower
        elif follower is None:
            outputs.add(name)
        else:
            reasons[name] = follower
    return Sites(activations, frozenset(outputs), reasons)


def _nodes_of(found: Graph, name: str, module: nn.Module) -> list[Node]:
    weights = {
        f"{name}.{own}" if name else own
        for own, _ in module.named_parameters(recurse=True)
    }
    return [
        node
        for node in found.layers
        if node.name == name or weights & set(node.parameters.values())
    ]


def _follow(
    found: Graph, node: Node, modules: Mapping[str, nn.Module]
) -> Activation | str | None:
    """The activation; None where the outputs leave the model; else a reason."""
    plain = True
    while True:
        readers = [other for other in found.nodes if node.id in other.inputs]
        if len(readers) != 1:
            return f"the outputs of {node.op} are read by {len(readers)} steps"
        (node,) = readers
        if node.kind == "output":
            return None
        if node.kind in {"elementwise", "product"}:
            break
        if node.kind not in {"norm", "scale", "shift", "reshape"}:
            return f"a {node.op} and no activation follows"
        plain = plain and node.kind == "reshape" and node.op in {"reshape", "flatten"}
    if node.op == "prelu" or _known(node):
        module = modules.get(node.name)
        uses = [n for n in found.nodes if n.name == node.name and n.op == node.op]
        if module is not None and not list(module.children()) and len(uses) == 1:
            return Activation(module=node.name)
        if plain and node.op in _MAPS:
            attributes = {k: v for k, v in node.attributes.items() if k != "inplace"}
            return Activation(function=_map(node.op, attributes))
        return f"the {node.op} that follows is neither a module of its own nor next"
    return f"a {node.op} and no known activation follows"


def _known(node: Node) -> bool:
    if node.op in _MAPS:
        return True
    try:
        activation_gain(node.op)
    except SpectrankError:
        return False
    return node.op != "linear"


def _map(op: str, attributes: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    function = _MAPS[op]
    return lambda z: function(z, **attributes)
