"""What is asked of distances to rank K in the table, and of their bounds."""

from __future__ import annotations

import numpy as np

from spectrank.experiments.figures import listed
from spectrank.experiments.questions import Axes, Question
from spectrank.experiments.zangrando2024neural.stationary.toy import (
    NUM_LAYERS,
    WEIGHT_DECAYS,
)
from spectrank.experiments.zangrando2024neural.stationary.toy_asking import (
    EARLIER,
    NOISY,
    RANKS,
    TIGHT,
    UP_TO_1E_2,
    ask,
    noise_lines,
    rank_lines,
    ranks,
    ratio,
    relative,
)

_DISTANCES = Axes(
    "weight decay",
    "distance to rank K / Frobenius norm",
    "relative_distance_to_rank",
    x_scale="log",
)
_SHARES = Axes(
    "weight decay", "largest distance / bound", "distance_over_bound", x_scale="log"
)
_DERIVED = (
    "derived: with e = grad L_0 + weight_decay W and R the part of grad L_0 within the "
    "cells, dist(W, rank K) <= (|||R||| + |||e|||) / weight_decay in every unitarily "
    "invariant norm; tested in tests/experiments/zangrando2024neural_stationary"
)


def about_variability(setting: str) -> list[Question]:
    """Return what is asked of weight decay and of variability within classes.

    Args:
        setting: Of the table, in words.

    Returns:
        The questions.
    """
    chosen = (1, 3, 4, 5)
    return [
        ask(
            "rank-falls-with-weight-decay",
            "The rank of a layer falls as weight decay grows: first layer, noise 1, "
            f"weight decays {listed([WEIGHT_DECAYS[i] for i in chosen])}.",
            "numerical_rank",
            "decreasing",
            None,
            lambda y: ranks(y)[:, NOISY, chosen, 0],
            RANKS,
            rank_lines(range(NUM_LAYERS), (NOISY,)),
            protocol=setting,
            source="the order of the decays is ours",
            version="v1",
        ),
        ask(
            "distance-grows-with-variability",
            "The first layer is the farther from rank K the larger the variability "
            "within classes: its relative distance, averaged over weight decays up to "
            "1e-2, grows with the noise; as log10.",
            "log10_relative_distance_to_rank",
            "increasing",
            None,
            lambda y: np.log10(relative(y)[:, :, UP_TO_1E_2, 0].mean(2)),
            _DISTANCES,
            noise_lines(lambda y: relative(y)[..., 0]),
            protocol=setting,
            source="the noises are ours",
            version="v3",
        ),
    ]


def about_bounds(setting: str) -> list[Question]:
    """Return what is asked of the bounds.

    Args:
        setting: Of the table, in words.

    Returns:
        The questions.
    """
    each = f"{setting}; every layer, noise and weight decay, cells are the classes"
    return [
        ask(
            "distance-within-bound",
            "At every minimum every layer is as near to rank K as the variability "
            "within classes and the rest of the gradient allow, in the Frobenius, "
            "spectral and nuclear norm.",
            "distance_over_bound",
            "at_most",
            1.0,
            lambda y: y["layers"]["tightness"].max((1, 2, 3)),
            _SHARES,
            noise_lines(lambda y: y["layers"]["tightness"].max(3)),
            protocol=each,
            source=_DERIVED,
        ),
        ask(
            "bounds-ordered",
            "The bound by ||R|| is at most that by both variabilities, and that at "
            "most the one by the variability of the inputs alone.",
            "largest_ratio_of_bounds",
            "at_most",
            1.0,
            lambda y: np.maximum(ratio(y, "b3", "b2"), ratio(y, "b2", "b1")).max(
                (1, 2, 3)
            ),
            Axes("weight decay", "ratio of bounds", "ratio_of_bounds", x_scale="log"),
            noise_lines(lambda y: ratio(y, "b3", "b2").max(3)),
            protocol=each,
            source=_DERIVED,
        ),
        ask(
            "informative-where-tight",
            "At noise 0.1 the bound of the first two layers is below a quarter of "
            "their norm.",
            "bound_over_norm",
            "at_most",
            0.25,
            lambda y: ratio(y, "b3", "norm")[:, TIGHT, :, :2].max((1, 2)),
            Axes("weight decay", "bound / norm", "bound_over_norm", "log", "log"),
            noise_lines(lambda y: ratio(y, "b3", "norm")[..., :2].max(3)),
            protocol=setting,
            source=EARLIER,
        ),
        ask(
            "vacuous-where-noisy",
            "At noise 1 and weight decay up to 3e-2 the bound of the first layer says "
            "nothing: it is above the norm of the matrix.",
            "bound_over_norm",
            "at_least",
            1.0,
            lambda y: ratio(y, "b3", "norm")[:, NOISY, :4, 0].min(1),
            Axes("weight decay", "bound / norm", "bound_over_norm", "log", "log"),
            noise_lines(lambda y: ratio(y, "b3", "norm")[..., 0]),
            protocol=setting,
            source=EARLIER,
        ),
    ]
