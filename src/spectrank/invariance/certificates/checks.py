"""Verdicts on the bounds of a tail, and the rows that carry them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import polars as pl

Row = dict[str, Any]

COLUMNS: Mapping[str, Any] = {
    "bound_at_start": pl.Float64,
    "drift": pl.Float64,
    "bias_term": pl.Float64,
    "limit": pl.Int64,
    "paper_limit": pl.Int64,
    "num_blocks": pl.Int64,
}

STATED = (
    "Le & Jegelka (2022), arXiv:2201.11968, Theorem 2 (stated); constant derived: "
    "tests/invariance/certificates/test_recursion.py"
)
DERIVED = "derived: tests/invariance/certificates/test_recursion.py"


@final
@dataclass(frozen=True)
class Check:
    """A number and what it must not exceed.

    Attributes:
        metric: Name of the check.
        value: What was measured.
        bound: The upper bound; of a lower bound with ``lower``, what it must reach.
        trivial: What holds of any matrix of that shape.
        tolerance: Rounding that is granted.
        lower: Whether the bound is a lower one.
        index: Number of singular values that the check leaves out, or which it is.
        view: The matrix, where it is not the weight itself.
    """

    metric: str
    value: float
    bound: float
    trivial: float
    tolerance: float
    lower: bool = False
    index: int | None = None
    view: str | None = None

    @property
    def slack(self) -> float:
        """By how much the bound is kept; negative where it is not."""
        return self.value - self.bound if self.lower else self.bound - self.value

    @property
    def vacuous(self) -> bool:
        """Whether the bound says no more than holds of any matrix."""
        return self.bound <= self.trivial if self.lower else self.bound >= self.trivial


def check_row(
    subject: str, check: Check, reason: str, *, blocked: str | None = None
) -> Row:
    """Row of a check with its verdict.

    Args:
        subject: Name of the layer or block.
        check: What was measured and what bounds it.
        reason: What else there is to say.
        blocked: Why the bound does not apply; None where it does. A violation is then
            no violation either.

    Returns:
        The row.
    """
    finite = math.isfinite(check.value) and math.isfinite(check.bound)
    row: Row = {
        "kind": "check",
        "subject": subject,
        "metric": check.metric,
        "view": check.view,
        "index": check.index,
        "value": check.value,
        "bound": check.bound,
        "slack": check.slack,
        "status": "ok" if finite else "nonfinite",
        "source": STATED if check.metric == "stable_rank" else DERIVED,
    }
    if finite:
        row["lower"] = check.value - check.tolerance
        row["upper"] = check.value + check.tolerance
        row["error_kind"] = "rounding"
    verdict, words = _judged(check, finite, blocked)
    return {
        **row,
        "verdict": verdict,
        "reason": "; ".join(filter(None, (words, reason))),
    }


def _judged(check: Check, finite: bool, blocked: str | None) -> tuple[str, str]:
    if not finite:
        return "not_applicable", "a number is not finite"
    if blocked is not None:
        return "not_applicable", blocked
    if check.slack < -check.tolerance:
        return "violated", (
            f"{check.value:.4g} against {check.bound:.4g}: the gaps are not those of "
            "the start (large steps, decay, momentum, Adam, an edited weight), or the "
            "forward pass is not the one traced"
        )
    if check.vacuous:
        return "vacuous", (
            f"the bound {check.bound:.4g} says no more than {check.trivial:.4g}, which "
            "holds of any matrix of this shape"
        )
    return "holds", "a bound, not an estimate"


def not_applicable_row(subject: str, reason: str, status: str = "skipped") -> Row:
    """Row for a place at which nothing is certified.

    Args:
        subject: Its name.
        reason: Why.
        status: Of the row.

    Returns:
        The row.
    """
    return {
        "kind": "check",
        "subject": subject,
        "metric": "linear_tail",
        "status": status,
        "verdict": "not_applicable",
        "reason": reason,
        "source": DERIVED,
    }
