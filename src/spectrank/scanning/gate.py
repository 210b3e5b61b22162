"""Gates: conditions on a table under which a build should fail."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from spectrank.errors import DomainError, UnknownNameError
from spectrank.metrics import get_metric
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


@dataclass(frozen=True)
class Gate:
    """A condition ``metric[variant] < bound`` that fails a matrix when it is true.

    Attributes:
        text: As written.
        metric: Name of the metric.
        variant: Only rows of this variant; None for all.
        operator: ``<``, ``<=``, ``>`` or ``>=``.
        bound: Right-hand side.
    """

    text: str
    metric: str
    variant: str | None
    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Return the gate of an expression such as ``stable_rank<2``.

        Args:
            text: ``metric``, optionally ``[variant]``, an operator and a number.

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
        name = get_metric(match["metric"]).name
        return cls(text, name, match["variant"], match["operator"], bound)

    def failures(self, table: Table) -> list[str]:
        """Return one line for each matrix that fails, in the table's order.

        A matrix whose metric has no value (NaN entries, not converged) fails too: a
        gate that cannot be evaluated is not passed.

        Args:
            table: Scan with the metric in it.

        Returns:
            Lines to print; empty when the gate is passed.

        Raises:
            UnknownNameError: If no row has the metric.
        """
        rows = [
            row
            for row in table
            if row["kind"] == "measurement"
            and row["metric"] == self.metric
            and (self.variant is None or row["variant"] == self.variant)
        ]
        if not rows:
            raise UnknownNameError(
                f"the gate {self.text!r} needs rows of {self.metric}, the scan has "
                "none; add it to --metrics or correct the variant"
            )
        compare = _OPERATORS[self.operator]
        lines = []
        for row in rows:
            value = row["value"]
            if value is None or math.isnan(value):
                lines.append(f"{row['subject']}: {self.metric} is {row['status']}")
            elif compare(value, self.bound):
                lines.append(f"{row['subject']}: {self.metric} = {value:.6g}")
        return lines
