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
from dataclasses import dataclass
from dataclasses import replace as replaced
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from spectrank.experiments.le2022training.claims import KEY
from spectrank.experiments.le2022training.problems import (
    Params,
    Problem,
    chain,
    chain_forward,
    gaussian,
    separable,
    slope,
)
from spectrank.experiments.papers import Tick
from spectrank.experiments.seeds import derive_generator

NAME = "steps"
WIDTHS = (5, 8, 6, 1)
TIME = 10.0
RATES = (0.1, 0.05, 0.025)
DECAY = 0.05
BATCH = 10
DRIFT, IDENTITY, BOUND, REST = range(4)


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


ARMS = (
    _Arm("gradient descent", _sgd()),
    _Arm("minibatches", _sgd(), batches=True),
    _Arm("momentum 0.5", _sgd(0.5)),
    _Arm("momentum 0.9", _sgd(0.9)),
    _Arm("Nesterov 0.5", _sgd(0.5, nesterov=True)),
    _Arm("Nesterov 0.9", _sgd(0.9, nesterov=True)),
    _Arm("weight decay", _sgd(decay=DECAY)),
    _Arm("Adam", lambda parameters, rate: Adam(parameters, lr=rate / 10.0)),
)
GD, MINI, MOMENTUM, _, NESTEROV, _, DECAYED, ADAM = range(8)
FACTORS = (
    (MOMENTUM, 3.0),
    (MOMENTUM + 1, 19.0),
    (NESTEROV, 2.0),
    (NESTEROV + 1, 17.2),
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
    found = np.full((size.num_seeds, len(ARMS), len(RATES), 4), np.nan)
    data = separable(seed, (NAME,), size.num_seeds, WIDTHS[0], size.num_samples)
    problem = replaced(data, forward=chain_forward(len(WIDTHS) - 1))
    start = gaussian(seed, (NAME,), size.num_seeds, chain(WIDTHS))
    for a, arm in enumerate(ARMS):
        for e, rate in enumerate(RATES):
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
    num_steps = round(TIME / rate)
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
    sizes = [width**2 for width in WIDTHS[1:-1]]
    found = []
    for block in torch.split(flat, sizes, 1):
        side = math.isqrt(block.shape[1])
        values = torch.linalg.eigvalsh(block.reshape(-1, side, side))
        found.append(values.abs().amax(1))
    return torch.stack(found).amax(0)


def _batch(problem: Problem, generator: torch.Generator) -> Problem:
    chosen = torch.randperm(problem.inputs.shape[1], generator=generator)[:BATCH]
    return replaced(
        problem, inputs=problem.inputs[:, chosen], labels=problem.labels[:, chosen]
    )
