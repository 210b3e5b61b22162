"""Figures of claims: series of points with error bars, lines of what was predicted.

A *series* is one (metric, variant) of a claim's measurement rows, in the order in which
the table names it. Only finite points are drawn; the table beside a figure holds the
others too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from spectrank.report._data import (
    Row,
    effective_status,
    finite_number,
    whole,
)
from spectrank.report._numbers import DASH, plain_text

MAX_POINTS = 4000
"""Points drawn in one figure; more are thinned evenly, which the caption says."""

MAX_LINES = 300
"""Lines of the table under a figure; more are counted, not shown."""

_NUMBERS = ("x", "value", "lower", "upper", "predicted")


def _series(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    metrics = {row["metric"] for row in rows}
    found: dict[str, list[Row]] = {}
    for row in rows:
        metric = str(row["metric"]).replace("_", " ")
        variant = row.get("variant")
        parts = [metric] if len(metrics) > 1 or variant is None else []
        name = ": ".join([*parts, *([] if variant is None else [str(variant)])])
        found.setdefault(name, []).append(row)
    return list(found.items())


def _points(rows: Sequence[Row], limit: int) -> dict[str, list[Any]]:
    numbers = [
        {name: finite_number(row.get(name)) for name in _NUMBERS} for row in rows
    ]
    # A row that is not ok is told in the table; drawn it would look like a result.
    drawn = [
        (at, number)
        for at, number in enumerate(numbers)
        if number["x"] is not None
        and number["value"] is not None
        and effective_status(rows[at]) == "ok"
    ]
    if len(drawn) > limit:
        # Even steps that keep the first point and the last.
        step = (len(drawn) - 1) / max(limit - 1, 1)
        drawn = [drawn[round(k * step)] for k in range(limit)]
    points: dict[str, list[Any]] = {
        name: [number[name] for _, number in drawn] for name in _NUMBERS
    }
    points["seed"] = [whole(rows[at].get("seed")) for at, _ in drawn]
    return points


def _lines(series: Sequence[tuple[str, Sequence[Row]]]) -> list[dict[str, Any]]:
    """Predicted curves: one for all series where they agree, else one for each."""
    curves: list[dict[float, float]] = []
    for _, rows in series:
        curve: dict[float, float] = {}
        for row in rows:
            x, y = finite_number(row.get("x")), finite_number(row.get("predicted"))
            if x is not None and y is not None:
                curve.setdefault(x, y)
        curves.append(curve)
    joint: dict[float, float] = {}
    agree = all(
        joint.setdefault(x, y) == y for curve in curves for x, y in curve.items()
    )
    chosen = [(None, joint)] if agree else list(enumerate(curves))
    return [
        {"series": at, "x": sorted(curve), "y": [curve[x] for x in sorted(curve)]}
        for at, curve in chosen
        if curve
    ]


def _scale(value: object) -> str:
    return "log" if value == "log" else "linear"


def _hidden(series: Sequence[Mapping[str, Any]], x_scale: str, y_scale: str) -> int:
    """Points that a logarithmic axis cannot show."""
    return sum(
        (x_scale == "log" and x <= 0) or (y_scale == "log" and y <= 0)
        for entry in series
        for x, y in zip(entry["x"], entry["value"], strict=True)
    )


def _text(value: object, default: str) -> str:
    return default if value is None or value == "" else str(value)


def figure(rows: Sequence[Row], info: object) -> dict[str, Any] | None:
    """What the script draws for one claim, as JSON values.

    Args:
        rows: The claim's measurement rows.
        info: Title, axis titles and scales as the provenance gives them; anything
            but a mapping counts as nothing given.

    Returns:
        Titles, scales, series, predicted lines, and how many rows are not drawn and
        why; None when no row has a finite point.
    """
    given: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
    named = _series(rows)
    limit = max(2, MAX_POINTS // max(1, len(named)))
    series = [{"name": name, **_points(part, limit)} for name, part in named]
    num_drawn = sum(len(entry["x"]) for entry in series)
    if not num_drawn:
        return None
    sound = sum(
        effective_status(row) == "ok"
        and finite_number(row.get("x")) is not None
        and finite_number(row.get("value")) is not None
        for row in rows
    )
    x_scale, y_scale = _scale(given.get("x_scale")), _scale(given.get("y_scale"))
    metric = str(rows[0]["metric"]).replace("_", " ")
    return {
        "title": _text(given.get("title"), ""),
        "x": _text(given.get("x"), "x"),
        "y": _text(given.get("y"), metric),
        "x_scale": x_scale,
        "y_scale": y_scale,
        "series": series,
        "lines": _lines(named),
        "num_unsound": len(rows) - sound,
        "num_thinned": sound - num_drawn,
        "num_hidden": _hidden(series, x_scale, y_scale),
    }


def figure_table(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers behind a figure, for readers without scripts and of any screen.

    Args:
        rows: The claim's measurement rows.

    Returns:
        Heads and lines of text, and how many rows are left out.
    """
    seeds = any(row.get("seed") is not None for row in rows)
    statuses = any(effective_status(row) != "ok" for row in rows)
    heads = ["series", *_NUMBERS, *["seed"] * seeds, *["status"] * statuses]
    lines = []
    ordered = [(name, row) for name, part in _series(rows) for row in part]
    for name, row in ordered[:MAX_LINES]:
        numbers = [
            plain_text(x, 6) if isinstance(x := row.get(key), int | float) else DASH
            for key in _NUMBERS
        ]
        seed = [DASH if row.get("seed") is None else str(row["seed"])] * seeds
        reason = row.get("reason")
        status = effective_status(row).replace("_", " ")
        status = f"{status}: {reason}" if reason and status != "ok" else status
        lines.append([name, *numbers, *seed, *[status] * statuses])
    return {"heads": heads, "lines": lines, "num_left_out": len(rows) - len(lines)}
