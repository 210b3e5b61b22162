r"""Counts and means of classes, and the rows by which their scatters grow.

Each class keeps its first sample, the *pivot* p, and its mean as p + m. Rows enter as
y = x - p. Two floats within a factor of two of each other are subtracted exactly
(Sterbenz), so the part of x that all samples share costs no digit, however small the
spread. At relative spread 1e-12, 3000 rows, the scatter errs by 3e-5 with Welford's
update on x itself, 5e-6 with Chan's, 5e-9 in two passes, 7e-16 here. And since p is a
sample, it never lies farther out than the scatter shows.

A batch with b rows of a class, mean ybar, meets n rows before it (Chan's update):

    S <- S + sum (y - ybar)(y - ybar)^T + (n b / (n + b)) (ybar - m)(ybar - m)^T,
    m <- m + (b / (n + b)) (ybar - m).

All increments are outer products of rows: y - ybar and sqrt(n b / (n + b)) (ybar - m).
`absorb` and `merge` return those rows, and any scatter (full, diagonal, trace, across
two blocks of columns) is summed from them alone, positive semidefinite by construction.

    N  rows handed in       d  columns
    K  classes              P  classes present in a batch
    R  rows of an increment B  blocks of columns, the sides of a pair

Source (stated): Sterbenz (1974), Floating-point computation, theorem 4.3.1; Chan,
Golub & LeVeque (1983), Algorithms for computing the sample variance, eq. 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spectrank.linalg.moments._rows import tiles
from spectrank.linalg.shapes import Float64, Shaped

# Beyond it the square of a deviation, summed over ten thousand rows, overflows.
LARGEST = 2.0**504
# Below it the square of a deviation is subnormal and loses digits.
SMALLEST = 2.0**-510


@dataclass(frozen=True, eq=False)
class Increment:
    """Rows whose outer products, summed by class, are what the scatters gained.

    Attributes:
        rows: (R, d) deviations.
        positions: (R,) position in ``present`` of each row's class.
        present: (P,) classes, each once.
    """

    rows: Float64[Tensor, "R d"]
    positions: Shaped[Tensor, " R"]
    present: Shaped[Tensor, " P"]

    def by_class(self, values: Tensor) -> Tensor:
        """Sum (R, ...) values of the rows to (P, ...) values of the classes.

        To be added to a total as one: a total that every row were added to would err
        in proportion to the number of all rows.

        Args:
            values: One for each row.

        Returns:
            One for each class of ``present``.
        """
        sums = values.new_zeros(len(self.present), *values.shape[1:])
        return sums.index_add_(0, self.positions, values)


@dataclass(frozen=True, eq=False)
class _Groups:
    """The classes of a batch.

    Attributes:
        present: (P,) classes that occur, ascending.
        inverse: (N,) position in ``present`` of each row's class.
        sizes: (P,) number of rows of each.
    """

    present: Shaped[Tensor, " P"]
    inverse: Shaped[Tensor, " N"]
    sizes: Shaped[Tensor, " P"]

    @classmethod
    def of(cls, labels: Tensor) -> _Groups:
        return cls(*torch.unique(labels, return_inverse=True, return_counts=True))

    def first_rows(self) -> Tensor:
        """(P,) first row of each class."""
        order = torch.arange(len(self.inverse), device=self.inverse.device)
        first = torch.full_like(self.present, len(order))
        return first.scatter_reduce_(0, self.inverse, order, "amin")

    def means(self, rows: Tensor) -> Tensor:
        """(P, d) mean of each class."""
        sums = rows.new_zeros(len(self.present), rows.shape[1])
        sums.index_add_(0, self.inverse, rows)
        return sums.div_(self.sizes[:, None])


class Centres:
    """Count, pivot and mean of every class: ``mean = pivot + offset``.

    A row with a non-finite entry, or farther than ``LARGEST`` from its class's pivot,
    is counted and left out, so it reaches no sum.

    Attributes:
        counts: (K,) int64 number of rows taken in.
        num_nonfinite: (K,) int64 number of rows left out.
        largest: (K, B) largest absolute deviation from a pivot in each block.
        pivots: (K, d) first row of each class.
        offsets: (K, d) mean less pivot.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, ...],
        num_rows: int,
        device: torch.device,
    ) -> None:
        """Start with no rows.

        Args:
            num_classes: K.
            widths: Number of columns of each block.
            num_rows: Most rows of a tile.
            device: Where all of it lives.
        """
        float64 = torch.float64
        self._widths = widths
        shape = (num_classes, sum(widths))
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.num_nonfinite = torch.zeros_like(self.counts)
        shape_largest = (num_classes, len(widths))
        self.largest = torch.zeros(shape_largest, dtype=float64, device=device)
        self.pivots = torch.zeros(shape, dtype=float64, device=device)
        self.offsets = torch.zeros_like(self.pivots)
        # Kept from step to step: fresh temporaries of this size cost more in page
        # faults than in arithmetic (2.6 ms against 0.9 ms for 128 rows of 1024).
        self._spread = self.pivots.new_empty(num_rows, self.dim)
        self._increment = self.pivots.new_empty(2 * num_rows, self.dim)

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.pivots.shape[1]

    def absorb(
        self, x: Float64[Tensor, "N d"], labels: Shaped[Tensor, " N"]
    ) -> tuple[Increment, ...]:
        """Take in one tile of rows.

        Args:
            x: (N, d) rows, at most one tile, left as they are.
            labels: (N,) int64 classes.

        Returns:
            The rows by which the scatters grow, to be used before the next call.
        """
        if not len(x):
            return ()
        groups = _Groups.of(labels)
        n = self.counts[groups.present]
        any_new = bool((n == 0).any())
        pivots = self.pivots[groups.present]
        if any_new:
            pivots = torch.where((n == 0)[:, None], x[groups.first_rows()], pivots)
        # One matrix for both kinds of rows: a product of the few between-rows alone
        # would cost as much memory traffic as one of all.
        rows = self._increment[: len(x) + len(pivots)]
        y, delta = rows[: len(x)], rows[len(x) :]
        torch.index_select(pivots, 0, groups.inverse, out=y)
        torch.sub(x, y, out=y)
        reach = self._reach(y)
        # NaN is not <= anything.
        if not bool((reach <= LARGEST).all()):
            return self._absorb_without_nonfinite(x, labels, reach)
        if any_new:
            self.pivots[groups.present] = pivots
        self._extend(labels, reach)
        means = groups.means(y)
        spread = self._spread[: len(x)]
        y.sub_(torch.index_select(means, 0, groups.inverse, out=spread))
        delta.copy_(self._move(groups.present, means, n, groups.sizes))
        self.counts[groups.present] += groups.sizes
        each = torch.arange(len(n), device=n.device)
        positions = torch.cat((groups.inverse, each))
        if 2 * len(n) > len(x):
            # Rows that are their class's only one are zero now, and so are the means
            # of new classes: with 10,000 classes that is nearly all.
            nonzero = torch.cat(((groups.sizes > 1)[groups.inverse], n > 0))
            rows, positions = rows[nonzero], positions[nonzero]
        return (Increment(rows, positions, groups.present),)

    def merge(self, other: Centres) -> Iterator[Increment]:
        """Take in what another has taken in.

        Args:
            other: Of the same shape, on the same device; may be this one itself.

        Yields:
            The rows by which the scatters grow beyond the sum of both.
        """
        for tile in tiles(len(self.counts), self.dim, self.counts.device):
            n, b = self.counts[tile].clone(), other.counts[tile].clone()
            fresh = tile.start + ((n == 0) & (b > 0)).nonzero().flatten()
            self.pivots[fresh] = other.pivots[fresh]
            self.offsets[fresh] = other.offsets[fresh]
            both = ((n > 0) & (b > 0)).nonzero().flatten()
            classes = tile.start + both
            high, low = exact_difference(other.pivots[classes], self.pivots[classes])
            # The other's mean, seen from this pivot.
            means = (high + other.offsets[classes]) + low
            delta = self._move(classes, means, n[both], b[both])
            self.largest[tile] = torch.maximum(self.largest[tile], other.largest[tile])
            self._extend(classes, self._reach(delta))
            self.counts[tile] += b
            self.num_nonfinite[tile] += other.num_nonfinite[tile].clone()
            each = torch.arange(len(classes), device=classes.device)
            yield Increment(delta, each, classes)

    def seen_from(self, origin: Float64[Tensor, " d"]) -> Float64[Tensor, "K d"]:
        """Return each class's mean less ``origin``, without cancellation.

        Args:
            origin: (d,) a point near the means, such as one of the pivots.

        Returns:
            (K, d) differences; a class without rows has zero less ``origin``.
        """
        seen = torch.empty_like(self.pivots)
        for tile in tiles(len(seen), self.dim, seen.device):
            high, low = exact_difference(self.pivots[tile], origin)
            seen[tile] = (high + self.offsets[tile]) + low
        return seen

    def _move(self, classes: Tensor, means: Tensor, n: Tensor, b: Tensor) -> Tensor:
        """Move the means of ``classes``, n rows each, by b rows with other means.

        Returns:
            The differences times sqrt(n b / (n + b)).
        """
        delta = means - self.offsets[classes]
        total = (n + b).to(torch.float64)
        self.offsets.index_add_(0, classes, delta * (b / total)[:, None])
        return delta.mul_((n * (b / total)).sqrt_()[:, None])

    def _reach(self, rows: Tensor) -> Tensor:
        """(R, B) largest absolute entry of each row in each block."""
        parts = torch.split(rows, list(self._widths), dim=1)
        reaches = [torch.maximum(p.amax(1), p.amin(1).neg_()) for p in parts]
        return torch.stack(reaches, 1)

    def _extend(self, classes: Tensor, reach: Tensor) -> None:
        """Raise ``largest`` of these classes, given with repetition."""
        index = classes[:, None].expand_as(reach)
        self.largest.scatter_reduce_(0, index, reach, "amax")

    def _absorb_without_nonfinite(
        self, x: Tensor, labels: Tensor, reach: Tensor
    ) -> tuple[Increment, ...]:
        """Count and drop the rows that have no deviation, and absorb the others."""
        kept = torch.isfinite(x).all(1)
        if bool(kept.all()):
            # A pivot that is finite stays: its own deviation is zero.
            kept = (reach <= LARGEST).all(1)
        dropped = labels[~kept]
        self.num_nonfinite.index_add_(0, dropped, torch.ones_like(dropped))
        return self.absorb(x[kept], labels[kept])


def exact_difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return high and low with ``high + low == a - b`` exactly, high the rounded one.

    Source (stated): Knuth, The art of computer programming, vol. 2, sec. 4.2.2,
    theorem B (two-sum).

    Args:
        a: Minuend.
        b: Subtrahend, of a shape that broadcasts.

    Returns:
        The rounded difference and what rounding took from it.
    """
    high = a - b
    virtual = high - a
    low = (a - (high - virtual)) - (b + virtual)
    return high, low
