"""A cell of the study as a part that can be run."""

from __future__ import annotations

from spectrank.experiments.georgiev2021stable.convergence.answers import (
    claim_rows,
    questions,
)
from spectrank.experiments.georgiev2021stable.convergence.cells import Cell
from spectrank.experiments.georgiev2021stable.convergence.measuring import measure
from spectrank.experiments.georgiev2021stable.convergence.tables import (
    arm_rows,
    figure_rows,
    figures,
)
from spectrank.experiments.papers import Part, PartResult, Tick


def part(cell: Cell) -> Part:
    """Return a cell in the form that is run.

    Args:
        cell: Which.

    Returns:
        The part.
    """
    asked = questions(cell)

    def run(seed: int, tick: Tick) -> PartResult:
        measured = measure(cell, seed, tick)
        rows = claim_rows(asked, measured)
        for question in asked:
            rows += figure_rows(question, measured, seed)
        rows += arm_rows(measured, seed)
        checksums = {cell.images.data: cell.images.sha256}
        return PartResult(tuple(rows), figures(asked, cell), checksums)

    return Part(
        name=f"convergence-{cell.name.replace('.', '-')}",
        claims=tuple(question.claim for question in asked),
        settings=cell.settings,
        num_steps=cell.num_steps,
        run=run,
    )
