"""What training does to ranks: limits, bounds, and where they are not to be had."""

from __future__ import annotations

from spectrank.experiments.le2022training.limits import (
    blocks,
    classes,
    deep_linear,
    deep_linear_questions,
    patterns,
    tails_questions,
    trunk,
)
from spectrank.experiments.le2022training.limits.tails import TailsSize
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
        deep_linear_questions.part(deep_linear.DeepSize(num)),
        trunk.part(trunk.TrunkSize(num)),
        classes.part(classes.ClassesSize(num)),
        blocks.part(blocks.BlocksSize(num)),
        *tails_questions.parts(TailsSize(num)),
        patterns.part(patterns.PatternsSize(num)),
    )
