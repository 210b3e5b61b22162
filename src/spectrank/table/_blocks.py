"""What a view of a Table shows, before any terminal or HTML: columns and notes.

Measurements come in the wide form, a row per matrix; checks, laws and claims as a
list of their non-null columns; spectra and skips as a line that counts them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from spectrank.errors import TableError
from spectrank.table._notes import cautions, counted, is_ok, troubles
from spectrank.table._order import leading, ordered_columns
from spectrank.table._text import enclosure_text, number_text, printable
from spectrank.table._wide import Matrix, grid

MAX_ROWS = 40

Row = Mapping[str, Any]

_PLURAL = {
    "measurement": "measurements",
    "spectrum": "spectra",
    "check": "checks",
    "law": "laws",
    "claim": "claims",
    "skip": "skips",
}
_WARN = "yellow"
_STYLES = {
    **dict.fromkeys(("holds", "conserved", "explained", "reproduced"), "green"),
    **dict.fromkeys(("violated", "broken", "contradicted"), "bold red"),
    **dict.fromkeys(("vacuous", "inconclusive", "not_applicable"), _WARN),
}


@dataclass(frozen=True)
class Cell:
    """One entry: its text and, for a word that stands out, a terminal style."""

    text: str = ""
    style: str = ""


@dataclass(frozen=True)
class Column:
    """A header with its entries; ``role`` is name, text, number or metric.

    What is ``kept`` is shown before anything else where room is scarce.
    """

    header: str
    role: str
    cells: Sequence[Cell]
    kept: bool = False


@dataclass(frozen=True)
class Block:
    """A titled grid; ``noun`` is what its rows are called."""

    title: str
    noun: str
    columns: Sequence[Column]
    num_hidden: int = 0
    notes: Sequence[str] = field(default=())


def blocks(frame: pl.DataFrame) -> tuple[list[Block], list[str]]:
    """Arrange a frame for the eye.

    Args:
        frame: The frame of a Table.

    Returns:
        The grids, and the closing lines on spectra and skips.
    """
    by_kind: dict[str, list[Row]] = {}
    for row in frame.iter_rows(named=True):
        by_kind.setdefault(row["kind"], []).append(row)
    quiet: list[str] = [kind for kind in ("spectrum", "skip") if kind in by_kind]
    loud = [kind for kind in by_kind if kind not in quiet]
    if not loud:
        # Nothing else to show: then these rows are the content.
        loud, quiet = quiet, []
    shown = [_block(kind, by_kind[kind], frame) for kind in loud]
    notes = []
    if "spectrum" in quiet:
        notes.append(_count_line("spectrum", by_kind["spectrum"]))
    if "skip" in quiet:
        reasons = Counter(row["reason"] for row in by_kind["skip"])
        notes.append(f"{len(by_kind['skip'])} skipped: {counted(reasons)}")
    return shown, notes


def summary(frame: pl.DataFrame) -> str:
    """A frame in a few words.

    Args:
        frame: The frame of a Table.

    Returns:
        Such as ``74 measurements, 2 skips; 39 subjects from a to z``.
    """
    if not frame.height:
        return "no rows"
    counts = Counter(frame["kind"].to_list())
    kinds = ", ".join(f"{n} {_noun(kind, n)}" for kind, n in counts.items())
    subjects = frame["subject"].unique(maintain_order=True).to_list()
    if len(subjects) == 1:
        return f"{kinds}; subject {printable(subjects[0])}"
    ends = f"{printable(subjects[0])} to {printable(subjects[-1])}"
    return f"{kinds}; {len(subjects)} subjects, {ends}"


def _block(kind: str, rows: Sequence[Row], frame: pl.DataFrame) -> Block:
    if kind == "measurement":
        try:
            labels, cells = grid(rows)
        except TableError:
            # Several steps or runs: the long form shows them all.
            return _long_block(kind, rows, frame.columns)
        return _wide_block(rows, labels, cells)
    return _long_block(kind, rows, frame.columns)


def _wide_block(
    rows: Sequence[Row],
    labels: Sequence[str],
    cells: Mapping[Matrix, Mapping[str, Row]],
) -> Block:
    shown = list(cells)[:MAX_ROWS]
    columns = [Column("matrix", "name", [Cell(printable(s)) for s, _ in shown])]
    if len({view for _, view in cells}) > 1:
        views = [Cell(printable(view or "-")) for _, view in shown]
        columns.append(Column("view", "text", views))
    if {"m", "n"} <= rows[0].keys():
        columns.append(
            Column("shape", "number", [_shape(cells[matrix]) for matrix in shown])
        )
    for label in labels:
        # Integral or not is decided on all rows: the first 40 may look whole.
        found = [cells[matrix].get(label) for matrix in cells]
        # The first of them is shown on the narrowest terminal.
        first = label == labels[0]
        columns.append(Column(label, "metric", _metric_cells(found), kept=first))
    num, num_metrics = len(cells), len({row["metric"] for row in rows})
    title = (
        f"{num} {'matrix' if num == 1 else 'matrices'}, "
        f"{num_metrics} {'metric' if num_metrics == 1 else 'metrics'}"
    )
    notes = [*troubles(rows), *cautions(rows)]
    return Block(title, "matrices", columns, num - len(shown), notes)


def _long_block(kind: str, rows: Sequence[Row], names: Iterable[str]) -> Block:
    rows = leading(kind, rows)
    ordered, kept = ordered_columns(kind, rows, list(names))
    columns = []
    for name in ordered:
        values = [row[name] for row in rows]
        if any(value is not None for value in values):
            columns.append(_long_column(name, values, kept=name in kept))
    verdicts = Counter(row["verdict"] for row in rows if row["verdict"])
    counted = ", ".join(f"{n} {word}" for word, n in verdicts.most_common())
    title = f"{len(rows)} {_noun(kind, len(rows))}" + (counted and f": {counted}")
    hidden = max(0, len(rows) - MAX_ROWS)
    notes = troubles(rows) if kind == "measurement" else ()
    return Block(title, _PLURAL[kind], columns, hidden, notes)


def _long_column(name: str, values: Sequence[Any], *, kept: bool) -> Column:
    numbers = [v for v in values if isinstance(v, int | float)]
    texts = [v for v in values if isinstance(v, str)]
    role = "text" if texts else "number"
    whole = bool(numbers) and all(
        float(v).is_integer() and abs(v) < 1e6 for v in numbers
    )
    cells = []
    for value in values[:MAX_ROWS]:
        if isinstance(value, str):
            style = _STYLES.get(value, "") if name == "verdict" else ""
            if name == "status" and value != "ok":
                style = _WARN
            cells.append(Cell(printable(value), style))
        else:
            cells.append(Cell(_plain(value, whole=whole)))
    return Column(name, "name" if name == "subject" else role, cells, kept)


def _plain(value: Any, *, whole: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number_text(value, whole=whole)
    if value and all(isinstance(item, float) for item in value):
        ends = dict.fromkeys(number_text(item) for item in (value[0], value[-1]))
        return f"{' … '.join(ends)} ({len(value)})"
    return printable(", ".join(map(str, value))) if value else "(0)"


def _metric_cells(found: Sequence[Row | None]) -> list[Cell]:
    values = [
        row["value"] for row in found if row and row["value"] is not None and is_ok(row)
    ]
    finite = [value for value in values if math.isfinite(value)]
    whole = bool(finite) and all(v.is_integer() and abs(v) < 1e6 for v in finite)
    shown = found[:MAX_ROWS]
    # The numbers stay in line: one without ± keeps its place free.
    marks = [_mark(row) for row in shown]
    width = max(map(len, marks), default=0)
    cells = []
    for row, mark in zip(shown, marks, strict=True):
        if row is None:
            cells.append(Cell())
        elif not is_ok(row):
            cells.append(Cell(row["status"], _WARN))
        elif row["value"] is None:
            cells.append(Cell("-" + " " * width))
        else:
            number = number_text(row["value"], whole=whole)
            cells.append(Cell(number + mark.ljust(width)))
    return cells


def _mark(row: Row | None) -> str:
    if row is None or row["value"] is None or not is_ok(row):
        return ""
    return enclosure_text(row["value"], row["lower"], row["upper"])


def _shape(cells: Mapping[str, Row]) -> Cell:
    for row in cells.values():
        if row["m"] is not None and row["n"] is not None:
            return Cell(f"{row['m']}x{row['n']}")
    return Cell()


def _count_line(kind: str, rows: Sequence[Row]) -> str:
    states = Counter(row["status"] for row in rows if not is_ok(row))
    odd = ", ".join(f"{n} {status}" for status, n in states.items())
    return f"{len(rows)} {_noun(kind, len(rows))}" + (odd and f" ({odd})")


def _noun(kind: str, num: int) -> str:
    return kind if num == 1 else _PLURAL[kind]
