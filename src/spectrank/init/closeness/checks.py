"""Arguments of the report, refused before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import Skip, WeightMatrix, unmatched_patterns


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


def check_patterns(
    weights: Sequence[WeightMatrix | Skip],
    select: str | Sequence[str] | None,
    views: Mapping[str, str] | None,
) -> None:
    """Refuse a source without tensors and patterns that name none of them.

    Args:
        weights: Tensors of the source, after ``select``.
        select: Glob pattern or patterns.
        views: Glob pattern to view.

    Raises:
        DomainError: If there is nothing to report, or a pattern matches nothing.
    """
    if not weights and select is None:
        raise DomainError(
            "a report needs a source with tensors in it, got one without any; pass a "
            "module with parameters, or a mapping of names to torch tensors"
        )
    names = [weight.name for weight in weights]
    for option, patterns in (("select", select), ("views", list(views or ()))):
        if unmatched := unmatched_patterns(names, patterns):
            raise DomainError(
                f"each pattern of {option} names a tensor of the source, "
                f"{unmatched[0]!r} matches none; patterns are globs on whole names, "
                "e.g. '*.mlp.*.weight'"
            )
