"""What is asked of the public tools, as a part.

R  seeds    A  arms    Q  quantities
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from spectrank.experiments.claims import Relation
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.conservation.watched import (
    ADAM,
    ARMS,
    BATCH,
    BROKEN,
    CHANGE,
    CLASSES,
    CLIPPED_BY_VALUE,
    EDIT,
    EDITED_AT,
    EVERY,
    IMBALANCE,
    INPUTS,
    NAME,
    NORM,
    OPEN,
    PREDICTED,
    RESIDUAL,
    RIGHT,
    SAMPLES,
    STEPS,
    STRUCTURE,
    WatchedSize,
    measure,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
    question_part,
)

_FLOOR = 1e-17
_SHARES = Axes("number of the optimiser", "share of verdicts", "share")
_OUTPUTS = Axes("number", "relative change", "change", "linear", "log")


def part(size: WatchedSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is trained.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        watched, balanced = measure(size, seed, tick)
        # As a further arm, of three quantities.
        wide = np.full((size.num_seeds, 1, watched.shape[2]), np.nan)
        wide[:, 0, : balanced.shape[1]] = balanced
        return np.concatenate([watched, wide], 1)

    return question_part(
        NAME,
        questions(size),
        record,
        settings={
            "size": asdict(size),
            "arms": [arm.words for arm in ARMS],
            "steps": [STEPS, EVERY, EDITED_AT, BATCH],
            "data": [INPUTS, CLASSES, SAMPLES],
        },
        num_steps=size.num_seeds,
    )


def questions(size: WatchedSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is trained.

    Returns:
        The questions; what they read is (R, A + 1, Q), the last arm that of balancing.
    """
    protocol = (
        f"two convolutions and two dense layers with ReLU, biases of size one half, "
        f"{CLASSES} classes, cross-entropy; {size.num_seeds} draws of the network and "
        f"of {SAMPLES} points in R^{INPUTS}; {STEPS} steps on {BATCH} points in "
        f"float64, evaluated every {EVERY}; all laws and cuts that the finder reports"
    )

    def ask(
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float,
        estimates: Estimates,
        source: str,
        axes: Axes = _SHARES,
    ) -> Question:
        asked = claim(
            f"{NAME}.{name}",
            statement,
            protocol=protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            source=f"derived: {source}",
        )
        return Question(
            asked, estimates, axes, _LINES if axes is _SHARES else _BALANCED
        )

    return [
        *_of_predicted(ask),
        ask(
            "adam-open",
            "Adam: every law is said to have no prediction.",
            "share_of_verdicts",
            "at_least",
            1.0,
            _at(ADAM, OPEN),
            "Adam's step is no multiple of the gradient",
        ),
        ask(
            "adam-structure",
            "Adam: the gradients still respect every law.",
            "violation_over_tolerance",
            "at_most",
            1.0,
            _at(ADAM, STRUCTURE),
            "structure is a matter of the loss, not of the step",
        ),
        ask(
            "clipped-by-value-broken",
            "Clipping by value: every law is said to be broken.",
            "share_of_families",
            "at_least",
            1.0,
            _at(CLIPPED_BY_VALUE, BROKEN),
            "clipped gradients do not respect the laws",
        ),
        ask(
            "edited-told",
            "A weight that is changed between two steps: the laws that contain it are "
            "broken at the next evaluation and name it, the others are explained.",
            "share_of_families",
            "at_least",
            1.0,
            _at(EDIT, RIGHT),
            "no step explains the change",
        ),
        *_of_balancing(ask),
    ]


_Ask = Callable[..., Question]


def _of_predicted(ask: _Ask) -> list[Question]:
    found = []
    for a, arm in enumerate(ARMS[:CLIPPED_BY_VALUE]):
        found += [
            ask(
                f"{arm.name}-explained",
                f"{arm.words}: every law is conserved or explained at every "
                "evaluation.",
                "share_of_verdicts",
                "at_least",
                1.0,
                _at(a, PREDICTED),
                "exact recursions of the step",
            ),
            ask(
                f"{arm.name}-residual",
                f"{arm.words}: what is left is rounding, against the drift that is "
                "explained.",
                "log10_largest_residual_over_largest_drift",
                "at_most",
                -8.0,
                _log_at(a, RESIDUAL),
                "exact recursions of the step",
            ),
        ]
    return found


def _of_balancing(ask: _Ask) -> list[Question]:
    last = len(ARMS)
    return [
        ask(
            "balance-function",
            "Balancing keeps the outputs.",
            "log10_relative_change_of_outputs",
            "at_most",
            -12.0,
            _log_at(last, CHANGE),
            "laws are symmetries of the function",
            _OUTPUTS,
        ),
        ask(
            "balance-zero",
            "Balancing brings every vertex and channel law to zero.",
            "log10_largest_imbalance",
            "at_most",
            -9.0,
            _log_at(last, IMBALANCE),
            "the sum of squares has its minimum there",
            _OUTPUTS,
        ),
        ask(
            "balance-norm",
            "Balancing lowers the sum of squares of all parameters.",
            "squared_norm_over_that_before",
            "at_most",
            1.0,
            _at(last, NORM),
            "it goes to a minimum",
            _OUTPUTS,
        ),
    ]


def _at(arm: int, quantity: int) -> Estimates:
    return lambda y: np.asarray(y[:, arm, quantity])


def _log_at(arm: int, quantity: int) -> Estimates:
    return lambda y: np.log10(y[:, arm, quantity].clip(_FLOOR))


def _shares(quantity: int) -> Estimates:
    return lambda y: np.asarray(y[:, : len(ARMS), quantity])


_LINES = tuple(
    Line(words, range(len(ARMS)), _shares(quantity), None)
    for words, quantity in (
        ("conserved or explained", PREDICTED),
        ("broken at the end", BROKEN),
        ("no prediction", OPEN),
    )
)
_BALANCED = tuple(
    Line(words, [0.0], lambda y, q=q: np.asarray(y[:, -1, q, None].clip(_FLOOR)), None)  # type: ignore[misc]
    for words, q in (
        ("change of outputs", CHANGE),
        ("largest imbalance", IMBALANCE),
        ("squared norm", NORM),
    )
)
