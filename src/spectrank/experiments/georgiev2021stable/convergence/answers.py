"""From what a cell measured to the rows of its claims, arms and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable.convergence import claims as c
from spectrank.experiments.georgiev2021stable.convergence.cells import Cell
from spectrank.experiments.georgiev2021stable.convergence.comparisons import (
    factor_text,
    log_ratios,
    rank_correlations,
)
from spectrank.experiments.georgiev2021stable.convergence.ensembles import (
    GAUSSIAN,
    ORTHOGONAL,
    Arm,
)
from spectrank.experiments.georgiev2021stable.convergence.measuring import Measured
from spectrank.experiments.verdicts import Row, judge

LIKE_GAUSSIAN = "spike of the Gaussian's rho"
"""Label of the spike spectrum whose participation ratio is the Gaussian's."""

FigureKind = Literal["fraction", "rho", "spectral"]
Estimates = Callable[[Measured], np.ndarray]


@final
@dataclass(frozen=True, eq=False)
class Question:
    """A claim and how a cell answers it.

    Attributes:
        claim: The claim.
        estimates: Maps what was measured to one number a replicate; NaN where it is
            unknown.
        figure: What the claim's figure shows.
        of_chosen: Whether the arm is the one that was chosen as the best.
    """

    claim: Claim
    estimates: Estimates
    figure: FigureKind
    of_chosen: bool = False

    def row(self, measured: Measured) -> Row:
        """Judge the claim.

        Args:
            measured: Of the cell.

        Returns:
            The claim's row; the reason says which arm and what factor.
        """
        row = judge(self.claim, self.estimates(measured))
        notes = [row["reason"]]
        if self.claim.quantity == "log_ratio_of_steps" and "lower" in row:
            notes.append(factor_text(row["value"], row["lower"], row["upper"]))
        if self.of_chosen:
            notes.append(f"the arm is {measured.chosen}")
        return row | {"reason": "; ".join(notes)}


def questions(cell: Cell) -> tuple[Question, ...]:
    """Return what a cell is asked: all that its arms and depth allow, or a choice.

    Args:
        cell: Which.

    Returns:
        At least one; the statements name the cell.
    """
    found = _all_questions(cell)
    if cell.asked is not None:
        keys = {c.key(name, cell) for name in cell.asked}
        found = [question for question in found if question.claim.key in keys]
    return tuple(replace(q, claim=_placed(q.claim, cell)) for q in found)


def _placed(claim: Claim, cell: Cell) -> Claim:
    # The same sentence is put to every cell: a list of claims must tell them apart.
    return replace(claim, statement=f"{claim.statement} ({cell.title})")


def _all_questions(cell: Cell) -> list[Question]:
    best = _against_best(GAUSSIAN)
    if cell.depth <= 3:
        return [
            Question(c.no_gain_when_shallow(cell), best, "fraction", of_chosen=True)
        ]
    found = [
        Question(c.faster_than_gaussian(cell), best, "fraction", of_chosen=True),
        Question(
            c.not_faster_than_orthogonal(cell),
            _against_best(ORTHOGONAL),
            "fraction",
            of_chosen=True,
        ),
    ]
    # Other optimisers and convolutions are asked the main questions alone: the rows of
    # their arms answer the others too.
    if cell.optimizer == "sgd" and cell.kind == "mlp":
        found += _beyond_rho(cell)
    found.append(Question(c.ordered_by_rho(cell), _order, "rho"))
    for spectrum in ("spike", "flat"):
        if len(_family(cell, spectrum)) >= 3:
            claim = c.critical_scale(cell, spectrum)
            found.append(Question(claim, _best_fraction(spectrum), "spectral"))
    return found


