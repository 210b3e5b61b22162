"""Finding rows of a frame, and saying what is there when they are not found."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import polars as pl

from spectrank.errors import TableError


def matching(
    frame: pl.DataFrame, predicates: Sequence[pl.Expr], equals: Mapping[str, Any]
) -> pl.DataFrame:
    """Rows that satisfy all predicates and equal all given values.

    Args:
        frame: Any frame.
        predicates: Polars expressions.
        equals: Column to value; None stands for null.

    Returns:
        The rows kept, in order.

    Raises:
        TableError: A column does not exist, or cannot be compared so.
    """
    for name in equals:
        if name not in frame.columns:
            raise TableError(
                f"where() compares columns of the table, got {name!r}; "
                f"it has {', '.join(frame.columns)}"
            )
    try:
        conditions = [
            *predicates,
            *(
                pl.col(name).is_null() if value is None else pl.col(name) == value
                for name, value in equals.items()
            ),
        ]
        return frame.filter(*conditions) if conditions else frame
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise TableError(
            "where() takes polars predicates and values of the columns' own dtypes, "
            f"got {[*map(str, predicates)]} and {dict(equals)} "
            f"({str(error).splitlines()[0]}); "
            "see table.columns and table.frame.schema"
        ) from error


def find_row(frame: pl.DataFrame, kind: str, **keys: str | None) -> dict[str, Any]:
    """The one row of a kind with the given keys.

    Args:
        frame: The long frame.
        kind: Kind of row.
        **keys: Column to value, subject first; None leaves the column free, but a
            row without variant goes before rows with one.

    Returns:
        The row.

    Raises:
        TableError: No row fits, or several do.
    """
    given = {name: value for name, value in keys.items() if value is not None}
    kept = matching(frame, (), {"kind": kind})
    for name, value in given.items():
        found = matching(kept, (), {name: value})
        if not found.height:
            raise TableError(_absent(kept, kind, name, value, given))
        kept = found
    rows = kept.rows(named=True)
    plain = [row for row in rows if row["variant"] is None]
    if len({row["view"] for row in rows}) == 1 and len(plain) == 1:
        rows = plain
    if len(rows) > 1:
        raise TableError(_ambiguous(rows, kind, given))
    return rows[0]


def without_number(row: Mapping[str, Any]) -> str:
    """Message for a row that was found but carries no number.

    Args:
        row: The row.

    Returns:
        What it is, its status and reason, and the way out.
    """
    state = row["status"] or "no status"
    reason = f", {row['reason']}" if row["reason"] else ""
    return (
        f"a number is returned only where one was measured, the {row['kind']} "
        f"{row['metric']!r} of {row['subject']!r} has none ({state}{reason}); "
        "look at its row with table.where(subject=...)"
    )


def _absent(
    frame: pl.DataFrame, kind: str, name: str, value: str, given: Mapping[str, str]
) -> str:
    there = [str(x) for x in frame[name].drop_nulls().unique(maintain_order=True)]
    close = get_close_matches(value, there, n=3, cutoff=0.5)
    shown = ", ".join(map(repr, close or there[:5])) or "none"
    more = f" and {len(there) - 5} more" if not close and len(there) > 5 else ""
    of = "" if name == "subject" else f" of {given['subject']!r}"
    hint = "did you mean" if close else "there is"
    return (
        f"the {name} must be among the {kind} rows{of}, got {value!r}; "
        f"{hint} {shown}{more}"
    )


def _ambiguous(
    rows: Sequence[Mapping[str, Any]], kind: str, given: Mapping[str, str]
) -> str:
    names = ("view", "metric", "variant", "index", "step", "run")
    found = {name: dict.fromkeys(row[name] for row in rows) for name in names}
    differing = [
        f"{name} ({', '.join(map(repr, list(values)[:4]))})"
        for name, values in found.items()
        if len(values) > 1
    ]
    what = " and ".join(f"{name}={value!r}" for name, value in given.items())
    which = f"they differ in {', '.join(differing)}" if differing else "all alike"
    return (
        f"one {kind} row is wanted, {len(rows)} have {what}; {which}: "
        "give the view or variant, or narrow the table with where() first"
    )
