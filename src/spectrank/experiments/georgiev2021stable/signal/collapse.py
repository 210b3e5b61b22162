r"""Correlation collapse of linear networks, within 1 / (3 (1/rho - 1/n)) layers.

The annealed squared cosine q_l = E (u.v)^2 / E |u|^2 |v|^2 after l layers of equal
width obeys exactly

    (1 + 2 q_l) / (1 - q_l) = base^l (1 + 2 q_0) / (1 - q_0),
    base = (1 + 2 kappa) / (1 - kappa),   kappa = beta / alpha ~ 1/rho - 1/n,

so its log is a straight line in depth of slope log base ~ 3 kappa; orthogonal layers
have kappa = 0 and never collapse.
"""

from __future__ import annotations

import math

import numpy as np

from spectrank.experiments.georgiev2021stable.estimates import jackknifed, slopes
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal import spectra
from spectrank.experiments.georgiev2021stable.signal.claims import ours
from spectrank.experiments.georgiev2021stable.signal.observables import GRAM
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)
from spectrank.experiments.georgiev2021stable.signal.stacks import Stack

_WIDTH = 32
_DEPTH = 4
_RATIO = 12.0
# Wider than elsewhere: the moments of a spike have heavier tails. The stable rank of
# the spike in place of its participation ratio would be off by 4 times.
_TOLERANCE = 0.15
_LAYERS = np.arange(1.0, _DEPTH + 1.0)
_AXES = Axes(
    "number of layers",
    "log (1 + 2q)/(1 - q), less its value at layer 1",
    "collapse_log",
)


def collapse(inputs: Inputs, size: Size) -> Design:
    """Follow the squared cosine of pairs of inputs through linear networks.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *(_WIDTH,) * _DEPTH)
    recorded = "(u.v)^2 and |u|^2 |v|^2 over all pairs"
    protocol = (
        f"linear networks {listed(widths, '-')}, ||W||_F^2 = m; slope over layers 1 to "
        f"{_DEPTH}; {size.text(inputs, recorded=recorded)}"
    )
    stacks = [
        Stack("flat", _RATIO, widths, "linear"),
        Stack("spike", spectra.spike_stable_rank(_RATIO, _WIDTH), widths, "linear"),
        Stack("flat", float(_WIDTH), widths, "linear"),
    ]
    questions = [
        *(_collapses(i, stack, inputs, protocol) for i, stack in enumerate(stacks[:2])),
        _never(2, stacks[2], inputs, protocol),
    ]
    points = [stack.point() for stack in stacks]
    return design("collapse", inputs, size, points, questions, GRAM)


def _collapses(i: int, stack: Stack, inputs: Inputs, protocol: str) -> Question:
    kappa = stack.layers[-1].kappa
    rate = math.log((1.0 + 2.0 * kappa) / (1.0 - kappa))
    rho = stack.layers[-1].participation_ratio
    depth = 1.0 / (3.0 * (1.0 / rho - 1.0 / _WIDTH))
    claim = ours(
        f"collapse.rate.{stack.spectrum}",
        inputs.data,
        f"Linear layers of {stack.text} align all signals at the depth of their "
        f"participation ratio {rho:.3g}, 1/(3(1/rho - 1/n)) = {depth:.3g} layers: "
        f"log (1 + 2q)/(1 - q) grows by {rate:.4g} a layer, exactly.",
        protocol=protocol,
        quantity="rate_over_prediction",
        tolerance=_TOLERANCE,
    )
    return Question(
        claim, lambda y: _rates(y, i) / rate, _AXES, (_line(i, stack, rate),)
    )


def _never(i: int, stack: Stack, inputs: Inputs, protocol: str) -> Question:
    claim = ours(
        "collapse.never-if-orthogonal",
        inputs.data,
        "Control: square orthogonal layers leave every angle as it is: the squared "
        "cosine does not grow from layer 1 on.",
        protocol=protocol,
        quantity="collapse_rate",
        expected=0.0,
        tolerance=1e-4,
    )
    return Question(claim, lambda y: _rates(y, i), _AXES, (_line(i, stack, 0.0),))


def _line(i: int, stack: Stack, rate: float) -> Line:
    return Line(
        stack.text,
        list(_LAYERS),
        lambda y: jackknifed(_from_first, y[:, i]),
        [rate * (layer - 1.0) for layer in _LAYERS],
    )


def _rates(y: np.ndarray, i: int) -> np.ndarray:
    """(R,) rates at point i, from (R, P, K, L, 2)."""
    return jackknifed(lambda x: slopes(_LAYERS, _from_first(x)), y[:, i])


def _from_first(x: np.ndarray) -> np.ndarray:
    """(..., L) logs less that of layer 1, from means (..., L, 2)."""
    # Layer 1 is where widths differ from data set to data set.
    q = x[..., 0] / x[..., 1]
    logs = np.log((1.0 + 2.0 * q) / (1.0 - q))
    return np.asarray(logs - logs[..., :1])
