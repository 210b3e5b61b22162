"""What a tensor of an ONNX graph is, told by the operators that read it.

The orientation of a matrix is not in its name: MatMul takes x @ W, so W is stored
(inputs, outputs); Gemm says ``transB``; a kernel says its group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from spectrank.model.formats.onnx_blocks import Blocks, read_blocks

# Operators that hand a tensor on with the same matrix, and those that turn it over.
_SAME = frozenset({"Identity", "Cast", "CastLike"})
# The same of their first input only; torch expands the first states of an LSTM.
_FIRST = frozenset({"DequantizeLinear", "Expand"})
_MAX_DEPTH = 16
# Places of the matrices, and of the kernel, among the inputs.
_MATMULS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "FusedConv": 1, "QLinearConv": 3}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
# Inputs of these with two or three axes that multiply nothing.
_NO_MATRIX = {3: "biases", 5: "first state", 6: "first cell state", 7: "peepholes"}
_SCALED = {
    # Operator: position of the codes -> positions of their scale and zero point.
    "DequantizeLinear": {0: (1, 2)},
    "QLinearMatMul": {0: (1, 2), 3: (4, 5)},
    "QLinearConv": {3: (4, 5)},
}


@final
@dataclass(frozen=True)
class Codes:
    """Where the scale and zero point of quantised values are.

    Attributes:
        scale: Name of the tensor of scales.
        zero_point: Name of the tensor of zero points; None for zero.
        axis: Axis along which both run where they are no scalars.
        block_size: Values per scale along the axis; 0 for all.
    """

    scale: str
    zero_point: str | None
    axis: int
    block_size: int = 0


@final
@dataclass
class Reading:
    """How the operators of a graph read one tensor.

    Attributes:
        views: Views that its readers prescribe.
        reasons: Why it is no matrix, or not as one piece, by readers that say so.
        codes: Scales, where it is quantised.
        blocks: The same for the packed weight of a ``MatMulNBits``.
    """

    views: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    codes: Codes | None = None
    blocks: Blocks | None = None


def nodes_of(graph: Any) -> Iterator[Any]:
    """Every node of a graph and of the graphs in its attributes.

    Args:
        graph: A GraphProto.

    Yields:
        NodeProtos.
    """
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)
            for inner in attribute.graphs:
                yield from nodes_of(inner)


def graphs_of(graph: Any) -> Iterator[Any]:
    """A graph and every graph in the attributes of its nodes.

    Args:
        graph: A GraphProto.

    Yields:
        GraphProtos.
    """
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for each in (*inner, *attribute.graphs):
                yield from graphs_of(each)


def read_graph(
    graph: Any, ranks: Mapping[str, int], known: frozenset[str]
) -> dict[str, Reading]:
    """Readings of the tensors of a graph.

    Args:
        graph: A GraphProto.
        ranks: Number of dimensions of each tensor.
        known: Names of the tensors.

    Returns:
        Name to reading, for tensors that have readers.
    """
    readers: dict[str, list[tuple[Any, int]]] = {}
    for node in nodes_of(graph):
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, place))
    found: dict[str, Reading] = {}
    for name in known:
        reading = found.setdefault(name, Reading())
        _follow(name, ranks[name], False, readers, reading, 0)
        if reading.codes is None:
            reading.codes = _by_name(name, known)
    return found


def _by_name(name: str, known: frozenset[str]) -> Codes | None:
    # ONNX Runtime's dynamic quantisation multiplies the scale in after MatMulInteger.
    stem = name.removesuffix("_quantized")
    if stem == name or f"{stem}_scale" not in known:
        return None
    zero = f"{stem}_zero_point"
    return Codes(f"{stem}_scale", zero if zero in known else None, 1)


def _follow(
    name: str,
    rank: int,
    turned: bool,
    readers: Mapping[str, Sequence[tuple[Any, int]]],
    reading: Reading,
    depth: int,
) -> None:
    if depth > _MAX_DEPTH:
        return
    for node, place in readers.get(name, ()):
        kind = node.op_type
        scales = _SCALED.get(kind, {}).get(place)
        if scales is not None and reading.codes is None:
            reading.codes = _codes(node, scales)
        if kind in _SAME or (kind in _FIRST and place == 0):
            step = turned
        elif kind == "Transpose" and _swaps(node, rank):
            step = not turned
        else:
            _judge(node, place, rank, turned, reading)
            continue
        for output in node.output:
            _follow(output, rank, step, readers, reading, depth + 1)


def _codes(node: Any, places: tuple[int, int]) -> Codes | None:
    scale, zero = (node.input[i] if i < len(node.input) else "" for i in places)
    if not scale:
        return None
    default = 1 if node.op_type == "DequantizeLinear" else 0
    axis = _attribute(node, "axis", default)
    if node.op_type == "QLinearMatMul":
        axis = 1
    return Codes(scale, zero or None, axis, _attribute(node, "block_size", 0))


def _swaps(node: Any, rank: int) -> bool:
    order = list(range(rank))
    order[-2:] = order[-2:][::-1]
    return rank == 2 and _attribute(node, "perm", order) == order


def _judge(node: Any, place: int, rank: int, turned: bool, reading: Reading) -> None:
    """Add what one reader says of a tensor."""
    kind = node.op_type
    view: str | None = None
    if rank == 2 and kind == "Gemm" and place in {0, 1}:
        # A' B': B has the outputs as columns unless transB; A has them as rows.
        flag = _attribute(node, "transB" if place else "transA", 0)
        view = _oriented(bool(flag) == bool(place), turned)
    elif rank == 2 and place in _MATMULS.get(kind, ()):
        view = _oriented(place == 0, turned)
    elif place == _CONVOLUTIONS.get(kind):
        view = _kernel(node, "conv-unfolded", "conv-grouped")
    elif kind == "ConvTranspose" and place == 1:
        view = _kernel(node, "conv-transposed-unfolded", "conv-transposed-grouped")
    elif rank == 2 and kind == "Gather" and place == 0 and not turned:
        view = "embedding" if _attribute(node, "axis", 0) == 0 else None
    elif kind == "MatMulNBits" and place == 1:
        reading.blocks = read_blocks(node, _attribute)
    elif kind in _RECURRENT:
        view = _recurrent(kind, place, rank, reading)
    if view is not None:
        reading.views.add(view)


def _recurrent(kind: str, place: int, rank: int, reading: Reading) -> str | None:
    """Layout of the weights of a recurrent operator; a reason for its other inputs."""
    if place in _NO_MATRIX:
        reading.reasons.add(f"{_NO_MATRIX[place]} of an ONNX {kind}, not a matrix")
    if place not in {1, 2} or rank != 3:
        return None
    reading.reasons.add(
        f"{'input' if place == 1 else 'recurrent'} weights of an ONNX {kind}, "
        "directions and gates stacked; pass views={NAME: 'experts'} to measure "
        "the stack of each direction"
    )
    return f"{kind.lower()}-directions"


def _oriented(outputs_first: bool, turned: bool) -> str:
    return "linear" if outputs_first != turned else "linear-transposed"


def _kernel(node: Any, plain: str, grouped: str) -> str:
    groups = _attribute(node, "group", 1)
    return plain if groups == 1 else f"{grouped}:groups={groups}"


def _attribute(node: Any, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            ints = list(attribute.ints)
            return ints or int(attribute.i)
    return default
