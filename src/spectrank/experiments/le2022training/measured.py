"""Parts whose numbers depend on a size, a seed and settings alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Question, question_part

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Size = TypeVar("Size", bound="DataclassInstance")


def measured_part(
    name: str,
    measure: Callable[[Size, int, Tick], np.ndarray],
    size: Size,
    asked: Sequence[Question],
    *,
    num_steps: int,
    **settings: Any,
) -> Part:
    """Return a part whose questions are answered from what was measured.

    Args:
        name: Of the part.
        measure: Maps the size, the seed and ``tick`` to what the questions read.
        size: How much is measured.
        asked: The questions.
        num_steps: How often ``measure`` ticks.
        **settings: All that the numbers depend on but the size and the seed.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    settings = {"size": asdict(size), **settings}
    return question_part(name, asked, record, settings=settings, num_steps=num_steps)
