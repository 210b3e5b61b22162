r"""Class statistics as numbers: means, variations within and between, second moments.

    d  columns      K  classes      N  rows taken in, n_c of them in class c

Every covariance here divides by the number of rows (1/N), as the theory does, never
by N - 1. A class without rows takes no part. A class that met a row which is not finite
has NaN for its mean and variation, and so has everything that sums over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.linalg.moments._rows import choice, tiles
from spectrank.linalg.moments._verdicts import too_small, trusted, verdict
from spectrank.linalg.shapes import Float64, Shaped
from spectrank.linalg.value import Status, Value

Weights = Literal["classes", "samples"]
ClassScatter = Literal["full", "diagonal", "class_diagonal", "trace"]
_WEIGHTS = ("classes", "samples")


@dataclass(frozen=True, eq=False)
class ClassSummary:
    r"""Means and scatters of K classes at one moment.

    Attributes:
        counts: (K,) int64 number of rows of each class.
        num_nonfinite: (K,) int64 number of rows left out because an entry was not
            finite (or farther than 5e151 from the class's first row).
        origin: (d,) a row of the first class that has any.
        shifts: (K, d) class means less ``origin``, accurate to their own size even
            where the means themselves differ by less than a spacing; NaN for a class
            without rows.
        traces: (K,) :math:`\sum_i \|x_i - \bar x_c\|^2`; 0 for a class of one row or
            of none.
        largest: (K,) largest deviation met, between 3e-154 and 5e151 where squares
            are safe.
        kind: What of the scatter was kept.
        scatter: Sum over all classes of the within-class scatter, (d, d) for ``full``,
            (d,) for ``diagonal``; by class (K, d) for ``class_diagonal``; None for
            ``trace``.
        scatter_error: Entry (i, j) of ``scatter`` errs by at most this times
            ``sqrt(S_ii S_jj)``.
    """

    counts: Shaped[Tensor, " K"]
    num_nonfinite: Shaped[Tensor, " K"]
    origin: Float64[Tensor, " d"]
    shifts: Float64[Tensor, "K d"]
    traces: Float64[Tensor, " K"]
    largest: Float64[Tensor, " K"]
    kind: ClassScatter
    scatter: Tensor | None
    scatter_error: float

    @property
    def num_samples(self) -> int:
        """Number of rows taken in, N."""
        return int(self.counts.sum())

    @property
    def num_present(self) -> int:
        """Number of classes that have rows."""
        return int((self.counts > 0).sum())

    @property
    def means(self) -> Float64[Tensor, "K d"]:
        """(K, d) class means; NaN for a class without rows or with non-finite ones."""
        return self.origin + self.shifts

    @property
    def class_variances(self) -> Float64[Tensor, " K"]:
        r"""(K,) :math:`\operatorname{tr} S_c / n_c`; NaN for a class without rows."""
        return self.traces / self.counts

    @property
    def status(self) -> Status:
        """Status of what sums over all classes."""
        return self._verdict[0]

    @property
    def reason(self) -> str | None:
        """Why ``status`` is not ok."""
        return self._verdict[1]

    def class_status(self, label: int) -> tuple[Status, str | None]:
        """Status of one class and the reason where it is not ok.

        Args:
            label: Number of the class, in [0, K).

        Returns:
            ``ok``; ``degenerate`` without rows or with squares below float64's range;
            ``nonfinite``.

        Raises:
            DomainError: There is no such class.
        """
        if not 0 <= label < len(self.counts):
            raise DomainError(
                f"label must lie in [0, {len(self.counts)}), got {label}; "
                "count classes from zero"
            )
        one = slice(label, label + 1)
        return verdict(
            self.counts[one],
            self.num_nonfinite[one],
            self.largest[one],
            self.traces[one],
        )

    @property
    def wcv(self) -> Value:
        r"""Within-class variation :math:`\frac1N\sum_c\sum_i\|x_i-\bar x_c\|^2`.

        Squared units of the rows, equal to the trace of the within-class covariance;
        not N times it, and not the minimum over partitions (TCV).

        Returns:
            Value with its rounding error; ``degenerate`` without rows.
        """
        return self._value(float(self.traces.sum()) / max(self.num_samples, 1))

    @property
    def mean_square(self) -> Value:
        r"""Second moment :math:`\frac1N\sum_i\|x_i\|^2` about zero."""
        weights, rows = self._weighted("samples")
        if (small := too_small(self.means[rows])) and self.wcv.value == 0.0:
            return Value.undefined(*small)
        means = self.means[rows].square().sum(1)
        return self._value(self.wcv.value + float((weights * means).sum()))

    @property
    def total_variation(self) -> Value:
        r"""Variation about the mean of all rows, within plus between classes."""
        small = too_small(self.centred_means("samples"))
        if small and self.wcv.value == 0.0:
            return Value.undefined(*small)
        return self._value(self.wcv.value + float(self.between_variance("samples")))

    @property
    def rtcv(self) -> Value:
        r"""Relative variation within classes, ``wcv / total_variation``, in [0, 1].

        Without unit, so comparable across layers. ``degenerate`` when all rows are
        equal (0/0): such features are not collapsed on classes but on a point.

        Returns:
            Value with its rounding error.
        """
        total = self.total_variation
        if total.status != "ok":
            return total
        if total.status == "ok" and total.value == 0.0:
            return Value.undefined("degenerate", "all rows are equal: 0/0")
        return self._value(self.wcv.value / (total.value or math.nan)).clip(0.0, 1.0)

    def mean(self, weights: Weights = "samples") -> Float64[Tensor, " d"]:
        """Mean of all rows (``samples``) or of the class means (``classes``).

        The two differ when classes are unbalanced.

        Args:
            weights: ``samples`` or ``classes``.

        Returns:
            (d,) the mean; NaN without rows.
        """
        if self.num_samples == 0:
            return torch.full_like(self.origin, math.nan)
        return self.origin + self._mean_shift(weights)

    def centred_means(self, center: Weights = "classes") -> Float64[Tensor, "K d"]:
        """Class means less the global one, without cancellation.

        Args:
            center: Which global mean, as in ``mean``.

        Returns:
            (K, d) differences; NaN for a class without rows.
        """
        return self.shifts - self._mean_shift(center)

    def within_covariance(self) -> Tensor:
        r"""Pooled within-class covariance :math:`\Sigma_W`, divided by N.

        Returns:
            (d, d), or its diagonal (d,), as ``scatter`` was chosen; by class (K, d),
            each divided by n_c, for ``class_diagonal``. NaN without rows.

        Raises:
            DomainError: Only traces were kept.
        """
        if self.scatter is None:
            raise DomainError(
                "a within-class covariance needs its scatter, got scatter='trace'; "
                "accumulate with scatter='full' or 'diagonal'"
            )
        if self.kind == "class_diagonal":
            return self.scatter / self.counts[:, None]
        return self.scatter / self.num_samples

    def between_covariance(
        self, weights: Weights = "classes", *, center: Weights | None = None
    ) -> Float64[Tensor, "d d"]:
        r"""Between-class covariance :math:`\sum_c w_c(\mu_c-\mu)(\mu_c-\mu)^T`.

        ``classes``: w = 1/C over the C classes that have rows, mu the mean of the class
        means (Papyan et al.); with ``center="samples"`` mu is the mean of all rows (Zhu
        et al.). ``samples``: w = n_c/N, mu the mean of all rows (He & Su); only this
        one adds with the within-class covariance to the total. All agree when classes
        are balanced.

        Args:
            weights: ``classes`` or ``samples``.
            center: Which mean is subtracted; as ``weights`` by default.

        Returns:
            (d, d) covariance of rank at most C - 1 (C with another centre).
        """
        w, rows = self._weighted(weights)
        centre = self._mean_shift(weights if center is None else center)
        d = len(self.origin)
        total = self.shifts.new_zeros(d, d)
        for tile in tiles(len(rows), d, total.device):
            part = (self.shifts[rows[tile]] - centre) * w[tile, None].sqrt()
            total.add_(part.mT @ part)
        return total

    def between_variance(
        self, weights: Weights = "classes", *, center: Weights | None = None
    ) -> Float64[Tensor, ""]:
        """Trace of ``between_covariance``, without forming it.

        Args:
            weights: ``classes`` or ``samples``.
            center: Which mean is subtracted; as ``weights`` by default.

        Returns:
            The trace, a 0-dimensional tensor.
        """
        w, rows = self._weighted(weights)
        centre = self._mean_shift(weights if center is None else center)
        total = self.shifts.new_zeros(())
        for tile in tiles(len(rows), len(self.origin), total.device):
            squares = (self.shifts[rows[tile]] - centre).square().sum(1)
            total.add_((w[tile] * squares).sum())
        return total

    def total_covariance(self) -> Float64[Tensor, "d d"]:
        """Covariance of all rows: within plus between with weights ``samples``.

        Returns:
            (d, d) covariance, divided by N.

        Raises:
            DomainError: The full scatter was not kept.
        """
        if self.kind != "full":
            raise DomainError(
                f"a total covariance needs the full scatter, got {self.kind!r}; "
                "accumulate with scatter='full'"
            )
        return self.within_covariance() + self.between_covariance("samples")

    def second_moment(self) -> Float64[Tensor, "d d"]:
        r"""Second moment :math:`\frac1N\sum_i x_i x_i^T` about zero.

        Returns:
            (d, d) matrix; needs the full scatter.
        """
        mean = self.mean("samples")
        return self.total_covariance().addr_(mean, mean)

    @property
    def _verdict(self) -> tuple[Status, str | None]:
        return verdict(self.counts, self.num_nonfinite, self.largest, self.traces)

    def _value(self, value: float) -> Value:
        return trusted(value, self.num_samples, self._verdict)

    def _weighted(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """Return weights that sum to one, and the classes that have rows."""
        choice("weights", weights, _WEIGHTS)
        rows = self.counts.nonzero().flatten()
        # Integers divided by integers would be float32.
        sizes = self.counts[rows].to(torch.float64)
        sizes = torch.ones_like(sizes) if weights == "classes" else sizes
        return sizes / sizes.sum(), rows

    def _mean_shift(self, weights: Weights) -> Tensor:
        """Return the global mean less ``origin``."""
        w, rows = self._weighted(weights)
        total = torch.zeros_like(self.origin)
        for tile in tiles(len(rows), len(self.origin), total.device):
            total.addmv_(self.shifts[rows[tile]].mT, w[tile])
        return total
