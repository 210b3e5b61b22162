"""The headline numbers of the page: how much was measured, and what came of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import polars as pl

from spectrank.report._data import Row, effective_status, finite_or_none, whole
from spectrank.report._numbers import count_text, plain_text
from spectrank.report._verdicts import verdict

_FAMILY = ["subject", "metric", "variant", "run"]


def identical(rows: Sequence[Row]) -> set[tuple[Any, Any]]:
    """Matrices of a comparison that are the same to the last bit.

    Args:
        rows: Measurement rows.

    Returns:
        Pairs (subject, view).
    """
    return {
        (row["subject"], row.get("view"))
        for row in rows
        if row["metric"] == "relative_change" and row.get("value") == 0.0
    }


def relative_changes(rows: Sequence[Row]) -> list[float]:
    """How far the matrices of a comparison moved.

    Args:
        rows: Measurement rows.

    Returns:
        The finite relative changes, one for each matrix.
    """
    found = (
        finite_or_none(row.get("value"))
        for row in rows
        if row["metric"] == "relative_change"
    )
    return [value for value in found if value is not None]


def _worst(verdicts: Sequence[str | None], none: str = "none violated") -> str:
    """How many checks failed, or that none did."""
    bad = Counter(
        look["name"] for name in verdicts if (look := verdict(name))["tone"] == "bad"
    )
    return ", ".join(f"{count} {name}" for name, count in bad.items()) or none


def _counted(
    rows: Sequence[Row], provenance: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """How many parameters, matrices and entries."""
    matrices: dict[tuple[Any, Any], int] = {}
    bad = set()
    for row in rows:
        key = (row["subject"], row.get("view"))
        size = (whole(row.get("m")) or 0) * (whole(row.get("n")) or 0)
        matrices[key] = size or matrices.get(key, 0)
        if effective_status(row) != "ok":
            bad.add(key)
    bad -= identical(rows)
    # What has no shape beside what has, such as the whole model, is no matrix.
    if sized := {key: size for key, size in matrices.items() if size}:
        matrices, bad = sized, bad & sized.keys()
    total = whole(provenance.get("num_parameters"))
    measured = whole(provenance.get("num_parameters_measured"))
    figures = []
    if total is not None:
        figures.append(("parameters", count_text(total), f"{total:,} in all"))
    remark = f"{len(bad)} not ok" if bad else "all ok" if matrices else "none measured"
    figures.append(("matrices measured", f"{len(matrices)}", remark))
    if measured is not None and total:
        share = f"{100 * measured / total:.1f} %"
        figures.append(("of the parameters", share, f"{measured:,} measured"))
    elif entries := measured or sum(matrices.values()):
        figures.append(("entries measured", count_text(entries), f"{entries:,} in all"))
    return figures


def headline(
    rows: Sequence[Row],
    frame: pl.DataFrame,
    provenance: Mapping[str, Any],
    num_skipped: int,
) -> list[dict[str, str]]:
    """The headline numbers, each with a unit and a remark.

    Args:
        rows: Measurement and spectrum rows, without references.
        frame: The frame of the table.
        provenance: Its provenance; every key is optional.
        num_skipped: Number of skipped tensors.

    Returns:
        Label, value and remark of each.
    """
    verdicts = frame.filter(pl.col("kind") == "check")["verdict"].to_list()
    laws = frame.filter(pl.col("kind") == "law")
    families = laws.select(_FAMILY).n_unique()
    # A page of laws alone says nothing of matrices.
    figures = _counted(rows, provenance) if rows or not families else []
    if moved := relative_changes(rows):
        still = sum(change == 0.0 for change in moved)
        text = plain_text(median(moved), 3)
        figures.append(("median change", text, f"{still} of {len(moved)} identical"))
    steps = {row["step"] for row in rows if row.get("step") is not None}
    if len(steps) > 1:
        figures.append(("steps", f"{len(steps)}", f"{min(steps)} to {max(steps)}"))
    if families:
        last = laws.unique(_FAMILY, keep="last", maintain_order=True)
        remark = _worst(last["verdict"].to_list(), "none broken")
        watched = bool(last["verdict"].is_not_null().any())
        figures.append(("families of laws", f"{families}", remark if watched else ""))
    if verdicts:
        figures.append(("checks", f"{len(verdicts)}", _worst(verdicts)))
    if rows or num_skipped or not families:
        remark = "tensors, listed below" if num_skipped else "no tensor"
        figures.append(("skipped", f"{num_skipped}", remark))
    if isinstance(seconds := provenance.get("seconds"), int | float):
        where = f"on {provenance['device']}" if provenance.get("device") else ""
        figures.append(("seconds", f"{seconds:.3g}", where))
    return [
        {"label": label, "value": value, "remark": remark}
        for label, value, remark in figures
    ]
