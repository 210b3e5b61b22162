"""Signs of affine functions between neighbouring points: what changes, and where."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spectrank.linalg.shapes import Float64

# Units of rounding of a value, relative to its neighbours along the curve, below which
# it is taken for the zero that it rounds.
_ROUNDINGS = 16.0 * torch.finfo(torch.float64).eps


class SignChanges(NamedTuple):
    """What a block of points shows.

    Attributes:
        interval: (C,) interval of every strict change inside one.
        unit: (C,) its neuron.
        fraction: (C,) where in the interval, in (0, 1).
        kinks_at: (P - 2, ) per inner point the number of neurons whose sign is
            opposite before and after it.
        changes_at: (P - 2,) the number that are positive on one side only.
        num_snapped: (P,) per point the number of values taken for zero as rounding.
    """

    interval: Tensor
    unit: Tensor
    fraction: Tensor
    kinks_at: Tensor
    changes_at: Tensor
    num_snapped: Tensor


def sign_changes(y: Float64[Tensor, "P N"], level: float) -> SignChanges:
    """Compare pre-activations with a threshold along the curve.

    A neuron has on each interval the sign of its interior: that of either end which is
    not zero. It is 0 where both ends are: then it stays *at* the threshold, is not
    counted as positive, and entering or leaving it is no strict change of sign.

    Args:
        y: Pre-activations at P points, affine between neighbours.
        level: The threshold.

    Returns:
        The changes.
    """
    y = y - level if level else y
    sign = y.sign()
    near = _neighbourhood(y.abs(), abs(level))
    snapped = (y.abs() <= _ROUNDINGS * near) & (y != 0)
    sign = sign.masked_fill(snapped, 0.0)
    start = torch.where(sign[:-1] != 0, sign[:-1], sign[1:])
    end = torch.where(sign[1:] != 0, sign[1:], sign[:-1])
    interval, unit = (start * end < 0).nonzero(as_tuple=True)
    before, after = end[:-1], start[1:]
    a, b = y[interval, unit], y[interval + 1, unit]
    return SignChanges(
        interval,
        unit,
        a / (a - b),
        (before * after < 0).sum(1),
        ((before > 0) != (after > 0)).sum(1),
        snapped.sum(1),
    )


def _neighbourhood(size: Tensor, level: float) -> Tensor:
    """Largest of a neuron's values at a point and the two beside it."""
    near = size.clamp(min=level) if level else size.clone()
    near[1:] = torch.maximum(near[1:], size[:-1])
    near[:-1] = torch.maximum(near[:-1], size[1:])
    return near
