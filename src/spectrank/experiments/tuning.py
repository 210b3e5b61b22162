"""What a study found: every trial as a row, the best of each arm, and its edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, final

import polars as pl

from spectrank.experiments.arms import TrialRecord
from spectrank.table import Table

Edge = Literal["low", "high"]

COLUMNS = MappingProxyType(
    {
        "arm": pl.String(),
        "learning_rate": pl.Float64(),
        "trial": pl.Int64(),
        "state": pl.String(),
        "edge": pl.String(),
    }
)
"""Producer columns of a study's rows."""

# An optimum this close to a bound, as a share of the range's logarithm, is at the edge.
_MARGIN = 0.05


@final
@dataclass(frozen=True)
class Best:
    """The best trial of an arm.

    Attributes:
        learning_rate: Of that trial.
        value: What it reached.
        trial: Its number.
        edge: ``low`` or ``high`` where no worse trial lies beyond it on that side, or
            the bound is within 5 % of the range's logarithm: the true optimum may lie
            outside, so extend the range. None where it is inside.
    """

    learning_rate: float
    value: float
    trial: int
    edge: Edge | None


@final
@dataclass(frozen=True)
class Tuning:
    """What a study found.

    Attributes:
        table: A row for each trial (arm, learning_rate, value, trial, state) and one
            ``best_learning_rate`` for each arm.
        best: Arm to its best trial; an arm none of whose trials came to a finite value
            is absent, and a row of kind ``skip`` says so.
    """

    table: Table
    best: Mapping[str, Best]


def summarise(
    trials: Mapping[str, Sequence[TrialRecord]],
    *,
    study_name: str,
    direction: str,
    bounds: tuple[float, float],
    seed: int,
) -> Tuning:
    """Make rows of all trials and find the best of each arm.

    Args:
        trials: Arm to its trials.
        study_name: Of the study.
        direction: ``minimize`` or ``maximize``.
        bounds: Smallest and largest learning rate.
        seed: Of the learning rates.

    Returns:
        Table and best trials.
    """
    rows: list[dict[str, Any]] = []
    best: dict[str, Best] = {}
    for arm, records in trials.items():
        rows += [_row(arm, study_name, record) for record in records]
        found = _best(records, direction, bounds)
        if found is None:
            rows.append(_no_best(arm, study_name))
        else:
            best[arm] = found
            rows.append(_best_row(arm, study_name, found))
    provenance = {
        "study": {
            "name": study_name,
            "direction": direction,
            "learning_rates": list(bounds),
            "seed": seed,
        }
    }
    table = Table.from_rows(rows, columns=COLUMNS, provenance=provenance)
    return Tuning(table, MappingProxyType(best))


def _best(
    records: Sequence[TrialRecord], direction: str, bounds: tuple[float, float]
) -> Best | None:
    sign = 1.0 if direction == "minimize" else -1.0
    done = [
        (sign * r.value, r.number, r.learning_rate)
        for r in records
        if r.value is not None and r.learning_rate is not None
    ]
    if not done:
        return None
    value, number, rate = min(done)
    # A trial that diverged is a worse one: it bounds the optimum as well.
    tried = [
        r.learning_rate
        for r in records
        if r.state in {"complete", "diverged"} and r.learning_rate is not None
    ]
    return Best(rate, sign * value, number, _edge(rate, tried, bounds))


def _edge(
    rate: float, tried: Sequence[float], bounds: tuple[float, float]
) -> Edge | None:
    low, high = math.log(bounds[0]), math.log(bounds[1])
    share = (math.log(rate) - low) / (high - low)
    at_low = share < _MARGIN or rate <= min(tried)
    at_high = share > 1.0 - _MARGIN or rate >= max(tried)
    if at_low and at_high:
        return "low" if share < 0.5 else "high"
    return "low" if at_low else "high" if at_high else None


def _row(arm: str, study_name: str, record: TrialRecord) -> dict[str, Any]:
    done = record.state in {"complete", "diverged"}
    status = {"complete": "ok", "diverged": "nonfinite"}.get(record.state, "skipped")
    return {
        "kind": "measurement" if done else "skip",
        "subject": arm,
        "metric": "objective",
        "index": record.number,
        "run": study_name,
        "value": record.value,
        "status": status,
        "reason": record.reason,
        "arm": arm,
        "learning_rate": record.learning_rate,
        "trial": record.number,
        "state": record.state,
    }


def _best_row(arm: str, study_name: str, found: Best) -> dict[str, Any]:
    reason = None
    if found.edge is not None:
        reason = f"the optimum is at the {found.edge} edge of what was tried"
    return {
        "kind": "measurement",
        "subject": arm,
        "metric": "best_learning_rate",
        "run": study_name,
        "value": found.learning_rate,
        "status": "ok",
        "reason": reason,
        "arm": arm,
        "learning_rate": found.learning_rate,
        "trial": found.trial,
        "edge": found.edge,
    }


def _no_best(arm: str, study_name: str) -> dict[str, Any]:
    return {
        "kind": "skip",
        "subject": arm,
        "metric": "best_learning_rate",
        "run": study_name,
        "status": "skipped",
        "reason": "no trial came to a finite value",
        "arm": arm,
    }
