"""Rows of the pieces of a curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.propagation.names import COLUMNS, NETWORK
from spectrank.propagation.pieces.curves import Curve
from spectrank.propagation.pieces.plan import Plan
from spectrank.propagation.pieces.trace import CurveCount, StepCount
from spectrank.scanning.provenance import environment
from spectrank.table import Table

# Rounding of the output at the middle of an interval stays far below this.
_LARGEST_DEFECT = 1e-8
# A ray of rounded vertices turns by about 1e-16.
_SMALLEST_TURN = 1e-12
_OWN: Mapping[str, Any] = {"angular_length": pl.Float64, "curve_length": pl.Float64}
_STANDARD_ERRORS = 4.0


def piece_rows(
    plan: Plan,
    counts: Sequence[CurveCount],
    curve: Curve,
    shapes: Mapping[str, tuple[int, int]],
    *,
    networks: bool,
) -> Table:
    """Make the table.

    Args:
        plan: The bends.
        counts: One for each network.
        curve: The polyline.
        shapes: Name of a weight to its (m, n).
        networks: Whether the counts are draws of a law: then rows are means.

    Returns:
        The table.
    """
    rows = [
        {**row, **_key(row["subject"], shapes, curve)}
        for row in _rows(plan, counts, curve, networks)
    ]
    provenance = environment() | {
        "angular_length": curve.angular_length,
        "curve_length": curve.length,
        "num_vertices": len(curve.vertices),
    }
    return Table.from_rows(rows, columns={**COLUMNS, **_OWN}, provenance=provenance)


def _key(
    subject: str, shapes: Mapping[str, tuple[int, int]], curve: Curve
) -> dict[str, Any]:
    m, n = shapes.get(subject, (None, None))
    return {
        "m": m,
        "n": n,
        "angular_length": curve.angular_length,
        "curve_length": curve.length,
    }


def _rows(
    plan: Plan, counts: Sequence[CurveCount], curve: Curve, networks: bool
) -> Iterator[dict[str, Any]]:
    turns = curve.angular_length / math.pi
    for i, step in enumerate(plan.steps):
        found = [count.steps[i] for count in counts]
        snapped = sum(count.num_snapped for count in found)
        reason = (
            f"{snapped} values within rounding of a threshold were taken to be at it"
            if snapped
            else None
        )
        for row in _counts(found, turns, networks):
            yield row | {"subject": step.subject, "index": i + 1, "reason": reason}
        lengths = {
            "pre": [count.length_pre / curve.length for count in found],
            "post": [count.length_post / curve.length for count in found],
        }
        for variant, values in lengths.items():
            row = _length_row(variant, values, networks)
            yield row | {"subject": step.subject, "index": i + 1}
    last = [count.output_length / curve.length for count in counts]
    row = _length_row("pre", last, networks)
    yield row | {"subject": plan.output, "index": len(plan.steps) + 1}
    sums = [
        StepCount(
            new_kinks=sum(step.new_kinks for step in count.steps),
            pattern_changes=sum(step.pattern_changes for step in count.steps),
        )
        for count in counts
    ]
    for row in (*_counts(sums, turns, networks), *_whole(counts, networks)):
        yield row | {"subject": NETWORK}


def _counts(
    found: Sequence[StepCount], turns: float, networks: bool
) -> Iterator[dict[str, Any]]:
    both = {
        "new_kinks": [float(count.new_kinks) for count in found],
        "pattern_changes": [float(count.pattern_changes) for count in found],
    }
    for metric, values in both.items():
        yield _row(metric, "count", values, networks)
        # A curve through the origin, or along a ray, sweeps no angle to divide by.
        if turns > _SMALLEST_TURN:
            per_unit = [value / turns for value in values]
            yield _row(metric, None, per_unit, networks)


def _whole(counts: Sequence[CurveCount], networks: bool) -> Iterator[dict[str, Any]]:
    pieces = [float(count.num_pieces) for count in counts]
    intervals = [float(count.num_intervals) for count in counts]
    told = _row("linear_pieces", "output", pieces, networks)
    if not networks:
        # Bends that rounding hides may or may not be there.
        told["upper"] = intervals[0]
    yield told
    yield _row("linear_pieces", "pattern", intervals, networks)
    worst = max(count.defect for count in counts)
    row = {"kind": "measurement", "metric": "affinity_defect", "value": worst}
    if worst <= _LARGEST_DEFECT:
        yield row | {"status": "ok", "route": "events"}
        return
    yield row | {
        "status": "not_converged",
        "reason": "the output is not affine between the breakpoints: the counts may "
        "be too low, or the model couples the points of a batch",
        "route": "events",
    }


def _length_row(
    variant: str, values: Sequence[float], networks: bool
) -> dict[str, Any]:
    row = _row("length_gain", variant, values, networks)
    if not networks:
        # A sum of rounded lengths; only counts are exact.
        row |= {"lower": None, "upper": None, "error_kind": None}
    return row


def _row(
    metric: str, variant: str | None, values: Sequence[float], networks: bool
) -> dict[str, Any]:
    return {"metric": metric, "variant": variant} | _numbers(values, networks)


def _numbers(values: Sequence[float], networks: bool) -> dict[str, Any]:
    common = {"kind": "measurement", "status": "ok", "route": "events"}
    mean = math.fsum(values) / len(values)
    if not networks:
        exact = {"lower": mean, "upper": mean, "error_kind": "rounding"}
        return common | {"value": mean, "num_samples": 1} | exact
    spread = math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1)
    error = math.sqrt(spread / len(values))
    return common | {
        "value": mean,
        "values": list(values),
        "lower": mean - _STANDARD_ERRORS * error,
        "upper": mean + _STANDARD_ERRORS * error,
        "error_kind": "stderr",
        "standard_error": error,
        "num_samples": len(values),
    }
