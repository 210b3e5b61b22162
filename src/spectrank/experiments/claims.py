"""Claims as data: a sentence, whose it is, and when a measurement agrees with it.

Relation and tolerance are committed before the full run.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, final, get_args

import polars as pl

from spectrank.errors import DomainError, UnknownNameError

Relation = Literal["equals", "at_least", "at_most", "increasing", "decreasing"]
IntervalKind = Literal["student", "bootstrap"]
Statistic = Literal["mean", "median"]

COLUMNS = MappingProxyType(
    {
        "statement": pl.String(),
        "whose": pl.String(),
        "protocol": pl.String(),
        "relation": pl.String(),
        "tolerance": pl.Float64(),
        "effect_size": pl.Float64(),
        "num_seeds": pl.Int64(),
        "seeds": pl.String(),
        "x": pl.Float64(),
        "predicted": pl.Float64(),
        "seed": pl.Int64(),
    }
)
"""Producer columns of claim rows and of the figures' rows."""

TRENDS = ("increasing", "decreasing")
"""Relations over an ordered design, which have no expected value."""

_KEY = re.compile(r"[a-z0-9]+(\.[a-z0-9]+(-[a-z0-9]+)*)+")


@final
@dataclass(frozen=True)
class Claim:
    """A sentence that a measurement can contradict.

    Attributes:
        key: ``paper.name``, with further dotted parts as needed.
        statement: The sentence.
        whose: Whose it is, such as "claim of the abstract; protocol ours".
        protocol: What is measured, on what, how often.
        quantity: Name of the measured number.
        relation: ``equals`` within tolerance; ``at_least`` or ``at_most`` the
            expected value, give or take the tolerance; ``increasing`` or
            ``decreasing`` over an ordered design, with steps back of at most the
            tolerance.
        source: Where the claim or its value comes from.
        expected: The value or limit; None for a trend.
        tolerance: In the units of the quantity, at least 0.
        interval: ``student``, or ``bootstrap`` where a mean is not near normal.
        statistic: ``mean``, or ``median`` (bootstrap alone).
        confidence: Coverage of the interval.
    """

    key: str
    statement: str
    whose: str
    protocol: str
    quantity: str
    relation: Relation
    source: str
    expected: float | None = None
    tolerance: float = 0.0
    interval: IntervalKind = "student"
    statistic: Statistic = "mean"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, words in (
            ("relation", get_args(Relation)),
            ("interval", get_args(IntervalKind)),
            ("statistic", get_args(Statistic)),
        ):
            if getattr(self, name) not in words:
                raise UnknownNameError(
                    f"{name} is one of {', '.join(words)}, got "
                    f"{getattr(self, name)!r}; choose one of them"
                )
        if not _KEY.fullmatch(self.key):
            raise DomainError(
                "a claim's key is lower-case words as in 'paper2021word.some-claim', "
                f"got {self.key!r}; rename it"
            )
        for name in ("statement", "whose", "protocol", "quantity", "source"):
            if not getattr(self, name).strip():
                raise DomainError(
                    f"a claim states its {name}, {self.key} has none; add it"
                )
        self._check_numbers()

    def _check_numbers(self) -> None:
        if (self.expected is None) != (self.relation in TRENDS):
            raise DomainError(
                "a value or limit is expected of every claim but a trend, "
                f"{self.key} is {self.relation} with {self.expected}; set one of them"
            )
        if self.expected is not None and not math.isfinite(self.expected):
            raise DomainError(
                f"the expected value must be finite, {self.key} has {self.expected}; "
                "state a number"
            )
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0.0):
            raise DomainError(
                "a tolerance is finite and at least 0, "
                f"{self.key} has {self.tolerance}; state a number"
            )
        if not 0.0 < self.confidence < 1.0:
            raise DomainError(
                f"a confidence lies between 0 and 1, {self.key} has {self.confidence}; "
                "write 95 % as 0.95"
            )
        if self.relation == "equals" and self.tolerance == 0.0:
            raise DomainError(
                "no interval fits into a single point, got tolerance 0 for "
                f"{self.key}; state how far off is still equal"
            )
        if (self.interval == "student" and self.statistic != "mean") or (
            self.relation in TRENDS and self.interval != "student"
        ):
            raise DomainError(
                "Student's interval is for means and trends, the bootstrap for means "
                f"and medians, {self.key} asks for the {self.statistic} of a "
                f"{self.relation} relation by {self.interval}; choose another interval"
            )

    @property
    def accepted(self) -> tuple[float, float]:
        """Closed region in which the whole interval must lie."""
        if self.expected is None:
            return -self.tolerance, math.inf
        low, high = self.expected - self.tolerance, self.expected + self.tolerance
        return (
            -math.inf if self.relation == "at_most" else low,
            math.inf if self.relation == "at_least" else high,
        )

    @property
    def relation_text(self) -> str:
        """The relation in words, such as ``within 0.05 of 1``."""
        if self.expected is None:
            back = f", steps back up to {self.tolerance:g}" if self.tolerance else ""
            return f"{self.relation}{back}"
        if self.relation == "equals":
            return f"within {self.tolerance:g} of {self.expected:.4g}"
        words = self.relation.replace("_", " ")
        slack = f", tolerance {self.tolerance:g}" if self.tolerance else ""
        return f"{words} {self.expected:.4g}{slack}"
