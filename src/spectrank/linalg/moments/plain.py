"""Mean and scatter of rows that pass by in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor

from spectrank.linalg.moments._accumulator import Accumulator
from spectrank.linalg.moments._rows import (
    check_rows,
    choice,
    plain_arithmetic,
    positive,
)
from spectrank.linalg.moments._sums import (
    Diagonal,
    Precision,
    Products,
    Sum,
    Traces,
    relative_error,
)
from spectrank.linalg.moments._verdicts import unusable, verdict, with_nan
from spectrank.linalg.moments.classes import PRECISIONS
from spectrank.linalg.shapes import Float64
from spectrank.linalg.value import Status

Scatter = Literal["full", "diagonal", "trace"]
SCATTERS: tuple[Scatter, ...] = ("full", "diagonal", "trace")


@dataclass(frozen=True, eq=False)
class MomentSummary:
    r"""Mean and scatter of N rows at one moment.

    Attributes:
        count: Number of rows taken in, N.
        num_nonfinite: Number of rows left out because an entry was not finite (or
            farther than 5e151 from the first row).
        mean: (d,) mean; NaN without rows or where some were not finite.
        scatter: :math:`\sum_i (x_i-\bar x)(x_i-\bar x)^T`, (d, d), its diagonal (d,)
            or its trace (); 0 for a single row.
        scatter_error: Entry (i, j) of ``scatter`` errs by at most this times
            ``sqrt(S_ii S_jj)``.
        status: ``ok``; ``degenerate`` without rows or with squares below float64's
            range; ``nonfinite``.
        reason: Why the status is not ok.
    """

    count: int
    num_nonfinite: int
    mean: Float64[Tensor, " d"]
    scatter: Tensor
    scatter_error: float
    status: Status
    reason: str | None

    @property
    def covariance(self) -> Tensor:
        """``scatter / N`` (not N - 1); NaN without rows."""
        return self.scatter / self.count

    def second_moment(self) -> Tensor:
        r""":math:`\frac1N\sum_i x_i x_i^T` about zero, its diagonal or its trace."""
        if self.scatter.ndim == 2:
            return self.covariance.addr_(self.mean, self.mean)
        squares = self.mean.square()
        return self.covariance + (squares if self.scatter.ndim == 1 else squares.sum())


@final
class Moments(Accumulator):
    r"""Count, mean and scatter of rows, in one pass.

    Keeps two (d,) float64 tensors and the scatter: full (d, d), its diagonal (d,) or
    its trace. Exact for deviations between 3e-154 and 5e151; outside, a status says
    so. See `ClassMoments` for what it withstands.

    Example:
        >>> moments = Moments(2)
        >>> moments.update(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
        >>> moments.update(torch.tensor([[2.0, 2.0]]))
        >>> summary = moments.compute()
        >>> summary.mean.tolist(), summary.scatter.tolist()
        ([2.0, 2.0], [[2.0, 4.0], [4.0, 8.0]])
    """

    _KIND: ClassVar[int] = 1

    def __init__(
        self,
        dim: int,
        *,
        scatter: Scatter = "full",
        precision: Precision = "float64",
        device: torch.device | str = "cpu",
    ) -> None:
        """Start with no rows.

        Args:
            dim: d, number of columns.
            scatter: ``full``, ``diagonal`` or ``trace``.
            precision: Of the products in a ``full`` scatter.
            device: Where the sums live; rows are moved there.
        """
        where = torch.device(device)
        positive("dim", dim)
        choice("scatter", scatter, SCATTERS)
        choice("precision", precision, PRECISIONS)
        self._scatter, self._precision = scatter, precision
        columns = slice(0, dim)
        total: Sum
        with plain_arithmetic(where):
            if scatter == "full":
                total = Products(columns, columns, precision=precision, device=where)
            elif scatter == "diagonal":
                total = Diagonal(columns, device=where)
            else:
                total = Traces(1, columns, device=where)
            super().__init__(1, (dim,), {"scatter": total}, where)

    def update(self, rows: Tensor) -> None:
        """Take in a batch.

        Args:
            rows: (N, d), real floating-point of any precision, on any device.

        Raises:
            ArgumentTypeError: Not a tensor.
            DomainError: Not real floating-point.
            ShapeError: Not (N, d).
        """  # noqa: DOC502 - raised by the check called; nothing is taken in then
        rows = check_rows("rows", rows, self._centres.dim)
        labels = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        self._take((rows,), labels)

    def compute(self) -> MomentSummary:
        """Return the statistics of all rows so far; later rows do not change it."""
        centres = self._settled()
        largest = centres.largest[:, 0]
        lost = unusable(centres.num_nonfinite, largest)
        scatter = self._sum("scatter")
        status, reason = verdict(
            centres.counts, centres.num_nonfinite, largest, scatter
        )
        mean = centres.pivots + centres.offsets
        scatter = with_nan(scatter, lost.expand(len(scatter)))
        count = int(centres.counts)
        return MomentSummary(
            count=count,
            num_nonfinite=int(centres.num_nonfinite),
            mean=with_nan(mean, lost | (centres.counts == 0))[0],
            scatter=scatter[0] if self._scatter == "trace" else scatter,
            scatter_error=relative_error(self._precision, count),
            status=status,
            reason=reason,
        )

    def __repr__(self) -> str:
        return (
            f"Moments({self._centres.dim}, scatter={self._scatter!r}, "
            f"precision={self._precision!r})"
        )

    def _settings(self) -> tuple[int, ...]:
        return (
            self._centres.dim,
            SCATTERS.index(self._scatter),
            PRECISIONS.index(self._precision),
        )

    @classmethod
    def _from_settings(
        cls, settings: tuple[int, ...], device: torch.device | str
    ) -> Self:
        dim, scatter, precision = settings
        return cls(
            dim,
            scatter=SCATTERS[scatter],
            precision=PRECISIONS[precision],
            device=device,
        )
