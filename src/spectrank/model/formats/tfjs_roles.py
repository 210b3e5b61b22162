"""What the weights of a TensorFlow.js model are, told by its layers or its graph.

TensorFlow stores kernels with their outputs last. They are turned into torch's order,
so that every view of a kernel applies; of matrices the view says how they are stored.

    Conv (size, in, out)                  -> (out, in, size)
    Conv transposed (size, out, in)       -> (in, out, size)
    depthwise (size, channels, multiplier) -> (channels * multiplier, 1, size)
    Dense (in, out)                       as it is, linear-transposed
    LSTM, GRU (in, gates * hidden)        as it is, gates i f g o and z r n

Source (stated): keras.layers of TensorFlow 2, attributes ``kernel``; operators Conv2D,
DepthwiseConv2dNative, Conv2DBackpropInput, MatMul of the TensorFlow API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from torch import Tensor

Json = Mapping[str, Any]
Kernel = Literal["conv", "transposed", "depthwise"]

_CONV = re.compile(r"^(Conv[123]D|Convolution[123]D)$")
_TURNED = re.compile(r"^Conv[123]DTranspose$")
_GATES = {"LSTM": "lstm-transposed", "GRU": "gru-zrn-transposed"}
_WRAPPED = re.compile(r"^(forward|backward)_")
_SAME = frozenset({"Identity", "ReadVariableOp", "StopGradient", "Cast"})
_CONVOLUTIONS: Mapping[str, Kernel] = {
    "Conv2D": "conv",
    "_FusedConv2D": "conv",
    "FusedConv2D": "conv",
    "Conv3D": "conv",
    "DepthwiseConv2dNative": "depthwise",
    "_FusedDepthwiseConv2dNative": "depthwise",
    "FusedDepthwiseConv2dNative": "depthwise",
    "Conv2DBackpropInput": "transposed",
    "Conv3DBackpropInputV2": "transposed",
}
_MATMULS = frozenset(
    {"MatMul", "_FusedMatMul", "FusedMatMul", "BatchMatMul", "BatchMatMulV2"}
)
_GATHERS = frozenset({"Gather", "GatherV2", "ResourceGather"})
_MAX_DEPTH = 16


@final
@dataclass(frozen=True)
class Role:
    """What becomes of one weight.

    Attributes:
        view: View or layout of the tensor once it is turned; None for none known.
        kernel: Which kernel it is, so that it is turned into torch's order.
        reason: Why it is skipped unless the user names a view for it.
        groups: Groups of a convolution.
    """

    view: str | None = None
    kernel: Kernel | None = None
    reason: str | None = None
    groups: int = 1

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in torch's order."""
        if self.kernel is None:
            return stored
        *size, a, b = stored
        if self.kernel == "depthwise":
            return (a * b, 1, *size)
        return (b, a, *size)

    def turn(self, stored: Tensor) -> Tensor:
        """The tensor in torch's order; shares memory but for several multipliers."""
        if self.kernel is None:
            return stored
        axes = range(stored.ndim - 2)
        a, b = stored.ndim - 2, stored.ndim - 1
        if self.kernel == "depthwise":
            # Output c * multiplier + q comes of channel c.
            turned = stored.permute(a, b, *axes)
            return turned.reshape(self.shape(tuple(stored.shape)))
        return stored.permute(b, a, *axes)


_NO_LAYER = Role(
    reason="no layer or operator known to read it tells its axes; "
    "pass views={NAME: 'linear'} or another view to measure it"
)


def layers_of(topology: Any) -> dict[str, Json]:
    """Every layer of a Keras model and of the models inside it.

    Args:
        topology: ``modelTopology`` of the file.

    Returns:
        Name to the layer; empty for a graph.
    """
    found: dict[str, Json] = {}
    left: list[Any] = [topology]
    while left:
        item = left.pop()
        if isinstance(item, list):
            left.extend(item)
            continue
        if not isinstance(item, dict):
            continue
        config = item.get("config")
        if isinstance(config, dict) and isinstance(item.get("class_name"), str):
            found.setdefault(str(config.get("name")), item)
        left.extend(item.values())
    return found


