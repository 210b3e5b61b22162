r"""Theorem A along plain gradient descent, far from stationary points as well.

The bound is (|||R||| + |||e|||) / lambda with e the gradient of the regularised loss.
Early on e is most of it; without e nothing is bounded.

R  draws    T  numbers of steps    L  layers
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from spectrank.experiments.figures import listed
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
    question_part,
)
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural.claims import KEY, claim
from spectrank.experiments.zangrando2024neural.stationary.measuring import (
    LAYER,
    layer_numbers,
)
from spectrank.experiments.zangrando2024neural.stationary.networks import Mixture, mlp

NAME = "descent"
_WIDTHS = (20, 24, 24, 4)
_NUM_LAYERS = 3
_STEPS = (0, 10, 30, 100, 300, 1000)
_NOISE = 0.3
_WEIGHT_DECAY = 5e-2
_LEARNING_RATE = 0.5
_EARLY, _LATE = 3, (1, 3, 5)
_SOURCE = (
    "derived: theorem A holds at any parameter value; that e dominates is an earlier "
    "observation of ours"
)


@final
@dataclass(frozen=True)
class DescentSize:
    """How much is trained.

    Attributes:
        num_draws: R mixtures and networks.
    """

    num_draws: int


def part(size: DescentSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is trained.

    Returns:
        The part.
    """
    mixture = Mixture()

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(mixture, size, seed, tick)

    return question_part(
        f"stationary-{NAME}",
        questions(mixture, size),
        record,
        settings={
            "mixture": asdict(mixture),
            "size": asdict(size),
            "widths": _WIDTHS,
            "steps": _STEPS,
            "noise": _NOISE,
            "weight_decay": _WEIGHT_DECAY,
            "learning_rate": _LEARNING_RATE,
        },
        num_steps=size.num_draws,
    )


def measure(mixture: Mixture, size: DescentSize, seed: int, tick: Tick) -> np.ndarray:
    """Train by full-batch gradient descent and measure on the way.

    Args:
        mixture: Law of the data.
        size: How much.
        seed: Base seed.
        tick: Called after every draw.

    Returns:
        (R, T, L) of dtype ``LAYER``.
    """
    found = np.zeros((size.num_draws, len(_STEPS), _NUM_LAYERS), dtype=LAYER)
    for r in range(size.num_draws):
        x, labels = mixture.sample(_NOISE, derive_seed(seed, KEY, NAME, r))
        model = mlp(_WIDTHS, derive_generator(seed, KEY, NAME, r))
        optimizer = torch.optim.SGD(
            model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        for step in range(_STEPS[-1] + 1):
            if step in _STEPS:
                found[r, _STEPS.index(step)] = layer_numbers(
                    model, x, labels, weight_decay=_WEIGHT_DECAY
                )
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(x), labels))
            optimizer.step()
        tick()
    return found


def questions(mixture: Mixture, size: DescentSize) -> list[Question]:
    """Return what is asked.

    Args:
        mixture: Law of the data.
        size: How much is trained.

    Returns:
        The questions; what they read is (R, T, L) of dtype ``LAYER``.
    """
    protocol = (
        f"{mixture.text()}, noise {_NOISE:g}, {size.num_draws} draws; tanh network of "
        f"widths {listed(_WIDTHS, '-')}, full-batch gradient descent at learning rate "
        f"{_LEARNING_RATE:g} and weight decay {_WEIGHT_DECAY:g}, measured after "
        f"{listed(_STEPS)} steps; cells are the classes"
    )
    return [
        Question(
            claim(
                f"{NAME}.distance-within-bound",
                "Along gradient descent every layer is within the bound of rank K at "
                "every step, in the Frobenius, spectral and nuclear norm.",
                protocol=protocol,
                quantity="distance_over_bound",
                relation="at_most",
                expected=1.0,
                source=_SOURCE,
            ),
            lambda y: y["tightness"].max((1, 2)),
            Axes("steps", "distance / bound", "distance_over_bound"),
            _lines(lambda y: y["tightness"]),
        ),
        Question(
            claim(
                f"{NAME}.residual-needed",
                "Control: without the gradient of the regularised loss the bound is "
                f"none; after {listed(_STEPS[:_EARLY])} steps the first layer is "
                "farther from rank K than it allows.",
                protocol=f"{protocol}; least ratio over those steps",
                quantity="distance_over_bound_without_residual",
                relation="at_least",
                expected=1.0,
                source=_SOURCE,
            ),
            lambda y: (y["distance"] / y["b3"])[:, :_EARLY, 0].min(1),
            Axes(
                "steps",
                "distance / bound without residual",
                "distance_over_bound_without_residual",
                y_scale="log",
            ),
            _lines(lambda y: y["distance"] / y["b3"]),
        ),
        Question(
            claim(
                f"{NAME}.residual-share-falls",
                "The share of the bound that is owed to the gradient falls on the way "
                f"to a stationary point: after {listed([_STEPS[i] for i in _LATE])} "
                "steps, mean over the layers.",
                protocol=protocol,
                quantity="residual_share",
                relation="decreasing",
                source=_SOURCE,
            ),
            lambda y: _share(y)[:, _LATE].mean(2),
            Axes("steps", "share of the bound", "residual_share"),
            _lines(_share),
        ),
    ]


def _share(y: np.ndarray) -> np.ndarray:
    return np.asarray(y["residual"] / (y["residual"] + y["b3"]))


def _lines(of: Estimates) -> tuple[Line, ...]:
    # One for each hidden layer: the readout, of K rows, is at no distance to rank K.
    return tuple(
        Line(f"W_{i + 1}", _STEPS, _layer(of, i), None) for i in range(_NUM_LAYERS - 1)
    )


def _layer(of: Estimates, layer: int) -> Estimates:
    return lambda y: of(y)[..., layer]
