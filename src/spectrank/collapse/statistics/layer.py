r"""Statistics of one weight matrix, gathered in one pass.

    delta  derivative of the summed loss for the layer's output, per row
    z      the layer's input, per row
    F      what the sum is divided by to give the loss as trained (``divisor``)

    gradient of the trained loss = (1/F) sum delta z^T  over all rows and uses

A row is one application of the matrix: a sample, a token, a patch. Rows with a label
are in the cell of their class; rows without one (padding, ignored tokens, regression)
share a last cell of their own, for the gradient needs them too.
Source (derived): tests/collapse/statistics/test_collapse_gather.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from spectrank.collapse.statistics.keep import KeptRows
from spectrank.linalg.moments import ClassSummary, CrossSummary
from spectrank.linalg.shapes import Float64

Cells = Literal["classes", "none"]


@final
@dataclass(frozen=True, eq=False)
class Minibatch:
    """The gradient of the first minibatch for one weight.

    Attributes:
        core: A matrix with the singular values of the sum of delta z^T, up to zeros.
        num_rows: Number of rows in the sum: an upper bound of its rank.
    """

    core: Float64[Tensor, "r s"]
    num_rows: int


@final
@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What one pass tells of one weight matrix.

    Attributes:
        name: Of the layer.
        uses: Names of the modules that hold the weight, ``name`` first.
        weight_name: Of the parameter.
        view: Convention of the matrix.
        layer_type: Class name of the module.
        parametrised: The matrix is computed from other parameters.
        weight: (m, n) copy at the time of the pass.
        dtype: In which the layer computes its inputs.
        cells: ``classes``, or ``none``: all rows are in one cell.
        num_classes: K; None without classes.
        features: Statistics of the inputs of rows that have a class (of all rows
            without classes); its cells are exactly the classes.
        cross: Outputs and inputs of all rows by cell: K classes, then the rows without
            a label where there are any. None without a loss.
        position_cross: The same with a cell for every (class, position), where those
            are fewer than min(m, n); None elsewhere.
        num_positions: Number of rows, over all uses, that a sample gives.
        divisor: F; NaN without a loss.
        kept: Rows of the input of the first use: of a convolution its whole input,
            flattened, one row a sample. None if none were kept.
        minibatch: Gradient of the first batch; None without a loss.
    """

    name: str
    uses: tuple[str, ...]
    weight_name: str
    view: str
    layer_type: str
    parametrised: bool
    weight: Float64[Tensor, "m n"]
    dtype: torch.dtype
    cells: Cells
    num_classes: int | None
    features: ClassSummary
    cross: CrossSummary | None
    position_cross: CrossSummary | None
    num_positions: int
    divisor: float
    kept: KeptRows | None
    minibatch: Minibatch | None

    def gradient(self) -> Float64[Tensor, "m n"] | None:
        r"""Gradient of the trained loss without its penalty, over the whole pass.

        Returns:
            :math:`\frac1F\sum_i\delta_i z_i^T`, (m, n); None without a loss.
        """
        if self.cross is None:
            return None
        return self.cross.moment() * (self.cross.num_samples / self.divisor)


def minibatch_of(pairs: list[tuple[Tensor, Tensor]]) -> Minibatch:
    """Reduce the sum of outer products of a batch to a matrix of its size.

    Args:
        pairs: (gradients (R, m), inputs (R, n)) of each use.

    Returns:
        The core: R x R from the triangles of both sides where R < min(m, n), else the
        (m, n) sum.
    """
    left = torch.cat([gradients for gradients, _ in pairs]).to(torch.float64)
    right = torch.cat([inputs for _, inputs in pairs]).to(torch.float64)
    size = len(left)
    if size >= min(left.shape[1], right.shape[1]):
        return Minibatch(left.mT @ right, size)
    _, out = torch.linalg.qr(left.mT)
    _, into = torch.linalg.qr(right.mT)
    return Minibatch(out @ into.mT, size)
