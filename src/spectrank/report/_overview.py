"""The overview of the page: what was measured, what was not, how far to trust it.

Everything here is text and numbers for the template, which escapes them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import polars as pl

from spectrank.report._data import (
    Row,
    effective_status,
    finite_or_none,
    is_reference,
    whole,
)
from spectrank.report._headline import headline, identical
from spectrank.report._names import column_label
from spectrank.report._numbers import (
    number_text,
    probability_text,
)
from spectrank.report._slices import shown_slice

_KEY = ("subject", "view", "run", "step")
_LOWEST = 5
_NAMED = 3
# Runs of a comparison in which a matrix that did not move has no rank: no trouble.
_MOVEMENTS = ("difference", "change")
_ERROR_KINDS = {
    "certified": "proved: the true value lies inside for certain",
    "rounding": "a stated multiple of the unit roundoff: a tested model, not a proof",
    "probabilistic": "holds except with the stated probability over a random start",
    "stderr": "a standard error, not an enclosure",
    "not stated": "no error is given",
}


def _skips(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Skipped tensors grouped by reason, the largest group first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    # What is skipped at every step of a run is said once.
    rows = frame.filter(pl.col("kind") == "skip")
    names = [x for x in ("subject", "reason", "tied_to") if x in rows.columns]
    for row in rows.unique(names, keep="first", maintain_order=True).to_dicts():
        tied_to, reason = row.get("tied_to"), row.get("reason") or "no reason given"
        if tied_to:
            # One group for all tied weights: each item names its own partner.
            reason = reason.replace(str(tied_to), "another tensor")
        groups.setdefault(reason, []).append(
            {
                "name": row["subject"],
                "tied_to": tied_to,
            }
        )
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [{"reason": reason, "members": members} for reason, members in ordered]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    shown = names if more <= 1 else names[:_NAMED]
    return ", ".join([*shown, *([f"{more} more metrics"] if more > 1 else [])])


def _grouped(rows: Sequence[Row], *, ok: bool) -> list[dict[str, Any]]:
    """Matrices of one reason: not ok, or else ok with something to beware of."""
    groups: dict[tuple[Any, ...], dict[tuple[Any, Any], None]] = {}
    columns: dict[tuple[Any, ...], dict[str, None]] = {}
    still = identical(rows)
    for row in rows:
        if row.get("run") in _MOVEMENTS and (row["subject"], row.get("view")) in still:
            continue
        status, reason = effective_status(row), row.get("reason")
        if reason if ok and status == "ok" else not ok and status != "ok":
            key = (status, reason)
            groups.setdefault(key, {})[row["subject"], row.get("view")] = None
            columns.setdefault(key, {})[column_label(row)] = None
    return [
        {"status": key[0], "reason": key[1], "what": _listed(list(columns[key]))}
        | {"members": [{"name": name, "view": view} for name, view in members]}
        for key, members in groups.items()
    ]


def _errors(measured: Sequence[Row]) -> dict[str, Any]:
    kinds = Counter(
        row.get("error_kind") or "not stated"
        for row in measured
        if finite_or_none(row.get("value")) is not None
    )
    chances = [
        chance
        for row in measured
        if (chance := finite_or_none(row.get("failure_probability")))
    ]
    return {
        "kinds": [
            {"name": name, "count": kinds[name], "meaning": _ERROR_KINDS.get(name, "")}
            for name in [*_ERROR_KINDS, *sorted(kinds.keys() - _ERROR_KINDS.keys())]
            if kinds[name]
        ],
        "largest_failure": probability_text(max(chances)) if chances else None,
        # Boole: the failures need not be independent.
        "joint_failure": (
            probability_text(min(math.fsum(chances), 1.0)) if chances else None
        ),
    }


def _lowest(measured: Sequence[Row]) -> list[dict[str, Any]]:
    """Matrices with the lowest stable rank for their size."""
    found = []
    for row in measured:
        side = min(whole(row.get("m")) or 0, whole(row.get("n")) or 0)
        value = finite_or_none(row.get("value"))
        # Another tool's number of that name is a variant, and may be another number.
        own = row["metric"] == "stable_rank" and row.get("variant") is None
        if own and side > 1 and value is not None:
            found.append((value / side, value, side, row))
    found.sort(key=lambda item: item[0])
    return [
        {
            "name": row["subject"],
            "view": row.get("view"),
            "value": number_text(value),
            "side": side,
            "share": f"{100 * share:.{1 if share >= 1e-3 else 4}f} %",
        }
        for share, value, side, row in found[:_LOWEST]
    ]


def _base(provenance: Mapping[str, Any]) -> str:
    source = str(provenance.get("input") or "")
    return PurePath(source).name or source


def _folder(provenance: Mapping[str, Any]) -> str:
    """Name of the one folder that all checkpoints of a run lie in, else nothing."""
    sources = provenance.get("sources")
    inputs = [
        str(source.get("input") or "")
        for source in (sources if isinstance(sources, list) else [])
        if isinstance(source, Mapping)
    ]
    folders = {str(PurePath(text).parent.name) for text in inputs}
    return folders.pop() if len(folders) == 1 else ""


def default_title(
    provenance: Mapping[str, Any], *, measured: bool, laws: bool = False
) -> str:
    """Title of a page when the caller gives none.

    Args:
        provenance: Provenance of the table.
        measured: Whether the table holds measurements or spectra.
        laws: Whether it holds laws of training.

    Returns:
        The model's name, or the last part of the input path, or a plain phrase.
    """
    before = provenance.get("before")
    if isinstance(before, Mapping) and (old := _base(before)):
        return f"{_base(provenance) or 'after'} against {old}"
    if model := provenance.get("model"):
        return str(model)
    if source := _base(provenance):
        return source
    if measured and "trend" in provenance:
        return f"{_folder(provenance) or 'Checkpoints'} over the steps"
    if laws and not measured:
        return "Laws of training"
    if "graph" in provenance and not measured:
        return "Wiring of a model"
    return "Scan of weight matrices"


def overview(
    frame: pl.DataFrame, rows: Sequence[Row], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What the template needs besides the charts.

    Args:
        frame: The frame of the table, without rows that another part of the page shows.
        rows: Its measurement and spectrum rows.
        provenance: Its provenance; every key is optional.

    Returns:
        Texts, counts and lists.
    """
    num_rows = len(rows)
    # What an ensemble has was not measured here: it stands in the table alone.
    rows = [row for row in rows if not is_reference(row)]
    measured = [row for row in rows if row["kind"] == "measurement"]
    skips = _skips(frame)
    num_skipped = sum(len(group["members"]) for group in skips)
    first = shown_slice([tuple(row.get(name) for name in _KEY) for row in rows])
    shown = [row for row in measured if first in {None, (row["run"], row["step"])}]
    return {
        "figures": headline(rows, frame, provenance, num_skipped),
        "skips": skips,
        "num_skipped": num_skipped,
        "troubles": _grouped(rows, ok=False),
        "cautions": _grouped(measured, ok=True),
        "statuses": Counter(map(effective_status, measured)).most_common(),
        "errors": _errors(measured),
        "lowest": _lowest(shown),
        "num_measurements": len(measured),
        "num_references": num_rows - len(rows),
    }
