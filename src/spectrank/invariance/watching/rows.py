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
    run: str | None,
    suspects: Sequence[str] | None,
) -> dict[str, Any]:
    """Row of one family at one step.

    Args:
        family: That is watched.
        found: Its evaluation.
        run: Name of the run.
        suspects: Parameters that may have been changed from outside.

    Returns:
        Row for ``Table.from_rows``.
    """
    law, broken = family.law, family.broken
    row: dict[str, Any] = {
        "kind": "law",
        "subject": law.name,
        "metric": law.kind,
        "variant": law.form,
        "step": found.step,
        "run": run,
        "verdict": found.verdict,
        "status": "ok",
        "reason": found.reason,
        "source": law.source,
        "num_laws": found.value.numel(),
        "largest_drift": float(found.drift.abs().max()),
        "structure": family.structure,
        "structure_tolerance": family.structure_tolerance,
        "structure_step": family.structure_step,
        "broken_step": None if broken is None else broken.step,
        "suspects": suspects,
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


def suspects(families: Sequence[Family]) -> dict[int, list[str]]:
    """Parameters that a change from outside explains best, by the step of the break.

    Those that take part in every family that broke in that step and in none that was
    right then; where there is none, those of the first kind.

    Args:
        families: All that are watched.

    Returns:
        Step to names.
    """
    steps = {family.broken.step for family in families if family.broken is not None}
    found = {}
    for step in steps:
        hit: list[set[str]] = []
        right: set[str] = set()
        for family in families:
            names = set(family.law.parameters)
            if family.broken is not None and family.broken.step == step:
                hit.append(names)
            elif family.lost is None and family.broken is None:
                right |= names
        common = set.intersection(*hit)
        found[step] = sorted(common - right or common)
    return found
