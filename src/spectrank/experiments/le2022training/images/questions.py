"""What is asked of networks that were trained on images under watch.

R  seeds    A  arms    T  checkpoints    Q  quantities, then S singular values
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from spectrank.experiments.le2022training.images.asking import Ask, asker
from spectrank.experiments.le2022training.images.measuring import Quantity
from spectrank.experiments.le2022training.images.networks import NUM_VALUES, WORDS
from spectrank.experiments.le2022training.images.training import (
    ARMS,
    BATCH,
    CHECKPOINTS,
    NAME,
    RECIPES,
    STEPS,
    Arm,
    ImagesSize,
    measure,
    rate_of,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Line,
    Question,
    question_part,
)

_AT = [STEPS // CHECKPOINTS * t for t in range(CHECKPOINTS + 1)]
NUMBERS = list(range(1, NUM_VALUES + 1))


def part(size: ImagesSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is trained.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    data = size.images.data
    return question_part(
        f"{NAME}-{data}",
        questions(size),
        record,
        settings={
            "images": asdict(size.images),
            "num_seeds": size.num_seeds,
            "steps": [BATCH, STEPS, CHECKPOINTS],
            "arms": [asdict(arm) for arm in ARMS],
            "rates": [rate_of(arm, size.images.num_pixels) for arm in ARMS],
            "words": [dict(WORDS), dict(RECIPES)],
        },
        num_steps=size.num_seeds * len(ARMS),
        data=lambda: {data: size.images.sha256},
    )


def questions(size: ImagesSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is trained.

    Returns:
        The questions; what they read is (R, A, T + 1, Q + S).
    """
    found = []
    for a, arm in enumerate(ARMS):
        ask = _asker(size, arm)
        adam = arm.recipe == "adam"
        found += _laws_under_adam(a, ask) if adam else _laws(a, ask)
        found += [*_tail(a, arm, ask), _margin(a, ask)]
        found += _patterns(a, ask) if arm.recipe == "sgd" else []
    return found


def _asker(size: ImagesSize, arm: Arm) -> Ask:
    data = size.images.data
    rate = rate_of(arm, size.images.num_pixels)
    task = "cross-entropy of ten digits"
    if arm.num_outputs == 1:
        task = "logistic loss of digit r mod 10 against the rest in draw r"
    protocol = (
        f"{data}, {size.images.num_train} images; "
        f"{WORDS[arm.network].format(outputs=arm.num_outputs)}, with biases; {task}; "
        f"{size.num_seeds} draws; {STEPS} steps of "
        f"{RECIPES[arm.recipe].format(rate=rate)} on {BATCH} images, "
        f"float64, {CHECKPOINTS} checkpoints; all laws that the finder reports"
    )
    return asker(NAME, arm.name, protocol=protocol, data=data)


def _line(a: int, words: str, quantity: Quantity, first: int = 0) -> Line:
    return Line(
        words, _AT[first:], lambda y: np.asarray(y[:, a, first:, quantity]), None
    )


def _drift(a: int) -> tuple[Axes, Line]:
    axes = Axes("step", "largest relative change of a law", "drift", "linear", "log")
    return axes, _line(a, "drift", Quantity.DRIFT, 1)


def _laws_under_adam(a: int, ask: Ask) -> list[Question]:
    axes, drift = _drift(a)
    return [
        ask(
            "watch-silent",
            "Under Adam no quadratic law is called conserved or explained.",
            "share_of_families_without_a_prediction",
            "at_least",
            1.0,
            lambda y: y[:, a, 1:, Quantity.SILENT].min(1),
            axes,
            (drift,),
        ),
        ask(
            "structure",
            "Yet the gradient that Adam is given obeys all laws.",
            "largest_b_of_w_and_g_over_its_rounding",
            "at_most",
            1.0,
            lambda y: y[:, a, 1:, Quantity.STRUCTURE].max(1),
            axes,
            (drift,),
            source="derived: B(w, grad R) = 0 at every w",
        ),
    ]


