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
    censored_sides,
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
        reference: Arm that another one is compared with; None for other quantities.
        arm: That other one; None for the chosen one.
    """

    claim: Claim
    estimates: Estimates
    figure: FigureKind
    of_chosen: bool = False
    reference: str | None = None
    arm: str | None = None

    def row(self, measured: Measured) -> Row:
        """Judge the claim.

        Args:
            measured: Of the cell.

        Returns:
            The claim's row; the reason says which arm and what factor.
        """
        row = judge(self.claim, self.estimates(measured))
        notes = [row["reason"]]
        if row["verdict"] == "reproduced" and (hidden := self._hidden(measured)):
            row = row | {"verdict": "inconclusive"}
            notes.append(
                f"but {hidden} pairs are censored on a side where the claim sets a "
                "limit: their ratios lie further from 1 than the budget shows"
            )
        if self.claim.quantity == "log_ratio_of_steps" and "lower" in row:
            notes.append(factor_text(row["value"], row["lower"], row["upper"]))
        if self.of_chosen:
            notes.append(f"the arm is {measured.chosen}")
        return row | {"reason": "; ".join(notes)}

    def _hidden(self, measured: Measured) -> int:
        """Pairs whose difference, made smaller by the budget, favours the claim."""
        # At a limit of 0 a smaller difference keeps its sign; within a tolerance of 0
        # it would pass for none.
        if self.reference is None or self.claim.tolerance == 0.0:
            return 0
        arm = measured.reached[self.arm or measured.chosen]
        sides = censored_sides(arm, measured.reached[self.reference])
        low, high = self.claim.accepted
        hidden = (sides < 0) & math.isfinite(low) | (sides > 0) & math.isfinite(high)
        return int(hidden.sum())


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
    if cell.depth <= 3:
        return [_pair(c.no_gain_when_shallow(cell), GAUSSIAN)]
    found = [
        _pair(c.faster_than_gaussian(cell), GAUSSIAN),
        _pair(c.not_faster_than_orthogonal(cell), ORTHOGONAL),
    ]
    # Other optimisers and convolutions are asked the main questions alone: the rows of
    # their arms answer the others too. A first weight that is an arm's has another
    # shape: what matches the Gaussian in the square ones does not match it there.
    if cell.optimizer == "sgd" and cell.kind == "mlp" and cell.scope == "hidden":
        found += _beyond_rho(cell)
    found.append(Question(c.ordered_by_rho(cell), _order, "rho"))
    for spectrum in ("spike", "flat"):
        if len(_family(cell, spectrum)) >= 3:
            claim = c.critical_scale(cell, spectrum)
            found.append(Question(claim, _octaves_from_critical(spectrum), "spectral"))
    return found


def _beyond_rho(cell: Cell) -> list[Question]:
    """Ask of pairs that share the stable rank or rho, where the cell has them."""
    names = {arm.name for arm in cell.arms}
    found = []
    for spectrum in ("spike", "flat"):
        if (name := f"{spectrum} 1/4") in names:
            claim = c.same_stable_rank(cell, spectrum)
            found.append(_pair(claim, GAUSSIAN, name))
    for spectrum, name in (("spike", LIKE_GAUSSIAN), ("flat", "flat 1/2")):
        if name in names:
            claim = c.same_rho(cell, spectrum)
            found.append(_pair(claim, GAUSSIAN, name))
    return found


def _pair(claim: Claim, reference: str, name: str | None = None) -> Question:
    """Compare an arm, or the chosen one, with a reference."""

    def estimates(measured: Measured) -> np.ndarray:
        arm = measured.reached[name or measured.chosen]
        return log_ratios(arm, measured.reached[reference])

    return Question(
        claim,
        estimates,
        "fraction" if name is None else "rho",
        of_chosen=name is None,
        reference=reference,
        arm=name,
    )


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


def _octaves_from_critical(spectrum: str) -> Estimates:
    def estimates(measured: Measured) -> np.ndarray:
        arms = _family(measured.cell, spectrum)
        steps = np.stack([measured.reached[arm.name].steps for arm in arms])
        logs = np.log2([fraction(arm, measured.cell) for arm in arms])
        # A distance in each replicate: a best fraction at random would be n/4 on
        # average, since the grid lies about it.
        octaves = np.abs(logs + 2.0)
        fewest = steps == steps.min(0)
        # Several with equal steps: their mean; none that got there: unknown.
        found = (fewest * octaves[:, None]).sum(0) / fewest.sum(0)
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
    late, lost = (
        int((~found.reached).sum()),
        int((found.diverged & ~found.reached).sum()),
    )
    if not late:
        return None
    return (
        f"{late} of {len(found.steps)} did not reach the target ({lost} diverged) and "
        f"count with the budget of {measured.cell.budget} steps"
    )
