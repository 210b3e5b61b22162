"""Questions asked of the signals of random networks, as one experiment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.georgiev2021stable.networks import Observable, Point
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.questions import Axes as Axes
from spectrank.experiments.questions import Estimates as Estimates
from spectrank.experiments.questions import Line as Line
from spectrank.experiments.questions import Question as Question
from spectrank.experiments.questions import figures_of as figures_of
from spectrank.experiments.verdicts import Row


def design(
    name: str,
    inputs: Inputs,
    size: Size,
    points: Sequence[Point],
    questions: Sequence[Question],
    observe: Observable,
) -> Design:
    """Return the experiment that answers questions.

    Args:
        name: Of the experiment.
        inputs: What the networks see.
        size: How much is drawn.
        points: Where.
        questions: What is asked.
        observe: What is recorded of each network.

    Returns:
        The design.
    """

    def answer(recorded: np.ndarray, seed: int) -> list[Row]:
        return [row for each in questions for row in each.rows(recorded, seed)]

    return Design(
        name=name,
        inputs=inputs,
        size=size,
        points=tuple(points),
        claims=tuple(each.claim for each in questions),
        answer=answer,
        figures=figures_of(questions),
        observe=observe,
    )
