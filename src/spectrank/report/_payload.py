"""What the page draws, as plain JSON values.

A *matrix* is one (subject, view, run, step) of the table, in the order in which the
table first names it; a *column* is one (metric, variant, index, of, cells). The last
two, where there are any, say what was measured (``features``, ``gradients``) and over
which cells. JSON has no NaN and no infinity: such a value becomes null, its sign stays
readable in ``text``, and its status is never ``ok``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spectrank.report._data import (
    Row,
    effective_status,
    finite_number,
    finite_or_none,
    is_reference,
    whole,
)
from spectrank.report._names import column_labels, labels
from spectrank.report._slices import arranged, slice_label
from spectrank.report._thinning import MAX_POINTS, histogram, thin_positions

_MATRIX_KEY = ("subject", "view", "run", "step")
_COLUMN_KEY = ("metric", "variant", "index", "of", "cells")
_MATRIX_FACTS = ("m", "n", "dtype", "layer_type", "tied_to", "inferred")
_OF_TWINS = "null_"
_SPREAD = ("deviation", "z_score")
# Points of all spectra of a page, and the fewest of one: runs have many spectra.
_MOST_POINTS, _LEAST_POINTS = 400_000, 48
_CELL_TEXTS = ("error_kind", "status", "reason", "route", "source")


class _Strings:
    """Interns the texts that thousands of cells share."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: object) -> int:
        """Position of the text in the table, -1 for None."""
        if text is None:
            return -1
        return self.known.setdefault(str(text), len(self.known))


