r"""Discrete steps: drift goes with the step size, by a factor that the optimiser sets.

A step of gradient descent changes a gap by eta^2 (G'G - GG') exactly, nothing of first
order, so that the drift over a fixed time goes with eta. Heavy-ball momentum beta
multiplies it by (1 + beta) / (1 - beta) at the same effective rate, Nesterov's by
(1 - beta + 2 beta^2) / (1 - beta); weight decay forgets the gap as exp(-2 lambda t);
Adam conserves nothing. Steps are those of torch.optim.

R  seeds    A  arms    E  step sizes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from spectrank.experiments.claims import Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import KEY, claim
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
from spectrank.experiments.questions import Axes, Line, Question, question_part
from spectrank.experiments.seeds import derive_generator

NAME = "steps"
_WIDTHS = (5, 8, 6, 1)
_TIME = 10.0
_RATES = (0.1, 0.05, 0.025)
_DECAY = 0.05
_BATCH = 10
_DRIFT, _IDENTITY, _BOUND, _REST = range(4)


@final
@dataclass(frozen=True)
class _Arm:
    """A way to take steps.

    Attributes:
        name: Of it.
        optimizer: Maps parameters and the effective rate to the optimiser.
        batches: Whether each step sees a few samples only.
    """

    name: str
    optimizer: Callable[[Iterable[Tensor], float], Optimizer]
    batches: bool = False


def _sgd(
    beta: float = 0.0, *, nesterov: bool = False, decay: float = 0.0
) -> Callable[[Iterable[Tensor], float], Optimizer]:
    # The effective rate is lr / (1 - beta): arms are compared at the same one.
    return lambda parameters, rate: SGD(
        parameters,
        lr=rate * (1.0 - beta),
        momentum=beta,
        nesterov=nesterov,
        weight_decay=decay,
    )


_ARMS = (
    _Arm("gradient descent", _sgd()),
    _Arm("minibatches", _sgd(), batches=True),
    _Arm("momentum 0.5", _sgd(0.5)),
    _Arm("momentum 0.9", _sgd(0.9)),
    _Arm("Nesterov 0.5", _sgd(0.5, nesterov=True)),
    _Arm("Nesterov 0.9", _sgd(0.9, nesterov=True)),
    _Arm("weight decay", _sgd(decay=_DECAY)),
    _Arm("Adam", lambda parameters, rate: Adam(parameters, lr=rate / 10.0)),
)
_GD, _MINI, _MOMENTUM, _, _NESTEROV, _, _DECAYED, _ADAM = range(8)
_FACTORS = (
    (_MOMENTUM, 3.0),
    (_MOMENTUM + 1, 19.0),
    (_NESTEROV, 2.0),
    (_NESTEROV + 1, 17.2),
)
"""(1 + beta) / (1 - beta) and (1 - beta + 2 beta^2) / (1 - beta)."""


@final
@dataclass(frozen=True)
class StepsSize:
    """How much is trained.

    Attributes:
        num_seeds: R.
        num_samples: n.
    """

    num_seeds: int
    num_samples: int = 40


def part(size: StepsSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is trained.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    return question_part(
        NAME,
        questions(size),
        record,
        settings={
            "size": asdict(size),
            "widths": _WIDTHS,
            "time": _TIME,
            "rates": _RATES,
            "decay": _DECAY,
            "batch": _BATCH,
            "arms": [arm.name for arm in _ARMS],
        },
        num_steps=len(_ARMS) * len(_RATES),
    )


def measure(size: StepsSize, seed: int, tick: Tick) -> np.ndarray:
    """Train by every arm at every step size, for the same time.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every training.

    Returns:
        (R, A, E, 4): spectral norm of the drift of both gaps, after the decay where
        there is one; largest error of the one-step identity (gradient descent,
        minibatches, weight decay; else NaN); drift over 2 eta R(0); distance of the
        final gaps to those of the start, over their norm.
    """
    found = np.full((size.num_seeds, len(_ARMS), len(_RATES), 4), np.nan)
    data = separable(seed, (NAME,), size.num_seeds, _WIDTHS[0], size.num_samples)
    problem = replaced(data, forward=chain_forward(len(_WIDTHS) - 1))
    start = gaussian(seed, (NAME,), size.num_seeds, chain(_WIDTHS))
    for a, arm in enumerate(_ARMS):
        for e, rate in enumerate(_RATES):
            found[:, a, e] = _trained(arm, rate, problem, start, seed)
            tick()
    return found


def _trained(
    arm: _Arm, rate: float, problem: Problem, start: Params, seed: int
) -> np.ndarray:
    """(R, 4)."""
    params = {k: v.clone().requires_grad_() for k, v in start.items()}
    optimizer = arm.optimizer(params.values(), rate)
    generator = derive_generator(seed, KEY, NAME, arm.name, rate)
    decay = float(optimizer.param_groups[0]["weight_decay"])
    plain = isinstance(optimizer, SGD) and not optimizer.param_groups[0]["momentum"]
    error = torch.zeros(len(problem.inputs), dtype=torch.float64)
    num_steps = round(_TIME / rate)
    for _ in range(num_steps):
        batch = _batch(problem, generator) if arm.batches else problem
        gradients = slope(batch, params).of_risk()
        for k, parameter in params.items():
            parameter.grad = gradients[k]
        before = gaps(params)
        optimizer.step()
        if plain:
            told = (1.0 - rate * decay) ** 2 * before + rate**2 * gaps(gradients)
            error = torch.maximum(error, (gaps(params) - told).abs().amax(1))
    first, last = gaps(start), gaps(params)
    kept = (1.0 - rate * decay) ** (2 * num_steps)
    drift = _norm(last - kept * first)
    bound = 2.0 * rate * slope(problem, start).log_risk.exp()
    return torch.stack(
        [
            drift,
            error if plain else torch.full_like(error, math.nan),
            drift / bound,
            _norm(last - first) / _norm(first),
        ],
        1,
    ).numpy()


def gaps(params: Mapping[str, Tensor]) -> Tensor:
    """Gap matrices of neighbouring layers, W_2^T W_2 - W_1 W_1^T, flattened.

    Args:
        params: ``i.weight`` (R, b, a), or their gradients.

    Returns:
        (R, entries), without a gradient.
    """
    weights = [w.detach() for w in params.values()]
    found = [
        (above.mT @ above - below @ below.mT).flatten(1)
        for below, above in pairwise(weights)
    ]
    return torch.cat(found, 1)


def _norm(flat: Tensor) -> Tensor:
    """Largest spectral norm of the gaps, (R,)."""
    sizes = [width**2 for width in _WIDTHS[1:-1]]
    found = []
    for block in torch.split(flat, sizes, 1):
        side = math.isqrt(block.shape[1])
        values = torch.linalg.eigvalsh(block.reshape(-1, side, side))
        found.append(values.abs().amax(1))
    return torch.stack(found).amax(0)


def _batch(problem: Problem, generator: torch.Generator) -> Problem:
    chosen = torch.randperm(problem.inputs.shape[1], generator=generator)[:_BATCH]
    return replaced(
        problem, inputs=problem.inputs[:, chosen], labels=problem.labels[:, chosen]
    )


def questions(size: StepsSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is trained.

    Returns:
        The questions; what they read is (R, A, E, 4).
    """
    protocol = (
        f"linear network {listed(_WIDTHS, '-')} without biases, logistic loss, "
        f"{size.num_seeds} draws of the network and of {size.num_samples} separable "
        f"points; torch.optim at effective rates {listed(_RATES)} to time {_TIME:g}, "
        f"momentum at lr = rate (1 - beta), minibatches of {_BATCH}, weight decay "
        f"{_DECAY:g}, Adam at a tenth of the rate; spectral norm of the drift of a gap"
    )

    def ask(
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float,
        estimates: Callable[[np.ndarray], np.ndarray],
        tolerance: float = 0.0,
        earlier: str = "",
    ) -> Question:
        asked = claim(
            f"{NAME}.{name}",
            statement,
            protocol=protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            source="derived: exact one-step identity of a quadratic law"
            + (f"; an earlier run of ours had {earlier}" if earlier else ""),
        )
        return Question(asked, estimates, _AXES, _lines())

    found = [
        ask(
            f"slope-{name}",
            f"With {_ARMS[a].name} the drift over a fixed time goes with the step.",
            "log_log_slope",
            "equals",
            1.0,
            lambda y, a=a: _slopes(y[:, a, :, _DRIFT]),  # type: ignore[misc]
            tolerance,
            "drift over step size constant to 1 %" if a == _GD else "",
        )
        for a, name, tolerance in (
            (_GD, "gradient-descent", 0.05),
            (_MINI, "minibatches", 0.25),
            (_DECAYED, "weight-decay", 0.05),
        )
    ]
    found += [
        ask(
            f"identity-{name}",
            f"With {_ARMS[a].name} the change of the gaps in every step is the one "
            "predicted from the gradients.",
            "largest_error_of_the_identity",
            "at_most",
            1e-12,
            lambda y, a=a: y[:, a, :, _IDENTITY].max(1),  # type: ignore[misc]
            earlier="2.5e-15",
        )
        for a, name in (
            (_GD, "gradient-descent"),
            (_MINI, "minibatches"),
            (_DECAYED, "weight-decay"),
        )
    ]
    for index, factor in _FACTORS:
        arm = _ARMS[index]
        found.append(
            ask(
                f"factor-{arm.name.lower().replace(' 0.', '-0')}",
                f"{arm.name} multiplies the drift of gradient descent by {factor:g}.",
                "drift_over_that_of_gradient_descent",
                "equals",
                factor,
                lambda y, a=index: (  # type: ignore[misc]
                    y[:, a, -1, _DRIFT] / y[:, _GD, -1, _DRIFT]
                ),
                0.15 * factor,
                "2.99 and 18.6 for momentum, 1.996 and 16.8 for Nesterov",
            )
        )
    return [
        *found,
        ask(
            "bound",
            "The drift of gradient descent is at most 2 eta R(0).",
            "drift_over_bound",
            "at_most",
            1.0,
            lambda y: y[:, _GD, :, _BOUND].max(1),
            earlier="at most a half",
        ),
        ask(
            "adam",
            "Adam does not conserve the gaps, and smaller steps do not help: the "
            "relative drift at a quarter of the rate is half of the one at the full "
            "rate or more.",
            "ratio_of_drifts",
            "at_least",
            0.5,
            lambda y: y[:, _ADAM, -1, _REST] / y[:, _ADAM, 0, _REST],
            earlier="13.2, 13.5, 14.5 at a rate halved twice",
        ),
    ]


_AXES = Axes("effective rate", "drift of a gap", "drift", "log", "log")


def _slopes(drifts: np.ndarray) -> np.ndarray:
    """Least-squares slopes of log drift against log rate, (R,)."""
    x = np.log(_RATES) - np.mean(np.log(_RATES))
    return np.asarray((np.log(drifts) * x).sum(1) / np.square(x).sum())


def _lines() -> tuple[Line, ...]:
    return tuple(
        Line(
            arm.name,
            _RATES,
            lambda y, a=a: np.asarray(y[:, a, :, _DRIFT]),  # type: ignore[misc]
            None,
        )
        for a, arm in enumerate(_ARMS)
    )
