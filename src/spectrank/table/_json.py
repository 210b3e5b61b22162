"""The JSON form of a Table: one strict document.

Keys: ``schema_version``, ``provenance``, ``columns`` (name to dtype), ``rows`` (one
mapping a line, nulls included). JSON has no word for NaN and the infinities: in float
columns they are the texts "NaN", "Infinity" and "-Infinity". Python's shortest
representation of a float64 reads back to the same bits.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from spectrank.errors import TableError
from spectrank.table._provenance import check_version
from spectrank.table._rows import build_frame
from spectrank.table._schema import DTYPES, SCHEMA_VERSION, dtype_name

Content = tuple[pl.DataFrame, dict[str, Any]]

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_bytes(frame: pl.DataFrame, provenance: Mapping[str, Any]) -> bytes:
    """Encode a frame and its provenance as one document.

    Args:
        frame: The frame of a Table.
        provenance: Its provenance.

    Returns:
        UTF-8 text, one row a line.
    """
    head = {
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance,
        "columns": column_names(frame),
    }
    rows = [
        to_json({name: json_value(value) for name, value in row.items()})
        for row in frame.iter_rows(named=True)
    ]
    body = "[\n" + ",\n".join(rows) + "\n]" if rows else "[]"
    return f'{to_json(head)[:-1]}, "rows": {body}}}\n'.encode()


def read_json(path: Path) -> Content:
    """Decode a document that ``json_bytes`` made.

    Args:
        path: The file.

    Returns:
        Frame and provenance.

    Raises:
        TableError: The file is no such document, or of another schema version.
    """
    document = load_mapping(path)
    rows = document.get("rows")
    if not isinstance(rows, list):
        raise TableError(
            "a JSON table is one object with schema_version, provenance, columns and "
            f"rows, {path} has no list of rows; if it is the side file of a CSV "
            "table, read the .csv instead"
        )
    schema = read_columns(document, path)
    try:
        frame = build_frame([_restored(row, schema) for row in rows], schema)
    except TableError as error:
        raise TableError(f"{path} holds no valid Table: {error}") from error
    return frame, document["provenance"]


def load_mapping(path: Path) -> dict[str, Any]:
    """Parse a strict JSON object with a schema version and a provenance.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        TableError: It is no such object, or of another schema version.
    """
    try:
        document = json.loads(path.read_bytes().decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise TableError(
            f"a .json file of a table is strict JSON in UTF-8, {path} is not "
            f"({error}); it is truncated, damaged or of another format: "
            "write or copy it again"
        ) from error
    if not isinstance(document, dict) or "schema_version" not in document:
        raise TableError(
            f"a .json file of a table is an object with a schema_version, {path} is "
            "not; it was not written by spectrank: make a table with Table.from_rows"
        )
    check_version(document["schema_version"], str(path))
    if not isinstance(document.get("provenance"), dict):
        raise TableError(
            f"a .json file of a table has a provenance object, {path} has none; "
            "write the table again"
        )
    return document


def column_names(frame: pl.DataFrame) -> dict[str, str]:
    """Columns of a frame with the names of their dtypes.

    Args:
        frame: The frame of a Table.

    Returns:
        Name to dtype name, in order.
    """
    return {name: dtype_name(dtype) for name, dtype in frame.schema.items()}


def read_columns(document: Mapping[str, Any], path: Path) -> dict[str, pl.DataType]:
    """Dtypes that a document declares.

    Args:
        document: A parsed document or side file.
        path: Its file, for the message.

    Returns:
        Name to dtype, in order.

    Raises:
        TableError: The declaration is absent or names an unknown dtype.
    """
    columns = document.get("columns")
    if not isinstance(columns, dict) or not all(
        isinstance(name, str) and name in DTYPES for name in columns.values()
    ):
        raise TableError(
            f"'columns' maps each column to a dtype such as Float64, {path} has "
            "none or unknown ones; write the table again"
        )
    return {name: DTYPES[dtype] for name, dtype in columns.items()}


def to_json(value: object) -> str:
    """Strict JSON text on one line, names in plain Unicode.

    Args:
        value: A value without NaN or infinities.

    Returns:
        The text.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_value(value: Any) -> Any:
    """Replace NaN and infinities, also inside a list, by their texts.

    Args:
        value: An entry of a frame.

    Returns:
        The entry as strict JSON can hold it.
    """
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def from_json_value(value: Any, dtype: pl.DataType) -> Any:
    """Undo ``json_value``: a text "NaN" is a number only in a float column.

    Args:
        value: An entry as JSON holds it.
        dtype: The dtype of its column.

    Returns:
        The entry.
    """
    if isinstance(dtype, pl.List) and isinstance(value, list):
        inner = dtype.inner
        if inner in {pl.Float32(), pl.Float64()}:
            return [_NONFINITE.get(x, x) if isinstance(x, str) else x for x in value]
        return value
    if dtype.is_float() and isinstance(value, str):
        return _NONFINITE.get(value, value)
    return value


def _restored(row: Any, schema: Mapping[str, pl.DataType]) -> Any:
    if not isinstance(row, dict):
        return row
    return {
        name: from_json_value(value, schema[name]) if name in schema else value
        for name, value in row.items()
    }


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
