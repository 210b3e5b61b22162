"""What each step of a graph asks of features that are rotated into each other."""

from __future__ import annotations

import numpy as np

from spectrank.invariance.matrices.signatures import Signatures
from spectrank.invariance.potentials import Edge, Potential, Potentials
from spectrank.invariance.potentials.moves import compressed
from spectrank.invariance.potentials.products import einsum_labels, matmul_labels
from spectrank.model.graph import Node
from spectrank.model.graph.catalogue import LINEAR_POOLS

# Elementwise maps by one number; and those that act alike on co-active units.
_ALIKE = frozenset(["mul", "div", "neg", "cast"])
_COACTIVE = frozenset(["relu", "leaky_relu", "prelu", "abs", "clamp", "clamp_min"])
_SINGLE = frozenset(["scale", "norm", "softmax", "unknown"])
# Moves that keep one feature a translate of another.
_REGULAR = frozenset(
    "reshape flatten permute slice select expand cat stack getitem repeat tile".split()  # noqa: SIM905
)
Pair = tuple[np.ndarray, np.ndarray]
# Axes of a part of an edge, numbers of the free potentials along them, multiples.
Stand = tuple[tuple[int, ...], np.ndarray, np.ndarray]


class Reading:
    """Free potentials of values, as the steps see them.

    Attributes:
        potentials: What was solved.
        signatures: Where the places are collected.
        coactive: Whether homogeneous activations count as acting alike.
        attended: Free potentials of queries and keys, and of values.
        streams: Free potentials that stand in a sum of several values.
    """

    def __init__(self, potentials: Potentials, *, coactive: bool) -> None:
        self.potentials = potentials
        self.signatures = Signatures(potentials.num_solutions)
        self.coactive = coactive
        self.attended: dict[str, set[int]] = {"qk": set(), "vo": set()}
        self.streams: set[int] = set()
        self._cache: dict[str, Pair] = {}
        self._standing: dict[int, list[int]] | None = None
        self._parts: list[tuple[Edge, Stand]] = []
        several = potentials.basis[np.flatnonzero(potentials.free == -2)]
        self.signatures.touch(np.unique(several.indices))

    def run(self) -> None:
        """Read every step, then every use of a parameter."""
        for node in self.potentials.graph.nodes:
            self._step(node)
        for edge in self.potentials.edges:
            node = self.potentials.graph[edge.node]
            # A factor of a computed weight, each row divided by its norm; and values
            # within a layer that no node shows, such as those of a recurrent one.
            single = edge.parameter not in node.parameters.values()
            single |= node.kind == "layer" and not _linear(node)
            for part in edge.parts:
                free, factors = self.of(part.potential)
                self.signatures.record(free, factors)
                if single:
                    self.signatures.touch(free)

    def of(self, potential: Potential) -> Pair:
        """Numbers of the free potentials and their multiples, entry by entry.

        Args:
            potential: Of a value or a part of an edge.

        Returns:
            Two arrays of its shape.
        """
        free = self.potentials.free[potential.classes]
        factors = self.potentials.factor[potential.classes] * potential.coefficients
        return np.where(factors == 0, -1, free), factors

    def standing(self, solution: int) -> list[tuple[Edge, list[Stand]]]:
        """Uses of parameters in which a free potential stands.

        Args:
            solution: Its number.

        Returns:
            In the order of the dataflow, each use with its parts, flat.
        """
        if self._standing is None:
            self._standing = {}
            for edge in self.potentials.edges:
                for part in edge.parts:
                    free, factors = self.of(part.potential)
                    for own in np.unique(free[free >= 0]).tolist():
                        self._standing.setdefault(own, []).append(len(self._parts))
                    stand = part.axes, free.reshape(-1), factors.reshape(-1)
                    self._parts.append((edge, stand))
        found: dict[int, tuple[Edge, list[Stand]]] = {}
        for number in self._standing.get(solution, []):
            edge, stand = self._parts[number]
            found.setdefault(id(edge), (edge, []))[1].append(stand)
        return list(found.values())

    def value(self, node: str) -> Pair:
        """The same for a node's output, constant axes of length one.

        Args:
            node: Its id.

        Returns:
            Two arrays; as many axes as the value has.
        """
        if node not in self._cache:
            free, factors = self.of(self.potentials.nodes[node])
            small = compressed(Potential(factors, free))
            shape = self.potentials.graph[node].shape
            small = small if shape is None else small.ranked(len(shape))
            self._cache[node] = small.classes, small.coefficients
        return self._cache[node]

    def _touch(self, *nodes: str) -> None:
        for node in nodes:
            self.signatures.touch(self.value(node)[0])

    def _along(self, node: str, axis: int, groups: int = 1) -> None:
        """Features of a value lie along one axis; other places count as they are."""
        free, factors = self.value(node)
        axis %= max(free.ndim, 1)
        exact = [i for i in range(free.ndim) if i != axis]
        parts = (axis, groups) if groups > 1 else None
        self.signatures.record(free, factors, exact=exact, groups=parts)

    def _step(self, node: Node) -> None:
        self.signatures.record(*self.value(node.id))
        if node.kind == "layer":
            self._layer(node)
        elif node.kind == "elementwise":
            self._elementwise(node)
        elif node.kind in _SINGLE or (
            node.kind == "pool" and node.op not in LINEAR_POOLS
        ):
            self._touch(node.id, *node.inputs)
        elif node.kind == "reshape":
            self._reshape(node)
        elif node.kind == "sum":
            self.streams |= set(self.value(node.id)[0].reshape(-1).tolist())
        elif node.kind == "product":
            self._product(node)
        elif node.kind == "matmul":
            self._matmul(node)
        elif node.kind == "attention":
            self._attention(node)

    def _layer(self, node: Node) -> None:
        if node.note is not None and "is computed from" in node.note:
            self._touch(node.id, *node.inputs)
        elif node.op == "linear":
            axis = int(node.attributes.get("axis", -1))
            self._along(node.inputs[0], axis)
            self._along(node.id, axis)
        elif node.op.startswith("conv"):
            axis = -1 - len(node.attributes["kernel_size"])
            groups = int(node.attributes.get("groups", 1))
            self._along(node.inputs[0], axis, groups)
            self._along(node.id, axis, groups)
        elif node.op == "embedding" or _summed_bag(node):
            self._along(node.id, -1)
        else:
            self._touch(node.id, *node.inputs)

    def _elementwise(self, node: Node) -> None:
        alike = node.op in _ALIKE or (self.coactive and node.op in _COACTIVE)
        if int(node.attributes.get("size", 1)) > 1 and node.op == "prelu":
            # A slope of its own for each unit: a pattern does not tell it.
            alike = False
        if not alike or len(node.inputs) != 1:
            self._touch(node.id, *node.inputs)

    def _reshape(self, node: Node) -> None:
        if node.op in _REGULAR:
            return
        # A feature that stands at one place is moved as a whole, wherever it goes.
        for id_ in (node.id, *node.inputs):
            free = self.value(id_)[0]
            own, times = np.unique(free[free >= 0], return_counts=True)
            self.signatures.touch(own[times > 1])

    def _product(self, node: Node) -> None:
        """A factor that is the same for all features treats them alike."""
        if node.op == "glu" or len(node.inputs) != 2:
            self._touch(node.id, *node.inputs)
            return
        first, second = node.inputs
        for own, other in ((first, second), (second, first)):
            free = self.value(own)[0]
            shape = self.potentials.graph[other].shape or ()
            rank = max(free.ndim, len(shape))
            sizes = (1,) * (rank - free.ndim) + free.shape
            factor = (1,) * (rank - len(shape)) + tuple(shape)
            if any(a > 1 and b > 1 for a, b in zip(sizes, factor, strict=True)):
                self._touch(own)

    def _matmul(self, node: Node) -> None:
        shapes = [self.potentials.graph[item].shape for item in node.inputs]
        ranks = [len(shape or ()) for shape in shapes]
        labels = None
        if len(node.inputs) == 2 and None not in shapes:
            if node.op == "matmul":
                labels = matmul_labels(ranks)
            elif node.op == "einsum":
                labels = einsum_labels(str(node.attributes["equation"]), ranks)
        if labels is None:
            self._touch(node.id, *node.inputs)
            return
        terms, result = labels
        batch = set(terms[0]) & set(terms[1]) & set(result)
        for id_, own in zip((*node.inputs, node.id), (*terms, result), strict=True):
            free = self.value(id_)[0]
            loose = [i for i, letter in enumerate(own) if letter not in batch]
            varying = [i for i in loose if free.shape[i] > 1]
            if len(varying) > 1:
                self.signatures.touch(free)
            else:
                self._along(id_, varying[0] if varying else free.ndim - 1)
        summed = [own.index("Y") for own in terms] if node.op == "matmul" else []
        frees = [self.value(item)[0] for item in node.inputs]
        if summed and all(f.shape[i] > 1 for f, i in zip(frees, summed, strict=True)):
            self._attend("qk", *node.inputs)
        else:
            self._attend("vo", *node.inputs)

    def _attention(self, node: Node) -> None:
        for id_ in (*node.inputs[:3], node.id):
            self._along(id_, -1)
        self._attend("qk", *node.inputs[:2])
        self._attend("vo", node.inputs[2])

    def _attend(self, role: str, *nodes: str) -> None:
        for node in nodes:
            free = self.value(node)[0].reshape(-1)
            self.attended[role] |= set(free[free >= 0].tolist())


def _linear(node: Node) -> bool:
    plain = node.op in {"linear", "embedding"} or node.op.startswith("conv")
    return plain or _summed_bag(node)


def _summed_bag(node: Node) -> bool:
    """Whether rows of a table are summed or averaged: mode 2 is their maximum."""
    return node.op == "embedding_bag" and node.attributes.get("mode", 0) != 2
