r"""Deep linear networks on separable data, down to a risk of 1e-100.

The limit has rank one and aligned layers; what is above it goes with
(log 1/R)^{-2/L}, slower than any experiment waits. Asserted are the certificates and
the alignment; stable ranks stand beside those of an earlier run of ours on other draws.

R  seeds    C  configurations    T  risks    Q  quantities
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import final

import numpy as np

from spectrank.experiments.le2022training.flows import Pace, norm, scaled_flow
from spectrank.experiments.le2022training.limits.measuring import (
    Chain,
    certificates,
    hard_margin,
    stable_ranks,
)
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
from spectrank.invariance.growth import predicted_norm_squared

NAME = "deep-linear"
NUM_INPUTS, WIDTH = 4, 8
STIFF = 0.25
RISKS = (1e-3, 1e-10, 1e-100)
DIGITS = tuple(-math.log10(risk) for risk in RISKS)
CONFIGURATIONS = ((3, 1.0), (5, 1.0), (3, 0.1), (5, 0.1))
EARLIER = (
    ((1.36, 1.65), (1.14, 1.26), (1.028, 1.054)),
    ((2.06, 2.59), (1.64, 1.94), (1.27, 1.43)),
    ((1.0036, 1.0064), (1.0014, 1.0024), (1.0003, 1.0005)),
    ((1.0129, 1.0207), (1.0073, 1.0115), (1.0028, 1.0044)),
)
"""Least and largest of six seeds of an earlier run: largest stable rank of a layer."""
RANK, ALIGNED, EXCESS, DRIFT, GROWTH, COSINE, DIRECTION, MARGIN = range(8)


@final
@dataclass(frozen=True)
class DeepSize:
    """How much is followed.

    Attributes:
        num_seeds: R.
        num_samples: n.
    """

    num_seeds: int
    num_samples: int = 50


def measure(size: DeepSize, seed: int, tick: Tick) -> np.ndarray:
    """Follow the flow of every configuration.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every configuration.

    Returns:
        (R, C, T, Q).
    """
    num = size.num_seeds
    found = np.empty((num, len(CONFIGURATIONS), len(RISKS), 8))
    for c, (depth, scale) in enumerate(CONFIGURATIONS):
        net = Chain((NUM_INPUTS, *[WIDTH] * (depth - 1), 1))
        names = (NAME, f"depth {depth}")
        data = separable(seed, names, num, NUM_INPUTS, size.num_samples)
        problem = replaced(data, forward=chain_forward(depth))
        start = gaussian(seed, names, num, chain(net.widths), scale=scale)
        targets = [math.log(risk) for risk in RISKS]
        pace = Pace(depth, stiff=STIFF)
        for t, now in enumerate(scaled_flow(problem, start, targets, pace)):
            found[:, c, t] = _numbers(net, problem, start, now)
        tick()
    return found


def _numbers(net: Chain, problem: Problem, start: Params, now: Params) -> np.ndarray:
    """(R, Q)."""
    depth = net.depth
    here, size = slope(problem, now), norm(now)
    excess, aligned, drift = certificates(net.trace(), start, now)
    gamma, direction = hard_margin(problem)
    predicted = [
        predicted_norm_squared(float(log_risk), margin, depth)
        for log_risk, margin in zip(here.log_risk, gamma, strict=True)
    ]
    along = sum((now[k] * g).flatten(1).sum(1) for k, g in here.gradients.items())
    product = now["0.weight"]
    for i in range(1, depth):
        product = now[f"{i}.weight"] @ product
    vector = product[:, 0].numpy()
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    share = here.margins.amin(1) / size**depth
    return np.stack(
        [
            stable_ranks(now, range(depth)).max(1),
            aligned,
            excess,
            drift,
            size.square().numpy() / predicted,
            -np.asarray(along) / (size * norm(here.gradients)).numpy(),
            (vector * direction).sum(1),
            share.numpy() / (gamma * depth ** (-depth / 2)),
        ],
        1,
    )
