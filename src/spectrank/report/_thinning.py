"""Spectra thinned to the points that a chart can show."""

from collections.abc import Sequence

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