def _laws(a: int, ask: Ask) -> list[Question]:
    axes, drift = _drift(a)
    lines = (_line(a, "distance to the prediction", Quantity.RESIDUAL, 1), drift)
    return [
        ask(
            "laws-right",
            "The watch calls every law that is found conserved or explained at every "
            "checkpoint.",
            "share_of_families",
            "at_least",
            1.0,
            lambda y: y[:, a, :, Quantity.RIGHT].min(1),
            axes,
            lines,
            source="derived: h(w - eta g) = h(w) + eta^2 h(g) and its kin",
        ),
        ask(
            "laws-explained",
            "Every law that is found drifts by what the steps predict.",
            "log10_largest_relative_distance",
            "at_most",
            -11.0,
            lambda y: np.log10(y[:, a, 1:, Quantity.RESIDUAL].max(1).clip(1e-17)),
            axes,
            lines,
            source="derived: h(w - eta g) = h(w) + eta^2 h(g) and its kin",
        ),
        ask(
            "laws-drift",
            "It does drift: steps are no flow.",
            "log10_largest_relative_drift",
            "at_least",
            -4.0,
            lambda y: np.log10(y[:, a, -1, Quantity.DRIFT]),
            axes,
            lines,
        ),
    ]


def _tail(a: int, arm: Arm, ask: Ask) -> list[Question]:
    ranks = Axes("number of a singular value", "singular value", "singular_value")
    spectra = tuple(
        Line(f"step {step}", NUMBERS, lambda y, t=t: y[:, a, t, len(Quantity) :], None)  # type: ignore[misc]
        for t, step in enumerate(_AT)
    )
    return [
        ask(
            "certificate",
            "Every bound on the linear tail that the start gives, drift added, holds "
            "at every checkpoint.",
            "largest_relative_excess_over_a_bound",
            "at_most",
            1e-9,
            lambda y: y[:, a, :, Quantity.EXCESS].max(1),
            Axes("step", "share or cosine", "share"),
            (
                _line(a, "bounds that say something", Quantity.HOLDS),
                _line(a, "smallest alignment", Quantity.ALIGNED),
            ),
            place="Theorem 2" if arm.num_outputs == 1 else "",
            source="constants of the bounds, and more than one output, ours",
        ),
        ask(
            "rank-stays",
            "A short training from such a start brings no low rank: the stable rank of "
            "the layer below the last keeps half of what it was.",
            "stable_rank_over_that_at_the_start",
            "at_least",
            0.5,
            lambda y: (
                y[:, a, -1, Quantity.STABLE_RANK] / y[:, a, 0, Quantity.STABLE_RANK]
            ),
            ranks,
            spectra,
            source="derived: the excess over the limit falls with a power of the log "
            "of the risk",
        ),
    ]


def _margin(a: int, ask: Ask) -> Question:
    return ask(
        "margin-grows",
        "The smallest margin of a training image grows.",
        "margin",
        "increasing",
        None,
        lambda y: y[:, a, [0, -1], Quantity.MARGIN],
        Axes("step", "margin, log of the loss", "margin"),
        (
            _line(a, "smallest margin", Quantity.MARGIN),
            _line(a, "log of the mean loss", Quantity.LOG_LOSS),
        ),
        source="ours: says that the training is one",
    )


def _patterns(a: int, ask: Ask) -> list[Question]:
    switched = Axes("step", "share that switched", "share", "linear", "log")
    lines = (
        _line(a, "units on images, since the checkpoint before", Quantity.SWITCHED, 1),
    )
    flips = Axes("step", "weights that changed sign", "sign_flips")
    return [
        ask(
            "patterns-settle",
            "Units switch on fewer images between the last two checkpoints than "
            "between the first two: log10 of the share.",
            "log10_share_of_units_on_images",
            "decreasing",
            None,
            lambda y: np.log10(y[:, a, [1, -1], Quantity.SWITCHED].clip(1e-9)),
            switched,
            lines,
            source="ours",
        ),
        ask(
            "signs-not-stable",
            "Weights still change sign at the end: the regime of stable signs is not "
            "reached.",
            "share_of_draws_with_a_flip",
            "at_least",
            1.0,
            lambda y: (y[:, a, -1, Quantity.SIGN_FLIPS] > 0.0).astype(float),
            flips,
            (_line(a, "since the checkpoint before", Quantity.SIGN_FLIPS, 1),),
            source="ours: stable signs are a regime of the limit",
        ),
        ask(
            "patterns-differ",
            "Of units that switch over the data hardly two share a pattern: pair laws "
            "add next to nothing to those of single units.",
            "classes_over_units",
            "at_least",
            0.95,
            lambda y: y[:, a, :, Quantity.CLASSES].min(1),
            Axes("step", "classes over units", "share"),
            (_line(a, "units that switch", Quantity.CLASSES),),
            source="ours",
        ),
    ]
