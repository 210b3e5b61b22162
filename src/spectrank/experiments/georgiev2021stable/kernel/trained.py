"""A part that trains networks and asks questions of what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spectrank.experiments.georgiev2021stable.kernel.descent import Halves
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Question, question_part


def trained_part(
    name: str,
    halves: Halves,
    asked: Sequence[Question],
    record: Callable[[int, Tick], np.ndarray],
    *,
    settings: Mapping[str, Any],
    num_steps: int,
) -> Part:
    """Return a part whose questions are answered from trained networks.

    Args:
        name: Of the part.
        halves: What is learned.
        asked: The questions.
        record: Maps the seed and ``tick`` to what the questions read.
        settings: All that the result depends on but the seed.
        num_steps: How often ``record`` ticks.

    Returns:
        The part.
    """
    return question_part(
        name,
        asked,
        record,
        settings=settings,
        num_steps=num_steps,
        data=lambda: {halves.data: dict(halves.sha256)},
    )
