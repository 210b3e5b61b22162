r"""Class statistics of cells put together: side by side, or merged into fewer.

Any partition of the rows into cells gives a valid rank bound, so the finest one is
accumulated, such as (class, position), and coarser ones follow exactly from its means:

    S_c = sum_{f in c} S_f + sum_{f in c} n_f (xbar_f - xbar_c)(xbar_f - xbar_c)^T,

for the within-cell scatters S of either side and for the products between the sides.

    F  fine cells    K  cells    d  columns    m, n  columns of outputs and inputs

Source (derived): tests/collapse/statistics/test_collapse_cells.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.moments import ClassSummary, CrossSummary
from spectrank.linalg.shapes import Float64, Shaped


def join(first: CrossSummary, second: CrossSummary) -> CrossSummary:
    """Cells of two disjoint sets of rows as the cells of one.

    Args:
        first: Its cells come first.
        second: Of the same columns; its cells follow.

    Returns:
        The summary of all rows, each in the cell where it was.

    Raises:
        ShapeError: The columns differ in number.
        DomainError: One keeps scatters that the other lacks.
    """  # noqa: DOC502 - raised by the function called
    return CrossSummary(
        _joined(first.outputs, second.outputs),
        _joined(first.inputs, second.inputs),
        first.within + second.within,
    )


def coarsen(
    summary: CrossSummary, groups: Shaped[Tensor, " F"], num_cells: int
) -> CrossSummary:
    """Merge cells; the rows are the same, their variation within cells grows.

    Args:
        summary: Of fine cells.
        groups: (F,) integers in [0, K): the cell that each fine cell goes to.
        num_cells: K.

    Returns:
        The summary of the K cells.

    Raises:
        ShapeError: ``groups`` is not (F,).
    """
    size = len(summary.inputs.counts)
    if tuple(groups.shape) != (size,):
        raise ShapeError(
            f"groups must give a cell to each of {size} fine cells, got shape "
            f"{tuple(groups.shape)}; pass a ({size},) tensor of integers"
        )
    left, right = (
        _Merge(side, groups, num_cells) for side in (summary.outputs, summary.inputs)
    )
    within = summary.within + left.weighted().mT @ right.deviations
    return CrossSummary(left.summary(), right.summary(), within)


def coarsen_classes(
    summary: ClassSummary, groups: Shaped[Tensor, " F"], num_cells: int
) -> ClassSummary:
    """Merge the cells of one side, as `coarsen` does.

    Args:
        summary: Of fine cells; with its full scatter or its traces alone.
        groups: (F,) integers in [0, K).
        num_cells: K.

    Returns:
        The summary of the K cells.
    """
    return _Merge(summary, groups, num_cells).summary()


class _Merge:
    """Means of the merged cells, and of the fine ones about them."""

    def __init__(self, fine: ClassSummary, groups: Tensor, num_cells: int) -> None:
        self._fine, self._num_cells = fine, num_cells
        self._groups = groups.to(fine.counts.device)
        counts = fine.counts.to(torch.float64)
        # An empty cell has NaN for its mean and no say.
        shifts = torch.where(counts[:, None] > 0, fine.shifts, 0.0)
        self._counts = self._total(fine.counts)
        sums = self._total(shifts * counts[:, None])
        self._means = sums / self._counts[:, None]
        deviations = shifts - self._means[self._groups]
        self.deviations: Float64[Tensor, "F d"] = torch.where(
            counts[:, None] > 0, deviations, 0.0
        )

    def weighted(self) -> Float64[Tensor, "F d"]:
        return self.deviations * self._fine.counts[:, None]

    def summary(self) -> ClassSummary:
        fine = self._fine
        apart = self.weighted() * self.deviations
        largest = torch.cat(
            [fine.largest[:, None], self.deviations.abs().amax(1, keepdim=True)], 1
        ).amax(1)
        scatter = fine.scatter
        if fine.kind == "full" and scatter is not None:
            scatter = scatter + self.weighted().mT @ self.deviations
        elif scatter is not None:
            raise DomainError(
                f"cells merge with their full scatter or none, got {fine.kind!r}; "
                "accumulate with scatter='full' or 'trace'"
            )
        return ClassSummary(
            counts=self._counts,
            num_nonfinite=self._total(fine.num_nonfinite),
            origin=fine.origin,
            shifts=self._means,
            traces=self._total(fine.traces + apart.sum(1)),
            largest=largest.new_zeros(self._num_cells).scatter_reduce(
                0, self._groups, largest, "amax"
            ),
            kind=fine.kind,
            scatter=scatter,
            scatter_error=fine.scatter_error,
        )

    def _total(self, values: Tensor) -> Tensor:
        total = values.new_zeros(self._num_cells, *values.shape[1:])
        return total.index_add_(0, self._groups, values)


def _joined(first: ClassSummary, second: ClassSummary) -> ClassSummary:
    if len(first.origin) != len(second.origin):
        raise ShapeError(
            "cells side by side have the same columns, got "
            f"{len(first.origin)} and {len(second.origin)}; join one layer's alone"
        )
    if first.kind != second.kind or first.kind not in {"full", "trace"}:
        raise DomainError(
            "cells side by side keep the same scatter, 'full' or 'trace', got "
            f"{first.kind!r} and {second.kind!r}; accumulate both alike"
        )
    # Without rows there is no origin: that of the other side serves.
    if first.num_samples == 0:
        origin, moved = second.origin, second.shifts
        kept = first.shifts
    else:
        origin, kept = first.origin, first.shifts
        moved = second.shifts + (second.origin - first.origin)
    scatter = None
    if first.scatter is not None and second.scatter is not None:
        scatter = first.scatter + second.scatter
    return ClassSummary(
        counts=torch.cat([first.counts, second.counts]),
        num_nonfinite=torch.cat([first.num_nonfinite, second.num_nonfinite]),
        origin=origin,
        shifts=torch.cat([kept, moved]),
        traces=torch.cat([first.traces, second.traces]),
        largest=torch.cat([first.largest, second.largest]),
        kind=first.kind,
        scatter=scatter,
        scatter_error=max(first.scatter_error, second.scatter_error),
    )
