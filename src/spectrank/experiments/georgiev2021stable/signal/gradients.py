r"""Gradients obey the forward law with the roles of all widths exchanged.

For J = d f / d x, f = z_L, and a fixed v at the output, |J^T v|^2 is a product of
independent factors, from the last layer to the first: W_l^T has n_l inputs and n_{l-1}
outputs, and the mask of layer l - 1 follows, none after the first layer. So

    E |J^T v|^2 = |v|^2 prod a1_l / n_l 2^-(L-1),
    E |J^T v|^4 / (E |J^T v|^2)^2
        = prod_l (1 + 2/rho_l) n_l / (n_l + 2) prod_{l<L} (n_l + 5) / (n_l + 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from spectrank.experiments.georgiev2021stable.estimates import jackknifed
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal.claims import ours
from spectrank.experiments.georgiev2021stable.signal.observables import (
    GRADIENTS,
    log_cumulants,
)
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)
from spectrank.experiments.georgiev2021stable.signal.stacks import Stack

_HIDDEN = (24, 12, 30, 7)
_RANKS = (2.0, 3.0, 4.0, 5.0)
_SHARED = 2
_FIRST, _SECOND = 4, 5


def gradients(inputs: Inputs, size: Size) -> Design:
    """Compare gradients at the input with the backward law.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *_HIDDEN)
    protocol = (
        f"ReLU networks {listed(widths, '-')}, ||W||_F^2 = 2 m, spike of stable rank "
        f"{listed(_RANKS)} in all layers, v = e_1; "
        f"{size.text(inputs, recorded='|J^T v|^2')}"
    )
    stacks = [Stack("spike", rank, widths) for rank in _RANKS]
    questions = [
        _mean(stacks, inputs, protocol),
        _variance(stacks, inputs, protocol),
        _second(stacks, inputs, protocol),
    ]
    points = [stack.point() for stack in stacks]
    return design("gradients", inputs, size, points, questions, GRADIENTS)


def _question(
    name: str,
    statement: str,
    quantity: str,
    found: Callable[[np.ndarray], np.ndarray],
    expected: list[float],
    inputs: Inputs,
    protocol: str,
) -> Question:
    """Ask for the ratio to the backward law at the shared stable rank."""
    target = expected[_SHARED]
    claim = ours(
        f"gradients.{name}",
        inputs.data,
        statement,
        protocol=protocol,
        quantity="ratio_to_prediction",
    )
    return Question(
        claim,
        lambda y: found(y)[:, _SHARED] / target,
        Axes("stable rank", quantity.replace("_", " "), quantity),
        (Line("backward", _RANKS, found, expected),),
    )


def _mean(stacks: list[Stack], inputs: Inputs, protocol: str) -> Question:
    expected = [math.prod(layer.mean for layer in s.backward) for s in stacks]
    forward = expected[_SHARED] * _HIDDEN[-1] / inputs.dimension
    return _question(
        "mean",
        f"The mean of |J^T v|^2 is {expected[_SHARED]:.4g} |v|^2, the product of "
        f"a1 / n_l with the fan-out below; by fan-in it would be {forward:.3g}.",
        "gradient_gain",
        lambda y: y[..., _FIRST].mean(-1),
        expected,
        inputs,
        protocol,
    )


def _variance(stacks: list[Stack], inputs: Inputs, protocol: str) -> Question:
    expected = [
        float(sum(layer.log_cumulants()[1] for layer in s.backward)) for s in stacks
    ]
    forward = sum(layer.log_cumulants()[1] for layer in stacks[_SHARED].output)
    return _question(
        "log-variance",
        f"The variance of log |J^T v|^2 at stable rank {_RANKS[_SHARED]:g} is "
        f"{expected[_SHARED]:.4g}, with widths in exchanged roles; the forward law "
        f"would give {forward:.4g}.",
        "gradient_log_variance",
        lambda y: np.stack(
            [jackknifed(log_cumulants, y[:, i])[:, 1] for i in range(len(_RANKS))],
            1,
        ),
        expected,
        inputs,
        protocol,
    )


def _second(stacks: list[Stack], inputs: Inputs, protocol: str) -> Question:
    expected = [math.prod(layer.second_moment for layer in s.backward) for s in stacks]
    forward = math.prod(layer.second_moment for layer in stacks[_SHARED].output)
    return _question(
        "second-moment",
        f"The relative second moment of |J^T v|^2 at stable rank {_RANKS[_SHARED]:g} "
        f"is {expected[_SHARED]:.4g}; the forward law would give {forward:.4g}.",
        "gradient_second_moment",
        lambda y: np.stack(
            [
                jackknifed(lambda m: m[..., _SECOND] / m[..., _FIRST] ** 2, y[:, i])
                for i in range(len(_RANKS))
            ],
            1,
        ),
        expected,
        inputs,
        protocol,
    )
