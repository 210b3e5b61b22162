"""Rows of a table as the page reads them: which there are, and what their numbers say.

JSON has no NaN and no infinity: such a value becomes None, and its status is never
``ok``.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import polars as pl

Row = Mapping[str, Any]


def safe_json(value: object) -> str:
    """JSON that may stand inside a ``script`` element.

    Args:
        value: JSON values without NaN and infinity.

    Returns:
        ASCII text without ``<``, ``>`` and ``&``, so no tag or comment can end or
        begin in it.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def finite_or_none(value: float | None) -> float | None:
    """The value when it is a finite number.

    Args:
        value: A number or None.

    Returns:
        The number, or None in place of NaN and infinities.
    """
    return value if value is not None and math.isfinite(value) else None


def finite_number(value: object) -> float | None:
    """The value when it is a finite number, whatever the type of its column.

    Args:
        value: An entry of a producer column, which may hold anything.

    Returns:
        The number, or None in place of anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return finite_or_none(float(value))


def whole(value: object) -> int | None:
    """The value when it is an integer.

    Args:
        value: An entry of a column or of a provenance, which may hold anything.

    Returns:
        The integer, or None in place of anything else.
    """
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_reference(row: Row) -> bool:
    """Whether a row says what an ensemble has, not what was measured.

    Args:
        row: A measurement row.

    Returns:
        True if it has a ``variant`` and the ``deviation`` of the ensemble.
    """
    return row.get("variant") is not None and (
        finite_number(row.get("deviation")) is not None
    )


def effective_status(row: Row) -> str:
    """Status of a row as the page shows it.

    Args:
        row: A measurement or spectrum row.

    Returns:
        The row's status; ``nonfinite`` where the row says ok of a NaN or an infinity,
        ``skipped`` where it says ok of no value at all.
    """
    status, value = row.get("status") or "ok", row.get("value")
    if status != "ok" or row["kind"] == "spectrum":
        return str(status)
    if value is None:
        return "skipped"
    return "ok" if math.isfinite(value) else "nonfinite"


def scan_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Measurement and spectrum rows of a table, in their order.

    Args:
        frame: The frame of a Table.

    Returns:
        One dict a row.
    """
    return frame.filter(pl.col("kind").is_in(["measurement", "spectrum"])).to_dicts()
