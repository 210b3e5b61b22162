"""The checks section: what each check says of each matrix, and why.

Everything here is text for the template, which escapes it. A line is one (subject,
view, run, step) of the table, a column one metric; a check that comes in variants or
indices has several entries in one cell, so that nothing is left out.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import polars as pl

from spectrank.report._data import Row, whole
from spectrank.report._numbers import interval_texts, plain_text, probability_text
from spectrank.report._verdicts import place, verdict

MAX_LINES = 2000
"""Matrices listed; the counts are of all, and what is left out is said."""

MAX_REASON = 72
"""Characters of a reason that is shown whole without being asked for."""

NUM_KEPT = 58
"""Characters shown of a longer one; cutting off less than a line helps nobody."""

NUM_OPEN = 3
"""Entries of a cell that are shown without being asked for."""

_KEY = ("subject", "view", "run", "step")
_TIMES = "\N{MULTIPLICATION SIGN}"
_MOST_SOURCES = 3


def cut(text: str) -> str | None:
    """The beginning of a text that is too long, up to the end of a word.

    Args:
        text: A sentence.

    Returns:
        At most `NUM_KEPT` characters, an ellipsis the last; None for a text of at most
        `MAX_REASON`, which needs no cut.
    """
    if len(text) <= MAX_REASON:
        return None
    begun = text[: NUM_KEPT - 1]
    # A word without an end is cut where the room ends.
    begun = begun.rsplit(None, 1)[0] if re.search(r"\s", begun.strip()) else begun
    return f"{begun.rstrip(' ,;:(')}…"


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _numbers(row: Row) -> dict[str, str | None]:
    """Value against bound, the enclosure and the slack, as texts."""
    value, interval = interval_texts(row["value"], row["lower"], row["upper"])
    known = row["value"] is not None or interval is not None
    chance = row["failure_probability"]
    exact = [
        f"{name} {row[name]!r}"
        for name in ("value", "lower", "upper", "bound", "slack")
        if row[name] is not None
    ]
    return {
        "value": value if known else None,
        "interval": interval,
        "bound": None if row["bound"] is None else plain_text(row["bound"]),
        "slack": None if row["slack"] is None else plain_text(row["slack"]),
        "chance": probability_text(chance) if chance else None,
        "error_kind": row["error_kind"] if interval else None,
        "digits": ", ".join(exact),
    }


def _entry(row: Row) -> dict[str, Any]:
    marks = [] if row["variant"] is None else [str(row["variant"])]
    marks += [] if row["index"] is None else [f"index {row['index']}"]
    reason = str(row["reason"] or "no reason given")
    status, state = row["status"], row.get("state")
    return _numbers(row) | {
        "verdict": verdict(row["verdict"]),
        "mark": ", ".join(marks),
        "state": state.replace("_", " ") if isinstance(state, str) else "",
        "reason": reason,
        "short": cut(reason),
        "status": None if status in {None, "ok"} else _words(status),
    }


def _folded(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entries of a cell: what is wrong first, those behind a few folded."""
    # One more line is no longer than the words that would stand for it.
    num = NUM_OPEN if len(entries) > NUM_OPEN + 1 else len(entries)
    counts = Counter(entry["verdict"]["name"] for entry in entries[num:])
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    return {"open": entries[:num], "folded": entries[num:], "words": words}


def _line(
    key: tuple[Any, ...], rows: Sequence[Row], names: Sequence[str]
) -> dict[str, Any]:
    """One matrix and a list of entries for each check."""
    subject, view, run, step = key
    sides = [(whole(row.get("m")), whole(row.get("n"))) for row in rows]
    shape = next((f"{m} {_TIMES} {n}" for m, n in sides if m and n), None)
    when = [None if run is None else str(run), None if step is None else f"step {step}"]
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row in sorted(rows, key=lambda row: place(row["verdict"])):
        cells[row["metric"]].append(_entry(row))
    return {
        "name": str(subject),
        # Long names may break behind a dot.
        "parts": re.split(r"(?<=[./])", str(subject)),
        "view": view,
        "remark": " · ".join(str(x) for x in (view, shape, *when) if x),
        "cells": [_folded(entries) for entries in cells.values()],
    }


def _summary(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    counts = Counter(row["verdict"] for row in rows)
    sources = list(dict.fromkeys(str(row["source"]) for row in rows if row["source"]))
    more = ["…"] if len(sources) > _MOST_SOURCES else []
    return {
        "name": _words(name),
        "tally": [
            verdict(word) | {"count": counts[word]}
            for word in sorted(counts, key=place)
        ],
        "source": "; ".join([*sources[:_MOST_SOURCES], *more]),
    }


def checks(
    frame: pl.DataFrame, linked: Collection[tuple[Any, Any]] = ()
) -> dict[str, Any] | None:
    """What the template needs to show the checks.

    Args:
        frame: The frame of the table.
        linked: Pairs (subject, view) whose numbers the page shows elsewhere.

    Returns:
        A summary of each check, one line for each matrix, the verdicts that occur,
        and how many lines are left out; None where the table holds no check.
    """
    by_check: dict[str, list[Row]] = {}
    by_line: dict[tuple[Any, ...], list[Row]] = {}
    for row in frame.filter(pl.col("kind") == "check").iter_rows(named=True):
        by_check.setdefault(row["metric"], []).append(row)
        by_line.setdefault(tuple(row[name] for name in _KEY), []).append(row)
    if not by_check:
        return None
    names = list(by_check)
    shown = list(by_line.items())[:MAX_LINES]
    words = {row["verdict"] for rows in by_check.values() for row in rows}
    return {
        "summary": [_summary(name, rows) for name, rows in by_check.items()],
        "lines": [
            _line(key, rows, names) | {"linked": key[:2] in linked}
            for key, rows in shown
        ],
        "verdicts": [verdict(word)["name"] for word in sorted(words, key=place)],
        "num_lines": len(by_line),
        "num_left_out": len(by_line) - len(shown),
    }
