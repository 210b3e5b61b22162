r"""Sums of outer products of paired rows, and their part within classes.

For rows delta_i (output side) and z_i (input side) of the same samples,

    sum_i delta_i z_i^T = sum_c n_c dbar_c zbar_c^T
                          + sum_c sum_{i in c} (delta_i - dbar_c)(z_i - zbar_c)^T,

and the second sum over N is the R_P that bounds a weight's distance to rank K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, ShapeError
from spectrank.linalg.moments._accumulator import Accumulator
from spectrank.linalg.moments._rows import (
    check_labels,
    check_rows,
    choice,
    plain_arithmetic,
    positive,
    tiles,
)
from spectrank.linalg.moments._summaries import ClassSummary
from spectrank.linalg.moments._sums import Precision, Products, Sum, Traces
from spectrank.linalg.moments.classes import PRECISIONS, summarise
from spectrank.linalg.shapes import Float64
from spectrank.linalg.value import Status

Side = Literal["trace", "full"]
SIDES: tuple[Side, ...] = ("trace", "full")


@dataclass(frozen=True, eq=False)
class CrossSummary:
    r"""Class statistics of both sides and the products between them.

    Attributes:
        outputs: Statistics of the output rows (gradients delta): ``outputs.wcv``,
            ``outputs.mean_square`` for mean ||delta||^2.
        inputs: Statistics of the input rows z.
        within: (m, n) :math:`\sum_c\sum_i(\delta_i-\bar\delta_c)(z_i-\bar z_c)^T`; NaN
            where rows were not finite. Entry (i, j) errs by at most
            ``inputs.scatter_error`` times the root of both columns' scatters.
    """

    outputs: ClassSummary
    inputs: ClassSummary
    within: Float64[Tensor, "m n"]

    @property
    def num_samples(self) -> int:
        """Number of pairs taken in, N."""
        return self.inputs.num_samples

    @property
    def status(self) -> Status:
        """``ok``, ``degenerate`` or ``nonfinite``, the worse of both sides."""
        return self._worse.status

    @property
    def reason(self) -> str | None:
        """Why ``status`` is not ok."""
        return self._worse.reason

    def within_moment(self) -> Float64[Tensor, "m n"]:
        r"""R_P: the within-class part of :math:`\frac1N\sum_i\delta_i z_i^T`.

        Its nuclear norm is at most ``sqrt(outputs.wcv * inputs.wcv)``.
        Source (derived): tests/linalg/moments/test_moments_cross.py.

        Returns:
            (m, n) matrix; NaN without pairs.
        """
        return self.within / self.num_samples

    def between_moment(self) -> Float64[Tensor, "m n"]:
        r""":math:`\sum_c\frac{n_c}N\bar\delta_c\bar z_c^T`, of rank at most K.

        Returns:
            (m, n) matrix; NaN without pairs.
        """
        classes = self.inputs.counts.nonzero().flatten()
        # Integers divided by an integer would be float32.
        weights = self.inputs.counts[classes].to(torch.float64) / self.num_samples
        total = torch.zeros_like(self.within)
        m, n = total.shape
        for tile in tiles(len(classes), m + n, total.device):
            rows = classes[tile]
            left = self.outputs.origin + self.outputs.shifts[rows]
            right = self.inputs.origin + self.inputs.shifts[rows]
            total.add_((left * weights[tile, None]).mT @ right)
        return total if len(classes) else total.fill_(torch.nan)

    def moment(self) -> Float64[Tensor, "m n"]:
        r""":math:`\frac1N\sum_i\delta_i z_i^T`: the gradient of the mean loss.

        Returns:
            (m, n) matrix, ``between_moment() + within_moment()``.
        """
        return self.between_moment().add_(self.within_moment())

    @property
    def _worse(self) -> ClassSummary:
        order = ("ok", "degenerate", "nonfinite")
        return max(self.inputs, self.outputs, key=lambda s: order.index(s.status))


@final
class CrossMoments(Accumulator):
    r"""Sum of outer products of paired rows, split by classes, in one pass.

    Keeps the class means of both sides, (K, m) and (K, n) twice, the (m, n)
    within-class products, and the scatter traces of both sides; the full scatters on
    request. All are centred as in `ClassMoments`, so that R is right where the classes
    have collapsed and its difference from the whole is all that is left.

    Example:
        >>> cross = CrossMoments(2, dim_out=1, dim_in=2)
        >>> delta = torch.tensor([[1.0], [3.0], [5.0]])
        >>> z = torch.tensor([[1.0, 0], [2, 0], [0, 4]])
        >>> cross.update(delta, z, torch.tensor([0, 0, 1]))
        >>> summary = cross.compute()
        >>> (3 * summary.moment()).round(decimals=9).tolist()  # 1*1 + 3*2, 5*4
        [[7.0, 20.0]]
        >>> summary.within.tolist()
        [[1.0, 0.0]]
    """

    _KIND: ClassVar[int] = 3

    def __init__(
        self,
        num_classes: int | None,
        dim_out: int,
        dim_in: int,
        *,
        scatter_out: Side = "trace",
        scatter_in: Side = "trace",
        precision: Precision = "float64",
        ignore_label: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start with no pairs.

        Args:
            num_classes: K; None for a single class and no labels.
            dim_out: m, number of columns of the output rows.
            dim_in: n, number of columns of the input rows.
            scatter_out: ``full`` to keep the (m, m) within-class scatter as well.
            scatter_in: ``full`` to keep the (n, n) one.
            precision: Of the products; everything else is float64 always.
            ignore_label: Pairs of this label are skipped.
            device: Where the sums live; rows are moved there.
        """
        where = torch.device(device)
        self._num_classes = num_classes
        classes = 1 if num_classes is None else positive("num_classes", num_classes)
        m, n = positive("dim_out", dim_out), positive("dim_in", dim_in)
        choice("scatter_out", scatter_out, SIDES)
        choice("scatter_in", scatter_in, SIDES)
        choice("precision", precision, PRECISIONS)
        self._sides = (scatter_out, scatter_in)
        self._precision, self._ignore_label = precision, ignore_label
        self._out, self._in = out, into = slice(0, m), slice(m, m + n)
        with plain_arithmetic(where):
            sums: dict[str, Sum] = {
                "traces_out": Traces(classes, out, device=where),
                "traces_in": Traces(classes, into, device=where),
                "within": Products(out, into, precision=precision, device=where),
            }
            for name, side, columns in (
                ("scatter_out", scatter_out, out),
                ("scatter_in", scatter_in, into),
            ):
                if side == "full":
                    sums[name] = Products(
                        columns, columns, precision=precision, device=where
                    )
            super().__init__(classes, (m, n), sums, where)

    def update(
        self, out_rows: Tensor, in_rows: Tensor, labels: Tensor | None = None
    ) -> None:
        """Take in a batch of pairs.

        Args:
            out_rows: (N, m) output rows such as gradients, real floating-point.
            in_rows: (N, n) input rows of the same samples.
            labels: (N,) class of each pair; None if and only if K is None.

        Raises:
            ArgumentTypeError: Not tensors, or labels given or missing against K.
            DomainError: Dtypes, or a label outside [0, K) that is not ignored.
            ShapeError: Shapes, or unequal numbers of rows.
        """  # noqa: DOC502 - raised by the checks called; nothing is taken in then
        out_rows = check_rows("out_rows", out_rows, self._out.stop)
        in_rows = check_rows("in_rows", in_rows, self._centres.dim - self._out.stop)
        if len(out_rows) != len(in_rows):
            raise ShapeError(
                "out_rows and in_rows must be pairs of the same samples, got "
                f"{len(out_rows)} and {len(in_rows)}; pass the same batch to both"
            )
        if (labels is None) != (self._num_classes is None):
            raise ArgumentTypeError(
                "labels go with num_classes, got "
                f"{'none' if labels is None else 'labels'} with num_classes="
                f"{self._num_classes}; give both or neither"
            )
        if labels is None:
            labels = torch.zeros(len(in_rows), dtype=torch.int64, device=self.device)
            self._take((out_rows, in_rows), labels)
            return
        labels, kept = check_labels(
            labels, len(in_rows), len(self._centres.counts), self._ignore_label
        )
        if kept is not None:
            out_rows = out_rows[kept.to(out_rows.device)]
            in_rows = in_rows[kept.to(in_rows.device)]
        self._take((out_rows, in_rows), labels)

    def compute(self) -> CrossSummary:
        """Return the statistics of all pairs so far; later ones do not change it."""
        centres = self._settled()
        outputs, inputs = (
            summarise(
                centres,
                columns,
                block,
                self._sum(f"traces_{name}"),
                self._sum(f"scatter_{name}") if side == "full" else None,
                kind=side,
                precision=self._precision,
            )
            for block, (name, columns, side) in enumerate(
                zip(("out", "in"), (self._out, self._in), self._sides, strict=True)
            )
        )
        within = self._sum("within")
        if "nonfinite" in {inputs.status, outputs.status}:
            within.fill_(torch.nan)
        return CrossSummary(outputs, inputs, within)

    def __repr__(self) -> str:
        m, n = self._sums["within"].value().shape
        return (
            f"CrossMoments({self._num_classes}, {m}, {n}, "
            f"scatter_out={self._sides[0]!r}, scatter_in={self._sides[1]!r}, "
            f"precision={self._precision!r}, ignore_label={self._ignore_label})"
        )

    def _settings(self) -> tuple[int, ...]:
        return (
            self._num_classes or 0,
            self._out.stop,
            self._in.stop - self._in.start,
            *(SIDES.index(side) for side in self._sides),
            PRECISIONS.index(self._precision),
            int(self._ignore_label is not None),
            self._ignore_label or 0,
        )

    @classmethod
    def _from_settings(
        cls, settings: tuple[int, ...], device: torch.device | str
    ) -> Self:
        classes, m, n, out, into, precision, ignoring, ignored = settings
        return cls(
            classes or None,
            m,
            n,
            scatter_out=SIDES[out],
            scatter_in=SIDES[into],
            precision=PRECISIONS[precision],
            ignore_label=ignored if ignoring else None,
            device=device,
        )
