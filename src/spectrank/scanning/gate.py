"""Gates: conditions on a table under which a build should fail."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spectrank.errors import DomainError, UnknownNameError
from spectrank.scanning.requests import MetricRequest, parse_metrics
from spectrank.table import Table

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PATTERN = re.compile(
    r"\s*(?P<metric>\w+)\s*(?:\[(?P<variant>[^\]]*)\])?\s*"
    r"(?P<operator><=|>=|<|>)\s*(?P<bound>\S+)\s*"
)


@dataclass(frozen=True, eq=False)
class Gate:
    """A condition ``metric[variant] < bound`` that fails a matrix when it is true.

    Attributes:
        text: As written.
        request: The metric with the options of the variant.
        any_variant: Whether every variant of the metric is looked at.
        operator: ``<``, ``<=``, ``>`` or ``>=``.
        bound: Right-hand side.
    """

    text: str
    request: MetricRequest
    any_variant: bool
    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Return the gate of an expression such as ``stable_rank<2``.

        Args:
            text: ``metric``, optionally ``[variant]`` as in ``[q=0.9]`` or
                ``[squared]``, an operator and a number.

        Returns:
            The gate.

        Raises:
            DomainError: If the text does not parse.
        """
        match = _PATTERN.fullmatch(text)
        try:
            bound = float(match["bound"]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or math.isnan(bound):
            raise DomainError(
                "a gate reads METRIC<NUMBER, with <, <=, > or >= and optionally "
                f"[variant], got {text!r}; e.g. 'stable_rank<2'"
            )
        variant = match["variant"]
        options = [] if variant is None else variant.split(",")
        pairs = [x if "=" in x else f"variant={x.strip()}" for x in options]
        (request,) = parse_metrics(":".join([match["metric"], *pairs]))
        return cls(text, request, variant is None, match["operator"], bound)

    def served_by(self, requests: Iterable[MetricRequest]) -> bool:
        """Return whether a scan of these metrics has what the gate looks at."""
        return any(
            request.metric is self.request.metric
            and (self.any_variant or request.variant == self.request.variant)
            for request in requests
        )

    def failures(self, table: Table) -> list[str]:
        """Return one line for each matrix that fails, in the table's order.

        A matrix that could not be read, or whose metric has no value, fails too: a
        gate that cannot be evaluated is not passed.

        Args:
            table: Scan with the metric in it.

        Returns:
            Lines to print; empty when the gate is passed.

        Raises:
            UnknownNameError: If no row has the metric.
        """
        rows = [row for row in table if self._looks_at(row) or _is_unread(row)]
        if not any(map(self._looks_at, rows)) and not any(map(_is_unread, rows)):
            raise UnknownNameError(
                f"the gate {self.text!r} needs rows of {self.request.text}, the scan "
                "has none; add it to the metrics"
            )
        return [line for row in rows if (line := self._failure(row))]

    def _looks_at(self, row: dict[str, Any]) -> bool:
        if row["kind"] != "measurement" or row["metric"] != self.request.metric.name:
            return False
        return self.any_variant or row["variant"] == self.request.variant

    def _failure(self, row: dict[str, Any]) -> str | None:
        if _is_unread(row):
            return f"{row['subject']}: {row['reason']}"
        name = row["metric"] + (f"[{row['variant']}]" if row["variant"] else "")
        value = row["value"]
        if value is None or math.isnan(value):
            return f"{row['subject']}: {name} is {row['status']}"
        if _OPERATORS[self.operator](value, self.bound):
            return f"{row['subject']}: {name} = {value:.6g}"
        return None


def _is_unread(row: dict[str, Any]) -> bool:
    # A skip with a shape is a matrix that should have been measured.
    return row["kind"] == "skip" and row["m"] is not None
