"""The judge: a claim and the estimates of independent seeds make a row.

``reproduced`` only if the whole confidence interval lies in the accepted region,
``contradicted`` if the whole interval lies outside it, else ``inconclusive``;
``not_applicable`` where nothing could be measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from spectrank.errors import DomainError, ShapeError
from spectrank.experiments.claims import TRENDS, Claim
from spectrank.experiments.intervals import (
    Interval,
    bootstrap_interval,
    smallest_step_interval,
    student_interval,
)

Row = dict[str, Any]


def judge(
    claim: Claim,
    estimates: Sequence[float] | np.ndarray | Sequence[Sequence[float]],
    *,
    seeds: Sequence[int] | None = None,
) -> Row:
    """Compare a claim with what independent seeds measured.

    Args:
        claim: The claim.
        estimates: One for each seed; for a trend (seeds, points), points in the order
            in which the quantity is to increase or decrease.
        seeds: Which seeds they are; by default 0, 1, ...

    Returns:
        A row of kind ``claim``.

    Raises:
        ShapeError: The number of seeds or dimensions differs.
        DomainError: A seed occurs twice, so that the estimates are not independent.
    """
    values = np.asarray(estimates, dtype=np.float64)
    seeds = list(range(len(values))) if seeds is None else list(seeds)
    trend = claim.relation in TRENDS
    if values.ndim != (2 if trend else 1) or len(values) != len(seeds):
        raise ShapeError(
            f"{claim.key} takes {'(seeds, points)' if trend else 'one'} estimates, one "
            f"{'row ' if trend else ''}for each of {len(seeds)} seeds, got shape "
            f"{values.shape}; pass them so"
        )
    if len(set(seeds)) < len(seeds):
        raise DomainError(
            f"seeds must be different to be independent, got {seed_text(seeds)}; "
            "run each seed once"
        )
    row = _described(claim) | {"num_seeds": len(seeds), "seeds": seed_text(seeds)}
    least = 3 if claim.interval == "bootstrap" else 2
    if len(seeds) < least:
        return row | {
            "verdict": "not_applicable",
            "reason": f"{len(seeds)} seeds give no interval; {least} are the least",
        }
    finite = [bool(np.isfinite(x).all()) for x in values]
    if not all(finite):
        bad = [seed for seed, fine in zip(seeds, finite, strict=True) if not fine]
        return row | {
            "verdict": "inconclusive",
            "status": "nonfinite",
            "reason": f"{len(bad)} of {len(seeds)} seeds gave no finite value "
            f"({seed_text(bad)}); a mean without them would be chosen by its outcome",
        }
    with np.errstate(over="ignore", invalid="ignore"):
        interval = _interval(claim, values)
    if not np.isfinite([interval.value, interval.lower, interval.upper]).all():
        return row | {
            "verdict": "inconclusive",
            "status": "nonfinite",
            "reason": "the mean of the estimates leaves the range of float64; "
            "rescale the quantity",
        }
    return row | _verdict(claim, interval)


def not_applicable(claim: Claim, reason: str) -> Row:
    """Return the row of a claim that could not be measured.

    Args:
        claim: The claim.
        reason: Why not, in one sentence.

    Returns:
        A row of kind ``claim``.
    """
    return _described(claim) | {"verdict": "not_applicable", "reason": reason}


def figure_point(
    claim: Claim,
    *,
    metric: str,
    series: str,
    x: float,
    estimates: Sequence[float] | np.ndarray,
    predicted: float | None = None,
    seed: int | None = None,
) -> Row:
    """Return a row of kind ``measurement``: one point of a claim's figure.

    Args:
        claim: Whose figure.
        metric: Name of what is measured.
        series: Label of the line that the point belongs to.
        x: Abscissa.
        estimates: One for each independent seed, at least two.
        predicted: What the theory says, where it says something.
        seed: Base seed of the run.

    Returns:
        The row, with Student's interval at the claim's confidence; without a number
        and of status ``nonfinite`` where a seed gave none.
    """
    numbers = np.asarray(estimates, dtype=np.float64)
    row: Row = {
        "kind": "measurement",
        "subject": claim.key,
        "metric": metric,
        "variant": series,
        "num_seeds": numbers.size,
        "x": x,
        "predicted": predicted,
        "seed": seed,
    }
    lost = int((~np.isfinite(numbers)).sum())
    if lost:
        reason = f"{lost} of {numbers.size} seeds gave no finite value"
        return row | {"status": "nonfinite", "reason": reason}
    found = student_interval(numbers, confidence=claim.confidence)
    return row | {
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "error_kind": "stderr",
        "failure_probability": 1.0 - claim.confidence,
        "status": "ok",
    }


def seed_text(seeds: Iterable[int]) -> str:
    """Return seeds as text, runs shortened.

    Args:
        seeds: In any order.

    Returns:
        Such as ``0-9, 12``.
    """
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _described(claim: Claim) -> Row:
    return {
        "kind": "claim",
        "subject": claim.key,
        "metric": claim.quantity,
        "bound": claim.expected,
        "source": claim.source,
        "statement": claim.statement,
        "whose": claim.whose,
        "protocol": claim.protocol,
        "relation": claim.relation_text,
        "tolerance": claim.tolerance,
    }


def _interval(claim: Claim, values: np.ndarray) -> Interval:
    if claim.relation in TRENDS:
        sign = 1.0 if claim.relation == "increasing" else -1.0
        return smallest_step_interval(sign * values, confidence=claim.confidence)
    if claim.interval == "bootstrap":
        return bootstrap_interval(
            values, statistic=claim.statistic, confidence=claim.confidence
        )
    return student_interval(values, confidence=claim.confidence)


def _verdict(claim: Claim, found: Interval) -> Row:
    low, high = claim.accepted
    where = (
        f"the {100 * claim.confidence:g}% interval "
        f"[{found.lower:.4g}, {found.upper:.4g}]"
    )
    region = f"[{low:.4g}, {high:.4g}]"
    # Without a tolerance a trend is strict: a flat line neither rises nor falls.
    strict = claim.relation in TRENDS and claim.tolerance == 0.0
    if strict:
        region = "(0, inf)"
    if (
        low <= found.lower
        and found.upper <= high
        and not (strict and found.lower == 0.0)
    ):
        verdict, reason = "reproduced", f"{where} lies in the accepted {region}"
    elif found.upper < low or high < found.lower:
        verdict, reason = "contradicted", f"{where} lies outside the accepted {region}"
    else:
        verdict = "inconclusive"
        reason = f"{where} is partly in the accepted {region}; more seeds narrow it"
    if claim.relation in TRENDS:
        reason = f"of the smallest step {reason}"
    error = found.standard_error
    if error == 0.0 and found.lower == found.upper:
        reason += "; all seeds agree to the last bit, so there is no standard error"
    centre = 0.0 if claim.expected is None else claim.expected
    return {
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "error_kind": "stderr",
        "failure_probability": 1.0 - claim.confidence,
        "status": "ok",
        "verdict": verdict,
        "reason": reason,
        "effect_size": (found.value - centre) / error if error else None,
    }
