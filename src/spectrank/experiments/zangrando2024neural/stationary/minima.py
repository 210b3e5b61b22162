"""The lowest of several minima, each from a start of its own."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

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
    screening: float | None = None,
    max_iterations: int = 5000,
) -> Minimum:
    """Minimise cross-entropy plus decay from every start; return the lowest.

    With screening the starts are compared when their gradients are that small, and the
    lowest alone goes on: it need not be the one whose minimum is the lowest.

    Args:
        starts: Networks, at least one; left as they are.
        inputs: (N, d).
        labels: (N,) classes.
        weight_decay: Coefficient of half the squared norm.
        decay_biases: Whether biases are decayed as well.
        tolerance: On the gradient's norm.
        screening: The norm at which starts are compared; None for the tolerance.
        max_iterations: Of each minimisation.

    Returns:
        The minimum of the lowest objective.
    """
    minimise_from = partial(
        minimise,
        inputs=inputs,
        targets=labels,
        loss="cross_entropy",
        weight_decay=weight_decay,
        decay_biases=decay_biases,
        max_iterations=max_iterations,
    )
    found = [minimise_from(start, tolerance=screening or tolerance) for start in starts]
    lowest = min(found, key=lambda minimum: minimum.objective)
    if screening is None:
        return lowest
    return minimise_from(lowest.model, tolerance=tolerance)
