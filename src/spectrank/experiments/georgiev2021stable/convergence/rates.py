"""Learning rates of all arms by a grid that grows until the optimum is inside.

Every arm starts from five rates an octave apart. Where the best is the lowest or the
highest of those tried, the grid is extended on that side by two octaves; where it is
inside, the two rates half an octave beside it are tried. All arms go in step, so that
one fleet trains them at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from spectrank.experiments.arms import TrialRecord
from spectrank.experiments.tuning import Best, summarise

Evaluate = Callable[[Sequence[tuple[str, float]]], Sequence[float]]
"""Maps (arm, learning rate) pairs to one number each; ``inf`` where it diverged."""

# In half octaves from the centre.
_START = (-4, -2, 0, 2, 4)
_LIMIT = 40
"""Twenty octaves: a rate beyond a millionth of the centre is given up."""


def search(
    arms: Sequence[str], evaluate: Evaluate, *, centre: float
) -> dict[str, Best]:
    """Find the learning rate of every arm.

    Args:
        arms: Names, all different.
        evaluate: What is minimised.
        centre: Rate around which all arms begin.

    Returns:
        Arm to its best rate and value. ``edge`` is set only where the limit of twenty
        octaves was met. An arm that diverged at every rate is absent.
    """
    tried: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    wanted = {arm: list(_START) for arm in arms}
    while any(wanted.values()):
        pairs = [(arm, k) for arm in arms for k in wanted[arm]]
        values = evaluate([(arm, _rate(centre, k)) for arm, k in pairs])
        for (arm, k), value in zip(pairs, values, strict=True):
            tried[arm][k] = float(value)
        wanted = {arm: _next(tried[arm]) for arm in arms}
    found: dict[str, Best] = {}
    for arm in arms:
        bounds = [_rate(centre, k) for k in (-_LIMIT - 4, _LIMIT + 4)]
        result = summarise(
            {arm: _records(tried[arm], centre)},
            study_name="grid",
            direction="minimize",
            bounds=(bounds[0], bounds[1]),
            seed=0,
        )
        found |= result.best
    return found


def _next(tried: dict[int, float]) -> list[int]:
    """Grid points an arm still needs."""
    low, high = min(tried), max(tried)
    best = min(tried, key=lambda k: (tried[k], k))
    if not math.isfinite(tried[best]):
        return _extended(low, -1)
    if best == low:
        return _extended(low, -1)
    if best == high:
        return _extended(high, 1)
    return [k for k in (best - 1, best + 1) if k not in tried and best % 2 == 0]


def _extended(end: int, sign: int) -> list[int]:
    return [k for k in (end + 2 * sign, end + 4 * sign) if abs(k) <= _LIMIT]


def _rate(centre: float, k: int) -> float:
    return float(centre * 2.0 ** (k / 2.0))


def _records(tried: dict[int, float], centre: float) -> list[TrialRecord]:
    return [
        TrialRecord(
            number=number,
            learning_rate=_rate(centre, k),
            value=tried[k] if math.isfinite(tried[k]) else None,
            state="complete" if math.isfinite(tried[k]) else "diverged",
            reason=None,
        )
        for number, k in enumerate(sorted(tried))
    ]
