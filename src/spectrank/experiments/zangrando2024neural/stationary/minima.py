"""The best of several minima, each from a start of its own."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from spectrank.collapse.forecasting import Minimum, minimise

TOLERANCE = 1e-6
"""On the gradient's norm; what is left of it enters the bounds."""


def best_minimum(
    starts: Iterable[nn.Module],
    inputs: Tensor,
    labels: Tensor,
    *,
    weight_decay: float,
    decay_biases: bool = True,
    tolerance: float = TOLERANCE,
    max_iterations: int = 5000,
) -> Minimum:
    """Minimise cross-entropy plus decay from every start; return the lowest.

    Args:
        starts: Networks, at least one; left as they are.
        inputs: (N, d).
        labels: (N,) classes.
        weight_decay: Coefficient of half the squared norm.
        decay_biases: Whether biases are decayed as well.
        tolerance: On the gradient's norm.
        max_iterations: Of each minimisation.

    Returns:
        The minimum of the lowest objective.
    """
    found = [
        minimise(
            start,
            inputs,
            labels,
            loss="cross_entropy",
            weight_decay=weight_decay,
            decay_biases=decay_biases,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        for start in starts
    ]
    return min(found, key=lambda minimum: minimum.objective)
