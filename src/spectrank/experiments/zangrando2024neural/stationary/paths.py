r"""Loss along straight and optimised paths between minima, and down to one.

The height of a path is how far the regularised loss rises above its higher end, as a
share of how far the loss of the zero network, log K, lies above that end.

R  draws    T  points of a path    P  parameters
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

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
from spectrank.experiments.zangrando2024neural.stationary.landscape import (
    NUM_CONTROLS,
    NUM_SEEN,
    NUM_STEPS,
    NUM_TRAINED,
    POSITIONS,
    RATE,
    Landscape,
)
from spectrank.experiments.zangrando2024neural.stationary.minima import best_minimum
from spectrank.experiments.zangrando2024neural.stationary.networks import Mixture, mlp

NAME = "paths"
_WIDTHS = (20, 24, 24, 4)
_NOISE = 0.3
_WEIGHT_DECAY = 1e-3
_NUM_STARTS = 3
_STRAIGHT, _CURVED = 0, 1


@final
@dataclass(frozen=True)
class PathSize:
    """How much is minimised.

    Attributes:
        num_draws: R mixtures and pairs of minima.
    """

    num_draws: int


def part(size: PathSize) -> Part:
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
            "noise": _NOISE,
            "weight_decay": _WEIGHT_DECAY,
            "num_starts": _NUM_STARTS,
            "curve": [NUM_CONTROLS, NUM_TRAINED, NUM_SEEN, NUM_STEPS, RATE],
        },
        num_steps=size.num_draws,
    )


def measure(mixture: Mixture, size: PathSize, seed: int, tick: Tick) -> np.ndarray:
    """Join two minima by paths, and descend from a solution that interpolates.

    Args:
        mixture: Law of the data.
        size: How much.
        seed: Base seed.
        tick: Called after every draw.

    Returns:
        (R, 2 T + 1): relative height along the straight path, then along the curve,
        and the excess of the end of the descent over the lowest minimum, relative.
    """
    found = np.empty((size.num_draws, 2 * NUM_SEEN + 1))
    for r in range(size.num_draws):
        x, labels = mixture.sample(_NOISE, derive_seed(seed, KEY, NAME, r))
        starts = [
            mlp(_WIDTHS, derive_generator(seed, KEY, NAME, r, i))
            for i in range(_NUM_STARTS + 1)
        ]
        minima = [
            best_minimum([start], x, labels, weight_decay=_WEIGHT_DECAY)
            for start in starts[:_NUM_STARTS]
        ]
        landscape = Landscape(starts[0], x, labels, _WEIGHT_DECAY)
        ends = [_flat(minimum.model) for minimum in minima[:2]]
        heights = [
            landscape.heights(controls)
            for controls in (torch.stack(ends), landscape.curve(*ends))
        ]
        interpolating = best_minimum(
            starts[-1:], x, labels, weight_decay=1e-6, max_iterations=60
        )
        down = best_minimum(
            [interpolating.model], x, labels, weight_decay=_WEIGHT_DECAY
        )
        lowest = min(minimum.objective for minimum in minima)
        found[r] = [*heights[0], *heights[1], down.objective / lowest - 1.0]
        tick()
    return found


def questions(mixture: Mixture, size: PathSize) -> list[Question]:
    """Return what is asked.

    Args:
        mixture: Law of the data.
        size: How much is minimised.

    Returns:
        The questions; what they read is (R, 2 T + 1).
    """
    protocol = (
        f"{mixture.text()}, noise {_NOISE:g}, {size.num_draws} draws; tanh network of "
        f"widths 20-24-24-4, weights and biases decayed by {_WEIGHT_DECAY:g}; two "
        f"minima from different starts, {NUM_SEEN} points of each path; curves with "
        f"{NUM_CONTROLS} inner control points, {NUM_STEPS} steps of Adam; height as "
        "a share of that of the zero network"
    )
    source = "protocol and relative height are ours"
    axes = Axes("position on the path", "relative height", "relative_height")
    lines = (
        Line("straight", POSITIONS, _path(_STRAIGHT), None),
        Line("optimised", POSITIONS, _path(_CURVED), None),
    )
    return [
        Question(
            claim(
                f"{NAME}.straight-barrier",
                "On the straight path between two minima the loss rises: a barrier of "
                "at least a fifth of the way to the zero network.",
                protocol=protocol,
                quantity="relative_height",
                relation="at_least",
                expected=0.2,
                source=source,
            ),
            lambda y: _path(_STRAIGHT)(y).max(1),
            axes,
            lines,
        ),
        Question(
            claim(
                f"{NAME}.no-barrier-on-curves",
                "There is practically no loss barrier on an optimised path: at most "
                "5 % of the way to the zero network.",
                protocol=protocol,
                quantity="relative_height",
                relation="at_most",
                expected=0.05,
                source=source,
                version="v2",
            ),
            lambda y: _path(_CURVED)(y).max(1),
            axes,
            lines,
        ),
        Question(
            claim(
                f"{NAME}.descent-from-interpolation",
                "From a solution that interpolates, found nearly without decay, the "
                "regularised loss descends to within 5 % of the lowest minimum.",
                protocol=f"{protocol}; lowest of {_NUM_STARTS} minima; monotone "
                "L-BFGS from 60 steps at weight decay 1e-6",
                quantity="relative_excess_of_objective",
                relation="at_most",
                expected=0.05,
                source=source,
                version="v3",
            ),
            lambda y: y[:, -1],
            axes,
            lines,
        ),
    ]


def _path(which: int) -> Estimates:
    first = which * NUM_SEEN
    return lambda y: np.asarray(y[:, first : first + NUM_SEEN])


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
