"""Which columns of a long list come first, which are never given up, which row leads.

The most telling first: what does not fit a terminal is dropped from the end.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from spectrank.table._schema import CORE

Row = Mapping[str, Any]

_FIRST = (
    *("subject", "view", "metric", "of", "variant", "index", "step", "run", "verdict"),
    *("value", "bound", "slack", "status", "reason", "lower", "upper", "values"),
    *("error_kind", "failure_probability"),
)
# A law that was watched is read for its verdict, one that was found for its size.
_FIRST_OF_LAWS = (
    *("subject", "verdict", "step", "drift", "run", "num_laws", "num_independent"),
    *("reason", "params_in", "params_out", "residual", "bound", "explained"),
    *("broken_step", "suspects", "value", "exact"),
)
_LAST = ("route", "source")
_LAST_OF_LAWS = ("metric", "variant", "index", "slack", "status", *_LAST)
# What tells a row from the next and what it says: never given up for anything else.
_KEPT = frozenset(["metric", "variant", "index", "verdict", "value", "bound"])
_KEPT_OF_LAWS = frozenset(["verdict", "step", "run"])


def leading(kind: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Rows in the order in which they are listed.

    Args:
        kind: Of the rows.
        rows: In the order of the table.

    Returns:
        The same; laws with the last step first, the order of the table within it.
    """
    if kind != "law":
        return rows
    return sorted(rows, key=lambda row: -1 if row["step"] is None else -row["step"])


def ordered_columns(
    kind: str, rows: Sequence[Row], names: Sequence[str]
) -> tuple[list[str], Collection[str]]:
    """Columns in the order in which they are listed.

    Args:
        kind: Of the rows.
        rows: All of them.
        names: Columns of the table.

    Returns:
        Every column once but ``kind``, and those that are never given up.
    """
    laws = kind == "law"
    last = _LAST_OF_LAWS if laws else _LAST
    wanted = _FIRST_OF_LAWS if laws else _FIRST
    first = [name for name in wanted if name in names]
    if len({row["view"] for row in rows} - {None}) <= 1:
        # The same in every row: the least telling.
        first = [*(name for name in first if name != "view"), "view"]
    rest = [name for name in names if name not in {"kind", *first, *last}]
    producers = [name for name in rest if name not in CORE]
    core = [name for name in rest if name in CORE]
    ordered = [*first, *producers, *core, *(name for name in last if name in names)]
    return ordered, _KEPT_OF_LAWS if laws else _KEPT
