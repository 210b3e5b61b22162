"""Small networks brought to stationary points, where the theory speaks exactly."""

from __future__ import annotations

from spectrank.experiments.papers import Mode, Part
from spectrank.experiments.zangrando2024neural.stationary import (
    centroids,
    collapsed,
    descent,
    linear,
    paths,
    residual,
    toy_questions,
    variability,
)
from spectrank.experiments.zangrando2024neural.stationary.toy import ToySize


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` (5 draws, 10 where nothing is trained) or ``full`` (20).

    Returns:
        The parts.
    """
    full = mode == "full"
    num = 20 if full else 5
    return (
        toy_questions.part(ToySize(num, 5 if full else 3)),
        variability.part(variability.VariabilitySize(20 if full else 10)),
        descent.part(descent.DescentSize(num)),
        collapsed.part(collapsed.CollapsedSize(num)),
        linear.part(linear.LinearSize(num, 8 if full else 4)),
        centroids.part(centroids.CentroidSize(num)),
        residual.part(residual.ResidualSize(num)),
        paths.part(paths.PathSize(num)),
    )
