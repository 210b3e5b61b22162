"""Rows of `apply_`: target against achieved, for each matrix that was filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
import torch

from spectrank.init.blocks import Block
from spectrank.init.plan import Job
from spectrank.linalg import Need, spectrum
from spectrank.linalg.ensembles.assembly import FixedLaw
from spectrank.linalg.ensembles.ensemble import Ensemble
from spectrank.model import WeightMatrix
from spectrank.scanning import parse_metrics
from spectrank.scanning.rows import COLUMNS as SCAN_COLUMNS
from spectrank.scanning.rows import matrix_rows

METRICS = "stable_rank,participation_ratio,spectral_norm,frobenius_norm"
"""What is measured of every matrix."""

_KEY = ("subject", "view", "m", "n", "dtype", "layer_type", "part", "index")
_NEEDS: tuple[Need, ...] = ("frobenius", "sigma_max", "schatten4")
TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-2,
}
"""Relative error of a stable rank and a norm that a precision allows."""

COLUMNS: Mapping[str, Any] = {
    **SCAN_COLUMNS,
    "part": pl.String,
    "target": pl.Float64,
    "tolerance": pl.Float64,
}
"""Producer columns of the Table."""


def block_rows(job: Job, block: Block, *, lowered: bool) -> list[dict[str, Any]]:
    """Measure one matrix as it is stored, against what was asked for.

    Args:
        job: What was drawn.
        block: Which of its matrices.
        lowered: Whether some matrix of the model was given another stable rank than
            was asked for.

    Returns:
        One row a metric, rows of the target of the stable rank, one for the gain.
    """
    site, tensor = job.site, job.site.tensor
    weight = WeightMatrix(
        name=site.name,
        view=site.view,
        shape=(block.m, block.n),
        dtype=tensor.dtype,
        layer_type=site.layer_type,
        tied_to=site.tied_to,
        inferred=False,
        load=lambda: tensor,
    )
    # Measured on the weight itself: what was written, in its precision.
    s = spectrum(block.read(tensor), _NEEDS)
    targets = _targets(job)
    index = None if block.part is None else site.blocks.index(block)
    rows = []
    for row in matrix_rows(weight, s, parse_metrics(METRICS), spectra=False):
        target, tolerance = targets[row["metric"]]
        more = {"part": block.part, "target": target, "tolerance": tolerance}
        more["index"] = index
        reasons = [row["reason"], _miss(row["value"], target, tolerance)]
        if row["metric"] == "stable_rank":
            reasons.append(job.reason)
        text = "; ".join(reason for reason in reasons if reason) or None
        rows.append({**row, **more, "reason": text})
    # Beside what was achieved, where a view of the table is read from the left.
    rows[1:1] = _asked_rows(rows[0], job, lowered)
    if job.followed is not None:
        followed = job.followed
        rows.append(_beside(rows[0], "gain", followed.gain, followed.reason))
    return rows


def _asked_rows(
    row: Mapping[str, Any], job: Job, lowered: bool
) -> Iterator[dict[str, Any]]:
    if job.ensemble.stable_rank is None:
        return
    yield _beside(row, "stable_rank_target", job.ensemble.stable_rank, job.reason)
    # Of every matrix as soon as one was lowered: a column that stands beside it.
    if lowered and job.asked is not None:
        yield _beside(row, "stable_rank_asked", job.asked, job.reason)


def _beside(
    row: Mapping[str, Any], metric: str, value: float, reason: str | None
) -> dict[str, Any]:
    """A number that was not measured, of the matrix of a row."""
    key = {name: row[name] for name in _KEY}
    more = {"kind": "measurement", "metric": metric, "value": value, "status": "ok"}
    return {**key, **more, "reason": reason}


def _targets(job: Job) -> dict[str, tuple[float | None, float | None]]:
    """Target and relative tolerance of each metric; no tolerance for expectations."""
    e, size = job.ensemble, job.spectral_norm
    exact = TOLERANCES[job.site.tensor.dtype]
    frobenius = size * e.law.a1**0.5
    if e.stable_rank is None:
        return {
            "stable_rank": (None, None),
            "participation_ratio": (e.participation_ratio, None),
            "spectral_norm": (size, None),
            "frobenius_norm": (frobenius, None),
        }
    return {
        "stable_rank": (e.stable_rank, exact),
        "participation_ratio": _participation(e, exact),
        "spectral_norm": (size, exact),
        "frobenius_norm": (frobenius, exact),
    }


def _participation(e: Ensemble, exact: float) -> tuple[float | None, float | None]:
    if isinstance(e.law, FixedLaw):
        return e.participation_ratio, exact
    # The moments of tempered values are drawn: minutes for a large matrix.
    return (None if e.spectrum == "temper" else e.participation_ratio), None


def _miss(value: float, target: float | None, tolerance: float | None) -> str | None:
    if target is None or tolerance is None or target == 0.0:
        return None
    error = abs(value / target - 1.0)
    if error <= tolerance:
        return None
    return f"off its target by {error:.2g}, beyond the tolerance of its precision"
