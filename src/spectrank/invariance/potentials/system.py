"""System: unknown potentials and the linear equations between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from spectrank.invariance.potentials.directions import Directed
from spectrank.invariance.potentials.edges import Edge
from spectrank.invariance.potentials.potential import ZERO, Potential, nothing
from spectrank.invariance.potentials.stored import Stored


class System:
    """Collects unknowns, equations and uses of parameters while a graph is read.

    Attributes:
        frozen: Names of the parameters that are not learned.
        shapes: Name of a parameter to its shape, as far as known.
        fan_in: Id of a flatten without traced sizes to the entries its reader takes.
        directed: Name of a weight of weight normalisation to its factors.
        stored: Id of a normalisation to its fixed mean, where that can be followed.
        unseen: Ids of steps of which what reads them does not see the bias, or of a
            norm the division; whether the parameter has a coefficient by another use.
        states: Id of a recurrent node to the potential of its last states.
        num_classes: Number of unknowns so far; number 0 is zero.
        edges: Uses of learned parameters.
        blocked: Parameters that a step holds through which no law is known.
        reasons: Id of a node to why no law passes it.
        eps: Id of a normalisation to its eps.
        pairs: Blocks (k, 2) of unknowns that are equal.
        rows: Blocks (coefficients (k, t), unknowns (k, t)) of equations.
    """

    def __init__(
        self,
        frozen: Collection[str],
        shapes: Mapping[str, tuple[int, ...]],
        fan_in: Mapping[str, int],
        directed: Mapping[str, Directed],
        stored: Mapping[str, Stored] | None = None,
        unseen: Mapping[str, bool] | None = None,
    ) -> None:
        self.frozen = frozenset(frozen)
        self.shapes = dict(shapes)
        self.fan_in = dict(fan_in)
        self.directed = dict(directed)
        self.stored = dict(stored or {})
        self.unseen = dict(unseen or {})
        self.states: dict[str, Potential] = {}
        self.num_classes = 1
        self.edges: list[Edge] = []
        self.blocked: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.eps: dict[str, float] = {}
        self.pairs: list[np.ndarray] = []
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []

    def fresh(self, shape: Sequence[int]) -> Potential:
        """New unknowns.

        Args:
            shape: One for each entry of this shape.

        Returns:
            Their potential.
        """
        count = int(np.prod(shape, dtype=np.int64))
        first = self.num_classes
        self.num_classes += count
        classes = np.arange(first, first + count, dtype=np.int64).reshape(tuple(shape))
        return Potential(np.ones(tuple(shape)), classes)

    def learned(self, name: str | None) -> bool:
        """Whether a parameter is there and learned.

        Args:
            name: Its name; None for none.

        Returns:
            The answer.
        """
        return name is not None and name not in self.frozen

    def vanish(self, *terms: Potential) -> None:
        """Require that a sum of potentials is zero, entry by entry.

        Args:
            *terms: Broadcastable to one another.
        """
        if not terms:
            return
        shape = np.broadcast_shapes(*(term.shape for term in terms))
        spread = [term.spread(shape).flat() for term in terms]
        factors = np.stack([term.coefficients for term in spread], axis=1)
        classes = np.stack([term.classes for term in spread], axis=1)
        factors = np.where(classes == ZERO, 0.0, factors)
        count = np.count_nonzero(factors, axis=1)
        for number in range(1, len(terms) + 1):
            chosen = count == number
            if not chosen.any():
                continue
            # Terms that count first, in their order.
            order = np.argsort(factors[chosen] == 0, axis=1, kind="stable")
            order = order[:, :number]
            self._add(
                np.take_along_axis(factors[chosen], order, axis=1),
                np.take_along_axis(classes[chosen], order, axis=1),
            )

    def _add(self, factors: np.ndarray, classes: np.ndarray) -> None:
        if factors.shape[1] == 1:
            zeros = np.full_like(classes, ZERO)
            self.pairs.append(np.concatenate([classes, zeros], axis=1))
            return
        if factors.shape[1] == 2:
            opposite = factors[:, 0] == -factors[:, 1]
            self.pairs.append(np.unique(classes[opposite], axis=0))
            factors, classes = factors[~opposite], classes[~opposite]
        if len(factors):
            self.rows.append((factors, classes))

    def equal(self, first: Potential, second: Potential) -> None:
        """Require that two potentials are equal, entry by entry.

        Args:
            first: One.
            second: The other.
        """
        self.vanish(first, second.times(-1))

    def merge(self, potential: Potential, axes: Sequence[int]) -> Potential:
        """Require that a potential does not change along axes.

        Args:
            potential: Any.
            axes: Which.

        Returns:
            It, with these axes of length one.
        """
        long = [axis for axis in axes if potential.shape[axis] > 1]
        if not long:
            return potential
        kept = potential.first(long)
        self.equal(potential, kept)
        return kept

    def merge_all(self, potential: Potential) -> Potential:
        """Require that a potential is one number.

        Args:
            potential: Any.

        Returns:
            It, with all axes of length one.
        """
        return self.merge(potential, range(potential.ndim))

    def stop(self, node: str, reason: str, *inputs: Potential, rank: int) -> Potential:
        """Require zero on both sides of a step.

        Args:
            node: Id of the step.
            reason: Why no law passes it.
            *inputs: Potentials of what it reads.
            rank: Number of axes of its output.

        Returns:
            The potential of its output, zero.
        """
        self.reasons[node] = reason
        for potential in inputs:
            self.vanish(potential)
        return nothing(rank)

    def block(self, names: Collection[str], reason: str) -> None:
        """Require that parameters have coefficient zero wherever they are used.

        Args:
            names: Of the parameters.
            reason: Why.
        """
        for name in names:
            self.blocked.setdefault(name, reason)
