"""Rows of Python, numpy or torch values made into typed columns.

Nothing is cast silently: 1.5 is no integer, True is no number, 300 is no Int8. A
value that a dtype cannot hold is an error that names its row and column.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import polars as pl

from spectrank.errors import ArgumentTypeError, TableError
from spectrank.table._schema import DTYPES, Dtype, dtype_name, shorten

_NONE = type(None)
_LARGEST_FLOAT32 = math.ldexp(2.0 - 2.0**-23, 127)


def build_frame(
    rows: Iterable[Mapping[str, Any]], schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Make a frame from rows; a key that a row lacks becomes null.

    Args:
        rows: Mappings from column name to a Python, numpy or torch scalar or list.
        schema: All columns with their dtypes, in order.

    Returns:
        The frame with exactly these columns.

    Raises:
        ArgumentTypeError: The rows are nothing to go through.
        TableError: A row is no mapping, has an unknown key, or a value does not fit.
    """
    if not isinstance(rows, Iterable):
        raise ArgumentTypeError(
            f"rows are mappings from column to value, got {rows!r:.80} of type "
            f"{type(rows).__name__}; pass a list of them"
        )
    known = schema.keys()
    kept = list(rows)
    for number, row in enumerate(kept):
        if not isinstance(row, Mapping):
            raise TableError(
                "a row must be a mapping from column to value, "
                f"row {number} is {shorten(row)}; make it a dict"
            )
        if not row.keys() <= known:
            extra = [str(key) for key in row if key not in known]
            raise TableError(
                "a row may only use core columns and declared producer columns, "
                f"row {number} has {', '.join(map(repr, extra))}; declare them, as "
                f"in columns={{{extra[0]!r}: pl.String}}, or correct the spelling"
            )
    return pl.DataFrame(
        [
            series(name, [row.get(name) for row in kept], dtype)
            for name, dtype in schema.items()
        ]
    )


def series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Make a column, checking each value instead of casting it silently.

    Args:
        name: Name of the column.
        values: One entry a row; None is null.
        dtype: One of ``DTYPES``.

    Returns:
        The column.

    Raises:
        TableError: A value cannot be held by the dtype without changing it.
    """
    made = _made_at_once(name, values, dtype)
    if made is not None:
        return made
    # Value by value: what has to be converted, and what an error has to name.
    convert = _converter(dtype)
    converted: list[Any] = []
    for number, value in enumerate(values):
        try:
            converted.append(None if value is None else convert(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise TableError(
                f"column {name!r} holds {dtype_name(dtype)}, row {number} has "
                f"{shorten(value)} ({error}); convert the value or declare the "
                "column with another dtype"
            ) from error
    return pl.Series(name, converted, dtype=dtype, strict=True)


def _made_at_once(
    name: str, values: Sequence[Any], dtype: pl.DataType
) -> pl.Series | None:
    """Make a column of values that are of its Python type; None where one is not.

    Ten thousand small matrices have millions of values, nearly all of them so.

    Returns:
        The column, the same as value by value.
    """
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    allowed = {_python_type(inner), _NONE}
    entries = _entries(values) if isinstance(dtype, pl.List) else set(map(type, values))
    if entries is None or not entries <= allowed:
        return None
    try:
        return pl.Series(name, values, dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError):
        return None


def _entries(values: Sequence[Any]) -> set[type] | None:
    """Types in lists; None where there is another sequence among them."""
    if not set(map(type, values)) <= {list, _NONE}:
        return None
    return set().union(*(map(type, value) for value in values if value is not None))


def _python_type(dtype: Any) -> type:
    """Type whose every value a column holds or refuses; no type where some change."""
    if dtype == pl.String:
        return str
    if dtype == pl.Boolean:
        return bool
    if dtype == pl.Float64:
        return float
    # Float32 rounds, and must not round to infinity.
    return int if dtype.is_integer() else _NONE


def _converter(dtype: pl.DataType) -> Callable[[Any], Any]:
    if isinstance(dtype, pl.List):
        inner = _converter(DTYPES[dtype_name(cast("Dtype", dtype.inner))])
        return lambda value: _as_list(value, inner)
    if dtype == pl.String:
        return _as_text
    if dtype == pl.Boolean:
        return _as_bool
    if dtype == pl.Float64:
        return _as_float
    if dtype == pl.Float32:
        return _as_float32
    name = dtype_name(dtype)
    width = int(name.removeprefix("U").removeprefix("Int"))
    if name.startswith("U"):
        return lambda value: _as_int(value, 0, 2**width - 1)
    return lambda value: _as_int(value, -(2 ** (width - 1)), 2 ** (width - 1) - 1)


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    text = str.__str__(value)
    text.encode()  # A lone surrogate has no UTF-8 form and would abort the write.
    return text


def _as_bool(value: Any) -> bool:
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value


def _as_int(value: Any, least: int, greatest: int) -> int:
    if isinstance(value, bool):
        raise TypeError("a boolean is no integer")
    number = operator.index(value)
    if not least <= number <= greatest:
        raise OverflowError("out of range")
    return number


def _as_float(value: Any) -> float:
    if isinstance(value, str | bytes | bool):
        raise TypeError("not a number")
    return float(value)


def _as_float32(value: Any) -> float:
    number = _as_float(value)
    if math.isfinite(number) and abs(number) > _LARGEST_FLOAT32:
        raise OverflowError("out of range")
    return number


def _as_list(value: Any, convert: Callable[[Any], Any]) -> list[Any]:
    if isinstance(value, str | bytes | Mapping):
        raise TypeError("not a list")
    items = value.tolist() if hasattr(value, "tolist") else list(value)
    return [None if item is None else convert(item) for item in items]
