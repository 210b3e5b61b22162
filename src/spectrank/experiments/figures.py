"""Points and axes of the claims' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.verdicts import Row, figure_point


def curve(
    claim: Claim,
    series: str,
    x: Sequence[float] | np.ndarray,
    estimates: np.ndarray,
    expected: Sequence[float] | np.ndarray | None,
    seed: int,
    *,
    metric: str,
) -> list[Row]:
    """Return the points of one line: estimates with interval, and prediction.

    Args:
        claim: Whose figure.
        series: Label of the line.
        x: (P,) abscissae.
        estimates: (R, P), independent over the seeds.
        expected: (P,) predictions; None where there are none.
        seed: Base seed.
        metric: Name of what is measured.

    Returns:
        One row a point.
    """
    return [
        figure_point(
            claim,
            metric=metric,
            series=series,
            x=float(x[i]),
            estimates=estimates[:, i],
            predicted=None if expected is None else float(expected[i]),
            seed=seed,
        )
        for i in range(len(x))
    ]


def axes(
    claim: Claim,
    x: str,
    *,
    y: str,
    x_scale: str = "log",
    y_scale: str = "log",
) -> dict[str, Mapping[str, str]]:
    """Return the title and axes of a claim's figure.

    Args:
        claim: Whose figure.
        x: Title of the abscissa.
        y: Title of the ordinate.
        x_scale: ``log`` or ``linear``.
        y_scale: ``log`` or ``linear``.

    Returns:
        The claim's key to them.
    """
    return {
        claim.key: {
            "title": claim.statement,
            "x": x,
            "y": y,
            "x_scale": x_scale,
            "y_scale": y_scale,
        }
    }


def listed(numbers: Sequence[float], separator: str = ", ") -> str:
    """Return numbers as text.

    Args:
        numbers: The numbers.
        separator: Between them.

    Returns:
        Such as ``2, 1.5, 2.5``.
    """
    return separator.join(f"{x:g}" for x in numbers)
