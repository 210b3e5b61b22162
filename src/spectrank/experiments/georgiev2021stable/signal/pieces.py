"""Number of linear pieces along a curve: its mean knows no spectrum, its spread does.

The direction W^T e of a unit is uniform whatever the singular values are, so by
Crofton's formula a unit of layer l changes sign on average once along half a great
circle, if at least two units of every layer before are active:

    E kinks of layer l = n_l prod_{j<l} (1 - (n_j + 1) 2^(-n_j)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.networks import Point
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal.claims import ours
from spectrank.experiments.georgiev2021stable.signal.kinks import KINKS
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)
from spectrank.random_nets import RandomMLP

_WIDTHS = (24, 24, 24, 24)
# The flat ones first, by participation ratio.
_SPECTRA = (
    ("flat", 3.0),
    ("flat", 6.0),
    ("flat", 12.0),
    ("flat", 24.0),
    ("spike", 6.0),
)
_NUM_FLAT = 4
_FLAT_6, _SPIKE_6 = 1, 4


def mean_kinks(widths: Sequence[int]) -> list[float]:
    r"""Mean number of new kinks of each layer along half a great circle.

    :math:`n_l \\prod_{j<l} (1 - (n_j + 1) 2^{-n_j})`.
    Source (derived): tests/experiments/georgiev2021stable_signal.

    Args:
        widths: n_1 to n_L.

    Returns:
        One number a layer.
    """
    found, alive = [], 1.0
    for n in widths:
        found.append(n * alive)
        alive *= 1.0 - (n + 1) * 2.0**-n
    return found


def pieces(inputs: Inputs, size: Size) -> Design:
    """Count the kinks along half great circles through pairs of inputs.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *_WIDTHS)
    protocol = (
        f"ReLU networks {listed(widths, '-')} without biases, half a great circle "
        f"through two of {inputs.num_inputs} training inputs of {inputs.data}, others "
        f"for each network; roots computed, not a grid; {size.num_seeds} seeds x "
        f"{size.num_networks} networks at each point"
    )
    questions = [
        *(_mean(i, inputs, protocol) for i in range(len(_SPECTRA))),
        _spread_falls(inputs, protocol),
        _spread_differs(inputs, protocol),
    ]
    points = [
        Point(
            f"{name} {rank:g}",
            RandomMLP(widths, stable_rank=(rank,) * len(_WIDTHS), spectrum=name),
        )
        for name, rank in _SPECTRA
    ]
    return design("pieces", inputs, size, points, questions, KINKS)


def _mean(i: int, inputs: Inputs, protocol: str) -> Question:
    name, rank = _SPECTRA[i]
    expected = mean_kinks(_WIDTHS)
    total = math.fsum(expected)
    claim = ours(
        f"pieces.mean.{name}-{rank:g}",
        inputs.data,
        f"With spectrum {name!r} of stable rank {rank:g} the mean number of kinks is "
        f"{total:.5g}, one for each unit, as with every other spectrum.",
        protocol=protocol,
        quantity="ratio_to_prediction",
    )
    depths = [float(depth) for depth in range(1, len(_WIDTHS) + 1)]
    line = Line(f"{name} {rank:g}", depths, lambda y: y[:, i].mean(1), expected)
    return Question(
        claim,
        lambda y: y[:, i].sum(-1).mean(1) / total,
        Axes("layer", "new kinks along half a great circle", "new_kinks"),
        (line,),
    )


def _spreads(y: np.ndarray, points: Sequence[int]) -> np.ndarray:
    """(R, len(points)) standard deviations of the number of kinks."""
    return np.asarray(y[:, points].sum(-1).std(-1, ddof=1))


_SPREAD = Axes(
    "participation ratio", "standard deviation of the number of kinks", "kinks_sd"
)


def _spread_falls(inputs: Inputs, protocol: str) -> Question:
    flat = range(_NUM_FLAT)
    claim = ours(
        "pieces.spread-falls",
        inputs.data,
        "The spread of the number of kinks is not independent of the spectrum: among "
        "flat ones it falls with the participation ratio.",
        protocol=protocol,
        quantity="standard_deviation",
        expected=None,
        tolerance=0.0,
        relation="decreasing",
    )
    ratios = [rank for _, rank in _SPECTRA[:_NUM_FLAT]]
    line = Line("flat", ratios, lambda y: _spreads(y, flat), None)
    return Question(claim, lambda y: _spreads(y, flat), _SPREAD, (line,))


def _spread_differs(inputs: Inputs, protocol: str) -> Question:
    both = (_FLAT_6, _SPIKE_6)
    claim = ours(
        "pieces.spread-at-one-stable-rank",
        inputs.data,
        f"Nor does the stable rank alone set the spread: at {_SPECTRA[_FLAT_6][1]:g} "
        "it is larger for a flat spectrum than for a spike, at least 1.3 times.",
        protocol=protocol,
        quantity="ratio_of_standard_deviations",
        expected=1.3,
        tolerance=0.0,
        relation="at_least",
    )

    def ratio(y: np.ndarray) -> np.ndarray:
        found = _spreads(y, both)
        return np.asarray(found[:, 0] / found[:, 1])

    rank = _SPECTRA[_FLAT_6][1]
    lines = tuple(
        Line(_SPECTRA[i][0], [rank], lambda y, i=i: _spreads(y, [i]), None)  # type: ignore[misc]
        for i in both
    )
    return Question(claim, ratio, Axes("stable rank", _SPREAD.y, _SPREAD.metric), lines)
