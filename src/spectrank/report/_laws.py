"""The laws section: what training should conserve, and what became of it.

Rows of kind ``law`` come in two sorts. A law that was only found names its kind, its
entries and its condition. A law that was watched has a verdict at each step; then
``drift`` is how far it moved, ``explained`` how far the steps taken move it, and
``bound`` what rounding may add. Every column but the core ones is optional. Texts are
for the template, which escapes them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.report._checks import cut
from spectrank.report._data import Row, finite_number, whole
from spectrank.report._numbers import plain_text
from spectrank.report._slices import slice_label
from spectrank.report._verdicts import place, verdict

MAX_LAWS = 2000
"""Families listed and drawn; the counts are of all, and what is left out is said."""

_CURVES = ("drift", "explained", "bound")


def _families(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of each family of laws by rising step, the last of two with one step."""
    found: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in rows:
        key = (row["subject"], row["metric"], row["variant"], row["run"])
        found.setdefault(key, {})[row["step"]] = row
    return [
        [of[step] for step in sorted(of, key=lambda s: -1 if s is None else s)]
        for of in found.values()
    ]


def _listing(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else ""


def _number(row: Row, name: str) -> dict[str, Any]:
    value = finite_number(row.get(name))
    return {
        "key": "" if value is None else repr(value),
        "text": plain_text(value, 3),
    }


def _first_break(family: Sequence[Row]) -> int | None:
    for row in family:
        if (step := whole(row.get("broken_step"))) is not None:
            return step
    return next((row["step"] for row in family if row["verdict"] == "broken"), None)


def _line(family: Sequence[Row]) -> dict[str, Any]:
    row = family[-1]
    # That a law holds needs no reason.
    calm = row["verdict"] is not None and verdict(row["verdict"])["tone"] == "good"
    reason = str(row["reason"] or ("" if calm else "no reason given"))
    marks = [str(x) for x in (row["metric"], row["variant"], row["run"]) if x]
    read, written = _listing(row.get("params_in")), _listing(row.get("params_out"))
    exact = row.get("exact")
    return {
        "name": str(row["subject"]),
        "marks": " · ".join(marks),
        "verdict": verdict(row["verdict"]) if row["verdict"] else None,
        "broken": _first_break(family),
        "suspects": _listing(row.get("suspects")),
        "num_laws": whole(row.get("num_laws")),
        "num_independent": whole(row.get("num_independent")),
        "parameters": read + (f" less {written}" if written else ""),
        "exact": exact if isinstance(exact, bool) else None,
        "reason": reason,
        "short": cut(reason),
        "source": row["source"],
        **{name: _number(row, name) for name in (*_CURVES, "residual")},
    }


def _course(family: Sequence[Row]) -> dict[str, Any]:
    """What the script draws of one family, as JSON values."""
    return {
        "name": " · ".join(
            str(x) for x in (family[0]["subject"], family[0]["run"]) if x
        ),
        "steps": [row["step"] for row in family],
        "verdicts": [row["verdict"] for row in family],
        "reasons": [str(row["reason"] or "") for row in family],
        **{name: [finite_number(row.get(name)) for row in family] for name in _CURVES},
    }


def _tally(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    known = Counter(
        line["verdict"]["name"] for line in lines if line["verdict"] is not None
    )
    words = {x["verdict"]["name"]: x["verdict"] for x in lines if x["verdict"]}
    ordered = sorted(known, key=lambda name: place(name.replace(" ", "_")))
    return [words[name] | {"count": known[name]} for name in ordered]


def laws(frame: pl.DataFrame) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What the template and the script need to show the laws.

    Args:
        frame: The frame of the table.

    Returns:
        Texts: one line for each family with what its last step says; and data: its
        course over the steps. None where the table holds no law.
    """
    rows = frame.filter(pl.col("kind") == "law").to_dicts()
    if not rows:
        return None
    families = _families(rows)
    watched = [f for f in families if any(row["step"] is not None for row in f)]
    lines = [_line(family) for family in families]
    steps = sorted({row["step"] for f in watched for row in f} - {None})
    shown = lines[:MAX_LAWS]
    tally = _tally(lines)
    has = {
        name: any(line[name] not in {None, ""} for line in shown)
        for name in ("broken", "num_independent", "parameters", "suspects")
    }
    texts = {
        "lines": shown,
        "has": has
        | {"verdict": bool(tally), "drift": any(x["drift"]["key"] for x in shown)},
        "tally": tally,
        "verdicts": [item["name"] for item in tally],
        "watched": bool(watched),
        "num_families": len(families),
        "num_laws": sum(line["num_laws"] or 0 for line in lines) or None,
        "num_left_out": len(lines) - len(shown),
        "last": slice_label(None, steps[-1]) if steps else None,
        "num_steps": len(steps),
    }
    return texts, {
        "steps": steps,
        "families": [_course(family) for family in watched[:MAX_LAWS]],
    }
