"""``Potentials``: the space of all potentials that a network allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np
from scipy import sparse

from spectrank.errors import UnknownNameError
from spectrank.invariance.laws import Offset
from spectrank.invariance.potentials.edges import Edge
from spectrank.invariance.potentials.potential import Potential
from spectrank.model.graph import Graph

Shape = tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Potentials:
    """All potentials that a network allows: a linear space, one basis vector per law.

    A potential is a number per entry of every value such that each step passes it on;
    the entry of a learned parameter that leads from u to v then has coefficient
    s_v - s_u in the conserved sum of squares.

    Attributes:
        graph: The graph.
        basis: (unknowns, solutions): an unknown as a combination of the free numbers.
        nodes: Id of a node to the potential of its output; axes along which it does
            not change have length one.
        edges: Every use of a learned parameter.
        shapes: Name of a parameter to its shape.
        reasons: Id of a node to why no law passes it.
        eps: Id of a normalisation to its eps.
        blocked: Parameters used by a step through which no law is known, with reason.
        offsets: Name of a parameter to the fixed numbers that are taken off it.
    """

    graph: Graph
    basis: sparse.csr_array
    nodes: Mapping[str, Potential]
    edges: tuple[Edge, ...]
    shapes: Mapping[str, Shape]
    reasons: Mapping[str, str] = field(default_factory=dict)
    eps: Mapping[str, float] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    offsets: Mapping[str, Offset] = field(default_factory=dict)

    @property
    def num_solutions(self) -> int:
        """Dimension of the space of potentials."""
        return int(self.basis.shape[1])

    @cached_property
    def free(self) -> np.ndarray:
        """(unknowns,) the free number an unknown is a multiple of.

        -1 where it is zero, -2 where it is a sum of several.
        """
        count = np.diff(self.basis.indptr)
        found = np.where(count == 0, -1, -2)
        alone = count == 1
        found[alone] = self.basis.indices[self.basis.indptr[:-1][alone]]
        return found

    @cached_property
    def factor(self) -> np.ndarray:
        """(unknowns,) the multiple, where ``free`` is not negative; else zero."""
        found = np.zeros(self.basis.shape[0])
        alone = self.free >= 0
        found[alone] = self.basis.data[self.basis.indptr[:-1][alone]]
        return found

    def classes(self, node: str) -> np.ndarray:
        """Number of the free number that each entry of a value is a multiple of.

        Args:
            node: Id of the node.

        Returns:
            int64 in the shape of the value (of the axes known, where nothing was
            traced), without copies along axes where it does not change; -1 where the
            potential is zero, -2 where it is a sum of several.

        Raises:
            UnknownNameError: The graph has no such node.
        """  # noqa: DOC502 - raised by the function called
        return self._shown(node, self.free[self._of(node).classes])

    def coefficients(self, node: str) -> np.ndarray:
        """The multiple of the free number at each entry of a value.

        Args:
            node: Id of the node.

        Returns:
            float64 in the shape of ``classes``; zero where those are negative.

        Raises:
            UnknownNameError: The graph has no such node.
        """  # noqa: DOC502 - raised by the function called
        potential = self._of(node)
        found = self.factor[potential.classes] * potential.coefficients
        return self._shown(node, found)

    def matrix(self, potential: Potential) -> sparse.csr_array:
        """Combinations of free numbers that the entries of a potential are.

        Args:
            potential: Of a node or a part of an edge.

        Returns:
            (entries, solutions).
        """
        flat = potential.flat()
        rows = self.basis[flat.classes]
        return sparse.csr_array(sparse.diags_array(flat.coefficients) @ rows)

    def _of(self, node: str) -> Potential:
        if node not in self.nodes:
            raise UnknownNameError(
                f"potentials are asked for by the id of a node, got {node!r}; "
                f"ids are n0 to n{len(self.nodes) - 1}"
            )
        return self.nodes[node]

    def _shown(self, node: str, array: np.ndarray) -> np.ndarray:
        shape = self.graph[node].shape
        return array if shape is None else np.broadcast_to(array, shape)
