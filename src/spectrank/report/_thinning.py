"""Spectra thinned to what a chart can show: points of a curve, bins of a histogram."""

import math
from collections.abc import Sequence
from typing import Any

_FLOOR = 1e-5

MAX_POINTS = 512
"""Points kept of one spectrum."""


def thin_positions(size: int, limit: int = MAX_POINTS) -> list[int]:
    """Log-spaced positions in ``1..size`` with both ends.

    Rounding a geometric grid repeats its small positions and wastes points; here the
    ratio is taken anew from what is left, so exactly ``limit`` positions come back.

    Args:
        size: Number of values, at least 0.
        limit: Largest number of positions, at least 2.

    Returns:
        Strictly increasing positions from 1 to ``size``; all of them when
        ``size <= limit``.
    """
    if size <= limit:
        return list(range(1, size + 1))
    positions = [1]
    for left in range(limit - 1, 0, -1):
        last = positions[-1]
        positions.append(max(last + 1, round(last * (size / last) ** (1 / left))))
    return positions


def thin_spectrum(
    values: Sequence[float], limit: int = MAX_POINTS
) -> tuple[list[int], list[float]]:
    """Thins a spectrum to log-spaced points, first and last value exact.

    Args:
        values: Singular values in their order.
        limit: Largest number of points kept, at least 2.

    Returns:
        One-based positions and the values found there, untouched.
    """
    positions = thin_positions(len(values), limit)
    return positions, [values[position - 1] for position in positions]


def histogram(values: Sequence[float]) -> dict[str, Any] | None:
    """Counts of singular values in bins of equal ratio.

    About three times the cube root of their number, 8 to 60, up to the largest value.

    Args:
        values: Singular values in any order.

    Returns:
        ``low`` and ``high`` ends, ``counts`` from low to high, and how many values lie
        ``below`` (zeros, and what is under 1e-5 of the largest); None where fewer than
        two values are left or all are equal.
    """
    largest = max((x for x in values if math.isfinite(x)), default=0.0)
    kept = [x for x in values if math.isfinite(x) and x > _FLOOR * largest]
    if len(kept) < 2 or not min(kept) < largest:
        return None
    low = min(kept)
    num = min(60, max(8, round(3.0 * len(kept) ** (1.0 / 3.0))))
    width = math.log(largest / low) / num
    counts = [0] * num
    for x in kept:
        counts[min(num - 1, int(math.log(x / low) / width))] += 1
    below = len(values) - len(kept)
    return {"low": low, "high": largest, "counts": counts, "below": below}
