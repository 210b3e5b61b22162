r"""The length of a curve's image: as predicted, and shrinking at He scale.

A ReLU layer multiplies lengths by E Y^(1/2) in mean, where Y is its random factor on a
square length; with E Y = m / n (He scale) that is less than (m / n)^(1/2), by about
exp(-(2/rho - 2/n + 3/m) / 8).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.georgiev2021stable.estimates import log_means, slopes
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal.claims import ours
from spectrank.experiments.georgiev2021stable.signal.observables import LENGTHS
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)
from spectrank.experiments.georgiev2021stable.signal.stacks import FixedSpectrum, Stack

_WIDTH = 64
_DEPTH = 6
_STACKS: tuple[tuple[FixedSpectrum, float], ...] = (
    ("flat", 8.0),
    ("spike", 3.0),
    ("flat", 64.0),
)


def length(inputs: Inputs, size: Size) -> Design:
    """Push a polygon through inputs along networks of equal widths.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *(_WIDTH,) * _DEPTH)
    recorded = "length of the image of the closed polygon through the inputs"
    protocol = (
        f"ReLU networks {listed(widths, '-')}, ||W||_F^2 = 2 m; the derivative at the "
        "middle of each side times the side; "
        f"{size.text(inputs, recorded=recorded)}"
    )
    stacks = [Stack(name, rank, widths) for name, rank in _STACKS]
    questions = [
        question
        for i, stack in enumerate(stacks)
        for question in _questions(i, stack, inputs, protocol)
    ]
    points = [stack.point() for stack in stacks]
    return design("length", inputs, size, points, questions, LENGTHS)


def _questions(
    i: int, stack: Stack, inputs: Inputs, protocol: str
) -> Sequence[Question]:
    depths = np.arange(1.0, _DEPTH + 1.0)
    expected = np.cumprod([layer.mean_root() for layer in stack.layers])
    figure = Axes(
        "number of layers", "length of the image / length", "length_gain", "linear"
    )
    lines = (Line(stack.text, list(depths), lambda y: y[:, i].mean(1), list(expected)),)
    predicted = ours(
        f"length.as-predicted.{stack.key}",
        inputs.data,
        f"After {_DEPTH} ReLU layers of {stack.text} at He scale the mean length of a "
        f"curve's image is {expected[-1]:.4g} of the curve's.",
        protocol=protocol,
        quantity="ratio_to_prediction",
        tolerance=0.05,
    )
    # Without the first layer, whose widths differ from data set to data set.
    rate = float(np.diff(np.log(expected)).mean())
    shrinks = ours(
        f"length.shrinks.{stack.key}",
        inputs.data,
        f"At He scale and equal widths the mean length shrinks with every layer of "
        f"{stack.text}: its log has a negative slope in depth, predicted {rate:.3g}.",
        protocol=protocol,
        quantity="log_length_slope_in_depth",
        expected=0.0,
        tolerance=0.0,
        relation="at_most",
    )
    return (
        Question(
            predicted, lambda y: y[:, i, :, -1].mean(1) / expected[-1], figure, lines
        ),
        Question(
            shrinks,
            lambda y: slopes(depths[1:], log_means(y[:, i].swapaxes(1, 2))[:, 1:]),
            figure,
            lines,
        ),
    )
