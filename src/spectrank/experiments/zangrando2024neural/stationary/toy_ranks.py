"""What is asked of the ranks in the table: the tolerances of an earlier run of ours.

The last layer stays below K, the first one's rank does not rise with weight decay and
stays high where the noise is and the decay is not; what is between them moves with the
draw.
"""

from __future__ import annotations

import numpy as np

from spectrank.experiments.questions import Question
from spectrank.experiments.zangrando2024neural.stationary.toy import NUM_LAYERS
from spectrank.experiments.zangrando2024neural.stationary.toy_asking import (
    EARLIER,
    MIDDLE,
    NOISY,
    RANKS,
    TIGHT,
    UP_TO_1E_2,
    ask,
    rank_lines,
    ranks,
)

_LAST = -1
_K = 4
_SOFTMAX = (
    "derived: the derivatives of softmax cross-entropy by the logits add up to 0, so "
    "that 1^T W = 0 for the readout wherever the gradient vanishes"
)


def about_ranks(setting: str) -> list[Question]:
    """Return what is asked of the ranks.

    Args:
        setting: Of the table, in words.

    Returns:
        The questions.
    """
    return [
        ask(
            "readout-rank",
            "At a stationary point the softmax layer has rank at most K - 1 at every "
            "noise and weight decay.",
            "largest_numerical_rank",
            "at_most",
            _K - 1.0,
            lambda y: ranks(y)[..., _LAST].max((1, 2)),
            RANKS,
            rank_lines([_LAST]),
            protocol=setting,
            source=_SOFTMAX,
        ),
        ask(
            "rank-at-most-k-minus-1",
            "Where clusters are tight (noise 0.1; noise 0.3 from weight decay 1e-2 on) "
            "no layer has more than rank K - 1.",
            "largest_numerical_rank",
            "at_most",
            _K - 1.0,
            lambda y: np.maximum(
                ranks(y)[:, TIGHT].max((1, 2)), ranks(y)[:, MIDDLE, 2:].max((1, 2))
            ),
            RANKS,
            rank_lines(range(NUM_LAYERS), (TIGHT, MIDDLE)),
            protocol=setting,
            source=EARLIER,
        ),
        ask(
            "rank-k-minus-1",
            "There, at weight decay up to 1e-2, layers have rank K - 1 itself: in at "
            "least 80 % of the table's entries (noise 0.1; noise 0.3 at 1e-2).",
            "share_of_entries_of_rank_k_minus_1",
            "at_least",
            0.8,
            lambda y: (
                np.concatenate(
                    [ranks(y)[:, TIGHT, UP_TO_1E_2], ranks(y)[:, MIDDLE, 2:3]], 1
                )
                == _K - 1
            ).mean((1, 2)),
            RANKS,
            rank_lines([0], (TIGHT, MIDDLE)),
            protocol=setting,
            source=EARLIER,
        ),
        ask(
            "rank-below-k-minus-1",
            "At the largest weight decay every layer has rank at most K - 2, below "
            "that of a simplex frame, at every noise.",
            "largest_numerical_rank",
            "at_most",
            _K - 2.0,
            lambda y: ranks(y)[:, :, -1].max((1, 2)),
            RANKS,
            rank_lines([0, 1]),
            protocol=setting,
            source=EARLIER,
        ),
        ask(
            "median-rank-does-not-rise",
            "The median over the draws of the first layer's rank does not rise with "
            "weight decay, at any noise.",
            "largest_rise_of_the_median_rank",
            "at_most",
            0.0,
            _largest_rise,
            RANKS,
            rank_lines([0]),
            protocol=f"{setting}; one number of all draws together",
            source=EARLIER,
        ),
        ask(
            "noisy-first-layer",
            "At noise 1 and weight decay up to 1e-2 the first layer keeps a rank of "
            "at least 12.",
            "least_numerical_rank",
            "at_least",
            12.0,
            lambda y: ranks(y)[:, NOISY, UP_TO_1E_2, 0].min(1),
            RANKS,
            rank_lines([0], (NOISY,)),
            protocol=setting,
            source=EARLIER,
        ),
    ]


def _largest_rise(y: np.ndarray) -> np.ndarray:
    """The same number for every draw, as a median is none of one draw."""
    medians = np.median(ranks(y)[..., 0], axis=0)
    return np.full(len(y), np.diff(medians, axis=1).max())
