"""Which output of one layer becomes which input of the next, entry by entry.

The steps of a link that move entries are run once more, on the numbers of the outputs
in place of their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spectrank.model.graph.nodes import Link, Node

# Of an input that no output of the source feeds.
NONE = -1
_SAME_PLACE = frozenset(
    ["elementwise", "norm", "scale", "shift", "sum", "product", "softmax"]
)


def feature_axis(node: Node) -> int | None:
    """Axis, from the end, along which the features of a layer lie.

    Args:
        node: Any node.

    Returns:
        -1 for a linear layer, an embedding or a recurrent layer, the channels of a
        convolution; None where the layer has no such axis.
    """
    if node.kind != "layer":
        return None
    if node.op.startswith("conv"):
        return -1 - len(node.attributes["kernel_size"])
    if node.op in {"einsum", "bmm"}:
        return None
    return int(node.attributes.get("axis", -1))


def follow(nodes: Mapping[str, Node], link: Link) -> Tensor | None:
    """Number of the source's output at each entry that arrives at the target.

    Args:
        nodes: Id to node.
        link: A link with its path.

    Returns:
        Integers of the shape of what the target reads, ``NONE`` where another value
        stands; None where a step on the way is not followed.
    """
    source = nodes[link.source]
    axis = feature_axis(source)
    if axis is None and source.kind in {"input", "constant"} and source.shape:
        axis = -1
    if axis is None or source.shape is None or len(link.path) != len(link.through):
        return None
    sizes = [1] * len(source.shape)
    sizes[axis] = source.shape[axis]
    numbers = torch.arange(sizes[axis], dtype=torch.int32).view(sizes)
    value: Tensor | None = numbers.expand(source.shape)
    before = link.source
    for id_, step in zip(link.path, link.through, strict=True):
        if value is None:
            return None
        value = _through(nodes, nodes[id_], before, step, value)
        before = id_
    return value


def _through(
    nodes: Mapping[str, Node], node: Node, before: str, step: str, value: Tensor
) -> Tensor | None:
    if node.shape is None:
        return None
    if node.kind == "reshape":
        return _moved(nodes, node, before, value)
    if node.kind == "pool":
        return _pooled(node, value)
    if node.kind == "attention":
        # Every query reads all values: what is kept is head and feature.
        if not step.endswith(":value") or value.shape[:-2] != node.shape[:-2]:
            return None
        return value[..., :1, :].expand(node.shape)
    if node.kind in _SAME_PLACE and node.op != "glu":
        try:
            return value.expand(node.shape)
        except RuntimeError:
            return None
    return None


def _pooled(node: Node, value: Tensor) -> Tensor | None:
    """Channels pass a pooling of positions; a reduction over features ends them."""
    assert node.shape is not None
    spatial = node.op.removeprefix("adaptive_")
    if spatial.startswith(("max_pool", "avg_pool", "upsample")):
        axes = list(range(-int(node.op[-2]), 0))
    elif node.op in {"mean", "sum", "amax", "amin", "max", "min"}:
        axes = node.attributes.get("dim", [])
    else:
        return None
    if not axes:
        return None
    low, high = value.amin(axes, keepdim=True), value.amax(axes, keepdim=True)
    if not torch.equal(low, high):
        return None
    if low.dim() != len(node.shape):
        low = low.squeeze(tuple(axes))
    return low.expand(node.shape)


def _moved(
    nodes: Mapping[str, Node], node: Node, before: str, value: Tensor
) -> Tensor | None:
    facts, shape = node.attributes, node.shape
    assert shape is not None
    if node.op in {"reshape", "flatten"}:
        return value.reshape(shape)
    if node.op == "permute":
        return value.permute(facts["dims"])
    if node.op == "slice":
        place = slice(facts["start"], facts["stop"], facts.get("step", 1))
        index = [slice(None)] * value.dim()
        index[facts["dim"]] = place
        return value[tuple(index)]
    if node.op == "select":
        return value.select(facts["dim"], facts["index"])
    if node.op == "expand":
        return value.expand(shape)
    if node.op == "flip":
        return value.flip(facts["dims"])
    if node.op in {"cat", "stack"}:
        parts = []
        for source in node.inputs:
            sizes = nodes[source].shape
            if sizes is None:
                return None
            filled = torch.full(sizes, NONE, dtype=torch.int32)
            parts.append(value if source == before else filled)
        join = torch.cat if node.op == "cat" else torch.stack
        return join(parts, facts.get("dim", 0))
    if node.op == "getitem" and facts["index"] == 0:
        # The outputs of a recurrent layer; its last states are stacked otherwise.
        return value if value.shape == torch.Size(shape) else None
    return None


def columns(nodes: Mapping[str, Node], link: Link) -> tuple[int, ...] | None:
    """For each input feature of the target the output feature of the source.

    Args:
        nodes: Id to node.
        link: A link with its path.

    Returns:
        One number per input feature (per channel of a convolution), -1 where another
        source stands; None where the features of the target do not each come from
        one feature of the source, or that is not known.
    """
    axis = feature_axis(nodes[link.target])
    numbers = follow(nodes, link) if axis is not None else None
    if numbers is None or axis is None or numbers.dim() < -axis or not numbers.numel():
        return None
    flat = numbers.movedim(axis, -1).reshape(-1, numbers.shape[axis])
    if not bool((flat == flat[0]).all()):
        return None
    return tuple(int(number) for number in flat[0])


def rows(
    nodes: Mapping[str, Node], steps: Sequence[Link]
) -> dict[str, tuple[int, int]] | None:
    """Rows of a packed projection that become query, key and value.

    Args:
        nodes: Id to node.
        steps: Ways from the projection to the three roles, each cut before the
            attention: ``reason`` holds the role.

    Returns:
        Role to first and one past the last row; None where they are not three ranges.
    """
    found: dict[str, set[int]] = {}
    for way in steps:
        numbers = follow(nodes, way)
        if numbers is None:
            return None
        own = set(torch.unique(numbers).tolist()) - {NONE}
        found.setdefault(way.reason or "", set()).update(own)
    ranges = {
        role: (min(own), max(own) + 1)
        for role, own in found.items()
        if own and len(own) == max(own) + 1 - min(own)
    }
    return ranges if len(ranges) == len(found) else None
