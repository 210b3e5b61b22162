"""Gates: conditions on a table under which a build should fail."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from spectrank.errors import DomainError, UnknownNameError
from spectrank.scanning.null_rows import NULL_METRICS
from spectrank.scanning.requests import MetricRequest, parse_metrics
from spectrank.scanning.weightwatcher import VARIANT as WEIGHTWATCHER
from spectrank.table import Table

_Reads = Callable[[dict[str, Any]], bool]
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PATTERN = re.compile(
    r"\s*(?:(?P<glob>[^:<>\[\]]+)(?:\[(?P<view>[^:<>\[\]]+)\])?:)?"
    r"(?P<metric>\w+)(?:\.(?P<run>\w+))?\s*"
    r"(?:\[(?P<variant>[^\]]*)\])?\s*(?P<operator><=|>=|<|>)\s*(?P<bound>\S+)\s*"
)
_RUNS = ("before", "after", "change", "difference")
# What only a comparison has, whatever metrics it was asked for.
_OF_COMPARISONS = ("relative_change", "cosine", "subspace_overlap", "largest_angle")


@dataclass(frozen=True, eq=False)
class Gate:
    """A condition that fails a matrix when it is true.

    ``[PATTERN[[VIEW]]:]METRIC[.RUN][[VARIANT]] < NUMBER``: ``stable_rank<2``,
    ``*.mlp.*:energy_rank[q=0.9]<4``, ``*.in_proj_weight[qkv.q]:stable_rank<4`` of one
    of the matrices that a tensor holds, and of comparisons ``relative_change>0.1``,
    ``stable_rank.change<-2``, ``subspace_overlap[left]<0.5``. With ``null=`` also
    ``null_p>0.05``, with ``compat=`` also ``alpha[weightwatcher]<2``.

    Attributes:
        text: As written.
        metric: Name of the metric.
        request: The metric with the options of the variant; None for what only a
            comparison, or another option of a scan, gives.
        variant: Variant as it stands in a row, or how it starts where ``request`` is
            None; None for every variant.
        run: ``before``, ``after``, ``change`` or ``difference``; None for every row
            of the metric.
        pattern: Glob on the names it looks at; None for all.
        view: Glob on the views it looks at; None for all.
        operator: ``<``, ``<=``, ``>`` or ``>=``.
        bound: Right-hand side.
    """

    text: str
    metric: str
    request: MetricRequest | None
    variant: str | None
    run: str | None
    pattern: str | None
    view: str | None
    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Return the gate of an expression such as ``stable_rank<2``.

        Args:
            text: ``metric``, optionally ``[variant]`` as in ``[q=0.9]`` or
                ``[squared]``, an operator and a number; before it optionally
                ``pattern:`` or ``pattern[view]:``, after the metric ``.change`` and
                its like.

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
                f"[variant], .change or PATTERN: before it, got {text!r}; "
                "e.g. 'stable_rank<2'"
            )
        metric, run, variant = match["metric"], match["run"], match["variant"]
        if run not in {None, *_RUNS}:
            raise DomainError(
                f"a metric of a gate is followed by {', '.join(_RUNS)} or nothing, "
                f"got {run!r} in {text!r}; e.g. 'stable_rank.change<-2'"
            )
        request = None
        if not (metric in _OF_COMPARISONS or _is_beside(metric, variant)):
            options = [] if variant is None else variant.split(",")
            pairs = [x if "=" in x else f"variant={x.strip()}" for x in options]
            (request,) = parse_metrics(":".join([metric, *pairs]))
            variant = None if variant is None else request.variant
        return cls(
            text,
            metric,
            request,
            variant,
            run,
            match["glob"],
            match["view"],
            match["operator"],
            bound,
        )

    def served_by(self, requests: Iterable[MetricRequest]) -> bool:
        """Return whether a scan of these metrics has what the gate looks at."""
        wanted = self.request
        return wanted is not None and any(
            request.metric is wanted.metric
            and (self.variant is None or request.variant == self.variant)
            for request in requests
        )

    def failures(self, table: Table) -> list[str]:
        """Return one line for each matrix that fails, in the table's order.

        A matrix that could not be read, or whose metric has no value, fails too: a
        gate that cannot be evaluated is not passed. So does, in a comparison, a matrix
        without a partner: a layer that is lost is a change. Where the second source is
        an adapter, the layers that it leaves alone are not lost. A metric of a
        comparison without ``.RUN`` is that of the matrix ``after``.

        Args:
            table: Scan with the metric in it.

        Returns:
            Lines to print; empty when the gate is passed.

        Raises:
            UnknownNameError: If no row has the metric.
        """  # noqa: DOC502
        gate, unread = self, _is_unread
        if "comparison" in table.provenance:
            unread = _is_uncompared if _is_of_adapter(table) else _is_lost
            if self.run is None and self.request is not None:
                gate = replace(self, run="after")
        return gate._failures(table, unread)

    def _failures(self, table: Table, unread: _Reads) -> list[str]:
        rows = [
            row
            for row in table
            if self._looks_at(row) or (unread(row) and self._chooses(row))
        ]
        if not rows:
            looked = f"{self.metric}.{self.run}" if self.run else self.metric
            looked += f"[{self.variant}]" if self.variant else ""
            among = f" of {self.pattern}" if self.pattern else ""
            among += f"[{self.view}]" if self.view else ""
            raise UnknownNameError(
                f"the gate {self.text!r} needs rows of {looked}{among}, the table has "
                f"none; {self._way_out()}, or mend the pattern"
            )
        # Of the whole table: one part of a tensor is not the tensor.
        matrices = table.frame.select("subject", "view").drop_nulls().unique()
        several = {x for x, num in Counter(matrices["subject"]).items() if num > 1}
        lines = [line for row in rows if (line := self._failure(row, several))]
        num_null = table.provenance.get("settings", {}).get("num_null")
        if self.metric == "null_p" and num_null and self.bound < 1 / (1 + num_null):
            least = f"with {num_null} of them it is at least {1 / (1 + num_null):.3g}"
            lines = [f"{line} ({least})" for line in lines]
        return lines

    def _way_out(self) -> str:
        if self.metric in NULL_METRICS:
            return "scan with null='permuted', and several draws for most of them"
        if self.variant == WEIGHTWATCHER:
            return f"scan with compat={WEIGHTWATCHER!r}"
        return "add it to the metrics"

    def _chooses(self, row: dict[str, Any]) -> bool:
        view = row["view"]
        # A matrix without a partner is a row without a view: reached by its name.
        reached = self.view is None or view is None or fnmatchcase(view, self.view)
        if not reached:
            return False
        return self.pattern is None or fnmatchcase(row["subject"], self.pattern)

    def _looks_at(self, row: dict[str, Any]) -> bool:
        if row["kind"] != "measurement" or row["metric"] != self.metric:
            return False
        if not self._chooses(row) or row["run"] == "random":
            return False
        if self.run and row["run"] != self.run:
            return False
        if self.variant is None:
            # Another tool may mean another thing by the same name.
            return bool(row["variant"] != WEIGHTWATCHER)
        if self.request is None:
            # "left" and "left,k=8": where a subspace ends depends on the matrix.
            return str(row["variant"]).startswith(self.variant)
        return bool(row["variant"] == self.variant)

    def _failure(self, row: dict[str, Any], several: Container[str]) -> str | None:
        key = row["subject"]
        key = f"{key}[{row['view']}]" if key in several else key
        if row["kind"] == "skip":
            return f"{key}: {row['reason']}"
        name = row["metric"] + (f".{self.run}" if self.run else "")
        name += f"[{row['variant']}]" if row["variant"] else ""
        value = row["value"]
        if value is None or math.isnan(value):
            return f"{key}: {name} is {row['status']}"
        if _OPERATORS[self.operator](value, self.bound):
            return f"{key}: {name} = {value:.6g}"
        return None


def with_gates(
    metrics: str | None, gates: Iterable[Gate], *, comparison: bool = False
) -> list[str]:
    """Return the metrics asked for and those that the gates look at.

    Args:
        metrics: Comma-separated names; None for the default set of a scan.
        gates: Conditions to be judged afterwards.
        comparison: The metrics are those of a comparison.

    Returns:
        Requests as text.

    Raises:
        DomainError: If a gate of a scan asks for what only a comparison has.
    """
    gates = list(gates)
    for gate in gates:
        if not comparison and (gate.run or gate.metric in _OF_COMPARISONS):
            raise DomainError(
                "a gate of a scan looks at one checkpoint, "
                f"{gate.text!r} at two; use `spectrank compare`"
            )
    asked = parse_metrics(metrics)
    more = [
        gate.request.text
        for gate in gates
        if gate.request is not None and not gate.served_by(asked)
    ]
    return [*(request.text for request in asked), *more]


def _is_beside(metric: str, variant: str | None) -> bool:
    """Whether rows of the metric come with an option of a scan, not by its name."""
    return metric in NULL_METRICS or variant == WEIGHTWATCHER


def _is_unread(row: dict[str, Any]) -> bool:
    # A skip with a shape is a matrix that should have been measured.
    return row["kind"] == "skip" and row["m"] is not None


def _is_lost(row: dict[str, Any]) -> bool:
    # Of matrices alone: what is none is no row of a comparison.
    return bool(row["kind"] == "skip")


def _is_uncompared(row: dict[str, Any]) -> bool:
    return _is_lost(row) and str(row["reason"]).startswith("could not be read")


def _is_of_adapter(table: Table) -> bool:
    """Whether all that was compared are weights and what is added to them."""
    partners = table.where(kind="measurement").frame["partner"]
    return len(partners) > 0 and bool(
        partners.str.contains(" + ", literal=True).fill_null(value=False).all()
    )
