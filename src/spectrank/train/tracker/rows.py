"""Rows of a tracker: those of a scan, with the step, the loss and the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from torch import Tensor

from spectrank.linalg import Spectrum
from spectrank.model import WeightMatrix
from spectrank.scanning.requests import MetricRequest
from spectrank.scanning.rows import COLUMNS as SCAN_COLUMNS
from spectrank.scanning.rows import matrix_rows

COLUMNS: Mapping[str, Any] = {
    **SCAN_COLUMNS,
    "loss": pl.Float64,
    "learning_rate": pl.Float64,
    "lag": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class Moment:
    """When something was measured.

    Attributes:
        step: Optimizer steps finished.
        loss: Of that step, where known; read from the device only when rows are made.
        rates: Learning rate of each tracked matrix, where known.
    """

    step: int
    loss: Tensor | float | None
    rates: Sequence[float | None]


def tracked_rows(
    weight: WeightMatrix,
    norms: Spectrum,
    requests: Sequence[MetricRequest],
    *,
    run: str | None,
    moment: Moment,
    rate: float | None,
    lag: float | None,
) -> list[dict[str, Any]]:
    """Return one row a metric.

    Args:
        weight: What was measured.
        norms: What is known of it.
        requests: Metrics with their options.
        run: Name of the run.
        moment: When.
        rate: Learning rate of this matrix.
        lag: Shortfall of the carried vector, in rows of a full enclosure.

    Returns:
        Rows for `Table.from_rows` with `COLUMNS`.
    """
    loss = None if moment.loss is None else float(moment.loss)
    when = {"step": moment.step, "run": run, "loss": loss}
    return [
        {**row, **when, "learning_rate": rate, "lag": lag}
        for row in matrix_rows(weight, norms, requests, spectra=False)
    ]


def left_row(weight: WeightMatrix, run: str | None, step: int) -> dict[str, Any]:
    """Return the row of a matrix that the model has no more."""
    return {
        "kind": "skip",
        "subject": weight.name,
        "metric": "track",
        "status": "skipped",
        "step": step,
        "run": run,
        "reason": "the model has no matrix of this name any more; its rows end here",
    }
