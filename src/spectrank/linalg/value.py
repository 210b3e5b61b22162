"""A number with the interval that holds it and the kind of promise behind it.

The arithmetic is interval arithmetic on non-negative numbers: ends move outward by
one unit in the last place, failure probabilities add (union bound), and the weaker
promise wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal["rounding", "certified", "probabilistic", "stderr"]
Status = Literal["ok", "degenerate", "nonfinite", "not_converged", "skipped"]

# From the strongest promise to the weakest.
_KINDS: tuple[ErrorKind, ...] = ("certified", "rounding", "probabilistic", "stderr")
_STATUSES: tuple[Status, ...] = (
    "ok",
    "degenerate",
    "not_converged",
    "nonfinite",
    "skipped",
)


@dataclass(frozen=True)
class Value:
    """A non-negative number with its enclosure and status.

    ``lower <= truth <= upper`` up to ``failure_probability``; ``value`` is the best
    single number and lies between them. A value whose ``status`` is not ``ok`` has a
    ``reason``, and is NaN where the quantity has no meaning.

    Attributes:
        value: Best single number.
        lower: Lower end of the enclosure.
        upper: Upper end of the enclosure.
        error_kind: ``certified`` (deterministic, with a proof), ``rounding`` (a
            stated multiple of the unit roundoff), ``probabilistic`` (holds but for
            ``failure_probability``) or ``stderr``.
        failure_probability: Probability that the enclosure misses, in [0, 1].
        status: ``ok``, ``degenerate``, ``nonfinite``, ``not_converged``, ``skipped``.
        reason: Why the status is not ``ok``; with ``ok`` what to beware of, or None.
    """

    value: float
    lower: float
    upper: float
    error_kind: ErrorKind = "rounding"
    failure_probability: float = 0.0
    status: Status = "ok"
    reason: str | None = None

    @classmethod
    def exact(cls, value: float) -> Value:
        """Return a value known without error, such as a count."""
        return cls(value, value, value, "certified")

    @classmethod
    def undefined(cls, status: Status, reason: str) -> Value:
        """Return NaN with a status and its reason."""
        return cls(math.nan, math.nan, math.nan, "rounding", 0.0, status, reason)

    @classmethod
    def around(
        cls, value: float, error: float, error_kind: ErrorKind = "rounding"
    ) -> Value:
        """Return ``value`` enclosed in ``[value - error, value + error]``, from 0 up.

        Args:
            value: Best single number.
            error: Absolute error, non-negative.
            error_kind: What the error is founded on.

        Returns:
            The enclosed value.
        """
        return cls(value, max(value - error, 0.0), value + error, error_kind)

    @property
    def relative_width(self) -> float:
        """Width of the enclosure over the value; infinite around zero."""
        width = self.upper - self.lower
        if width == 0.0:
            return 0.0
        return width / self.value if self.value > 0.0 else math.inf

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __str__(self) -> str:
        if self.status != "ok":
            return f"{self.value:g} ({self.status}: {self.reason})"
        promise: str = self.error_kind
        if self.failure_probability:
            promise += f", fails with probability {self.failure_probability:g}"
        return (
            f"{self.value:.10g} in [{self.lower:.10g}, {self.upper:.10g}] ({promise})"
        )

    def __mul__(self, other: Value | float) -> Value:
        o = _as_value(other)
        return _combine(
            self, o, self.value * o.value, self.lower * o.lower, self.upper * o.upper
        )

    def __truediv__(self, other: Value | float) -> Value:
        o = _as_value(other)
        return _combine(
            self,
            o,
            _divide(self.value, o.value),
            _divide(self.lower, o.upper),
            _divide(self.upper, o.lower),
        )

    def __pow__(self, exponent: float) -> Value:
        if exponent < 0.0:
            return Value.exact(1.0) / self**-exponent
        return _combine(
            self,
            self,
            _power(self.value, exponent),
            _power(self.lower, exponent),
            _power(self.upper, exponent),
            failure_probability=self.failure_probability,
        )

    def clip(self, low: float, high: float) -> Value:
        """Return the value cut to the range that mathematics allows it.

        Args:
            low: Smallest possible value.
            high: Largest possible value.

        Returns:
            The same promise with value and both ends inside ``[low, high]``.
        """
        if math.isnan(self.value):
            return self
        return _combine(
            self,
            self,
            min(max(self.value, low), high),
            min(max(self.lower, low), high),
            min(max(self.upper, low), high),
            failure_probability=self.failure_probability,
            outward=False,
        )


def _power(x: float, exponent: float) -> float:
    try:
        return float(x**exponent)
    except OverflowError:
        return math.inf


def _as_value(x: Value | float) -> Value:
    return x if isinstance(x, Value) else Value.exact(float(x))


def _divide(a: float, b: float) -> float:
    if b == 0.0:
        return math.nan if a == 0.0 else math.inf
    return a / b


def _combine(
    a: Value,
    b: Value,
    value: float,
    lower: float,
    upper: float,
    *,
    failure_probability: float | None = None,
    outward: bool = True,
) -> Value:
    if outward:
        # A floating-point product may round inward; one step out undoes it. Exact
        # zeros stay: nothing below zero is possible.
        lower = max(math.nextafter(lower, -math.inf), 0.0)
        upper = math.nextafter(upper, math.inf)
    if failure_probability is None:
        failure_probability = min(a.failure_probability + b.failure_probability, 1.0)
    kind = max(a.error_kind, b.error_kind, key=_KINDS.index)
    worst = a if _STATUSES.index(a.status) >= _STATUSES.index(b.status) else b
    return Value(
        value, lower, upper, kind, failure_probability, worst.status, worst.reason
    )
