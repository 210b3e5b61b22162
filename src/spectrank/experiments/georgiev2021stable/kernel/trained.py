"""A part that trains networks and asks questions of what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spectrank.experiments.georgiev2021stable.kernel.descent import Halves
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Question,
    figures_of,
)
from spectrank.experiments.papers import Part, PartResult, Tick


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

    def run(seed: int, tick: Tick) -> PartResult:
        recorded = record(seed, tick)
        rows = [row for question in asked for row in question.rows(recorded, seed)]
        checksums = {halves.data: dict(halves.sha256)}
        return PartResult(tuple(rows), figures_of(asked), checksums)

    return Part(
        name=name,
        claims=tuple(question.claim for question in asked),
        settings=settings,
        num_steps=num_steps,
        run=run,
    )
