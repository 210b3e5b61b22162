r"""Deep linear networks end where the closed form says, before training.

    sigma^(2L-2) - s sigma^(L-2) + lambda = 0,  or sigma = 0 above the global threshold,

for every singular value s of M = (1/N) Y X^T, whitened inputs and squares. The weight
decay of MSELoss(mean) with d outputs is 2 lambda / d.

R  draws    D  depths    E  weight decays
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.collapse.forecasting import deep_linear, minimise
from spectrank.experiments.figures import listed
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
    question_part,
)
from spectrank.experiments.seeds import derive_generator
from spectrank.experiments.zangrando2024neural.claims import KEY, claim
from spectrank.experiments.zangrando2024neural.stationary.networks import (
    linear_layers,
    mlp,
)
from spectrank.linalg import haar

NAME = "deep-linear"
_MODES = (2.0, 1.2, 0.6, 0.25)
_DEPTHS = (2, 3, 4)
_WEIGHT_DECAYS = (0.02, 0.1, 0.3)
_NUM_INPUTS, _WIDTH, _NUM_OUTPUTS = 6, 7, 5
# A small start leads deep networks to zero, a local minimum.
_START = 2.0
_TOLERANCE = 1e-6
_ERROR, _RANK_ERROR, _RANK = range(3)


@final
@dataclass(frozen=True)
class LinearSize:
    """How much is minimised.

    Attributes:
        num_draws: R targets with the same singular values.
        num_starts: Starts of which the lowest minimum is taken.
    """

    num_draws: int
    num_starts: int


def part(size: LinearSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is minimised.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    return question_part(
        f"stationary-{NAME}",
        questions(size),
        record,
        settings={
            "size": asdict(size),
            "modes": _MODES,
            "depths": _DEPTHS,
            "weight_decays": _WEIGHT_DECAYS,
            "widths": [_NUM_INPUTS, _WIDTH, _NUM_OUTPUTS],
            "start": _START,
            "tolerance": _TOLERANCE,
        },
        num_steps=size.num_draws * len(_DEPTHS),
    )


def measure(size: LinearSize, seed: int, tick: Tick) -> np.ndarray:
    """Minimise linear networks and compare every layer's singular values.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every draw and depth.

    Returns:
        (R, D, E, 3): largest error of a singular value, largest error of a rank, mean
        rank of the layers.
    """
    found = np.empty((size.num_draws, len(_DEPTHS), len(_WEIGHT_DECAYS), 3))
    for r in range(size.num_draws):
        generator = derive_generator(seed, KEY, NAME, r)
        x, y = _data(generator)
        for i, depth in enumerate(_DEPTHS):
            for j, weight_decay in enumerate(_WEIGHT_DECAYS):
                found[r, i, j] = _compared(
                    x, y, depth, weight_decay, size.num_starts, generator
                )
            tick()
    return found


def _data(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs with (1/N) X X^T = I, as rows, and targets with the modes in M."""
    n, c = _NUM_INPUTS, _NUM_OUTPUTS
    left = haar(c, len(_MODES), generator=generator)
    right = haar(n, len(_MODES), generator=generator)
    map_ = left * torch.tensor(_MODES, dtype=torch.float64) @ right.mT
    x = haar(n, n, generator=generator) * n**0.5
    return x, x @ map_.mT


def _compared(
    x: Tensor,
    y: Tensor,
    depth: int,
    weight_decay: float,
    num_starts: int,
    generator: torch.Generator,
) -> tuple[float, float, float]:
    widths = (_NUM_INPUTS, *[_WIDTH] * (depth - 1), _NUM_OUTPUTS)
    found = []
    for _ in range(num_starts):
        start = mlp(widths, generator, activation="linear", bias=False)
        with torch.no_grad():
            for layer in linear_layers(start).values():
                layer.weight.mul_(_START)
        found.append(
            minimise(
                start,
                x,
                y,
                loss="mse",
                weight_decay=2.0 * weight_decay / _NUM_OUTPUTS,
                tolerance=_TOLERANCE,
            )
        )
    best = min(found, key=lambda minimum: minimum.objective)
    forecast = deep_linear(_MODES, depth, weight_decay)
    num = len(_MODES)
    sigma = torch.stack(
        [
            torch.linalg.svdvals(layer.weight.detach())[:num]
            for layer in linear_layers(best.model).values()
        ]
    )
    ranks = (sigma > 1e-2 * sigma[:, :1]).sum(1)
    return (
        float((sigma - forecast.sigma).abs().max()),
        float((ranks - forecast.rank).abs().max()),
        float(ranks.double().mean()),
    )


def questions(size: LinearSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is minimised.

    Returns:
        The questions; what they read is (R, D, E, 3).
    """
    protocol = (
        f"linear networks of {listed(_DEPTHS)} layers, {_NUM_INPUTS} inputs, hidden "
        f"width {_WIDTH}, {_NUM_OUTPUTS} outputs; whitened inputs, singular values "
        f"{listed(_MODES)} of the targets in random directions, {size.num_draws} "
        f"draws; lambda {listed(_WEIGHT_DECAYS)}; lowest of {size.num_starts} minima, "
        f"starts {_START:g} times torch's default"
    )
    source = (
        "the closed form is derived, as in spectrank.collapse.deep_linear; "
        "that the spectrum can be forecast before training is the abstract's"
    )
    axes = Axes("lambda", "error", "largest_error", "log", "log")
    ranks = Axes("lambda", "rank", "numerical_rank", x_scale="log")
    return [
        Question(
            claim(
                f"{NAME}.singular-values",
                "The closed form forecasts the singular values of every layer of a "
                "deep linear network before training.",
                protocol=protocol,
                quantity="largest_error_of_a_singular_value",
                relation="at_most",
                expected=1e-4,
                source=source,
                version="v2",
            ),
            lambda y: y[..., _ERROR].max((1, 2)),
            axes,
            tuple(
                Line(f"{depth} layers", _WEIGHT_DECAYS, _column(i, _ERROR), None)
                for i, depth in enumerate(_DEPTHS)
            ),
        ),
        Question(
            claim(
                f"{NAME}.ranks",
                "And their ranks: the modes above the global threshold.",
                protocol=protocol,
                quantity="largest_error_of_a_rank",
                relation="at_most",
                expected=0.0,
                source=source,
            ),
            lambda y: y[..., _RANK_ERROR].max((1, 2)),
            ranks,
            tuple(
                Line(
                    f"{depth} layers",
                    _WEIGHT_DECAYS,
                    _column(i, _RANK),
                    [float(deep_linear(_MODES, depth, w).rank) for w in _WEIGHT_DECAYS],
                )
                for i, depth in enumerate(_DEPTHS)
            ),
        ),
    ]


def _column(depth: int, quantity: int) -> Estimates:
    return lambda y: np.asarray(y[:, depth, :, quantity])
