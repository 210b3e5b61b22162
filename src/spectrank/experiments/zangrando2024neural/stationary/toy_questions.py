"""The table of ranks by noise and weight decay, as a part with its questions."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from spectrank.experiments.figures import listed
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Question, question_part
from spectrank.experiments.zangrando2024neural.stationary.measuring import (
    RANK_FLOOR,
    RTOL,
)
from spectrank.experiments.zangrando2024neural.stationary.networks import Mixture
from spectrank.experiments.zangrando2024neural.stationary.toy import (
    NAME,
    NOISES,
    PER_WEIGHT_DECAY,
    SCREENING,
    TOLERANCE,
    WEIGHT_DECAYS,
    WIDTH,
    ToySize,
    measure,
)
from spectrank.experiments.zangrando2024neural.stationary.toy_bounds import (
    about_bounds,
    about_variability,
)
from spectrank.experiments.zangrando2024neural.stationary.toy_ranks import about_ranks


def part(size: ToySize) -> Part:
    """Return the table of ranks by noise and weight decay.

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
            "width": WIDTH,
            "noises": NOISES,
            "weight_decays": WEIGHT_DECAYS,
            "rtol": RTOL,
            "rank_floor": RANK_FLOOR,
            "tolerances": [SCREENING, TOLERANCE, PER_WEIGHT_DECAY],
        },
        num_steps=size.num_draws * len(NOISES) * len(WEIGHT_DECAYS),
    )


def questions(mixture: Mixture, size: ToySize) -> list[Question]:
    """Return what is asked.

    Args:
        mixture: Law of the data.
        size: How much is minimised.

    Returns:
        The questions; what they read is (R, S, D) of dtype ``CELL``.
    """
    setting = (
        f"{mixture.text()}, {size.num_draws} draws; noise {listed(NOISES)} in each "
        f"direction; tanh network of widths 20-{WIDTH}-{WIDTH}-4, weights and biases "
        f"decayed by {listed(WEIGHT_DECAYS)}; L-BFGS in float64 on the full batch from "
        f"{size.num_starts} starts to a gradient of norm {SCREENING:g}, the lowest of "
        f"them on to {TOLERANCE:g} or {PER_WEIGHT_DECAY:g} of the decay"
    )
    return [
        *about_ranks(setting),
        *about_variability(setting),
        *about_bounds(setting),
    ]
