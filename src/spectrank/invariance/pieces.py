"""`Piece`: the entries of one parameter that take part in a family of laws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.invariance.laws import GramTerm, Law, SquareTerm


@final
@dataclass(frozen=True, eq=False)
class Piece:
    """Entries of one parameter with their coefficients in the laws of a family.

    Attributes:
        parameter: Its name.
        view: Shape to which it is reshaped.
        axes: Axes of the view that are kept.
        laws: Number of the law.
        indices: Flat index over the kept axes.
        coefficients: c of these entries.
        columns: Flat indices over the other axes; None for all.
    """

    parameter: str
    view: tuple[int, ...]
    axes: tuple[int, ...]
    laws: Tensor
    indices: Tensor
    coefficients: Tensor
    columns: Tensor | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Axes of the view, the kept ones first."""
        rest = [a for a in range(len(self.view)) if a not in self.axes]
        return (*self.axes, *rest)

    def matrix(self, tensor: Tensor) -> Tensor:
        """The parameter as (kept, other) entries.

        Args:
            tensor: The parameter.

        Returns:
            A view or a copy.
        """
        moved = tensor.reshape(self.view).permute(self.order)
        kept = math.prod(self.view[a] for a in self.axes)
        return moved.reshape(kept, -1)

    def spread(self, values: Tensor, tensor: Tensor) -> Tensor:
        """Values of kept indices at every entry that they stand for, 0 elsewhere.

        Args:
            values: (len(indices),).
            tensor: The parameter.

        Returns:
            Of the shape of the parameter, float64.
        """
        full = torch.zeros_like(self.matrix(tensor), dtype=torch.float64)
        rows = torch.zeros(len(full), dtype=torch.float64, device=full.device)
        rows.index_add_(0, self.indices.to(full.device), values.to(full.device))
        if self.columns is None:
            full += rows[:, None]
        else:
            full[:, self.columns.to(full.device)] = rows[:, None]
        sizes = [self.view[a] for a in self.order]
        back = torch.argsort(torch.tensor(self.order)).tolist()
        return full.view(sizes).permute(back).reshape(tensor.shape)


def pieces(law: Law) -> list[Piece]:
    """Pieces of a quadratic law; of a matrix law those of its diagonal.

    Args:
        law: Of form ``squares`` or ``gram``.

    Returns:
        One a term.
    """
    return [_piece(term) for term in law.terms if not _is_linear(term)]


def _is_linear(term: object) -> bool:
    return not isinstance(term, SquareTerm | GramTerm)


def _piece(term: object) -> Piece:
    if isinstance(term, GramTerm):
        n = term.num_features
        rows = torch.arange(n) if term.rows is None else torch.tensor(term.rows)
        columns = None if term.columns is None else torch.tensor(term.columns)
        factors = torch.full((n,), term.coefficient, dtype=torch.float64)
        every = torch.arange(n)
        return Piece(
            term.parameter, term.view, term.axes, every, rows, factors, columns
        )
    assert isinstance(term, SquareTerm)
    return Piece(
        term.parameter,
        term.view,
        term.axes,
        torch.tensor(term.laws),
        torch.tensor(term.indices),
        torch.tensor(term.coefficients),
    )