def role_in_layers(
    name: str, shape: tuple[int, ...], layers: Mapping[str, Json]
) -> Role:
    """What a weight of a Keras model is.

    Args:
        name: As in the manifest, such as ``conv2d_1/kernel``.
        shape: As stored.
        layers: From ``layers_of``.

    Returns:
        Its role; an empty one for vectors.
    """
    if len(shape) < 2:
        return Role()
    *path, last = name.split("/")
    # Bidirectional names the two copies of its layer forward_NAME and backward_NAME.
    parts = (x for part in reversed(path) for x in (part, _WRAPPED.sub("", part)))
    layer = next((layers[part] for part in parts if part in layers), {})
    kind, config = str(layer.get("class_name", "")), layer.get("config", {})
    if last == "depthwise_kernel":
        return _kernel("depthwise", shape)
    if last == "pointwise_kernel":
        return _kernel("conv", shape)
    if last == "embeddings" or (kind == "Embedding" and len(shape) == 2):
        return Role(view="embedding")
    if kind.startswith("DepthwiseConv") and last == "kernel":
        return _kernel("depthwise", shape)
    if last not in {"kernel", "recurrent_kernel"}:
        return _NO_LAYER
    if _TURNED.match(kind):
        return _kernel("transposed", shape)
    if _CONV.match(kind) and len(shape) >= 3:
        return _kernel("conv", shape, config.get("groups", 1))
    return _plain(kind, shape)


def _plain(kind: str, shape: tuple[int, ...]) -> Role:
    """A kernel with two axes, or of a layer that is not known."""
    if len(shape) != 2:
        return _NO_LAYER
    gates = next((x for name, x in _GATES.items() if kind.endswith(name)), None)
    return Role(view=gates or "linear-transposed")


def _kernel(kernel: Kernel, shape: tuple[int, ...], groups: Any = 1) -> Role:
    if not 3 <= len(shape) <= 5:
        return _NO_LAYER
    if kernel == "depthwise":
        channels = shape[-2]
        # A single channel is one plain kernel.
        view = f"conv-depthwise:groups={channels}" if channels else "conv-unfolded"
        return Role(view, kernel)
    if kernel == "transposed":
        return Role("conv-transposed-unfolded", kernel)
    if isinstance(groups, int) and groups > 1:
        return Role(f"conv-grouped:groups={groups}", kernel)
    return Role("conv-unfolded", kernel)


def readers_of(topology: Any) -> dict[str, list[tuple[Json, int]]]:
    """Which operators of a graph read what, and as which of their inputs.

    Args:
        topology: ``modelTopology`` of the file.

    Returns:
        Name of a node to its readers; empty for a Keras model.
    """
    nodes = topology.get("node") if isinstance(topology, dict) else None
    found: dict[str, list[tuple[Json, int]]] = {}
    for node in nodes if isinstance(nodes, list) else []:
        inputs = node.get("input") if isinstance(node, dict) else None
        for place, text in enumerate(inputs if isinstance(inputs, list) else []):
            found.setdefault(str(text).partition(":")[0], []).append((node, place))
    return found


def role_in_graph(
    name: str,
    shape: tuple[int, ...],
    readers: Mapping[str, Sequence[tuple[Json, int]]],
) -> Role:
    """What a weight of a graph is, by the operators that read it.

    Args:
        name: Of the node.
        shape: As stored.
        readers: From ``readers_of``.

    Returns:
        Its role; an empty one for vectors.
    """
    if len(shape) < 2:
        return Role()
    roles = {role for role in _roles(name, shape, readers, 0) if role is not None}
    return roles.pop() if len(roles) == 1 else _NO_LAYER


def _roles(
    name: str,
    shape: tuple[int, ...],
    readers: Mapping[str, Sequence[tuple[Json, int]]],
    depth: int,
) -> Iterator[Role | None]:
    for node, place in readers.get(name, ()) if depth <= _MAX_DEPTH else ():
        kind = str(node.get("op"))
        if kind in _SAME:
            yield from _roles(str(node.get("name")), shape, readers, depth + 1)
        elif place == 1 and kind in _CONVOLUTIONS:
            yield _kernel(_CONVOLUTIONS[kind], shape)
        elif kind in _MATMULS and place in {0, 1} and len(shape) == 2:
            flags = ("transpose_b", "adj_y") if place else ("transpose_a", "adj_x")
            turned = any(_flag(node, flag) for flag in flags)
            # A' B': B has the outputs as columns unless turned, A has them as rows.
            outputs_first = turned == bool(place)
            yield Role("linear" if outputs_first else "linear-transposed")
        elif kind in _GATHERS and place == 0 and len(shape) == 2:
            yield Role("embedding")


def _flag(node: Json, name: str) -> bool:
    attributes = node.get("attr")
    value = attributes.get(name) if isinstance(attributes, dict) else None
    return isinstance(value, dict) and value.get("b") is True
