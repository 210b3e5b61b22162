r"""Sums over the rows of increments: traces, diagonals, products of columns.

R  rows of an increment      d  its columns      K  classes
a  columns on the left of a product      b  columns on its right
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from spectrank.linalg.moments._centres import Increment
from spectrank.linalg.operand import EPS
from spectrank.linalg.shapes import Float64

Precision = Literal["float64", "float32"]

# Most rows of one product: the error of a float32 product grows with them.
BLOCK_ROWS = 1024
# Columns of a panel of the lower triangle of a symmetric product: at 1024 columns it
# leaves out 3/8 of the work (138 rows: 4.6 ms against 6.9 ms on one thread).
_PANEL = 256
_FLOAT32_ROUNDOFF = 2.0**-24


class Sum(ABC):
    """A sum over rows; two of them add."""

    def __init__(self, columns: slice, *shape: int, device: torch.device) -> None:
        """Start at zero.

        Args:
            columns: Those of the rows that take part.
            *shape: Shape of the total.
            device: Where the total lives.
        """
        self._columns = columns
        self._total = torch.zeros(shape, dtype=torch.float64, device=device)

    @abstractmethod
    def add(self, increment: Increment) -> None:
        """Add the rows of an increment."""

    def value(self) -> Tensor:
        """Return the total; a view that later rows may change."""
        return self._total

    def merge(self, other: Sum) -> None:
        """Add another's total to this one."""
        # A sum may be merged with itself: read before writing.
        value = other.value()
        self.value().add_(value)


class Traces(Sum):
    """(K,) sum of squared row lengths of each class."""

    def __init__(
        self, num_classes: int, columns: slice, *, device: torch.device
    ) -> None:
        super().__init__(columns, num_classes, device=device)

    def add(self, increment: Increment) -> None:
        """Add the rows of an increment."""
        rows = increment.rows[:, self._columns]
        sums = increment.by_class(torch.linalg.vecdot(rows, rows))
        self._total.index_add_(0, increment.present, sums)


class Diagonal(Sum):
    """(d,) sum of squares of each column, over all classes."""

    def __init__(self, columns: slice, *, device: torch.device) -> None:
        super().__init__(columns, _width(columns), device=device)

    def add(self, increment: Increment) -> None:
        """Add the rows of an increment."""
        self._total.add_(increment.rows[:, self._columns].square().sum(0))


class ClassDiagonals(Sum):
    """(K, d) sum of squares of each column, by class."""

    def __init__(
        self, num_classes: int, columns: slice, *, device: torch.device
    ) -> None:
        super().__init__(columns, num_classes, _width(columns), device=device)

    def add(self, increment: Increment) -> None:
        """Add the rows of an increment."""
        sums = increment.by_class(increment.rows[:, self._columns].square())
        self._total.index_add_(0, increment.present, sums)


class Products(Sum):
    r"""(a, b) sum of outer products of two blocks of columns, over all classes.

    Up to 1024 rows are multiplied at a time. With ``precision="float32"`` each block is
    scaled by a power of two per column, multiplied in float32 and added in float64, so
    that entry (i, j) errs by at most ``relative_error * sqrt(S_ii S_jj)``, S the
    scatter of all columns.
    Source (derived): tests/linalg/moments/test_moments_precision.py.
    """

    def __init__(
        self,
        left: slice,
        right: slice,
        *,
        precision: Precision = "float64",
        device: torch.device,
    ) -> None:
        """Start at zero.

        Args:
            left: Columns of the first factor.
            right: Columns of the second factor; the same for a symmetric sum.
            precision: Of the products.
            device: Where the total lives.
        """
        columns = slice(min(left.start, right.start), max(left.stop, right.stop))
        super().__init__(columns, _width(left), _width(right), device=device)
        self._left = slice(left.start - columns.start, left.stop - columns.start)
        self._right = slice(right.start - columns.start, right.stop - columns.start)
        self._symmetric = left == right
        self._precision = precision

    def add(self, increment: Increment) -> None:
        """Add the rows of an increment."""
        rows = increment.rows[:, self._columns]
        if not len(rows):
            return
        # Equal blocks: the last of unequal ones could be a few rows, and cost a pass
        # over the total all the same.
        for block in rows.tensor_split(-(-len(rows) // BLOCK_ROWS)):
            self._multiply(block[:, self._left], block[:, self._right])

    def value(self) -> Float64[Tensor, "a b"]:
        """Return the total, both triangles of a symmetric one."""
        if self._symmetric:
            lower = self._total.tril(-1)
            self._total.tril_().add_(lower.mT)
        return self._total

    def _multiply(self, left: Tensor, right: Tensor) -> None:
        if self._precision == "float32" and float32_is_float32():
            _add_float32_product(self._total, left, right, symmetric=self._symmetric)
            return
        for panel, width in _panels(self._total, symmetric=self._symmetric):
            # Not addmm_: it adds every row to the running total, and 200,000 equal
            # rows came out 1e-12 off; 3e-16 with a block summed by itself first.
            product = left[:, panel].mT @ right[:, :width]
            self._total[panel, :width].add_(product)


def float32_is_float32() -> bool:
    """Whether the process lets float32 products be float32, not TF32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        # Set by backend through the newer switches, which this one does not know.
        return False


def relative_error(precision: Precision, num_rows: int) -> float:
    """Bound on an entry's error over ``sqrt(S_ii S_jj)``.

    float32: worst case of one block (rows rounded once, products summed in any order);
    about 1e-7 is typical. float64: a stated multiple of the unit roundoff.

    Args:
        precision: Of the products.
        num_rows: Number of rows summed so far.

    Returns:
        The relative error.
    """
    float64 = rounding(num_rows)
    if precision == "float32":
        return float64 + (BLOCK_ROWS + 4) * _FLOAT32_ROUNDOFF
    return float64


def rounding(num_rows: int) -> float:
    """Relative rounding error of a trace over ``num_rows`` rows, a stated multiple.

    ``8 + 4 sqrt(num_rows)`` spacings: the mean of a class errs by a spacing of its
    distance from the pivot, that distance is at most the square root of the scatter,
    and an update by n b / (n + b) rows multiplies it by the root of their number.

    Args:
        num_rows: Number of rows summed so far.

    Returns:
        The relative error.
    """
    return (8.0 + 4.0 * math.sqrt(num_rows)) * EPS


def _width(columns: slice) -> int:
    return int(columns.stop - columns.start)


def _panels(total: Tensor, *, symmetric: bool) -> list[tuple[slice, int]]:
    """Panels of rows, and how many columns of each are to be computed."""
    a, b = total.shape
    if not symmetric:
        return [(slice(0, a), b)]
    return [
        (slice(start, min(start + _PANEL, a)), min(start + _PANEL, a))
        for start in range(0, a, _PANEL)
    ]


def _add_float32_product(
    total: Tensor, left: Tensor, right: Tensor, *, symmetric: bool
) -> None:
    narrow_left, back_left = _narrow(left)
    narrow_right, back_right = (narrow_left, back_left) if symmetric else _narrow(right)
    for panel, width in _panels(total, symmetric=symmetric):
        product = (narrow_left[:, panel].mT @ narrow_right[:, :width]).double()
        product.mul_(back_left[panel, None]).mul_(back_right[:width])
        total[panel, :width].add_(product)


def _narrow(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 rows with entries up to one, and the powers of two to undo it."""
    _, exponents = torch.frexp(rows.abs().amax(0))
    exponents = exponents.to(torch.float64)
    return (rows * torch.exp2(-exponents)).to(torch.float32), torch.exp2(exponents)
