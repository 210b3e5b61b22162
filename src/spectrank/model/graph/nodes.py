"""The nouns of a model graph: Node, MatrixView and Link, frozen and plain as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "input",
    "constant",
    "layer",
    "scale",
    "shift",
    "elementwise",
    "reshape",
    "pool",
    "norm",
    "sum",
    "product",
    "matmul",
    "attention",
    "softmax",
    "output",
    "unknown",
]


@dataclass(frozen=True)
class MatrixView:
    """One matrix of a layer: which rows of which parameter, under which view.

    Attributes:
        parameter: Dotted name of the parameter.
        view: A key of ``spectrank.model.VIEWS``.
        shape: (m, n) = (outputs, inputs) of these rows.
        rows: First and one past the last row of the viewed matrix; None for all.
        part: What the rows are, such as ``query`` or ``gate.f``; None for a whole.
    """

    parameter: str
    view: str
    shape: tuple[int, int]
    rows: tuple[int, int] | None = None
    part: str | None = None


@dataclass(frozen=True)
class Node:
    """One step of the dataflow.

    Attributes:
        id: ``n0``, ``n1``, ... in an order in which inputs come first.
        kind: What it does; ``unknown`` where that is not understood.
        op: Name of the operation: ``linear``, ``relu``, ``sum``, ...; of an unknown
            its name in torch.
        name: Where it stands in the model: module or parameter path, input name.
        inputs: Ids of what it reads, in the order of its arguments.
        parameters: Role to dotted name; of a tied parameter its first name.
        attributes: Plain JSON; defaults of torch are left out.
        shape: Of its output, as traced; None where nothing was traced.
        matrices: Of a layer its matrices; empty where no view is defined.
        note: What else there is to know; of an unknown the reason.
    """

    id: str
    kind: Kind
    op: str
    name: str = ""
    inputs: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    shape: tuple[int, ...] | None = None
    matrices: tuple[MatrixView, ...] = ()
    note: str | None = None

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        """(m, n) of the first whole matrix of a layer; None where there is none."""
        for matrix in self.matrices:
            if matrix.part is None:
                return matrix.shape
        return None

    @property
    def learned(self) -> bool:
        """Whether it holds a parameter."""
        return bool(self.parameters)


@dataclass(frozen=True)
class Link:
    """What one layer gives to another, and through which steps.

    Attributes:
        source: Id of a layer, an input, a learned constant or an unknown.
        target: Id of a layer, an output or an unknown.
        through: The ops on the way, first to last. ``sum:identity``,
            ``sum:scaled``, ``sum:diagonal``, ``sum:reshaped``, ``sum:elementwise``
            and ``sum:learned`` enter a sum by a skip of that kind, ``sum`` by its
            main branch; ``...:query``, ``...:key``, ``...:value`` and ``...:mask``
            name the role in an attention.
        path: Ids of the nodes on the way, one per step; empty where only stated.
        position: Which input of the target.
        reason: Why the link is not fully known; None where it is.
    """

    source: str
    target: str
    through: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    position: int = 0
    reason: str | None = None
