"""Terms: how much of which parameter a law adds up, as squares, entries or Gram sums.

A term reads one parameter. It is reshaped to ``view``; the axes named in ``axes`` are
kept, in that order, and flattened to one index; all others are summed over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from spectrank.errors import DomainError, ShapeError


@dataclass(frozen=True, eq=False)
class _Selected:
    """What the terms of diagonal and of linear laws have in common.

    Attributes:
        parameter: Dotted name; of a tied parameter its first name.
        view: Shape to which the parameter is reshaped.
        axes: Kept axes of the view, not negative.
        laws: (k,) numbers of the laws that receive something.
        indices: (k,) flat index over the kept axes, of what they receive.
        coefficients: (k,) factors, finite.
    """

    parameter: str
    view: tuple[int, ...]
    axes: tuple[int, ...]
    laws: np.ndarray
    indices: np.ndarray
    coefficients: np.ndarray

    def __post_init__(self) -> None:
        _check_axes(self.parameter, self.view, self.axes)
        for name, dtype in (("laws", int), ("indices", int), ("coefficients", float)):
            array = _array(getattr(self, name), dtype)
            object.__setattr__(self, name, array)
        if not len(self.laws) == len(self.indices) == len(self.coefficients):
            raise ShapeError(
                "laws, indices and coefficients of a term have one length, got "
                f"{len(self.laws)}, {len(self.indices)} and {len(self.coefficients)} "
                f"for {self.parameter!r}; repeat a law that receives several sums"
            )
        _check_range(self.parameter, "indices", self.indices, self.num_kept)
        if len(self.laws) and int(self.laws.min()) < 0:
            raise DomainError(
                f"laws are numbered from 0, got {int(self.laws.min())} for "
                f"{self.parameter!r}; number them in the order of the family"
            )

    @property
    def num_kept(self) -> int:
        """Number of sums that the term offers: the product of the kept sizes."""
        return math.prod(self.view[axis] for axis in self.axes)


@final
@dataclass(frozen=True, eq=False)
class SquareTerm(_Selected):
    """Adds c_k * (sum of squares of the entries at kept index i_k) to law l_k.

    Example:
        The squared norms of the rows of a (3, 2) matrix, each to its own law.

        >>> import numpy as np
        >>> every = np.arange(3)
        >>> SquareTerm("fc.weight", (3, 2), (0,), every, every, np.ones(3)).num_kept
        3
    """


@final
@dataclass(frozen=True, eq=False)
class LinearTerm(_Selected):
    """Adds c_k * (sum of the entries at kept index i_k) to law l_k."""


@final
@dataclass(frozen=True, eq=False)
class GramTerm:
    """Adds coefficient * M M^T, M (n, -1): features first, everything else flat.

    Attributes:
        parameter: Dotted name; of a tied parameter its first name.
        view: Shape to which the parameter is reshaped.
        axes: Axes of the view over which the features lie, not negative.
        rows: (n,) flat indices over ``axes`` of the features, in their order; None
            for all.
        coefficient: Factor, finite.
        columns: Flat indices over the other axes, in their order, that are summed
            over; None for all.
        summed: Whether the features are added up first: M is then one row, the sum of
            the rows.
    """

    parameter: str
    view: tuple[int, ...]
    axes: tuple[int, ...]
    rows: np.ndarray | None
    coefficient: float
    columns: np.ndarray | None = None
    summed: bool = False

    def __post_init__(self) -> None:
        _check_axes(self.parameter, self.view, self.axes)
        kept = math.prod(self.view[axis] for axis in self.axes)
        sizes = {"rows": kept, "columns": math.prod(self.view) // max(kept, 1)}
        for name, size in sizes.items():
            if getattr(self, name) is not None:
                array = _array(getattr(self, name), int)
                _check_range(self.parameter, name, array, size)
                object.__setattr__(self, name, array)

    @property
    def num_features(self) -> int:
        """n: the number of features, and of rows of the Gram matrix; 1 if summed."""
        return 1 if self.summed else self.num_rows

    @property
    def num_rows(self) -> int:
        """Number of features that are read."""
        if self.rows is not None:
            return len(self.rows)
        return math.prod(self.view[axis] for axis in self.axes)

    @property
    def num_columns(self) -> int:
        """Entries of the parameter that each feature has a part in."""
        if self.columns is not None:
            return len(self.columns)
        return math.prod(
            self.view[a] for a in set(range(len(self.view))) - {*self.axes}
        )


Term = SquareTerm | LinearTerm | GramTerm


def _array(given: Any, dtype: type) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != 1:
        raise ShapeError(
            f"an index array of a term has one axis, got shape {array.shape}; "
            "flatten it"
        )
    made = array.astype(np.int64 if dtype is int else np.float64)
    if not np.array_equal(made, array):
        raise DomainError(
            f"indices of a term are integers and coefficients numbers, got {array!r}; "
            "a coefficient is finite"
        )
    made.setflags(write=False)
    return made


def _check_axes(parameter: str, view: tuple[int, ...], axes: tuple[int, ...]) -> None:
    if len(set(axes)) != len(axes) or any(not 0 <= a < len(view) for a in axes):
        raise DomainError(
            f"axes of a term are distinct and in [0, {len(view)}) for a view of "
            f"{len(view)} axes, got {axes} for {parameter!r}; count them from the front"
        )


def _check_range(parameter: str, name: str, array: np.ndarray, size: int) -> None:
    if len(array) and not 0 <= int(array.min()) <= int(array.max()) < size:
        raise DomainError(
            f"{name} of a term lie in [0, {size}), got {int(array.min())} to "
            f"{int(array.max())} for {parameter!r}; check view and axes"
        )