def _bound(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _cell(row: Row, intern: _Strings) -> list[Any]:
    value = row.get("value")
    texts = dict(row) | {"status": effective_status(row)}
    cell: list[Any] = [
        finite_or_none(value),
        _bound(row.get("lower")),
        _bound(row.get("upper")),
        finite_or_none(row.get("failure_probability")),
        *(intern(texts.get(name)) for name in _CELL_TEXTS),
    ]
    if value is not None and not math.isfinite(value):
        cell.append("nan" if math.isnan(value) else _bound(value))
    elif is_reference(row):
        cell += [None, *(finite_number(row.get(name)) for name in _SPREAD)]
    return cell


def _curve(row: Row, grids: dict[int, list[int]], limit: int) -> dict[str, Any]:
    """The values of a spectrum, thinned, and the number of their grid."""
    values: list[float] = row.get("values") or []
    grid = grids.setdefault(len(values), thin_positions(len(values), limit))
    points = [finite_or_none(values[position - 1]) for position in grid]
    # Seven digits draw the same curve in half the bytes; the ends stay exact.
    points[1:-1] = [None if v is None else float(f"{v:.7g}") for v in points[1:-1]]
    return {"grid": list(grids).index(len(values)), "values": points}


def _spectrum(
    row: Row, intern: _Strings, grids: dict[int, list[int]], limit: int
) -> dict[str, Any]:
    values: list[float] = row.get("values") or []
    return _curve(row, grids, limit) | {
        "size": len(values),
        "resolved": row.get("num_resolved"),
        "histogram": histogram(values),
        "cell": _cell(row, intern),
    }


def _null(row: Row, grids: dict[int, list[int]], limit: int) -> dict[str, Any]:
    """The spectrum of random twins, which stands behind that of the matrix."""
    return _curve(row, grids, limit) | {"variant": _text(row.get("variant"))}


def _key(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)


def _unique(rows: Iterable[Row], key: Sequence[str]) -> dict[tuple[Any, ...], int]:
    positions: dict[tuple[Any, ...], int] = {}
    for row in rows:
        positions.setdefault(_key(row, key), len(positions))
    return positions


def _text(value: object) -> str | bool | None:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if value is None or isinstance(value, bool) else str(value)


def _matrices(
    rows: Sequence[Row], matrix_of: Mapping[tuple[Any, ...], int]
) -> list[dict[str, Any]]:
    matrices: list[dict[str, Any]] = []
    names = [str(key[0]) for key in matrix_of]
    views: dict[str, set[Any]] = {}
    for subject, view, *_ in matrix_of:
        views.setdefault(str(subject), set()).add(view)
    for key, short, role in zip(matrix_of, *labels(names), strict=True):
        view, run, step = key[1:]
        several = len(views[str(key[0])]) > 1
        marks = [str(view)] if several else []
        matrices.append(
            {
                "name": str(key[0]),
                "view": view,
                "run": run,
                "step": step,
                "at": slice_label(run, step),
                "short": " · ".join([short, *marks]),
                "role": f"{role} · {view}" if several else role,
                **dict.fromkeys(_MATRIX_FACTS),
            }
        )
    for row in rows:
        matrix = matrices[matrix_of[_key(row, _MATRIX_KEY)]]
        for fact in _MATRIX_FACTS:
            if matrix[fact] is None:
                value = row.get(fact)
                matrix[fact] = whole(value) if fact in {"m", "n"} else _text(value)
    return matrices


def _filled(
    rows: Sequence[Row],
    matrix_of: Mapping[tuple[Any, ...], int],
    column_of: Mapping[tuple[Any, ...], int],
) -> dict[str, Any]:
    """Every row at its place; the first of two with one key stays."""
    intern, grids, repeated = _Strings(), dict[int, list[int]](), 0
    num_spectra = sum(row["kind"] == "spectrum" for row in rows)
    limit = min(MAX_POINTS, max(_LEAST_POINTS, _MOST_POINTS // max(1, num_spectra)))
    cells: list[list[Any]] = [[None] * len(matrix_of) for _ in column_of]
    spectra: list[Any] = [None] * len(matrix_of)
    nulls: list[Any] = [None] * len(matrix_of)
    packed: object
    for row in rows:
        at = matrix_of[_key(row, _MATRIX_KEY)]
        if row["kind"] == "spectrum" and str(row["metric"]).startswith(_OF_TWINS):
            line, packed = nulls, _null(row, grids, limit)
        elif row["kind"] == "spectrum":
            line, packed = spectra, _spectrum(row, intern, grids, limit)
        else:
            line = cells[column_of[_key(row, _COLUMN_KEY)]]
            packed = _cell(row, intern)
        repeated += line[at] is not None
        line[at] = line[at] or packed
    return {
        "cells": cells,
        "spectra": spectra,
        "nulls": nulls,
        "grids": list(grids.values()),
        "strings": list(intern.known),
        "repeated": repeated,
    }


def payload(rows: Sequence[Row]) -> dict[str, Any]:
    """All that the charts and the table of the page read.

    Of two rows with one key the first is shown and ``repeated`` counts the others.

    Args:
        rows: Measurement and spectrum rows.

    Returns:
        JSON values: matrices, their slices, metrics, how many of them (the first) are
        ``plain``, the rest being references, cells[metric][matrix], spectra[matrix]
        and ``nulls`` (spectra of random twins), the position grids that spectra of one
        length share, and the interned strings.
    """
    matrix_of = _unique(rows, _MATRIX_KEY)
    measured = [row for row in rows if row["kind"] == "measurement"]
    plain = [row for row in measured if not is_reference(row)]
    num_plain = len(_unique(plain, _COLUMN_KEY))
    # What was measured first: charts and card show these columns alone.
    column_of = _unique([*plain, *measured], _COLUMN_KEY)
    columns = [dict(zip(_COLUMN_KEY, key, strict=True)) for key in column_of]
    names = column_labels(columns)
    return {
        "matrices": _matrices(rows, matrix_of),
        "metrics": [
            column | {"label": name}
            for column, name in zip(columns, names, strict=True)
        ],
        "plain": num_plain,
        **arranged(list(matrix_of)),
        **_filled(rows, matrix_of, column_of),
    }
