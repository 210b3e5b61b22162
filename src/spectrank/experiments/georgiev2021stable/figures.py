"""Figures of the mean signal, and what they share with those of other papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.figures import axes as shared_axes
from spectrank.experiments.figures import curve as curve
from spectrank.experiments.figures import listed as listed
from spectrank.experiments.verdicts import Row

METRIC = "mean_signal"
"""The mean over networks of |h_L|^2 / |x|^2."""


def line(
    claim: Claim,
    series: str,
    x: np.ndarray,
    signals: np.ndarray,
    expected: Sequence[float] | np.ndarray,
    seed: int,
) -> list[Row]:
    """Return the points of one line: mean signal with interval, and prediction.

    Args:
        claim: Whose figure.
        series: Label of the line.
        x: (P,) abscissae.
        signals: (R, P, K).
        expected: (P,) predictions.
        seed: Base seed.

    Returns:
        One row a point.
    """
    means = signals.mean(-1)
    return curve(claim, series, x, means, expected, seed, metric=METRIC)


def axes(
    claim: Claim,
    x: str,
    *,
    y: str = "mean signal |h_L|^2 / |x|^2",
    x_scale: str = "log",
    y_scale: str = "log",
) -> dict[str, Mapping[str, str]]:
    """Return the title and axes of a claim's figure; the ordinate is the mean signal.

    Args:
        claim: Whose figure.
        x: Title of the abscissa.
        y: Title of the ordinate.
        x_scale: ``log`` or ``linear``.
        y_scale: ``log`` or ``linear``.

    Returns:
        The claim's key to them.
    """
    return shared_axes(claim, x, y=y, x_scale=x_scale, y_scale=y_scale)
