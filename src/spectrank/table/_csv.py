"""The CSV form of a Table: rows, lists in long form, and a side file of facts.

``x.csv`` has the rows without ``values``; list columns of producers are JSON text.
``x.spectra.csv`` has one line per entry of ``values``: row number in ``x.csv`` from
0, subject, view, metric, position, value. An empty list is one line without position
and value, so that it differs from null, which has no line. ``x.meta.json`` has
provenance, dtypes and the SHA-256 of both. Null is an empty cell, empty text is "".
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from spectrank.errors import TableError
from spectrank.table._json import (
    Content,
    column_names,
    from_json_value,
    json_value,
    load_mapping,
    read_columns,
    to_json,
)
from spectrank.table._schema import SCHEMA_VERSION

_LONG = {
    "row": pl.Int64(),
    "subject": pl.String(),
    "view": pl.String(),
    "metric": pl.String(),
    "position": pl.Int64(),
    "value": pl.Float64(),
}


def csv_bytes(
    frame: pl.DataFrame, provenance: Mapping[str, Any], path: Path
) -> dict[Path, bytes]:
    """Encode a frame as the three files.

    Args:
        frame: The frame of a Table.
        provenance: Its provenance.
        path: The main file.

    Returns:
        Path to content: main file, spectra, side file.
    """
    cells = [_to_cells(column) for column in frame if column.name != "values"]
    rows = _encode(pl.DataFrame(cells))
    spectra = _encode(_long_form(frame))
    meta = {
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance,
        "columns": column_names(frame),
        "sha256": {"rows": _digest(rows), "spectra": _digest(spectra)},
    }
    spectra_path, meta_path = _side_files(path)
    return {path: rows, spectra_path: spectra, meta_path: f"{to_json(meta)}\n".encode()}


def read_csv(path: Path) -> Content:
    """Put the three files together again.

    Args:
        path: The main file.

    Returns:
        Frame and provenance.

    Raises:
        TableError: A side file is absent, or a file is not the one written.
    """
    rows = path.read_bytes()
    spectra_path, meta_path = _side_files(path)
    _check_present(path)
    meta = load_mapping(meta_path)
    spectra = spectra_path.read_bytes()
    known = meta.get("sha256")
    for name, file, content in (
        ("rows", path, rows),
        ("spectra", spectra_path, spectra),
    ):
        if not isinstance(known, dict) or known.get(name) != _digest(content):
            raise TableError(
                f"a file of a CSV table has the checksum in {meta_path.name}, {file} "
                "has not; it was edited, damaged or belongs to another table: "
                "write it again, or read it with polars.read_csv"
            )
    schema = read_columns(meta, meta_path)
    try:
        return _assemble(rows, spectra, schema), meta["provenance"]
    except (pl.exceptions.PolarsError, LookupError, ValueError) as error:
        raise TableError(
            f"{meta_path.name} must describe the columns of {path}, it does not "
            f"({error}); it was edited: write the table again"
        ) from error


def _assemble(
    rows: bytes, spectra: bytes, schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    # Only bytes with the right checksum come here: the parser meets nothing foreign.
    cells = pl.read_csv(rows, infer_schema=False)
    lists = _lists(pl.read_csv(spectra, infer_schema=False), cells.height)
    return pl.DataFrame(
        [
            lists if name == "values" else _from_cells(cells[name], dtype)
            for name, dtype in schema.items()
        ]
    )


def _check_present(path: Path) -> None:
    sides = _side_files(path)
    for side in sides:
        if not side.is_file():
            raise TableError(
                f"a CSV table is {path.name}, {sides[0].name} and {sides[1].name} in "
                f"one folder, {side} is missing; put it there, or read a CSV of "
                "another program with polars.read_csv"
            )


def _side_files(path: Path) -> tuple[Path, Path]:
    return (
        path.with_name(f"{path.stem}.spectra.csv"),
        path.with_name(f"{path.stem}.meta.json"),
    )


def _encode(frame: pl.DataFrame) -> bytes:
    # All text quoted: "" and null differ whatever polars holds to be necessary.
    return frame.write_csv(quote_style="non_numeric").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _long_form(frame: pl.DataFrame) -> pl.DataFrame:
    columns = frame.select("subject", "view", "metric", "values")
    lines: list[tuple[Any, ...]] = []
    for row, (*names, values) in enumerate(columns.iter_rows()):
        if values is not None:
            lines += [(row, *names, i, value) for i, value in enumerate(values)]
            lines += [] if values else [(row, *names, None, None)]
    return pl.DataFrame(lines, schema=_LONG, orient="row")


def _lists(lines: pl.DataFrame, height: int) -> pl.Series:
    numbers = lines["row"].cast(pl.Int64).to_list()
    values = lines["value"].cast(pl.Float64).to_list()
    lists: list[list[float] | None] = [None] * height
    for row, position, value in zip(numbers, lines["position"], values, strict=True):
        found = lists[row]
        if found is None:
            found = lists[row] = []
        if position is not None:
            found.append(value)
    return pl.Series("values", lists, dtype=pl.List(pl.Float64))


def _to_cells(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List):
        texts = [
            None if x is None else to_json(json_value(x.to_list())) for x in column
        ]
        return pl.Series(column.name, texts, dtype=pl.String)
    return column


def _from_cells(cells: pl.Series, dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.List):
        lists = [
            None if x is None else from_json_value(json.loads(x), dtype) for x in cells
        ]
        return pl.Series(cells.name, lists, dtype=dtype)
    if dtype == pl.Boolean:
        return (cells == "true").alias(cells.name)
    return cells.cast(dtype)
