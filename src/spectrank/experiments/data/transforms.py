"""Rows made comparable: centred and scaled features, rows of length one.

N is the number of samples, d the number of features. Nothing is divided by a number
plus epsilon: a feature that does not vary is zero after centring, and a row of zeros,
which has no direction, is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError

_PIECE = 4096


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Map ``x -> (x - mean) / deviation``, fitted on one set and applied to any.

    Attributes:
        mean: (d,) mean of each feature.
        deviation: (d,) standard deviation (divisor N); exactly 0 where constant.
    """

    mean: Tensor
    deviation: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Return standardised rows; a feature of deviation 0 becomes 0.

        Args:
            rows: (N, d) of any floating-point type.

        Returns:
            (N, d) of the same type.

        Raises:
            ShapeError: The number of features differs.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ShapeError(
                f"rows must be (N, {len(self.mean)}) as those it was fitted on, got "
                f"{tuple(rows.shape)}; flatten them or fit again"
            )
        varies = self.deviation > 0
        # Constant on the fitted set: there is no scale to divide by. On other data a
        # deviation from that constant carries no known scale either.
        safe = torch.where(varies, self.deviation, torch.ones_like(self.deviation))
        scaled = (rows.to(torch.float64) - self.mean) / safe
        return torch.where(varies, scaled, torch.zeros_like(scaled)).to(rows.dtype)


def fit_standardiser(rows: Tensor) -> Standardiser:
    """Fit mean and deviation of each feature, in float64.

    Args:
        rows: (N, d), N >= 2.

    Returns:
        The map; apply it to training and test rows alike.

    Raises:
        ShapeError: Rows are not two-dimensional or fewer than two.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise ShapeError(
            f"rows must be (N, d) with N >= 2, got {tuple(rows.shape)}; "
            "use Dataset.rows()"
        )
    # Piece by piece: a float64 copy of CIFAR-10 takes 1.2 GB.
    pieces = torch.split(rows, _PIECE)
    total = sum((x.sum(0, dtype=torch.float64) for x in pieces), torch.zeros(()))
    mean = total / len(rows)
    squares = (torch.square(x.to(torch.float64) - mean).sum(0) for x in pieces)
    deviation = (sum(squares, torch.zeros(())) / len(rows)).sqrt()
    # The mean of N equal numbers is off by rounding, which would pass for variation.
    constant = torch.stack([(x == rows[0]).all(0) for x in pieces]).all(0)
    return Standardiser(
        torch.where(constant, rows[0].to(torch.float64), mean),
        torch.where(constant, torch.zeros_like(deviation), deviation),
    )


def unit_norm(rows: Tensor) -> Tensor:
    r"""Return rows divided by their length, :math:`x / \|x\|_2`.

    Args:
        rows: (N, d) of any floating-point type.

    Returns:
        (N, d) of the same type, every row of length 1.

    Raises:
        ShapeError: Rows are not two-dimensional.
        DomainError: A row is zero or not finite.
    """
    if rows.ndim != 2:
        raise ShapeError(
            f"rows must be (N, d), got {tuple(rows.shape)}; use Dataset.rows()"
        )
    exact = rows.to(torch.float64)
    # By the largest entry first: the square of 1e-200 is 0.
    largest = exact.abs().amax(1, keepdim=True)
    bad = ~((largest > 0) & torch.isfinite(largest)).squeeze(1)
    if bool(bad.any()):
        raise DomainError(
            "a row needs a finite length above 0 to have a direction, got "
            f"{int(bad.sum())} that have none (first: row {int(bad.nonzero()[0])}); "
            "remove them"
        )
    scaled = exact / largest
    unit: Tensor = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return unit.to(rows.dtype)