def _beyond_rho(cell: Cell) -> list[Question]:
    """Ask of pairs that share the stable rank or rho, where the cell has them."""
    names = {arm.name for arm in cell.arms}
    found = []
    for spectrum in ("spike", "flat"):
        if (name := f"{spectrum} 1/4") in names:
            claim = c.same_stable_rank(cell, spectrum)
            found.append(Question(claim, _against(name, GAUSSIAN), "rho"))
    for spectrum, name in (("spike", LIKE_GAUSSIAN), ("flat", "flat 1/2")):
        if name in names:
            claim = c.same_rho(cell, spectrum)
            found.append(Question(claim, _against(name, GAUSSIAN), "rho"))
    return found


def rho(arm: Arm, cell: Cell) -> float:
    """Participation ratio of an arm's hidden weights.

    Args:
        arm: The arm.
        cell: For the width.

    Returns:
        In [1, min(m, n)].
    """
    return arm.law(*cell.hidden_shape).participation_ratio


def fraction(arm: Arm, cell: Cell) -> float:
    """Stable rank of an arm's hidden weights as a share of min(m, n).

    Args:
        arm: The arm.
        cell: For the width.

    Returns:
        In (0, 1]; for ``gaussian`` the usual one, mn / (sqrt m + sqrt n)^2.
    """
    if arm.fraction is not None:
        return arm.fraction
    if arm.spectrum == ORTHOGONAL:
        return 1.0
    m, n = cell.hidden_shape
    return max(m, n) / (math.sqrt(m) + math.sqrt(n)) ** 2


def _against(name: str, reference: str) -> Estimates:
    def estimates(measured: Measured) -> np.ndarray:
        return log_ratios(measured.reached[name], measured.reached[reference])

    return estimates


def _against_best(reference: str) -> Estimates:
    def estimates(measured: Measured) -> np.ndarray:
        return _against(measured.chosen, reference)(measured)

    return estimates


def _order(measured: Measured) -> np.ndarray:
    cell = measured.cell
    arms = [arm for arm in cell.arms if arm.norm == "frobenius"]
    steps = np.stack([measured.reached[arm.name].steps for arm in arms])
    ranks = np.array([fraction(arm, cell) for arm in arms])
    rhos = np.array([rho(arm, cell) for arm in arms])
    by_rho, by_rank = (rank_correlations(x, steps) for x in (rhos, ranks))
    # Either direction of the stable rank would do for it, only one of rho's.
    return np.asarray(-by_rho - np.abs(by_rank))


def _family(cell: Cell, spectrum: str) -> list[Arm]:
    """Arms of a spectrum at a fixed spectral norm, and its end at sr = n."""
    return [
        arm
        for arm in cell.arms
        if arm.norm == "spectral" and arm.spectrum in {spectrum, ORTHOGONAL}
    ]


def _best_fraction(spectrum: str) -> Estimates:
    def estimates(measured: Measured) -> np.ndarray:
        arms = _family(measured.cell, spectrum)
        steps = np.stack([measured.reached[arm.name].steps for arm in arms])
        logs = np.log2([fraction(arm, measured.cell) for arm in arms])
        fewest = steps == steps.min(0)
        # Several with equal steps: their mean; none that got there: unknown.
        found = (fewest * logs[:, None]).sum(0) / fewest.sum(0)
        known = np.stack([measured.reached[arm.name].reached for arm in arms]).any(0)
        return np.asarray(np.where(known, found, np.nan))

    return estimates


def claim_rows(questions: Sequence[Question], measured: Measured) -> list[Row]:
    """Judge all claims of a cell.

    Args:
        questions: Of the cell.
        measured: What it found.

    Returns:
        One row each.
    """
    return [question.row(measured) for question in questions]


def reached_note(measured: Measured, name: str) -> str | None:
    """Say how many replicates of an arm are censored.

    Args:
        measured: Of the cell.
        name: Of the arm.

    Returns:
        A sentence, or None where all reached the target.
    """
    found = measured.reached[name]
    late, lost = int((~found.reached).sum()), int(found.diverged.sum())
    if not late:
        return None
    return (
        f"{late} of {len(found.steps)} did not reach the target ({lost} diverged) and "
        f"count with the budget of {measured.cell.budget} steps"
    )
