"""What is asked of deep linear networks, as a part.

R  seeds    C  configurations    T  risks    Q  quantities
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from spectrank.experiments.claims import Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.flows import Pace
from spectrank.experiments.le2022training.limits.deep_linear import (
    ALIGNED,
    CONFIGURATIONS,
    COSINE,
    DIGITS,
    DIRECTION,
    DRIFT,
    EARLIER,
    EXCESS,
    GROWTH,
    MARGIN,
    NAME,
    NUM_INPUTS,
    RANK,
    RISKS,
    STIFF,
    WIDTH,
    DeepSize,
    measure,
)
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.papers import Part
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)

RANKS = Axes("log10 of 1 / risk", "largest stable rank", "stable_rank", "log")


def part(size: DeepSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is followed.

    Returns:
        The part.
    """
    return measured_part(
        NAME,
        measure,
        size,
        questions(size),
        num_steps=len(CONFIGURATIONS),
        configurations=CONFIGURATIONS,
        risks=RISKS,
        width=WIDTH,
        pace=asdict(Pace(1, stiff=STIFF)),
    )


def questions(size: DeepSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is followed.

    Returns:
        The questions; what they read is (R, C, T, Q).
    """
    protocol = (
        f"linear networks of width {WIDTH}, depth 3 and 5, started at 1 and 0.1 times "
        f"N(0, 1/fan-in), without biases; {size.num_seeds} draws of the network and of "
        f"{size.num_samples} separable points in R^{NUM_INPUTS}; flow of the log of "
        f"the logistic risk to {listed(RISKS)}"
    )
    found = []
    for c, (depth, scale) in enumerate(CONFIGURATIONS):
        found += _of_configuration(c, f"depth-{depth}-scale-{scale:g}", protocol)
    return [*found, *_of_small_starts(protocol), *_of_margins(protocol)]


def _of_configuration(c: int, name: str, protocol: str) -> list[Question]:
    ranges = ", ".join(f"{low:g} to {high:g}" for low, high in EARLIER[c])
    beside = f"six seeds of an earlier run of ours had largest stable ranks {ranges}"
    return [
        _ask(
            f"certificate.{name}",
            "Every bound on tails, stable ranks and alignment that the start gives, "
            "drift added, holds at every risk.",
            "largest_relative_excess_over_a_bound",
            1e-9,
            _largest(c, EXCESS),
            RANKS,
            _lines(RANK, [c], True),
            protocol,
            place="Theorem 2",
            source=f"constants of the bounds ours; {beside}",
        ),
        _ask(
            f"drift.{name}",
            "What discrete steps add to a bound on a tail is a thousandth of it.",
            "relative_drift_of_a_bound",
            1e-3,
            _largest(c, DRIFT),
            Axes("log10 of 1 / risk", "drift of a bound", "drift", "log", "log"),
            _lines(DRIFT, [c]),
            protocol,
            source="derived: gaps are conserved by the flow",
        ),
        _ask(
            f"alignment-grows.{name}",
            "Neighbouring layers align as the risk falls: log10 of 1 - |<u, v>|.",
            "log10_misalignment",
            None,
            lambda y: np.log10((1.0 - y[:, c, :, ALIGNED]).clip(1e-16)),
            Axes("log10 of 1 / risk", "alignment", "alignment", "log"),
            _lines(ALIGNED, [c]),
            protocol,
            relation="decreasing",
            place="Theorem 2",
        ),
        _ask(
            f"ranks-fall.{name}",
            "The largest stable rank falls towards 1 with the risk.",
            "log10_of_stable_rank_minus_one",
            None,
            lambda y: np.log10(y[:, c, :, RANK] - 1.0),
            RANKS,
            _lines(RANK, [c], True),
            protocol,
            relation="decreasing",
            place="Theorem 2",
            source=beside,
        ),
    ]


def _of_small_starts(protocol: str) -> list[Question]:
    misaligned = Axes("log10 of 1 / risk", "alignment", "alignment", "log")
    found = []
    for c, rate in ((2, 10 ** (-2 / 3)), (3, 10 ** (-2 / 5))):
        depth = CONFIGURATIONS[c][0]
        found += [
            _ask(
                f"aligned-early.depth-{depth}",
                "From a small start layers are aligned to 0.999 at a risk of 1e-3.",
                "alignment",
                0.999,
                lambda y, c=c: y[:, c, 0, ALIGNED],  # type: ignore[misc]
                misaligned,
                _lines(ALIGNED, [c]),
                protocol,
                relation="at_least",
                source="derived; 24 seeds of an earlier run of ours had 0.9998 or more",
            ),
            _ask(
                f"log-slow.depth-{depth}",
                "Ten times as many digits of the risk divide the stable rank's excess "
                "over 1 by 10^(2/L) only.",
                "ratio_of_excesses",
                rate,
                lambda y, c=c: (  # type: ignore[misc]
                    (y[:, c, 2, RANK] - 1.0) / (y[:, c, 1, RANK] - 1.0)
                ),
                RANKS,
                _lines(RANK, [c], True),
                protocol,
                relation="equals",
                tolerance=0.03,
                source="derived: ||w||^2 = L (log(1/R) / gamma)^(2/L); an earlier run "
                "of ours had 0.20 and 0.39",
            ),
        ]
    return found


def _of_margins(protocol: str) -> list[Question]:
    growth = Axes("log10 of 1 / risk", "||w||^2 over prediction", "ratio", "log")
    margin = Axes("log10 of 1 / risk", "share of the largest margin", "share", "log")
    cosine = Axes("log10 of 1 / risk", "cosine", "cosine", "log")
    return [
        _ask(
            "norm-predicted",
            "At depth 3 the squared norm is what the largest margin predicts.",
            "norm_squared_over_prediction",
            1.0,
            lambda y: y[:, 2, 2, GROWTH],
            growth,
            _lines(GROWTH, range(4)),
            protocol,
            relation="equals",
            tolerance=0.015,
            source="derived; an earlier run of ours was within 1.5 %",
        ),
        _ask(
            "margin-reached",
            "From a small start at depth 3 the normalised margin is 99 % of the most.",
            "share_of_the_largest_margin",
            0.99,
            lambda y: y[:, 2, 2, MARGIN],
            margin,
            _lines(MARGIN, range(4)),
            protocol,
            relation="at_least",
            source="derived; six seeds of an earlier run of ours had 0.998 to 0.999",
        ),
        _ask(
            "margin-far",
            "From a start of size 1 at depth 5 it is at most three quarters of it.",
            "share_of_the_largest_margin",
            0.75,
            lambda y: y[:, 1, 2, MARGIN],
            margin,
            _lines(MARGIN, range(4)),
            protocol,
            source="derived; six seeds of an earlier run of ours had 0.62 to 0.67",
        ),
        _ask(
            "kkt-cosine",
            "From a small start at depth 3 weights and descent direction agree.",
            "cosine_of_weights_and_descent",
            0.999,
            lambda y: y[:, 2, 2, COSINE],
            cosine,
            _lines(COSINE, range(4)),
            protocol,
            relation="at_least",
            source="derived; six seeds of an earlier run of ours had 0.9995 or more",
        ),
        _ask(
            "svm-direction",
            "The product of the layers has the direction of the hard-margin solution.",
            "cosine_to_the_hard_margin_solution",
            0.99,
            lambda y: y[:, :, 1, DIRECTION].min(1),
            cosine,
            _lines(DIRECTION, range(4)),
            protocol,
            relation="at_least",
            source="derived; an earlier run of ours had 0.9965 or more",
        ),
    ]


def _ask(
    name: str,
    statement: str,
    quantity: str,
    expected: float | None,
    estimates: Estimates,
    axes: Axes,
    lines: tuple[Line, ...],
    protocol: str,
    *,
    relation: Relation = "at_most",
    tolerance: float = 0.0,
    place: str = "",
    source: str = "",
) -> Question:
    asked = claim(
        f"{NAME}.{name}",
        statement,
        protocol=protocol,
        quantity=quantity,
        relation=relation,
        expected=expected,
        tolerance=tolerance,
        place=place,
        source=source,
    )
    return Question(asked, estimates, axes, lines)


def _largest(c: int, quantity: int) -> Estimates:
    return lambda y: np.asarray(y[:, c, :, quantity].max(1))


def _lines(
    quantity: int, configurations: list[int] | range, beside: bool = False
) -> tuple[Line, ...]:
    """With the middle of an earlier run's range as what was expected."""
    return tuple(
        Line(
            f"depth {CONFIGURATIONS[c][0]}, scale {CONFIGURATIONS[c][1]:g}",
            DIGITS,
            lambda y, c=c: np.asarray(y[:, c, :, quantity]),  # type: ignore[misc]
            [sum(pair) / 2 for pair in EARLIER[c]] if beside else None,
        )
        for c in configurations
    )
