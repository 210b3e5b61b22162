"""The experiment over depths, at equal widths and one spectral norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable import claims as c
from spectrank.experiments.georgiev2021stable.estimates import (
    curvatures,
    log_means,
    slopes,
)
from spectrank.experiments.georgiev2021stable.figures import axes, line, listed
from spectrank.experiments.georgiev2021stable.networks import (
    Point,
    spectral_mean_signal,
)
from spectrank.experiments.georgiev2021stable.protocol import (
    Answer,
    Design,
    Inputs,
    Size,
)
from spectrank.experiments.verdicts import Row, judge
from spectrank.random_nets import RandomMLP

_DEPTHS = (1, 2, 4, 6)
_WIDTH = 64
_RANKS = (3.0, 4.5, 7.0)
# A layer of stable rank 4.5 then keeps the mean signal: 3 lets it vanish, 7 explode.
_SIGMA = math.sqrt(2.0 * _WIDTH / 4.5)


def depth(inputs: Inputs, size: Size) -> Design:
    """Vary the depth at equal widths, for three stable ranks.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    protocol = (
        f"ReLU networks of {listed(_DEPTHS)} layers of width {_WIDTH} on "
        f"{inputs.dimension} inputs, spectrum mp-spike, spectral norm {_SIGMA:.4g}, "
        f"separate networks for each depth; {size.text(inputs)}"
    )
    exponential = [
        c.depth_slope(r, _SIGMA**2 * r / (2.0 * _WIDTH), inputs.data, protocol)
        for r in _RANKS
    ]
    straight = c.depth_straight(inputs.data, protocol)
    figures: dict[str, Mapping[str, str]] = {}
    for claim in (*exponential, straight):
        figures |= axes(claim, "number of layers", x_scale="linear")
    return Design(
        name="depth",
        inputs=inputs,
        size=size,
        points=tuple(_point(inputs, r, num) for r in _RANKS for num in _DEPTHS),
        claims=(*exponential, straight),
        answer=_answer(exponential, straight, inputs),
        figures=figures,
    )


def _answer(exponential: Sequence[Claim], straight: Claim, inputs: Inputs) -> Answer:
    x = np.array(_DEPTHS, dtype=np.float64)

    def answer(signals: np.ndarray, seed: int) -> list[Row]:
        rows: list[Row] = []
        bends = []
        by_rank = np.split(signals, len(_RANKS), axis=1)
        for r, claim, found in zip(_RANKS, exponential, by_rank, strict=True):
            logs = log_means(found)
            rows.append(judge(claim, slopes(x, logs)))
            bends.append(curvatures(x, logs))
            expected = [
                spectral_mean_signal(_widths(inputs, n), [_SIGMA] * n, [r] * n)
                for n in _DEPTHS
            ]
            for target in (claim, straight):
                series = f"stable rank {r:g}"
                rows += line(target, series, x, found, expected, seed)
        return [*rows, judge(straight, np.mean(bends, axis=0))]

    return answer


def _widths(inputs: Inputs, num_layers: int) -> tuple[int, ...]:
    return (inputs.dimension, *(_WIDTH,) * num_layers)


def _point(inputs: Inputs, rank: float, num_layers: int) -> Point:
    law = RandomMLP(
        _widths(inputs, num_layers),
        stable_rank=(rank,) * num_layers,
        norm="spectral",
        sigma=_SIGMA,
    )
    return Point(f"rank {rank:g}, depth {num_layers}", law)
