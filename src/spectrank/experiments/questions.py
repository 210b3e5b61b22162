"""A claim with the way to its answer and to its figure, as one value.

R  seeds    P  points of the design    K  networks    F  numbers of each network
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.figures import axes, curve
from spectrank.experiments.papers import Part, PartResult, Tick
from spectrank.experiments.verdicts import Row, judge

Estimates = Callable[[np.ndarray], np.ndarray]
"""Maps what was recorded, (R, P, K, *F), to estimates, replicate by replicate."""


@final
@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        series: Its label.
        x: (G,) abscissae.
        estimates: To (R, G).
        expected: (G,) predictions; None where there are none.
    """

    series: str
    x: Sequence[float]
    estimates: Estimates
    expected: Sequence[float] | None


@final
@dataclass(frozen=True)
class Axes:
    """Titles and scales of a figure.

    Attributes:
        x: Title of the abscissa.
        y: Title of the ordinate.
        metric: Name of the ordinate in the rows.
        x_scale: ``log`` or ``linear``.
        y_scale: ``log`` or ``linear``.
    """

    x: str
    y: str
    metric: str
    x_scale: str = "linear"
    y_scale: str = "linear"


@final
@dataclass(frozen=True)
class Question:
    """A claim, how it is answered, and its figure.

    Attributes:
        claim: The claim.
        estimates: To (R,), for a trend (R, points).
        axes: Of the figure.
        lines: Of the figure.
    """

    claim: Claim
    estimates: Estimates
    axes: Axes
    lines: tuple[Line, ...]

    def rows(self, recorded: np.ndarray, seed: int) -> list[Row]:
        """Return the verdict and the points of the figure.

        Args:
            recorded: (R, P, K, *F).
            seed: Base seed.

        Returns:
            One row of kind ``claim``, then the measurements.
        """
        rows = [judge(self.claim, self.estimates(recorded))]
        for line in self.lines:
            rows += curve(
                self.claim,
                line.series,
                line.x,
                line.estimates(recorded),
                line.expected,
                seed,
                metric=self.axes.metric,
            )
        return rows


def figures_of(questions: Sequence[Question]) -> dict[str, Mapping[str, str]]:
    """Return titles and axes of the figures of questions.

    Args:
        questions: Whose.

    Returns:
        Claim key to them.
    """
    found: dict[str, Mapping[str, str]] = {}
    for each in questions:
        a = each.axes
        found |= axes(each.claim, a.x, y=a.y, x_scale=a.x_scale, y_scale=a.y_scale)
    return found


def question_part(
    name: str,
    asked: Sequence[Question],
    record: Callable[[int, Tick], np.ndarray],
    *,
    settings: Mapping[str, Any],
    num_steps: int,
    data: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
) -> Part:
    """Return a part whose questions are answered from what it recorded.

    Args:
        name: Of the part.
        asked: The questions.
        record: Maps the seed and ``tick`` to what the questions read.
        settings: All that the result depends on but the seed.
        num_steps: How often ``record`` ticks.
        data: Gives the name of a data set to the checksums of its files, after
            ``record``.

    Returns:
        The part.
    """

    def run(seed: int, tick: Tick) -> PartResult:
        recorded = record(seed, tick)
        rows = [row for question in asked for row in question.rows(recorded, seed)]
        return PartResult(tuple(rows), figures_of(asked), data())

    return Part(
        name=name,
        claims=tuple(question.claim for question in asked),
        settings=settings,
        num_steps=num_steps,
        run=run,
    )
