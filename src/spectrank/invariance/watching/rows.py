"""Rows of what is watched: one per family of laws and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch

from spectrank.invariance.watching.state import Evaluation, Family

COLUMNS: Mapping[str, Any] = {
    "num_laws": pl.Int64,
    "drift": pl.Float64,
    "explained": pl.Float64,
    "residual": pl.Float64,
    "largest_drift": pl.Float64,
    "structure": pl.Float64,
    "structure_tolerance": pl.Float64,
    "structure_step": pl.Int64,
    "broken_step": pl.Int64,
    "suspects": pl.List(pl.String),
}
"""Producer columns. ``value``, ``drift``, ``explained``, ``residual`` (drift less
explained), ``bound`` (what rounding may add) and ``slack`` are of the entry ``index``
where the residual is largest against the bound; of the largest drift where there is no
prediction."""


def watched_row(
    family: Family,
    found: Evaluation,
    *,
    subject: str,
    run: str | None,
    partly: str | None,
    suspects: Mapping[int, Sequence[str]],
) -> dict[str, Any]:
    """Row of one law at one step.

    Args:
        family: The one of its families that is told of.
        found: Its evaluation.
        subject: Name of the law.
        run: Name of the run.
        partly: What is followed of the law in words; None for all.
        suspects: Step to parameters that may have been changed from outside.

    Returns:
        Row for ``Table.from_rows``.
    """
    law, broken = family.law, family.broken
    by_drift = broken is not None and broken.by == "drift"
    said = [found.reason, partly]
    if law.name != subject and found.reason is not None:
        said[0] = f"{law.name} {found.reason}"
    row: dict[str, Any] = {
        "kind": "law",
        "subject": subject,
        "metric": law.kind,
        "variant": law.form,
        "step": found.step,
        "run": run,
        "verdict": found.verdict,
        "status": "ok",
        "reason": "; ".join(part for part in said if part) or None,
        "source": law.source,
        "num_laws": found.value.numel(),
        "largest_drift": float(found.drift.abs().max()),
        "structure": family.structure,
        "structure_tolerance": family.structure_tolerance,
        "structure_step": family.structure_step,
        "broken_step": None if broken is None else broken.step,
        "suspects": suspects.get(broken.step) if broken and by_drift else None,
    }
    if not bool(torch.isfinite(found.value).all()):
        return row | {"status": "nonfinite", "largest_drift": None}
    if found.explained is None or found.tolerance is None:
        index = int(found.drift.abs().argmax())
        return row | {
            "index": index,
            "value": float(found.value[index]),
            "drift": float(found.drift[index]),
        }
    residual = found.drift - found.explained
    # A tolerance is zero where all weights are.
    index = int((residual.abs() / found.tolerance.clamp_min(1e-300)).argmax())
    return row | {
        "index": index,
        "value": float(found.value[index]),
        "drift": float(found.drift[index]),
        "explained": float(found.explained[index]),
        "residual": float(residual[index]),
        "bound": float(found.tolerance[index]),
        "slack": float(found.tolerance[index] - residual[index].abs()),
        "error_kind": "rounding",
    }


def told(group: Sequence[Family], found: Sequence[Evaluation]) -> int:
    """Which family of a group its row is of: the first that broke, or was lost.

    Args:
        group: Families that stand for one law.
        found: Their evaluations.

    Returns:
        Its number in the group.
    """
    for verdict in ("broken", "not_applicable"):
        hit = [k for k, one in enumerate(found) if one.verdict == verdict]
        if hit:
            return min(hit, key=lambda k: _step_of(group[k]))
    return 0


def _step_of(family: Family) -> int:
    return 0 if family.broken is None else family.broken.step


def suspects(groups: Sequence[Sequence[Family]]) -> dict[int, list[str]]:
    """Parameters that a change from outside explains best, by the step of the break.

    Those that take part in every law that left its prediction in that step and in none
    that was right then; where there is none, those of the first kind. Laws that the
    gradient itself changes accuse no parameter.

    Args:
        groups: Families that are watched, those that stand for one law together.

    Returns:
        Step to names.
    """
    hit: dict[int, list[set[str]]] = {}
    right: set[str] = set()
    for group in groups:
        names = set(group[0].law.parameters)
        broken = [family.broken for family in group if family.broken is not None]
        left = [one.step for one in broken if one.by == "drift"]
        if left and len(left) == len(broken):
            hit.setdefault(min(left), []).append(names)
        elif not broken and all(family.lost is None for family in group):
            right |= names
    found = {}
    for step, those in hit.items():
        common = set.intersection(*those)
        found[step] = sorted(common - right or common)
    return found
