"""Ranks of small networks at their minima, by noise and weight decay.

R  draws    S  noises    D  weight decays    L  layers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import numpy as np

from spectrank.experiments.papers import Tick
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural.claims import KEY
from spectrank.experiments.zangrando2024neural.stationary.measuring import (
    LAYER,
    layer_numbers,
)
from spectrank.experiments.zangrando2024neural.stationary.minima import best_minimum
from spectrank.experiments.zangrando2024neural.stationary.networks import Mixture, mlp

NOISES = (0.1, 0.3, 1.0)
WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 2e-1)
NUM_LAYERS = 3
NAME = "toy"
WIDTH = 24
SCREENING, TOLERANCE = 1e-2, 1e-5
# A gradient e left over moves singular values by up to |e| / lambda, which is to stay
# a tenth of the threshold of the ranks, 1e-2.
PER_WEIGHT_DECAY = 1e-3

CELL = np.dtype([("layers", LAYER, (NUM_LAYERS,)), ("accuracy", "f8")])
"""Of a minimum: its layers and the share of training samples that it gets right."""

NOTE = MappingProxyType(
    {
        0.1: ((3, 3, 3), (3, 3, 3), (3, 3, 3), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        0.3: ((6, 4, 3), (6, 3, 3), (3, 3, 3), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        1.0: ((20, 3, 3), (20, 4, 3), (15, 4, 3), (13, 4, 3), (4, 3, 3), (2, 2, 2)),
    }
)
"""Ranks of W_1, W_2, W_3 in one draw of an earlier run of ours, by noise, then weight
decay; those at a transition move with the draw."""


@final
@dataclass(frozen=True)
class ToySize:
    """How much is minimised.

    Attributes:
        num_draws: R mixtures.
        num_starts: Starts, of which the lowest after a first descent goes on.
    """

    num_draws: int
    num_starts: int


def measure(
    mixture: Mixture,
    size: ToySize,
    seed: int,
    tick: Tick,
    *,
    noises: Sequence[float] = NOISES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
) -> np.ndarray:
    """Minimise in every draw and cell.

    The cells of a draw share centres, noise up to its scale, and starts.

    Args:
        mixture: Law of the data.
        size: How much.
        seed: Base seed.
        tick: Called after every cell.
        noises: (S,).
        weight_decays: (D,).

    Returns:
        (R, S, D) of dtype `CELL`.
    """
    widths = (mixture.dimension, WIDTH, WIDTH, mixture.num_classes)
    found = np.zeros((size.num_draws, len(noises), len(weight_decays)), dtype=CELL)
    for r, s, d in np.ndindex(*found.shape):
        x, labels = mixture.sample(noises[s], derive_seed(seed, KEY, NAME, r))
        starts = (
            mlp(widths, derive_generator(seed, KEY, NAME, r, start))
            for start in range(size.num_starts)
        )
        minimum = best_minimum(
            starts,
            x,
            labels,
            weight_decay=weight_decays[d],
            tolerance=min(TOLERANCE, PER_WEIGHT_DECAY * weight_decays[d]),
            screening=SCREENING,
        )
        layers = layer_numbers(minimum.model, x, labels, weight_decay=weight_decays[d])
        right = minimum.model(x).argmax(1) == labels
        found[r, s, d] = (layers, float(right.double().mean()))
        tick()
    return found
