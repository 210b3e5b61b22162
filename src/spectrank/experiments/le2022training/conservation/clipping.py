"""Clipped gradients: by their norm laws are kept, by value or by layer they are not.

Clipping by the norm of all gradients together is a smaller step, which conserves what
any step does, up to a drift that goes with its size. Clipping by value, or the norm of
each layer on its own, changes the direction: the drift stays as steps shrink. Clipping
is that of torch.nn.utils.

R  seeds    A  arms    E  step sizes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as replaced

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from spectrank.experiments.claims import Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.conservation.steps import (
    RATES,
    TIME,
    WIDTHS,
    StepsSize,
    gaps,
)
from spectrank.experiments.le2022training.conservation.steps_questions import slopes
from spectrank.experiments.le2022training.flows import moved
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.le2022training.problems import (
    Params,
    Problem,
    chain,
    chain_forward,
    gaussian,
    separable,
    slope,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)

NAME = "clipping"
NORM, VALUE = 0.1, 0.02
_Clip = Callable[[Sequence[Tensor]], object]


def _by_layer(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        clip_grad_norm_([parameter], NORM / len(parameters) ** 0.5)


ARMS: tuple[tuple[str, _Clip], ...] = (
    ("norm", lambda parameters: clip_grad_norm_(parameters, NORM)),
    ("value", lambda parameters: clip_grad_value_(parameters, VALUE)),
    ("layer", _by_layer),
)
BY_NORM, BY_VALUE, BY_LAYER = range(3)
DRIFT, CLIPPED = range(2)


def part(size: StepsSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is trained.

    Returns:
        The part.
    """
    return measured_part(
        NAME,
        measure,
        size,
        questions(size),
        num_steps=len(ARMS) * len(RATES),
        widths=WIDTHS,
        time=TIME,
        rates=RATES,
        thresholds=[NORM, VALUE],
    )


def measure(size: StepsSize, seed: int, tick: Tick) -> np.ndarray:
    """Descend with every way of clipping at every step size, for the same time.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every training.

    Returns:
        (R, A, E, 2): largest drift of an entry of the gaps, and the share of steps in
        which a gradient was clipped.
    """
    num = size.num_seeds
    found = np.empty((num, len(ARMS), len(RATES), 2))
    data = separable(seed, (NAME,), num, WIDTHS[0], size.num_samples)
    problem = replaced(data, forward=chain_forward(len(WIDTHS) - 1))
    start = gaussian(seed, (NAME,), num, chain(WIDTHS))
    for a, (_, clip) in enumerate(ARMS):
        for e, rate in enumerate(RATES):
            found[:, a, e] = trained(clip, rate, problem, start)
            tick()
    return found


def trained(clip: _Clip, rate: float, problem: Problem, start: Params) -> np.ndarray:
    """Descend with clipped gradients to the time that all arms end at.

    Args:
        clip: Clips the ``grad`` of the parameters of one seed.
        rate: Step size.
        problem: The network on its data.
        start: Not changed.

    Returns:
        (R, 2).
    """
    num = len(problem.inputs)
    params, share = start, np.zeros(num)
    num_steps = round(TIME / rate)
    back = torch.full((num,), -rate, dtype=torch.float64)
    for _ in range(num_steps):
        gradients = slope(problem, params).of_risk()
        clipped = clipped_by(clip, gradients)
        for k, g in gradients.items():
            share += (clipped[k] != g).flatten(1).any(1).numpy() / len(gradients)
        params = moved(params, clipped, back)
    drift = (gaps(params) - gaps(start)).abs().amax(1).numpy()
    return np.stack([drift, share / num_steps], 1)


def clipped_by(clip: _Clip, gradients: Params) -> Params:
    """Clip the gradients of every seed on its own.

    Args:
        clip: Clips the ``grad`` of parameters.
        gradients: Of every seed; not changed.

    Returns:
        Clipped ones.
    """
    found = {k: g.clone() for k, g in gradients.items()}
    for r in range(len(next(iter(found.values())))):
        parameters = []
        for g in found.values():
            # Clipping reads and writes the grad of parameters alone.
            parameter = torch.zeros_like(g[r]).requires_grad_()
            parameter.grad = g[r]
            parameters.append(parameter)
        clip(parameters)
    return found


def questions(size: StepsSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is trained.

    Returns:
        The questions; what they read is (R, A, E, 2).
    """
    protocol = (
        f"linear network {listed(WIDTHS, '-')} without biases, logistic loss, "
        f"{size.num_seeds} draws of the network and of {size.num_samples} separable "
        f"points; gradient descent at rates {listed(RATES)} to time {TIME:g}, clipped "
        f"to a norm of {NORM:g} of all gradients together, to {NORM:g}/sqrt(3) of each "
        f"layer, or every entry to {VALUE:g}; largest drift of an entry of a gap"
    )
    lines = tuple(
        Line(name, RATES, _drift(a), None) for a, (name, _) in enumerate(ARMS)
    )
    axes = Axes("rate", "drift of a gap", "drift", "log", "log")

    def ask(
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float,
        estimates: Estimates,
        source: str,
        tolerance: float = 0.0,
    ) -> Question:
        asked = claim(
            f"{NAME}.{name}",
            statement,
            protocol=protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            source=f"derived: {source}",
        )
        return Question(asked, estimates, axes, lines)

    direction = "the direction changes, and the law with it to first order"
    return [
        ask(
            "norm-slope",
            "Clipped by the norm of all gradients together, the drift goes with the "
            "step.",
            "log_log_slope",
            "equals",
            1.0,
            lambda y: slopes(y[:, BY_NORM, :, DRIFT]),
            "a clipped step is a shorter step in the same direction",
            0.1,
        ),
        *(
            ask(
                f"{name}-stays",
                f"Clipped {words}, smaller steps do not help: the drift at a quarter "
                "of the rate is nine tenths of that at the full rate or more.",
                "ratio_of_drifts",
                "at_least",
                0.9,
                _last_over_first(a),
                direction,
            )
            for a, name, words in (
                (BY_VALUE, "value", "by value"),
                (BY_LAYER, "layer", "layer by layer"),
            )
        ),
        ask(
            "clipped",
            "All of this is with gradients that were clipped, in a fifth of the steps "
            "or more.",
            "least_share_of_clipped_gradients",
            "at_least",
            0.2,
            lambda y: y[..., CLIPPED].min((1, 2)),
            "a check of the design",
        ),
    ]


def _drift(a: int) -> Estimates:
    return lambda y: np.asarray(y[:, a, :, DRIFT])


def _last_over_first(a: int) -> Estimates:
    return lambda y: np.asarray(y[:, a, -1, DRIFT] / y[:, a, 0, DRIFT])
