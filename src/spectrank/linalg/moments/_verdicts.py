"""Status of sums of squares: finite, in the range where squares are safe, not empty."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectrank.linalg.moments._centres import LARGEST, SMALLEST
from spectrank.linalg.moments._sums import rounding
from spectrank.linalg.value import Status, Value

Verdict = tuple[Status, str | None]


def unusable(num_nonfinite: Tensor, largest: Tensor) -> Tensor:
    """(K,) bool: classes that met rows without a finite square.

    Args:
        num_nonfinite: (K,) number of rows left out.
        largest: (K,) largest deviation, NaN or infinite after an overflowing merge.

    Returns:
        The mask.
    """
    return (num_nonfinite > 0) | ~(largest <= LARGEST)


def verdict(
    counts: Tensor, num_nonfinite: Tensor, largest: Tensor, sums: Tensor
) -> Verdict:
    """Return the status of sums over these classes, and why where it is not ok.

    Args:
        counts: Number of rows of each class.
        num_nonfinite: Number of rows left out of each.
        largest: Largest deviation met in each.
        sums: Sums of squares of their deviations, of any shape.

    Returns:
        Status and reason.
    """
    if int(num_nonfinite.sum()):
        return "nonfinite", (
            f"{int(num_nonfinite.sum())} rows have entries that are not finite or lie "
            f"farther than {LARGEST:.1g} from the first row of their class"
        )
    if bool(unusable(num_nonfinite, largest).any()):
        return "nonfinite", (
            f"rows of one class lie farther apart than {LARGEST:.1g}: squares overflow"
        )
    if not bool(torch.isfinite(sums).all()):
        return "nonfinite", (
            "sums of squares overflow; multiply the rows by a power of two below one"
        )
    if not int(counts.sum()):
        return "degenerate", "no rows"
    reach = float(largest.max())
    if 0.0 < reach < SMALLEST:
        return "degenerate", (
            f"rows differ by at most {reach:.1e}, whose square is below float64's "
            "range; multiply them by a power of two"
        )
    return "ok", None


def trusted(value: float, num_rows: int, status: Verdict) -> Value:
    """Return a sum of squares with its rounding error, or NaN with the reason.

    Args:
        value: The sum.
        num_rows: Number of rows that went into it.
        status: Of the classes summed over.

    Returns:
        The enclosed value.
    """
    word, reason = status
    if word != "ok":
        return Value.undefined(word, reason or word)
    if not math.isfinite(value):
        return Value.undefined(
            "nonfinite",
            "sums of squares overflow; multiply the rows by a power of two below one",
        )
    return Value.around(value, value * rounding(num_rows))


def too_small(deviations: Tensor) -> tuple[Status, str] | None:
    """Return why squares of these are below float64's range; None where they are not.

    Args:
        deviations: Of any shape; NaN where there is none.

    Returns:
        Status and reason, or None.
    """
    reach = float(deviations.abs().nan_to_num().max()) if deviations.numel() else 0.0
    if not 0.0 < reach < SMALLEST:
        return None
    return "degenerate", (
        f"means differ by at most {reach:.1e}, whose square is below float64's range; "
        "multiply the rows by a power of two"
    )


def with_nan(values: Tensor, mask: Tensor) -> Tensor:
    """Return (K, ...) values with NaN in the classes of a mask; the values if none."""
    if not bool(mask.any()):
        return values
    wide = mask.reshape(-1, *[1] * (values.ndim - 1))
    return torch.where(wide, torch.nan, values)
