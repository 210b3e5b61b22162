"""Closing lines of a grid: what has no number and why, and what to beware of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spectrank.table._text import printable

Row = Mapping[str, Any]

# Reasons that are told one by one.
_MOST = 5


def is_ok(row: Row) -> bool:
    """Whether a row has its number."""
    return row["status"] in {None, "ok"}


def troubles(rows: Sequence[Row]) -> list[str]:
    """A line per status other than ok, with the matrices it concerns.

    Args:
        rows: Measurements.

    Returns:
        The lines.
    """
    lines = []
    for status in dict.fromkeys(row["status"] for row in rows if not is_ok(row)):
        bad = [row for row in rows if row["status"] == status]
        where = _matrices(bad)
        reasons = Counter(row["reason"] for row in bad if row["reason"])
        why = f" ({counted(reasons)})" if reasons else ""
        numbers = "number" if len(bad) == 1 else "numbers"
        lines.append(f"{status}: {len(bad)} {numbers} of {where}{why}")
    return lines


def cautions(rows: Sequence[Row]) -> list[str]:
    """A line per thing to beware of in numbers that are ok.

    Args:
        rows: Measurements.

    Returns:
        The lines, a handful at most, and how many more there are.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["reason"] and row["value"] is not None and is_ok(row):
            found.setdefault(row["reason"], []).append(row)
    lines = [
        f"{', '.join(dict.fromkeys(printable(row['metric']) for row in told))} of "
        f"{_matrices(told)}: {printable(reason)}"
        for reason, told in found.items()
    ]
    rest = len(lines) - _MOST
    return lines[:_MOST] + ([f"{rest} more such notes"] if rest > 0 else [])


def _matrices(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(printable(row["subject"]) for row in rows))
    return names[0] if len(names) == 1 else f"{len(names)} matrices"


def counted(reasons: Mapping[str | None, int], most: int = _MOST) -> str:
    """Reasons in one line, the commonest first; a count only where it says something.

    Args:
        reasons: Reason to how often it was given.
        most: Reasons that are told.

    Returns:
        Such as ``bias (12); norm (3); 2 more reasons``.
    """
    ranked = sorted(reasons.items(), key=lambda item: -item[1])
    texts = [printable(reason or "no reason given") for reason, _ in ranked[:most]]
    if len(ranked) == 1:
        return texts[0]
    texts = [f"{text} ({n})" for text, (_, n) in zip(texts, ranked, strict=False)]
    rest = len(ranked) - most
    return "; ".join(texts) + (f"; {rest} more reasons" if rest > 0 else "")
