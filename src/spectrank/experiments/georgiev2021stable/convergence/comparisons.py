r"""Paired comparisons of steps to the target, some of which are censored.

A member that does not reach the target within the budget, or diverges before, counts
with the budget: its steps are *restricted*. All members share one budget, so the mean
of restricted logarithms is a number of the arm, not of who was lost. Of a pair

    log min(T_arm, budget) - log min(T_reference, budget)

is exact if both reached the target, a bound on the same side of 0 if one did, and
unknown if none did: that is NaN, and a comparison that holds one has no value. A
comparison thus never makes a difference larger than it is; that it may be made smaller
matters where a claim says that there is none (see `censored_sides`). Natural
logarithms: -0.1 is about 10 % fewer steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import stdtr

from spectrank.errors import DomainError
from spectrank.experiments.georgiev2021stable.convergence.training import Reached
from spectrank.experiments.intervals import student_interval


@final
@dataclass(frozen=True)
class Comparison:
    """An arm against a reference, one of several comparisons.

    Attributes:
        value: Mean log ratio of restricted steps; negative if the arm is faster.
        lower: Lower end; all intervals of the family hold at once.
        upper: Upper end.
        p_value: Two-sided, of Student's paired test, by itself.
        adjusted: The same for the family (Holm).
        wins: Share of pairs in which the arm was first, ties half.
    """

    value: float
    lower: float
    upper: float
    p_value: float
    adjusted: float
    wins: float


def log_ratios(arm: Reached, reference: Reached) -> np.ndarray:
    """Log ratio of restricted steps of each pair.

    Args:
        arm: R replicates.
        reference: The same R replicates.

    Returns:
        (R,); NaN where neither reached the target.

    Raises:
        DomainError: The numbers of replicates differ.
    """
    if len(arm.steps) != len(reference.steps):
        raise DomainError(
            "pairs share a replicate, got "
            f"{len(arm.steps)} and {len(reference.steps)} replicates; "
            "train both arms on the same ones"
        )
    ratios = np.log(arm.steps) - np.log(reference.steps)
    return np.where(arm.reached | reference.reached, ratios, np.nan)


def censored_sides(arm: Reached, reference: Reached) -> np.ndarray:
    """Which way the true log ratio of each pair lies from the restricted one.

    Args:
        arm: R replicates.
        reference: The same R replicates.

    Returns:
        (R,): 1 where the arm alone is censored, so that the truth is larger, -1 where
        the reference alone is, else 0.
    """
    return reference.reached.astype(np.int64) - arm.reached.astype(np.int64)


def compare(
    ratios: Mapping[str, np.ndarray], *, confidence: float = 0.95
) -> dict[str, Comparison | None]:
    """Compare several arms with one reference.

    Intervals are Student's at 1 - (1 - confidence)/K for K comparisons (Bonferroni),
    p-values are adjusted by Holm's method; both count every arm of the family.
    Source (derived): tests/experiments/georgiev2021stable_convergence.

    Args:
        ratios: Arm to its (R,) log ratios, R >= 2.
        confidence: Joint coverage of the intervals.

    Returns:
        Arm to its comparison; None where a pair is unknown.
    """
    each = 1.0 - (1.0 - confidence) / max(len(ratios), 1)
    known = {arm: r for arm, r in ratios.items() if np.isfinite(r).all()}
    p_values = {arm: _p_value(r) for arm, r in known.items()}
    # An unknown comparison has no evidence; it still counts in the family.
    filled = [p_values.get(arm, 1.0) for arm in ratios]
    adjusted = dict(zip(ratios, holm(filled), strict=True))
    found: dict[str, Comparison | None] = dict.fromkeys(ratios)
    for arm, r in known.items():
        interval = student_interval(r, confidence=each)
        found[arm] = Comparison(
            interval.value,
            interval.lower,
            interval.upper,
            p_values[arm],
            adjusted[arm],
            float((np.sign(-r) / 2.0 + 0.5).mean()),
        )
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method.

    With probability at least 1 - alpha no true hypothesis has an adjusted value below
    alpha, whatever their dependence.
    Source (stated): Holm (1979), A simple sequentially rejective multiple test
    procedure, Scandinavian Journal of Statistics 6.

    Args:
        p_values: In [0, 1].

    Returns:
        Adjusted values in the same order, in [0, 1].
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _p_value(ratios: np.ndarray) -> float:
    found = student_interval(ratios)
    if found.standard_error == 0.0:
        return 1.0 if found.value == 0.0 else 0.0
    t = found.value / found.standard_error
    return float(2.0 * stdtr(len(ratios) - 1, -abs(t)))


def rank_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of one quantity with each replicate of another.

    Args:
        x: (A,) a number for each arm.
        y: (A, R).

    Returns:
        (R,) in [-1, 1]; NaN where all are equal.
    """
    # Imported here: it takes 0.5 s, and most of the package does without.
    from scipy.stats import rankdata

    ranks_x = rankdata(x) - (len(x) + 1) / 2.0
    ranks_y = rankdata(y, axis=0) - (len(x) + 1) / 2.0
    size = np.sqrt((ranks_x**2).sum() * (ranks_y**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(ranks_x @ ranks_y / size)


def factor_text(value: float, lower: float, upper: float) -> str:
    """Say a log ratio as a factor of the number of steps.

    Args:
        value: Log ratio.
        lower: Lower end.
        upper: Upper end.

    Returns:
        Such as ``0.82 [0.75, 0.9] times the steps``.
    """
    low, mid, high = (f"{math.exp(x):.3g}" for x in (lower, value, upper))
    return f"{mid} [{low}, {high}] times the steps"
