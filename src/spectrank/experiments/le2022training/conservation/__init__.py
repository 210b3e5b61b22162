"""What gradient flow conserves, what not, and what discrete steps make of it."""

from __future__ import annotations

from spectrank.experiments.le2022training.conservation import (
    clipping,
    controls,
    counts,
    cuts,
    decomposition,
    steps,
    steps_questions,
    table,
    watched,
    watched_questions,
)
from spectrank.experiments.le2022training.conservation.followed import FollowedSize
from spectrank.experiments.papers import Mode, Part


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` (5 draws) or ``full`` (20).

    Returns:
        The parts.
    """
    num = 20 if mode == "full" else 5
    return (
        table.part(table.TableSize(num)),
        steps_questions.part(steps.StepsSize(num)),
        cuts.part(FollowedSize(num)),
        controls.part(FollowedSize(num)),
        clipping.part(steps.StepsSize(num)),
        decomposition.part(decomposition.DecompositionSize(num)),
        watched_questions.part(watched.WatchedSize(num)),
        counts.part(counts.CountsSize(10 if mode == "full" else 3)),
    )
