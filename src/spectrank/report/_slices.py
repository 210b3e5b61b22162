"""Which matrices stand side by side, and which are the same matrix at another time.

A *slice* is what one (run, step) of the table says of all matrices; a *thing* is one
(subject, view) in all slices. Two sorts of courses through the slices have views of
their own: a comparison (runs ``before`` and ``after``) and a trend (several steps).
"""

from collections.abc import Iterable, Sequence
from typing import Any

BEFORE, AFTER = "before", "after"
"""Runs of a comparison that hold the two sides."""

Key = tuple[Any, ...]


def slice_label(run: object, step: object) -> str | None:
    """Name of a slice for people.

    Args:
        run: Of the rows, or None.
        step: Of the rows, or None.

    Returns:
        ``warm · step 20``; None where the rows have neither.
    """
    parts = [str(run)] if run is not None else []
    parts += [f"step {step}"] if step is not None else []
    return " · ".join(parts) or None


def _ordered(keys: Iterable[Key]) -> list[tuple[Any, Any]]:
    """Runs in their order, the steps of each rising; what has no step is first."""
    found = list(dict.fromkeys((key[2], key[3]) for key in keys))
    runs = list(dict.fromkeys(run for run, _ in found))
    return sorted(
        found, key=lambda s: (runs.index(s[0]), s[1] is not None, s[1] if s[1] else 0)
    )


def course(keys: Sequence[Key]) -> str | None:
    """What the slices of a table are to each other.

    Args:
        keys: (subject, view, run, step) of each matrix.

    Returns:
        ``comparison``, ``trend``, or None.
    """
    runs: dict[Key, set[Any]] = {}
    steps: dict[Key, set[Any]] = {}
    for subject, view, run, step in keys:
        runs.setdefault((subject, view), set()).add(run)
        if step is not None:
            steps.setdefault((subject, view, run), set()).add(step)
    if any({BEFORE, AFTER} <= found for found in runs.values()):
        return "comparison"
    return "trend" if any(len(found) > 1 for found in steps.values()) else None


def shown_slice(keys: Sequence[Key]) -> tuple[Any, Any] | None:
    """The slice that a page shows first.

    Args:
        keys: (subject, view, run, step) of each matrix.

    Returns:
        Run and step: the side after of a comparison, the last of a trend; None for
        everything at once.
    """
    kind = course(keys)
    found = _ordered(keys)
    if kind == "comparison":
        return next(s for s in found if s[0] == AFTER)
    return found[-1] if kind == "trend" else None


def arranged(keys: Sequence[Key]) -> dict[str, Any]:
    """Slices and things of the matrices, as JSON values.

    Args:
        keys: (subject, view, run, step) of each matrix.

    Returns:
        ``slices`` with run, step and label; ``slice``, the position of the one shown
        first or None for all; ``course``; and for each matrix ``slice_of`` and
        ``thing_of``.
    """
    slices = _ordered(keys)
    at = {key: number for number, key in enumerate(slices)}
    things: dict[Key, int] = {}
    for key in keys:
        things.setdefault(key[:2], len(things))
    first = shown_slice(keys)
    return {
        "slices": [
            {"run": run, "step": step, "label": slice_label(run, step) or "neither"}
            for run, step in slices
        ],
        "slice": None if first is None else at[first],
        "course": course(keys),
        "slice_of": [at[key[2:]] for key in keys],
        "thing_of": [things[key[:2]] for key in keys],
    }
