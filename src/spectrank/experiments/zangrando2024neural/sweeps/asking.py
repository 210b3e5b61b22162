"""What the questions of all sweeps share: columns of records, lines of figures.

R  seeds      P  cells      L  weight matrices      H = L - 1  hidden ones
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.claims import Claim, Relation
from spectrank.experiments.questions import Axes, Estimates, Line, Question
from spectrank.experiments.zangrando2024neural import claims
from spectrank.experiments.zangrando2024neural.networks import (
    NUM_CLASSES,
    Network,
)
from spectrank.experiments.zangrando2024neural.sweeps.design import Asked, Pairs
from spectrank.experiments.zangrando2024neural.sweeps.points import RTOL

THEORY = "derived: theorem A, proved in tests/collapse/certificates"
TESTS = "derived: tests/experiments/zangrando2024neural_sweeps"
WEIGHT_DECAY = "weight decay"
ROUNDING = 1e-9
LEAST_SPAN = 2.0
"""Factor that a quantity must span for a slope on it."""
"""By which a ratio of a distance to its bound may exceed 1 in float64."""


def hidden(recorded: np.ndarray, name: str, layers: int) -> np.ndarray:
    """Return a column of the hidden layers.

    Args:
        recorded: (R, P) of `Sweep.type`.
        name: Of the column.
        layers: H.

    Returns:
        (R, P, H).
    """
    return np.asarray(recorded["layers"][name][:, :, :layers])


def rank_lines(layers: int, x: Sequence[float], name: str = "rank") -> tuple[Line, ...]:
    """Return a line a layer: a column against the cells.

    Args:
        layers: How many, from the first.
        x: (P,) abscissae of the cells.
        name: Of the column.

    Returns:
        The lines.
    """
    return tuple(
        Line(f"W_{layer + 1}", tuple(x), column(name, layer), None)
        for layer in range(layers)
    )


def rank_axes(x: str, x_scale: str = "log") -> Axes:
    """Return the axes of a figure of numerical ranks.

    Args:
        x: Title of the abscissa.
        x_scale: ``log`` or ``linear``.

    Returns:
        The axes.
    """
    return Axes(
        x=x,
        y=f"numerical rank (singular values above {RTOL:g} of the largest)",
        metric="numerical_rank",
        x_scale=x_scale,
    )


def ours(
    name: str,
    data: str,
    statement: str,
    *,
    protocol: str,
    quantity: str,
    relation: Relation,
    expected: float | None = None,
    tolerance: float = 0.0,
    source: str = TESTS,
    version: claims.Version | None = None,
) -> Claim:
    """Return a claim of a sweep; the statement names data other than the digits.

    Args:
        name: Dotted, after the paper's key.
        data: Name of the data set.
        statement: The sentence.
        protocol: What is measured.
        quantity: Name of the number.
        relation: Between measurement and expectation.
        expected: Value or limit; None for a trend.
        tolerance: In the units of the quantity.
        source: Where the claim comes from.
        version: Whose abstract makes it; None where it is ours.

    Returns:
        The claim.
    """
    return claims.claim(
        name,
        f"{statement} ({data})",
        protocol=protocol,
        quantity=quantity,
        relation=relation,
        expected=expected,
        tolerance=tolerance,
        source=source,
        version=version,
        data=data,
    )


def distance_axes(x: str) -> Axes:
    """Return the axes of a figure of distances to rank K.

    Args:
        x: Title of the abscissa.

    Returns:
        The axes, both logarithmic.
    """
    return Axes(
        x,
        "distance to rank K over the norm of W",
        "relative_distance_to_rank",
        x_scale="log",
        y_scale="log",
    )


def able(network: Network) -> list[int]:
    """Return the hidden layers that can be farther than 0 from rank K.

    Args:
        network: The architecture.

    Returns:
        Their indices: min(m, n) is above K.
    """
    return [i for i, size in enumerate(network.sizes[:-1]) if size > NUM_CLASSES]


def distances_by_variation(layers: Sequence[int]) -> tuple[Pairs, ...]:
    """Return points a layer: distance to rank K against variation of the inputs.

    Args:
        layers: Their indices.

    Returns:
        The points, one for each cell.
    """
    return tuple(
        Pairs(f"W_{layer + 1}", column("rtcv", layer), column("distance", layer))
        for layer in layers
    )


def column(name: str, layer: int) -> Estimates:
    """Return the reader of a number of one layer.

    Args:
        name: Of the number, as in `points.layer_type`.
        layer: Index from 0.

    Returns:
        Maps records (R, P) to (R, P).
    """
    return lambda recorded: recorded["layers"][name][:, :, layer]


def num_violated(recorded: np.ndarray) -> np.ndarray:
    """Count weights that are farther from rank K than theorem A allows.

    Args:
        recorded: (R, P) of `Sweep.type`.

    Returns:
        (R,) over cells and layers, in any of the three norms.
    """
    return np.asarray(
        (recorded["layers"]["tightness"] > 1.0 + ROUNDING).sum((1, 2)), dtype=float
    )


def certificate(
    name: str, data: str, protocol: str, layers: int, x: Sequence[float], axis: str
) -> Asked:
    """Return the question whether theorem A holds at every point of a sweep.

    Args:
        name: Of the sweep.
        data: Name of the data set.
        protocol: In words.
        layers: H, of the figure.
        x: (P,) abscissae.
        axis: Their title.

    Returns:
        The question; it needs no stationary point.
    """
    claim = ours(
        f"{name}.certificate",
        data,
        "No weight matrix is farther from rank K than the within-class part of its "
        "gradient and the residual allow, in the Frobenius, spectral and nuclear norm. "
        "It holds at any parameter value, so that a violation would be an error of "
        "ours; a bound of 1 or more says nothing.",
        protocol=protocol,
        quantity="num_violated",
        relation="at_most",
        expected=0.0,
        source=THEORY,
    )
    lines = [
        line
        for layer in range(layers)
        for line in (
            Line(f"W_{layer + 1}, measured", tuple(x), column("distance", layer), None),
            Line(f"W_{layer + 1}, bound", tuple(x), bound_of(layer), None),
        )
    ]
    axes = distance_axes(axis)
    return Asked(Question(claim, num_violated, axes, tuple(lines)))


def log_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of log y on log x by least squares, for each seed.

    Args:
        x: (R, G) positive.
        y: (R, G) positive.

    Returns:
        (R,); NaN where a number is not positive, or where x spans less than a factor
        of `LEAST_SPAN` and a slope would be an accident of its noise.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = np.log(x), np.log(y)
        u = u - u.mean(1, keepdims=True)
        found = (u * v).sum(1) / (u * u).sum(1)
    wide = x.max(1) >= LEAST_SPAN * x.min(1)
    return np.where(np.isfinite(found) & wide, found, np.nan)


def bounds(recorded: np.ndarray) -> np.ndarray:
    """Return the tightest bounds of theorem A over the norm, with the part of e.

    Args:
        recorded: (R, P) of `Sweep.type`.

    Returns:
        (R, P, L).
    """
    return np.asarray(recorded["layers"]["b3"] + recorded["layers"]["excess"])


def bound_of(layer: int) -> Estimates:
    """Return the reader of one layer's bound.

    Args:
        layer: Index from 0.

    Returns:
        Maps records (R, P) to (R, P).
    """
    return lambda recorded: bounds(recorded)[:, :, layer]
