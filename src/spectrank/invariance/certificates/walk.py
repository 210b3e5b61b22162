"""Steps down a graph from one linear map to the one that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from spectrank.invariance.certificates.places import gathered, passes
from spectrank.invariance.certificates.stages import Part, Stage
from spectrank.model.graph import Graph, Node
from spectrank.model.graph.flow import feature_axis

_CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d"])


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
        kind = "conv" if node.op in _CONVOLUTIONS else "dense"
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
        # The sum of a block of matrices has its features last.
        below = feature_axis(source) if source.kind == "layer" else -1
        parts = {}
        moved = [step for step in steps if step.kind != "elementwise"]
        for reader in found.readers:
            axis = feature_axis(reader) if reader.kind == "layer" else -1
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

    def _part(self, node: Node) -> Part:
        if node.kind != "layer" or not (
            node.op == "linear" or node.op in _CONVOLUTIONS
        ):
            raise Stop(node, _reason(node))
        if len(node.matrices) != 1 or node.note is not None or len(node.inputs) != 1:
            raise Stop(node, node.note or "it is no single matrix")
        matrix = node.matrices[0]
        if matrix.rows is not None or matrix.part is not None:
            raise Stop(node, "its weight is a part of a packed parameter")
        if node.attributes.get("groups", 1) != 1:
            raise Stop(node, "a grouped convolution has no law of whole matrices")
        names = list(node.parameters.values())
        if own := [name for name in names if name in self._frozen]:
            raise Stop(node, f"{', '.join(own)} is frozen, so the gap is not conserved")
        if own := [name for name in names if name in self._reused]:
            raise Stop(node, f"{', '.join(own)} is used more than once")
        transposed = matrix.view == "linear-transposed"
        biases = tuple(v for k, v in node.parameters.items() if k != "weight")
        if "weight" not in node.parameters or len(biases) > 1:
            raise Stop(node, "it is no matrix with at most one bias")
        return Part(node.name or matrix.parameter, matrix.parameter, biases, transposed)

    def _skip(self, node: Node) -> Found | None:
        """Read x + W x, W square; None where the sum is another one."""
        for fork, end in (node.inputs, node.inputs[::-1])[: len(node.inputs)]:
            layer = self.graph[end]
            alone = layer.op == "linear" and self._readers[end] == [node.id]
            if layer.kind == "layer" and alone and layer.inputs == (fork,):
                part = replace(self._part(layer), skip=True)
                stage = Stage(part.name, "dense", part)
                return Found(stage, (layer, node), fork)
        return None

    def _block(self, node: Node) -> Found:
        """U (Y x) + Z x, all three matrices, with nothing between."""
        reason = "a sum that is not U Y x + Z x with three learned matrices"
        ends = [self.graph[source] for source in node.inputs]
        if len(ends) != 2 or any(end.kind != "layer" for end in ends):
            raise Stop(node, reason)
        for z, u in (ends, ends[::-1]):
            y = self.graph[u.inputs[0]]
            alone = all(len(self._readers[end.id]) == 1 for end in (u, z, y))
            linear = all(end.op == "linear" for end in (u, z, y))
            if alone and linear and y.inputs == z.inputs:
                main, first, second = self._part(z), self._part(y), self._part(u)
                name = node.name or f"{second.name} + {main.name}"
                stage = Stage(name, "block", main, first, second)
                return Found(stage, (z, y), z.inputs[0])
        raise Stop(node, reason)


def _reason(node: Node) -> str:
    if node.kind == "input":
        return "the tail reaches the input"
    if node.kind == "elementwise" and "dropout" in node.op:
        return "dropout masks features one by one: only the diagonal is conserved"
    if node.kind == "unknown":
        return node.note or "the step is not understood"
    return f"{node.op} ({node.kind}) is not linear in all features alike"
