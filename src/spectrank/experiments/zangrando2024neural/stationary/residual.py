r"""Residual networks: the same bound, falling ranks, and where ranks stay.

A residual block adds to its stream; the bound asks only that a layer be linear in its
own weight, so it holds there too. Ranks are those of all linear layers.

R  draws    D  weight decays    L  layers
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

import numpy as np

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
    RANK_FLOOR,
    layer_numbers,
)
from spectrank.experiments.zangrando2024neural.stationary.minima import best_minimum
from spectrank.experiments.zangrando2024neural.stationary.networks import (
    Mixture,
    residual,
)

NAME = "residual"
_WIDTHS = (20, 16, 4)
_NUM_BLOCKS = 2
_NUM_LAYERS = 2 + 2 * _NUM_BLOCKS
_NOISES = (0.1, 1.0)
_WEIGHT_DECAYS = (1e-2, 1e-1)
_TOLERANCE = 1e-5
_K = 4
_EMBEDDING = 0


@final
@dataclass(frozen=True)
class ResidualSize:
    """How much is minimised.

    Attributes:
        num_draws: R mixtures and networks.
    """

    num_draws: int


def part(size: ResidualSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is minimised.

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
            "num_blocks": _NUM_BLOCKS,
            "noises": _NOISES,
            "weight_decays": _WEIGHT_DECAYS,
            "tolerance": _TOLERANCE,
            "rank_floor": RANK_FLOOR,
        },
        num_steps=size.num_draws,
    )


def measure(mixture: Mixture, size: ResidualSize, seed: int, tick: Tick) -> np.ndarray:
    """Minimise residual networks at several weight decays.

    Args:
        mixture: Law of the data.
        size: How much.
        seed: Base seed.
        tick: Called after every draw.

    Returns:
        (R, S, D, L) of dtype ``LAYER``.
    """
    shape = (size.num_draws, len(_NOISES), len(_WEIGHT_DECAYS), _NUM_LAYERS)
    found = np.zeros(shape, dtype=LAYER)
    for r in range(size.num_draws):
        for s, noise in enumerate(_NOISES):
            x, labels = mixture.sample(noise, derive_seed(seed, KEY, NAME, r))
            for d, weight_decay in enumerate(_WEIGHT_DECAYS):
                generator = derive_generator(seed, KEY, NAME, r)
                start = residual(_WIDTHS, _NUM_BLOCKS, generator)
                minimum = best_minimum(
                    [start],
                    x,
                    labels,
                    weight_decay=weight_decay,
                    tolerance=_TOLERANCE,
                )
                found[r, s, d] = layer_numbers(
                    minimum.model, x, labels, weight_decay=weight_decay
                )
        tick()
    return found


def questions(mixture: Mixture, size: ResidualSize) -> list[Question]:
    """Return what is asked.

    Args:
        mixture: Law of the data.
        size: How much is minimised.

    Returns:
        The questions; what they read is (R, S, D, L) of dtype ``LAYER``.
    """
    protocol = (
        f"{mixture.text()}, noise {listed(_NOISES)}, {size.num_draws} draws; tanh "
        f"residual network, stream of width {_WIDTHS[1]}, {_NUM_BLOCKS} blocks of two "
        f"layers, weights and biases decayed by {listed(_WEIGHT_DECAYS)}; minimum of "
        "the full-batch loss; cells are the classes"
    )
    ranks = Axes("weight decay", "rank at 1e-2", "numerical_rank", x_scale="log")
    return [
        Question(
            claim(
                f"{NAME}.distance-within-bound",
                "In a residual network every layer, skip path or not, is within the "
                "bound of rank K.",
                protocol=protocol,
                quantity="distance_over_bound",
                relation="at_most",
                expected=1.0,
                source="derived: theorem A asks only that the layer be linear in its "
                "own weight",
            ),
            lambda y: y["tightness"].max((1, 2, 3)),
            Axes("weight decay", "distance / bound", "distance_over_bound", "log"),
            _lines(lambda y: y["tightness"].max(3)),
        ),
        Question(
            claim(
                f"{NAME}.rank-at-most-k",
                "Residual networks too take ranks of at most K where clusters are "
                "tight (noise 0.1).",
                protocol=protocol,
                quantity="largest_numerical_rank",
                relation="at_most",
                expected=float(_K),
                source="that the statement covers residual networks is the abstract's; "
                "rank K is that of the bound",
                version="v2",
            ),
            lambda y: y["rank"][:, 0].max((1, 2)),
            ranks,
            _lines(lambda y: y["rank"].max(3)),
        ),
        Question(
            claim(
                f"{NAME}.rank-falls-with-weight-decay",
                "And their ranks fall as weight decay grows: embedding, noise 1, "
                "smallest against largest weight decay.",
                protocol=protocol,
                quantity="numerical_rank",
                relation="decreasing",
                source="that the statement covers residual networks is the abstract's",
                version="v2",
            ),
            lambda y: y["rank"][:, 1, (0, -1), _EMBEDDING],
            ranks,
            _lines(lambda y: y["rank"][..., _EMBEDDING]),
        ),
    ]


def _lines(of: Estimates) -> tuple[Line, ...]:
    """One line for each noise of an (R, S, D) quantity."""
    return tuple(
        Line(f"noise {noise:g}", _WEIGHT_DECAYS, _noise(of, s), None)
        for s, noise in enumerate(_NOISES)
    )


def _noise(of: Estimates, index: int) -> Estimates:
    return lambda y: of(y)[:, index]
