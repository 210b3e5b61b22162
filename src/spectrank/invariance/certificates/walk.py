"""Steps down a graph from one linear map to the one that it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from spectrank.invariance.certificates.places import gathered, passes
from spectrank.invariance.certificates.stages import Part, Stage
from spectrank.model.graph import Graph, Node
from spectrank.model.graph.flow import feature_axis

_CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d"])
_TRANSPOSED = frozenset([f"conv_transpose{n}d" for n in (1, 2, 3)])


class Stop(Exception):
    """Why a tail ends; caught within the package, never shown to a user."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        self.reason = reason


@final
@dataclass(frozen=True)
class Found:
    """A stage and where it stands.

    Attributes:
        stage: The stage, its inputs not yet followed.
        readers: What reads its input: Z and Y of a block, W and the sum of x + W x.
        fork: Id of the node that they read.
    """

    stage: Stage
    readers: tuple[Node, ...]
    fork: str


def place_name(node: Node) -> str:
    """Name of a node for a row.

    Args:
        node: The node.

    Returns:
        Its name, else its operation and id.
    """
    return node.name or f"{node.op} ({node.id})"


class Walk:
    """One way down a graph.

    Attributes:
        graph: The graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._reused = graph.reused
        self._frozen = set(graph.frozen)
        self._readers: dict[str, list[str]] = {}
        for node in graph.nodes:
            for source in node.inputs:
                self._readers.setdefault(source, []).append(node.id)

    def stage(self, node: Node) -> Found:
        """Read the map that ends at a node: a layer, or the sum of a linear block.

        Args:
            node: The node.

        Returns:
            The stage.

        Raises:
            Stop: It is no such map.
        """
        if node.kind == "sum":
            if node.attributes:
                raise Stop(node, "a sum with coefficients other than one")
            return self._skip(node) or self._block(node)
        part = self._part(node)
        kind: Literal["dense", "conv"]
        kind = "dense" if node.op == "linear" else "conv"
        return Found(Stage(part.name, kind, part), (node,), node.inputs[0])

    def down(
        self, found: Found, *, through: Node | None = None
    ) -> tuple[Node, list[Node]]:
        """Follow the input of a stage through steps that treat all features alike.

        Args:
            found: The stage.
            through: A further step that may be passed.

        Returns:
            The first node that is no such step, and the steps from there on.

        Raises:
            Stop: The value is read elsewhere too, or a step is not linear.
        """
        expected = sorted(reader.id for reader in found.readers)
        node = self.graph[found.fork]
        steps: list[Node] = []
        while True:
            if sorted(self._readers[node.id]) != expected:
                others = len(self._readers[node.id]) - len(expected)
                raise Stop(node, f"its values are read {others} more times")
            if node.kind in {"layer", "sum"}:
                return node, steps[::-1]
            if not passes(node) and (through is None or node.id != through.id):
                raise Stop(node, _reason(node))
            steps.append(node)
            expected = [node.id]
            node = self.graph[node.inputs[0]]

    def joined(self, found: Found, source: Node, steps: Sequence[Node]) -> Stage:
        """The stage with the places of the features below it.

        Args:
            found: The stage.
            source: The layer, or the sum of the block, below.
            steps: Between the two, first to last.

        Returns:
            The stage, which now reads the features of the source.

        Raises:
            Stop: Features mix on the way.
        """
        below = self._axis(source)
        parts = {}
        moved = [step for step in steps if step.kind != "elementwise"]
        for reader in found.readers:
            axis = self._axis(reader)
            if below is None or axis is None:
                raise Stop(source, "it has no axis of features")
            gather = gathered(source, below, moved, reader, axis)
            if isinstance(gather, str):
                raise Stop(moved[-1] if moved else source, gather)
            parts[reader.id] = gather
        stage = found.stage
        if stage.main.skip and any(gather is not None for gather in parts.values()):
            raise Stop(source, "a skip past features that were moved")
        if stage.first is None:
            gather = parts[found.readers[0].id]
            return replace(stage, main=replace(stage.main, gather=gather))
        return replace(
            stage,
            main=replace(stage.main, gather=parts[found.readers[0].id]),
            first=replace(stage.first, gather=parts[found.readers[1].id]),
        )

    def _axis(self, node: Node) -> int | None:
        """Axis of the features of a layer, or of the layers that a sum adds."""
        if node.kind == "layer":
            return feature_axis(node)
        ends = [self.graph[source] for source in node.inputs]
        return feature_axis(next(end for end in ends if end.kind == "layer"))

    def _part(self, node: Node) -> Part:
        if node.kind != "layer" or not (
            node.op == "linear" or node.op in _CONVOLUTIONS | _TRANSPOSED
        ):
            raise Stop(node, _reason(node))
        if node.attributes.get("groups", 1) != 1:
            reason = "a grouped convolution: gaps are conserved within groups only"
            raise Stop(node, reason)
        weight, transposed = self._weight(node)
        names = list(node.parameters.values())
        if own := [name for name in names if name in self._frozen]:
            raise Stop(node, f"{', '.join(own)} is frozen, so the gap is not conserved")
        if own := [name for name in names if name in self._reused]:
            raise Stop(node, f"{', '.join(own)} is used more than once")
        biases = tuple(v for k, v in node.parameters.items() if k != "weight")
        if "weight" not in node.parameters or len(biases) > 1:
            raise Stop(node, "it is no matrix with at most one bias")
        return Part(node.name or weight, weight, biases, transposed)

    def _weight(self, node: Node) -> tuple[str, bool]:
        """Name of the parameter, and whether it is stored as (inputs, outputs)."""
        if node.op in _TRANSPOSED and "weight" in node.parameters:
            # No view of it is a matrix, but its kernels are those of any convolution.
            return node.parameters["weight"], True
        if len(node.matrices) != 1 or node.note is not None or len(node.inputs) != 1:
            raise Stop(node, node.note or "it is no single matrix")
        matrix = node.matrices[0]
        if matrix.rows is not None or matrix.part is not None:
            raise Stop(node, "its weight is a part of a packed parameter")
        return matrix.parameter, matrix.view == "linear-transposed"

    def _skip(self, node: Node) -> Found | None:
        """Read x + W x, W square; None where the sum is another one."""
        for fork, end in (node.inputs, node.inputs[::-1])[: len(node.inputs)]:
            layer = self.graph[end]
            alone = layer.kind == "layer" and self._readers[end] == [node.id]
            if not alone or layer.inputs != (fork,):
                continue
            tap = _tap(layer, self.graph[fork])
            if tap is not None:
                part = replace(self._part(layer), skip=True, tap=tap)
                kind: Literal["dense", "conv"]
                kind = "dense" if layer.op == "linear" else "conv"
                return Found(Stage(part.name, kind, part), (layer, node), fork)
        return None

    def _block(self, node: Node) -> Found:
        """U (Y x) + Z x, all three matrices or convolutions, with nothing between."""
        reason = "a sum that is not U Y x + Z x with three learned matrices"
        ends = [self.graph[source] for source in node.inputs]
        if len(ends) != 2 or any(end.kind != "layer" for end in ends):
            raise Stop(node, reason)
        for z, u in (ends, ends[::-1]):
            y = self.graph[u.inputs[0]]
            own = (u, z, y)
            alone = all(len(self._readers[end.id]) == 1 for end in own)
            dense = all(end.op == "linear" for end in own)
            linear = dense or all(end.op in _CONVOLUTIONS for end in own)
            # A sum that repeats one position at many is read as one elsewhere.
            same = dense or (u.shape is not None and u.shape == z.shape == node.shape)
            if alone and linear and same and y.inputs == z.inputs:
                main, first, second = self._part(z), self._part(y), self._part(u)
                name = node.name or f"{second.name} + {main.name}"
                kind: Literal["block", "conv block"] = (
                    "block" if dense else "conv block"
                )
                stage = Stage(name, kind, main, first, second)
                return Found(stage, (z, y), z.inputs[0])
        raise Stop(node, reason)


def _tap(layer: Node, source: Node) -> int | None:
    """Kernel position that reads an input where it stands; None where none does."""
    if layer.op == "linear":
        return 0
    sizes = layer.attributes.get("kernel_size")
    if layer.op not in _CONVOLUTIONS or sizes is None or layer.shape is None:
        return None
    steps = layer.attributes.get("stride", [1])
    # Of equal shapes, so as much padding on both sides as an odd kernel is wide.
    if layer.shape != source.shape or any(step != 1 for step in steps):
        return None
    if any(size % 2 == 0 for size in sizes):
        return None
    return int(math.prod(sizes)) // 2


def _reason(node: Node) -> str:
    if node.kind == "input":
        return "the tail reaches the input"
    if node.kind == "elementwise" and "dropout" in node.op:
        return "dropout masks features one by one: only the diagonal is conserved"
    if node.kind == "unknown":
        return node.note or "the step is not understood"
    return f"{node.op} ({node.kind}) is not linear in all features alike"
