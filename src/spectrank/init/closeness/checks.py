"""Arguments of the report, refused before anything is read."""

from __future__ import annotations

import math
from collections.abc import Iterable

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import Skip, WeightMatrix

# Values of one null, of 16 bytes each.
_MOST_VALUES = 1 << 29


def checked_draws(level: object, num_draws: object) -> int:
    """Return how many matrices to draw.

    Args:
        level: Probability of a false alarm.
        num_draws: As given; None for the fewest that reach the level.

    Returns:
        The number of draws.

    Raises:
        ArgumentTypeError: If one of them is no number.
        DomainError: If the level is none, or so few draws cannot reach it.
    """
    if isinstance(level, bool) or not isinstance(level, int | float):
        raise ArgumentTypeError(
            f"level is a probability, got {level!r}; e.g. level=0.001"
        )
    if not 1e-6 <= level <= 0.5:
        raise DomainError(
            f"level must lie in [1e-6, 0.5], got {level}; 0.001 is the default"
        )
    # The smallest p-value is 1 / (draws + 1) and half of the level has to reach it.
    fewest = math.ceil(2.0 / level - 1e-9) - 1
    if num_draws is None:
        return max(fewest, 199)
    if isinstance(num_draws, bool) or not isinstance(num_draws, int):
        raise ArgumentTypeError(
            f"num_draws is a whole number, got {num_draws!r}; leave it out for "
            f"{fewest} at this level"
        )
    if num_draws < fewest:
        raise DomainError(
            f"a level of {level} needs at least {fewest} draws, got {num_draws}; "
            "draw more, or raise the level"
        )
    return num_draws


def check_room(weights: Iterable[WeightMatrix | Skip], num_draws: int) -> None:
    """Refuse draws that take more than 8 GiB for one matrix.

    Args:
        weights: Tensors of the source.
        num_draws: Draws a shape.

    Raises:
        DomainError: With the name of the first such matrix.
    """
    for weight in weights:
        if isinstance(weight, Skip):
            continue
        if (size := min(weight.shape) * num_draws) > _MOST_VALUES:
            m, n = weight.shape
            raise DomainError(
                f"draws take 16 min(m, n) bytes each and at most 8 GiB, got {num_draws}"
                f" for {weight.name} of {m} x {n}, {size / (1 << 26):.3g} GiB; raise "
                "the level, or leave the matrix out by select="
            )
