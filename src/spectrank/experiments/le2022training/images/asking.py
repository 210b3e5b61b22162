"""How questions on images are put: one protocol and one suffix for each arm."""

from __future__ import annotations

from typing import Protocol

from spectrank.experiments.claims import Relation
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.questions import Axes, Estimates, Line, Question


class Ask(Protocol):
    """Makes a question of one arm; parameters as of a claim and a question."""

    def __call__(
        self,
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float | None,
        estimates: Estimates,
        axes: Axes,
        lines: tuple[Line, ...],
        *,
        place: str = "",
        source: str = "derived",
    ) -> Question:
        """Return the question."""


def asker(part: str, arm: str, *, protocol: str, data: str) -> Ask:
    """Return what makes the questions of an arm.

    Args:
        part: Name that all their keys begin with.
        arm: Name that they end with.
        protocol: Of all of them.
        data: Name of the data set.

    Returns:
        The function.
    """

    def ask(
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float | None,
        estimates: Estimates,
        axes: Axes,
        lines: tuple[Line, ...],
        *,
        place: str = "",
        source: str = "derived",
    ) -> Question:
        asked = claim(
            f"{part}.{name}-{arm}",
            statement,
            protocol=protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            place=place,
            source=source,
            data=data,
        )
        return Question(asked, estimates, axes, lines)

    return ask
