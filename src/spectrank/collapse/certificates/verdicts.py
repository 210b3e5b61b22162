"""Verdicts on bounds, and the rows that carry them."""

from __future__ import annotations

from typing import Any

from spectrank.linalg import Value
from spectrank.scanning.rows import value_columns

Row = dict[str, Any]

SOURCE = "derived: theorem A, tests/collapse/certificates/test_collapse_bounds.py"
_UPPER = "an upper bound, not an estimate: the rank can be far lower"


def judge(found: Value, bound: Value, trivial: Value) -> tuple[str, str]:
    """Judge a bound: violated, vacuous or holding, with the reason.

    Args:
        found: What was measured.
        bound: What it must not exceed.
        trivial: What it cannot exceed anyway, such as the norm of the weight.

    Returns:
        Verdict and reason; ``not_applicable`` where a number is missing.
    """
    for value in (found, bound, trivial):
        if value.value != value.value:
            return "not_applicable", value.reason or "a number is missing"
    if found.lower > bound.upper:
        return "violated", (
            f"{found.value:.3g} exceeds {bound.value:.3g} by more than rounding: "
            "the decay, the divisor or the gradient is not the one of the training"
        )
    if bound.value >= trivial.value:
        return "vacuous", (
            f"the bound {bound.value:.3g} is not below {trivial.value:.3g}, which "
            "holds of any matrix"
        )
    share = bound.value / trivial.value
    return "holds", f"the bound is {share:.2g} of the trivial one; {_UPPER}"


def check_row(
    metric: str,
    variant: str | None,
    k: int,
    found: Value,
    bound: Value,
    trivial: Value,
    blocked: str | None,
    words: str,
) -> Row:
    """Return a check: what was measured, what bounds it, and the verdict.

    Args:
        metric: Name of the check.
        variant: Of the check.
        k: Rank, the row's ``index``.
        found: What was measured.
        bound: What it must not exceed.
        trivial: What it cannot exceed anyway.
        blocked: Why the check does not apply; None where it does. A violation is shown
            whatever stands against it.
        words: What else the reason says.

    Returns:
        The row.
    """
    verdict, reason = judge(found, bound, trivial)
    if blocked is not None and verdict != "violated":
        verdict, reason = "not_applicable", blocked
    elif words:
        reason = f"{reason}; {words}"
    limit = number(bound)
    return {
        **value_columns(found),
        "kind": "check",
        "metric": metric,
        "variant": variant,
        "index": k,
        "bound": limit,
        "slack": None if limit is None else limit - found.value,
        "verdict": verdict,
        "reason": reason,
        "source": SOURCE,
    }


def number(value: Value) -> float | None:
    """Return the number of a value, None for NaN."""
    return None if value.value != value.value else float(value.value)
