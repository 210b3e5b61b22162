r"""Stored means: a normalisation in evaluation mode, and the bias that sees its mean.

It computes :math:`\gamma (x - m) / \sigma + \beta` with fixed m and sigma. What may be
scaled is x - m, and that is scaled iff the layer before scales its weight and moves its
bias b by b - m: the law has :math:`(b - m)^2` in place of :math:`b^2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor, nn

from spectrank.invariance.laws import Offset
from spectrank.model.graph import Graph, Node

_STORED = frozenset(["batch_norm", "instance_norm"])


@final
@dataclass(frozen=True, eq=False)
class Stored:
    """The mean that a normalisation takes off, and what takes part in it.

    Attributes:
        mean: (channels,) float64.
        bias: Name of the bias of the layer before; None where all means are zero.
    """

    mean: np.ndarray
    bias: str | None

    @property
    def offset(self) -> Offset | None:
        """What is taken off the bias; None where there is none."""
        if self.bias is None:
            return None
        return Offset(self.bias, np.arange(len(self.mean)), self.mean)


def stored_means(graph: Graph, model: nn.Module) -> dict[str, Stored]:
    """Find normalisations whose fixed mean a bias before them can follow.

    Args:
        graph: Of the model.
        model: The module, which holds the means.

    Returns:
        Id of the node to its mean. Left out are norms in training mode, without a
        module, and those with a mean other than zero whose input is not that of a
        layer with a learned bias of its own, or is read elsewhere too.
    """
    uses: dict[str, int] = {}
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.parameters.values():
            uses[name] = uses.get(name, 0) + 1
        for source in node.inputs:
            readers[source] = readers.get(source, 0) + 1
    found = {}
    for node in graph.nodes:
        mean = _mean(model, node)
        if mean is None:
            continue
        bias = _bias(graph, node, uses, readers)
        if not mean.any():
            found[node.id] = Stored(mean, None)
        elif bias is not None:
            found[node.id] = Stored(mean, bias)
    return found


def _mean(model: nn.Module, node: Node) -> np.ndarray | None:
    if node.op not in _STORED or node.attributes.get("training"):
        return None
    modules = dict(model.named_modules())
    mean = getattr(modules.get(node.name), "running_mean", None)
    if not isinstance(mean, Tensor) or mean.dim() != 1 or not mean.isfinite().all():
        return None
    return mean.detach().double().cpu().numpy().copy()


def _bias(
    graph: Graph, node: Node, uses: Mapping[str, int], readers: Mapping[str, int]
) -> str | None:
    layer = graph[node.inputs[0]]
    bias = layer.parameters.get("bias")
    plain = layer.op == "linear" or layer.op.startswith("conv")
    if layer.kind != "layer" or not plain or bias is None or bias in graph.frozen:
        return None
    part = "bias" in layer.attributes.get("parts", {})
    alone = readers.get(layer.id) == 1 and uses.get(bias) == 1 and not part
    return bias if alone else None
