"""What is asked of the linear tails of networks on images.

R  seeds    A  arms    T  risks    Q  quantities, then S singular values
"""

from __future__ import annotations

import math

import numpy as np

from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.images.asking import Ask, asker
from spectrank.experiments.le2022training.images.measuring import Quantity
from spectrank.experiments.le2022training.images.networks import NUM_VALUES, WORDS
from spectrank.experiments.le2022training.images.tails import (
    NAME,
    RISKS,
    TailArm,
    TailSize,
    measure,
    settings_of,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Line,
    Question,
    question_part,
)

_DIGITS = tuple(-math.log10(risk) for risk in RISKS)
_NUMBERS = list(range(1, NUM_VALUES + 1))
_TOP, _SECOND, _TENTH = (len(Quantity) + i for i in (0, 1, 9))
_LYU_LI = "Lyu & Li 2020 on homogeneous networks"


def part(size: TailSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is followed.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    data = size.images.data
    suffix = "-".join(["", *(arm.name for arm in size.arms)])
    return question_part(
        f"{NAME}-{data}{suffix}",
        questions(size),
        record,
        settings=settings_of(size),
        num_steps=len(size.arms),
        data=lambda: {data: size.images.sha256},
    )


def questions(size: TailSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is followed.

    Returns:
        The questions; what they read is (R, A, T + 1, Q + S).
    """
    found = []
    for a, arm in enumerate(size.arms):
        ask = _asker(size, arm)
        found += _bounds(a, arm, ask)
        found += _one_output(a, arm, ask) if arm.num_outputs == 1 else _ten(a, ask)
        found += _margins(a, ask) if arm.homogeneous else []
        found += _patterns(a, ask)
    return found


def _asker(size: TailSize, arm: TailArm) -> Ask:
    data = size.images.data
    task = "softmax cross-entropy of ten digits"
    if arm.num_outputs == 1:
        task = "logistic loss of digit r mod 10 against the rest in draw r"
    protocol = (
        f"{data}, {size.images.num_train} images of length 1; "
        f"{WORDS[arm.network].format(outputs=arm.num_outputs)}, without biases; "
        f"{task}; {size.num_seeds} draws of He's weights; flow of the log of the risk "
        f"to {listed(RISKS)}"
    )
    return asker(NAME, arm.name, protocol=protocol, data=data)


def _line(a: int, words: str, quantity: int) -> Line:
    return Line(words, _DIGITS, lambda y: np.asarray(y[:, a, 1:, quantity]), None)


def _axes(y: str, metric: str, scale: str = "linear") -> Axes:
    return Axes("log10 of 1 / risk", y, metric, "log", scale)


def _bounds(a: int, arm: TailArm, ask: Ask) -> list[Question]:
    share = _axes("share or cosine", "share")
    lines = (
        _line(a, "bounds that say something", Quantity.HOLDS),
        _line(a, "smallest alignment", Quantity.ALIGNED),
    )
    return [
        ask(
            "certificate",
            "Every bound on the linear tail that the start gives, drift added, holds "
            "at every risk.",
            "largest_relative_excess_over_a_bound",
            "at_most",
            1e-9,
            lambda y: y[:, a, :, Quantity.EXCESS].max(1),
            share,
            lines,
            place="Theorem 2" if arm.num_outputs == 1 else "",
            source="constants of the bounds, and more than one output, ours",
        ),
        ask(
            "laws-kept",
            "The flow conserves the laws that the finder reports.",
            "largest_drift_over_a_family_s_largest_value",
            "at_most",
            0.01,
            lambda y: y[:, a, 1:, Quantity.DRIFT].max(1),
            _axes("drift", "drift", "log"),
            (_line(a, "drift", Quantity.DRIFT),),
            place="Lemma 2 and Theorem 1" if arm.network == "mlp" else "",
            source="size: kinks cost a method of steps some",
        ),
    ]


def _one_output(a: int, arm: TailArm, ask: Ask) -> list[Question]:
    place = "Corollary 1" if arm.network == "mlp" else "Theorem 2"
    return [
        ask(
            "bounds-say-more",
            "More of the bounds say something at the last risk than at the start.",
            "share_of_bounds_that_say_something",
            "increasing",
            None,
            lambda y: y[:, a, [0, -1], Quantity.HOLDS],
            _axes("share", "share"),
            (_line(a, "bounds that say something", Quantity.HOLDS),),
            source="derived: bounds stay while norms diverge",
        ),
        ask(
            "rank-falls",
            "The excess over 1 of the stable rank of the layer below the last falls "
            "with the risk.",
            "log10_of_stable_rank_minus_one",
            "decreasing",
            None,
            lambda y: np.log10(y[:, a, 1:, Quantity.STABLE_RANK] - 1.0),
            _axes("rank of the layer below the last", "rank"),
            (
                _line(a, "stable rank", Quantity.STABLE_RANK),
                _line(a, "effective rank", Quantity.EFFECTIVE_RANK),
            ),
            place=place,
            source="the limit",
        ),
        ask(
            "aligned",
            "At the last risk the layers of the tail are near alignment.",
            "smallest_alignment",
            "at_least",
            0.9,
            lambda y: y[:, a, -1, Quantity.ALIGNED],
            _axes("cosine", "alignment"),
            (_line(a, "smallest alignment", Quantity.ALIGNED),),
            place=place,
            source="the limit",
        ),
    ]


def _ten(a: int, ask: Ask) -> list[Question]:
    axes = Axes("number of a singular value", "singular value", "singular_value")
    words = ["start", *(f"risk {risk:g}" for risk in RISKS)]
    lines = tuple(
        Line(word, _NUMBERS, lambda y, t=t: y[:, a, t, len(Quantity) :], None)  # type: ignore[misc]
        for t, word in enumerate(words)
    )
    source = "derived: at most one direction less than classes can grow"
    return [
        ask(
            "tenth-falls",
            "Of the layer below the last, the tenth singular value falls against the "
            "first.",
            "log10_sigma_10_over_sigma_1",
            "decreasing",
            None,
            lambda y: np.log10(y[:, a, 1:, _TENTH] / y[:, a, 1:, _TOP]),
            axes,
            lines,
            source=source,
        ),
        ask(
            "second-stays",
            "The second does not: with ten classes the limit is not of rank one.",
            "sigma_2_over_sigma_1",
            "at_least",
            0.5,
            lambda y: y[:, a, -1, _SECOND] / y[:, a, -1, _TOP],
            axes,
            lines,
            source=source,
        ),
    ]


def _margins(a: int, ask: Ask) -> list[Question]:
    return [
        ask(
            "margin-grows",
            "The normalised margin grows as the risk falls.",
            "log10_normalised_margin",
            "increasing",
            None,
            lambda y: np.log10(y[:, a, 1:, Quantity.NORMALISED_MARGIN]),
            _axes("normalised margin", "normalised_margin", "log"),
            (_line(a, "normalised margin", Quantity.NORMALISED_MARGIN),),
            source=_LYU_LI,
        ),
        ask(
            "kkt-rises",
            "The parameters turn towards the negative gradient from the first risk to "
            "the last.",
            "kkt_cosine",
            "increasing",
            None,
            lambda y: y[:, a, [1, -1], Quantity.KKT_COSINE],
            _axes("cosine", "kkt_cosine"),
            (_line(a, "of parameters and negative gradient", Quantity.KKT_COSINE),),
            source=_LYU_LI,
        ),
    ]


def _patterns(a: int, ask: Ask) -> list[Question]:
    flips = (_line(a, "since the risk before", Quantity.SIGN_FLIPS),)
    return [
        ask(
            "patterns-settle",
            "Units switch on fewer images between the last two risks than from the "
            "start to the first: log10 of the share.",
            "log10_share_of_units_on_images",
            "decreasing",
            None,
            lambda y: np.log10(y[:, a, [1, -1], Quantity.SWITCHED].clip(1e-9)),
            _axes("share that switched", "share", "log"),
            (_line(a, "since the risk before", Quantity.SWITCHED),),
            source="ours",
        ),
        ask(
            "signs-not-stable",
            "Weights still change sign between the last two risks.",
            "share_of_draws_with_a_flip",
            "at_least",
            1.0,
            lambda y: (y[:, a, -1, Quantity.SIGN_FLIPS] > 0.0).astype(float),
            _axes("weights that changed sign", "sign_flips"),
            flips,
            source="ours: stable signs are a regime of the limit",
        ),
    ]
