"""What is asked of tails with residual blocks and convolutions, a part for each.

R  seeds    T  risks    S  levels of the tail, the lowest first    Q  quantities
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from spectrank.experiments.claims import Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.limits.tails import (
    DIGITS,
    DRIFT,
    EXCESS,
    RANKS,
    RISKS,
    TailNet,
    TailsSize,
    measure,
    networks,
    pace,
)
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.papers import Part
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)

NAME = "tails"
_AXES = Axes("log10 of 1 / risk", "stable rank", "stable_rank", "log")
_DRIFTS = Axes("log10 of 1 / risk", "drift of a bound", "drift", "log", "log")


def parts(size: TailsSize) -> tuple[Part, ...]:
    """Return the experiments.

    Args:
        size: How much is followed.

    Returns:
        One part for each network.
    """
    return tuple(_part(net, size) for net in networks())


def _part(net: TailNet, size: TailsSize) -> Part:
    return measured_part(
        f"{NAME}-{net.name}",
        partial(measure, net),
        size,
        questions(net, size),
        num_steps=1,
        network=net.words,
        limits=net.limits,
        risks=RISKS,
        pace=asdict(pace(net)),
    )


def questions(net: TailNet, size: TailsSize) -> list[Question]:
    """Return what is asked of one network.

    Args:
        net: The network.
        size: How much is followed.

    Returns:
        The questions; what they read is (R, T, Q).
    """
    protocol = (
        f"{net.words}; without biases; {size.num_seeds} draws of the network and of "
        f"{size.num_samples} separable points; flow of the log of the logistic risk to "
        f"{listed(RISKS)}"
    )
    lines = tuple(
        Line(
            f"level {s + 1}, limit {limit}",
            DIGITS,
            _rank(s),
            [float(limit)] * len(RISKS),
        )
        for s, limit in enumerate(net.limits[:-1])
    )

    def ask(
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float | None,
        estimates: Estimates,
        *,
        axes: Axes = _AXES,
        place: str = "",
        source: str = "",
    ) -> Question:
        asked = claim(
            f"{NAME}.{net.name}.{name}",
            statement,
            protocol=protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            place=place,
            source=source,
        )
        return Question(asked, estimates, axes, lines if axes is _AXES else drifts)

    drifts = (Line("largest", DIGITS, lambda y: y[:, :, DRIFT].clip(1e-17), None),)
    beside = f"; {net.expected}" if net.expected else ""
    found = [
        ask(
            "certificate",
            "Every bound on the tail that the start gives, drift added, holds at every "
            "risk.",
            "largest_relative_excess_over_a_bound",
            "at_most",
            1e-9,
            lambda y: y[:, :, EXCESS].max(1),
            place="Theorem 2",
            source="constants of the bounds ours, with 2 in place of 8 for a block, "
            "and min(channels, positions) for what is flattened",
        ),
        ask(
            "drift",
            "Drift of the integration adds at most a hundredth to a bound.",
            "relative_drift_of_a_bound",
            "at_most",
            1e-2,
            lambda y: y[:, :, DRIFT].max(1),
            axes=_DRIFTS,
            source="derived: gaps of the tail are conserved by the flow",
        ),
    ]
    for s, limit in enumerate(net.limits[:-1]):
        found.append(
            ask(
                f"level-{s + 1}-falls",
                f"The stable rank of level {s + 1} of the tail falls with the risk, "
                f"towards {limit} or less.",
                "log10_of_stable_rank",
                "decreasing",
                None,
                _log_rank(s),
                place="Theorem 2" if limit == 1 else "",
                source="the limit"
                if limit == 1
                else f"ours: Theorem 2 bounds the limit with 8 in place of 2{beside}",
            )
        )
    return found


def _rank(s: int) -> Estimates:
    return lambda y: np.asarray(y[:, :, RANKS + s])


def _log_rank(s: int) -> Estimates:
    return lambda y: np.log10(y[:, :, RANKS + s])
