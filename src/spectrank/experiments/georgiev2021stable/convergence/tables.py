"""Rows of the arms of a cell, and points of the claims' figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable.convergence.answers import (
    FigureKind,
    Question,
    fraction,
    reached_note,
    rho,
)
from spectrank.experiments.georgiev2021stable.convergence.cells import Cell
from spectrank.experiments.georgiev2021stable.convergence.comparisons import (
    compare,
    factor_text,
    log_ratios,
)
from spectrank.experiments.georgiev2021stable.convergence.ensembles import (
    GAUSSIAN,
    ORTHOGONAL,
    Arm,
)
from spectrank.experiments.georgiev2021stable.convergence.measuring import Measured
from spectrank.experiments.intervals import student_interval
from spectrank.experiments.verdicts import Row, figure_point

_CONFIDENCE = 0.95


def arm_rows(measured: Measured, seed: int) -> list[Row]:
    """Return what is known of each arm.

    For every arm, with the arm as ``subject`` and the cell as ``run``:
    ``learning_rate``; ``steps_to_target`` (mean of the restricted steps, every
    replicate in ``values``); ``num_censored``; ``num_diverged``; ``test_accuracy`` at
    the budget; and against ``gaussian`` and ``orthogonal`` (``variant``) the paired
    ``log_ratio_of_steps`` with simultaneous intervals, ``win_share`` and
    ``adjusted_p_value``.

    Args:
        measured: Of the cell.
        seed: Base seed.

    Returns:
        Rows of kind ``measurement``, of ``skip`` where a number is unknown.
    """
    rows: list[Row] = []
    for arm in measured.cell.arms:
        rows += [row | {"seed": seed} for row in _own_rows(measured, arm)]
    for reference in (GAUSSIAN, ORTHOGONAL):
        rows += _compared_rows(measured, reference, seed)
    return rows


def _own_rows(measured: Measured, arm: Arm) -> list[Row]:
    cell, found = measured.cell, measured.reached[arm.name]
    base: Row = {"kind": "measurement", "subject": arm.name, "run": cell.name}
    best = measured.tuned.get(arm.name)
    rows: list[Row] = []
    if best is None:
        rows.append(
            base
            | {
                "kind": "skip",
                "metric": "learning_rate",
                "status": "skipped",
                "reason": "it diverged at every rate that was tried",
            }
        )
    else:
        edge = best.edge and f"the optimum is at the {best.edge} end of the grid"
        rows.append(
            base
            | _number("learning_rate", best.learning_rate)
            | {"bound": math.exp(best.value), "reason": edge}
        )
    steps = base | _interval("steps_to_target", found.steps)
    note = reached_note(measured, arm.name)
    rows.append(
        steps
        | {"bound": cell.target, "reason": note}
        | ({"status": "not_converged"} if note else {})
    )
    rows.append(base | _number("num_censored", float((~found.reached).sum())))
    rows.append(base | _number("num_diverged", float(found.diverged.sum())))
    rows.append(base | _interval("test_accuracy", found.accuracy))
    return rows


def _compared_rows(measured: Measured, reference: str, seed: int) -> list[Row]:
    others = [arm.name for arm in measured.cell.arms if arm.name != reference]
    ratios = {
        name: log_ratios(measured.reached[name], measured.reached[reference])
        for name in others
    }
    rows: list[Row] = []
    for name, found in compare(ratios, confidence=_CONFIDENCE).items():
        base: Row = {
            "kind": "measurement",
            "subject": name,
            "variant": f"against {reference}",
            "run": measured.cell.name,
            "num_seeds": len(ratios[name]),
            "seed": seed,
        }
        if found is None:
            unknown = int((~np.isfinite(ratios[name])).sum())
            rows.append(
                base
                | {
                    "kind": "skip",
                    "metric": "log_ratio_of_steps",
                    "status": "skipped",
                    "reason": f"in {unknown} of {len(ratios[name])} pairs neither "
                    "reached the target",
                }
            )
            continue
        rows.append(
            base
            | {
                "metric": "log_ratio_of_steps",
                "value": found.value,
                "values": ratios[name].tolist(),
                "lower": found.lower,
                "upper": found.upper,
                "error_kind": "stderr",
                "failure_probability": 1.0 - _CONFIDENCE,
                "status": "ok",
                "reason": f"{factor_text(found.value, found.lower, found.upper)}; "
                f"one of {len(others)} intervals that hold at once",
            }
        )
        rows.append(base | _number("win_share", found.wins))
        rows.append(base | _number("adjusted_p_value", found.adjusted))
    return rows


def _number(metric: str, value: float) -> Row:
    return {"metric": metric, "value": value, "status": "ok"}


def _interval(metric: str, values: np.ndarray) -> Row:
    row: Row = {
        "metric": metric,
        "values": values.tolist(),
        "num_seeds": len(values),
    }
    finite = values[np.isfinite(values)]
    if len(finite) < len(values) or len(values) < 2:
        lost = len(values) - len(finite)
        return row | {
            "status": "nonfinite",
            "reason": f"{lost} of {len(values)} have no finite value",
        }
    found = student_interval(values, confidence=_CONFIDENCE)
    return row | {
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "error_kind": "stderr",
        "failure_probability": 1.0 - _CONFIDENCE,
        "status": "ok",
    }


def figure_rows(question: Question, measured: Measured, seed: int) -> list[Row]:
    """Return the points of a claim's figure: steps against fraction or rho.

    Args:
        question: Whose.
        measured: Of the cell.
        seed: Base seed.

    Returns:
        One row an arm, lines by spectrum.
    """
    cell = measured.cell
    abscissa = rho if question.figure == "rho" else fraction
    norm = "spectral" if question.figure == "spectral" else "frobenius"
    arms = [arm for arm in cell.arms if arm.norm == norm]
    if norm == "spectral":
        arms += [arm for arm in cell.arms if arm.name == GAUSSIAN]
    spectra = list(dict.fromkeys(arm.spectrum for arm in arms))
    ordered = sorted(
        arms, key=lambda a: (spectra.index(a.spectrum), abscissa(a, cell), a.name)
    )
    return [
        figure_point(
            question.claim,
            metric="steps_to_target",
            series=arm.spectrum,
            x=abscissa(arm, cell),
            estimates=measured.reached[arm.name].steps,
            seed=seed,
        )
        | {"reason": reached_note(measured, arm.name)}
        for arm in ordered
    ]


_ABSCISSAE: Mapping[FigureKind, str] = {
    "fraction": "stable rank / min(m, n), Frobenius norm fixed",
    "spectral": "stable rank / min(m, n), spectral norm fixed",
    "rho": "participation ratio rho, Frobenius norm fixed",
}


def figures(questions: Sequence[Question], cell: Cell) -> dict[str, Mapping[str, str]]:
    """Return title and axes of the claims' figures.

    Args:
        questions: Of the cell.
        cell: For the target.

    Returns:
        Claim key to them.
    """

    def axes(claim: Claim, kind: FigureKind) -> Mapping[str, str]:
        return {
            "title": claim.statement,
            "x": _ABSCISSAE[kind],
            "y": f"steps until the loss is below {cell.target:g}",
            "x_scale": "log",
            "y_scale": "linear",
        }

    return {q.claim.key: axes(q.claim, q.figure) for q in questions}
