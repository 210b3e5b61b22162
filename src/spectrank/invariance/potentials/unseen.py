"""What a normalisation right after a step does not see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectrank.model.graph import Graph, Node

# Norms that take away any factor common to all that they normalise.
_SCALE_FREE = frozenset(["rms_norm", "layer_norm"])
_CHANNELWISE = frozenset(["batch_norm", "instance_norm"])


def unseen(graph: Graph) -> dict[str, bool]:
    """Norms of which the division, and layers of which a tied or fixed bias is unseen.

    A bias of its own is left as it is: it is constant by itself, a linear law.

    Args:
        graph: Of a model.

    Returns:
        Id of the node to whether another use of the parameter is seen.
    """
    hidden = unseen_biases(graph)
    uses: dict[str, list[str]] = {}
    for node in graph.nodes:
        for name in node.parameters.values():
            uses.setdefault(name, []).append(node.id)
    found = dict.fromkeys(unseen_scales(graph), False)
    for id_ in hidden:
        bias = graph[id_].parameters.get("bias")
        if bias is not None and (len(uses[bias]) > 1 or bias in graph.frozen):
            found[id_] = not hidden.issuperset(uses[bias])
    return found


def unseen_scales(graph: Graph) -> frozenset[str]:
    """RMS norms whose division is not seen, because what reads them divides again.

    RMS(gamma * RMS(x)) is RMS(gamma * x) for eps = 0: the first norm multiplies all
    features of a position by one number.

    Args:
        graph: Of a model.

    Returns:
        Ids of the norms.
    """
    readers = _readers(graph)
    return frozenset(
        node.id
        for node in graph.nodes
        if node.op == "rms_norm"
        and readers.get(node.id)
        and all(
            after.op in _SCALE_FREE
            and after.attributes["normalized_shape"]
            == node.attributes["normalized_shape"]
            for after in readers[node.id]
        )
    )


def unseen_biases(graph: Graph) -> frozenset[str]:
    """Layers whose bias is subtracted again, because a norm per channel reads them.

    Args:
        graph: Of a model, traced.

    Returns:
        Ids of the layers.
    """
    readers = _readers(graph)
    return frozenset(
        node.id
        for node in graph.nodes
        if _per_channel(node)
        and readers.get(node.id)
        and all(
            after.op in _CHANNELWISE and after.attributes.get("training")
            for after in readers[node.id]
        )
    )


def _per_channel(node: Node) -> bool:
    """Whether the features of a layer are the channels of what reads it."""
    if node.kind != "layer" or node.shape is None:
        return False
    if node.op.startswith("conv"):
        return len(node.shape) == len(node.attributes["kernel_size"]) + 2
    return node.op == "linear" and len(node.shape) == 2


def _readers(graph: Graph) -> Mapping[str, Sequence[Node]]:
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for source in node.inputs:
            found.setdefault(source, []).append(node)
    return found
