"""What is asked of the table of ranks by noise and weight decay."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from spectrank.experiments.claims import Claim, Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
    question_part,
)
from spectrank.experiments.zangrando2024neural.claims import Version, claim
from spectrank.experiments.zangrando2024neural.stationary.measuring import RTOL
from spectrank.experiments.zangrando2024neural.stationary.networks import Mixture
from spectrank.experiments.zangrando2024neural.stationary.toy import (
    NAME,
    NOISES,
    NOTE,
    NUM_LAYERS,
    WEIGHT_DECAYS,
    WIDTH,
    ToySize,
    measure,
)

_TIGHT, _MIDDLE, _NOISY = range(len(NOISES))
_UP_TO_1E_2 = slice(0, 3)
_LAST = -1
_K = 4
_RANKS = Axes("weight decay", "rank at 1e-2", "numerical_rank", x_scale="log")
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
_SOFTMAX = (
    "derived: the derivatives of softmax cross-entropy by the logits add up to 0, so "
    "that 1^T W = 0 for the readout wherever the gradient vanishes"
)
_EARLIER = "an earlier run of ours on other draws, whose tolerances these are"


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
        f"decayed by {listed(WEIGHT_DECAYS)}; lowest of {size.num_starts} minima of "
        "the full-batch loss, L-BFGS in float64"
    )
    return [
        *_about_ranks(setting),
        *_about_variability(setting),
        *_about_bounds(setting),
    ]


def _ask(
    name: str,
    statement: str,
    quantity: str,
    relation: Relation,
    expected: float | None,
    estimates: Estimates,
    axes: Axes,
    lines: tuple[Line, ...],
    *,
    protocol: str,
    source: str,
    version: Version | None = None,
) -> Question:
    asked: Claim = claim(
        f"{NAME}.{name}",
        statement,
        protocol=protocol,
        quantity=quantity,
        relation=relation,
        expected=expected,
        source=source,
        version=version,
    )
    return Question(asked, estimates, axes, lines)


def _about_ranks(setting: str) -> list[Question]:
    return [
        _ask(
            "readout-rank",
            "At a stationary point the softmax layer has rank at most K - 1 at every "
            "noise and weight decay.",
            "largest_numerical_rank",
            "at_most",
            _K - 1.0,
            lambda y: _ranks(y)[..., _LAST].max((1, 2)),
            _RANKS,
            _rank_lines([_LAST]),
            protocol=setting,
            source=_SOFTMAX,
        ),
        _ask(
            "rank-at-most-k-minus-1",
            "Where clusters are tight (noise 0.1; noise 0.3 from weight decay 1e-2 on) "
            "no layer has more than rank K - 1.",
            "largest_numerical_rank",
            "at_most",
            _K - 1.0,
            lambda y: np.maximum(
                _ranks(y)[:, _TIGHT].max((1, 2)), _ranks(y)[:, _MIDDLE, 2:].max((1, 2))
            ),
            _RANKS,
            _rank_lines(range(NUM_LAYERS), (_TIGHT, _MIDDLE)),
            protocol=setting,
            source=_EARLIER,
        ),
        _ask(
            "rank-k-minus-1",
            "There, at weight decay up to 1e-2, layers have rank K - 1 itself: in at "
            "least 80 % of the table's entries (noise 0.1; noise 0.3 at 1e-2).",
            "share_of_entries_of_rank_k_minus_1",
            "at_least",
            0.8,
            lambda y: (
                np.concatenate(
                    [_ranks(y)[:, _TIGHT, _UP_TO_1E_2], _ranks(y)[:, _MIDDLE, 2:3]], 1
                )
                == _K - 1
            ).mean((1, 2)),
            _RANKS,
            _rank_lines([0], (_TIGHT, _MIDDLE)),
            protocol=setting,
            source=_EARLIER,
        ),
        _ask(
            "rank-below-k-minus-1",
            "At the largest weight decay every layer has rank at most K - 2, below "
            "that of a simplex frame, at every noise.",
            "largest_numerical_rank",
            "at_most",
            _K - 2.0,
            lambda y: _ranks(y)[:, :, -1].max((1, 2)),
            _RANKS,
            _rank_lines([0, 1]),
            protocol=setting,
            source=_EARLIER,
        ),
        _ask(
            "noisy-first-layer",
            "At noise 1 and weight decay up to 1e-2 the first layer keeps a rank of "
            "at least 12.",
            "least_numerical_rank",
            "at_least",
            12.0,
            lambda y: _ranks(y)[:, _NOISY, _UP_TO_1E_2, 0].min(1),
            _RANKS,
            _rank_lines([0], (_NOISY,)),
            protocol=setting,
            source=_EARLIER,
        ),
    ]


def _about_variability(setting: str) -> list[Question]:
    chosen = (1, 3, 4, 5)
    return [
        _ask(
            "rank-falls-with-weight-decay",
            "The rank of a layer falls as weight decay grows: first layer, noise 1, "
            f"weight decays {listed([WEIGHT_DECAYS[i] for i in chosen])}.",
            "numerical_rank",
            "decreasing",
            None,
            lambda y: _ranks(y)[:, _NOISY, chosen, 0],
            _RANKS,
            _rank_lines(range(NUM_LAYERS), (_NOISY,)),
            protocol=setting,
            source="the order of the decays is ours",
            version="v1",
        ),
        _ask(
            "distance-grows-with-variability",
            "The first layer is the farther from rank K the larger the variability "
            "within classes: its relative distance, averaged over weight decays up to "
            "1e-2, grows with the noise; as log10.",
            "log10_relative_distance_to_rank",
            "increasing",
            None,
            lambda y: np.log10(_relative(y)[:, :, _UP_TO_1E_2, 0].mean(2)),
            _DISTANCES,
            _lines(lambda y: _relative(y)[..., 0]),
            protocol=setting,
            source="the noises are ours",
            version="v3",
        ),
    ]


def _about_bounds(setting: str) -> list[Question]:
    each = f"{setting}; every layer, noise and weight decay, cells are the classes"
    return [
        _ask(
            "distance-within-bound",
            "At every minimum every layer is as near to rank K as the variability "
            "within classes and the rest of the gradient allow, in the Frobenius, "
            "spectral and nuclear norm.",
            "distance_over_bound",
            "at_most",
            1.0,
            lambda y: y["layers"]["tightness"].max((1, 2, 3)),
            _SHARES,
            _lines(lambda y: y["layers"]["tightness"].max(3)),
            protocol=each,
            source=_DERIVED,
        ),
        _ask(
            "bounds-ordered",
            "The bound by ||R|| is at most that by both variabilities, and that at "
            "most the one by the variability of the inputs alone.",
            "largest_ratio_of_bounds",
            "at_most",
            1.0,
            lambda y: np.maximum(_ratio(y, "b3", "b2"), _ratio(y, "b2", "b1")).max(
                (1, 2, 3)
            ),
            Axes("weight decay", "ratio of bounds", "ratio_of_bounds", x_scale="log"),
            _lines(lambda y: _ratio(y, "b3", "b2").max(3)),
            protocol=each,
            source=_DERIVED,
        ),
        _ask(
            "informative-where-tight",
            "At noise 0.1 the bound of the first two layers is below a quarter of "
            "their norm.",
            "bound_over_norm",
            "at_most",
            0.25,
            lambda y: _ratio(y, "b3", "norm")[:, _TIGHT, :, :2].max((1, 2)),
            Axes("weight decay", "bound / norm", "bound_over_norm", "log", "log"),
            _lines(lambda y: _ratio(y, "b3", "norm")[..., :2].max(3)),
            protocol=setting,
            source=_EARLIER,
        ),
        _ask(
            "vacuous-where-noisy",
            "At noise 1 and weight decay up to 3e-2 the bound of the first layer says "
            "nothing: it is above the norm of the matrix.",
            "bound_over_norm",
            "at_least",
            1.0,
            lambda y: _ratio(y, "b3", "norm")[:, _NOISY, :4, 0].min(1),
            Axes("weight decay", "bound / norm", "bound_over_norm", "log", "log"),
            _lines(lambda y: _ratio(y, "b3", "norm")[..., 0]),
            protocol=setting,
            source=_EARLIER,
        ),
    ]


def _ranks(y: np.ndarray) -> np.ndarray:
    return np.asarray(y["layers"]["rank"])


def _relative(y: np.ndarray) -> np.ndarray:
    return _ratio(y, "distance", "norm")


def _ratio(y: np.ndarray, above: str, below: str) -> np.ndarray:
    return np.asarray(y["layers"][above] / y["layers"][below])


def _rank_lines(
    layers: range | list[int], noises: tuple[int, ...] = (_TIGHT, _MIDDLE, _NOISY)
) -> tuple[Line, ...]:
    """Ours, with those of the earlier run as what was expected."""
    return tuple(
        Line(
            f"W_{layer % NUM_LAYERS + 1}, noise {NOISES[s]:g}",
            WEIGHT_DECAYS,
            _picked(_ranks, (slice(None), s, slice(None), layer)),
            [float(ranks[layer]) for ranks in NOTE[NOISES[s]]],
        )
        for layer in layers
        for s in noises
    )


def _lines(of: Estimates) -> tuple[Line, ...]:
    """One line for each noise of an (R, S, D) quantity."""
    return tuple(
        Line(f"noise {noise:g}", WEIGHT_DECAYS, _picked(of, (slice(None), s)), None)
        for s, noise in enumerate(NOISES)
    )


def _picked(of: Estimates, index: tuple[int | slice, ...]) -> Estimates:
    return lambda y: np.asarray(of(y)[index])
