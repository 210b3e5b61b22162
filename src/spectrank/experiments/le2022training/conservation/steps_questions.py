"""What is asked of the drift under the steps of torch.optim, as a part.

R  seeds    A  arms    E  step sizes
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spectrank.experiments.claims import Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.conservation.steps import (
    ADAM,
    ARMS,
    BATCH,
    BOUND,
    DECAY,
    DECAYED,
    DRIFT,
    FACTORS,
    GD,
    IDENTITY,
    MINI,
    NAME,
    RATES,
    REST,
    TIME,
    WIDTHS,
    StepsSize,
    measure,
)
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.papers import Part
from spectrank.experiments.questions import Axes, Line, Question


def part(size: StepsSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is trained.

    Returns:
        The part.
    """
    return measured_part(
        NAME,
        measure,
        size,
        questions(size),
        num_steps=len(ARMS) * len(RATES),
        widths=WIDTHS,
        time=TIME,
        rates=RATES,
        decay=DECAY,
        batch=BATCH,
        arms=[arm.name for arm in ARMS],
    )


def questions(size: StepsSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is trained.

    Returns:
        The questions; what they read is (R, A, E, 4).
    """
    protocol = (
        f"linear network {listed(WIDTHS, '-')} without biases, logistic loss, "
        f"{size.num_seeds} draws of the network and of {size.num_samples} separable "
        f"points; torch.optim at effective rates {listed(RATES)} to time {TIME:g}, "
        f"momentum at lr = rate (1 - beta), minibatches of {BATCH}, weight decay "
        f"{DECAY:g}, Adam at a tenth of the rate; spectral norm of the drift of a gap"
    )

    def ask(
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float,
        estimates: Callable[[np.ndarray], np.ndarray],
        tolerance: float = 0.0,
        earlier: str = "",
    ) -> Question:
        asked = claim(
            f"{NAME}.{name}",
            statement,
            protocol=protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            source="derived: exact one-step identity of a quadratic law"
            + (f"; an earlier run of ours had {earlier}" if earlier else ""),
        )
        return Question(asked, estimates, _AXES, _lines())

    found = [
        ask(
            f"slope-{name}",
            f"With {ARMS[a].name} the drift over a fixed time goes with the step.",
            "log_log_slope",
            "equals",
            1.0,
            lambda y, a=a: slopes(y[:, a, :, DRIFT]),  # type: ignore[misc]
            tolerance,
            "drift over step size constant to 1 %" if a == GD else "",
        )
        for a, name, tolerance in (
            (GD, "gradient-descent", 0.05),
            (MINI, "minibatches", 0.25),
            (DECAYED, "weight-decay", 0.05),
        )
    ]
    found += [
        ask(
            f"identity-{name}",
            f"With {ARMS[a].name} the change of the gaps in every step is the one "
            "predicted from the gradients.",
            "largest_error_of_the_identity",
            "at_most",
            1e-12,
            lambda y, a=a: y[:, a, :, IDENTITY].max(1),  # type: ignore[misc]
            earlier="2.5e-15",
        )
        for a, name in (
            (GD, "gradient-descent"),
            (MINI, "minibatches"),
            (DECAYED, "weight-decay"),
        )
    ]
    for index, factor in FACTORS:
        arm = ARMS[index]
        found.append(
            ask(
                f"factor-{arm.name.lower().replace(' 0.', '-0')}",
                f"{arm.name} multiplies the drift of gradient descent by {factor:g}.",
                "drift_over_that_of_gradient_descent",
                "equals",
                factor,
                lambda y, a=index: (  # type: ignore[misc]
                    y[:, a, -1, DRIFT] / y[:, GD, -1, DRIFT]
                ),
                0.15 * factor,
                "2.99 and 18.6 for momentum, 1.996 and 16.8 for Nesterov",
            )
        )
    return [
        *found,
        ask(
            "bound",
            "The drift of gradient descent is at most 2 eta R(0).",
            "drift_over_bound",
            "at_most",
            1.0,
            lambda y: y[:, GD, :, BOUND].max(1),
            earlier="at most a half",
        ),
        ask(
            "adam",
            "Adam does not conserve the gaps, and smaller steps do not help: the "
            "relative drift at a quarter of the rate is half of the one at the full "
            "rate or more.",
            "ratio_of_drifts",
            "at_least",
            0.5,
            lambda y: y[:, ADAM, -1, REST] / y[:, ADAM, 0, REST],
            earlier="13.2, 13.5, 14.5 at a rate halved twice",
        ),
    ]


_AXES = Axes("effective rate", "drift of a gap", "drift", "log", "log")


def slopes(drifts: np.ndarray) -> np.ndarray:
    """Least-squares slopes of log drift against log rate.

    Args:
        drifts: (R, E), positive.

    Returns:
        (R,).
    """
    x = np.log(RATES) - np.mean(np.log(RATES))
    return np.asarray((np.log(drifts) * x).sum(1) / np.square(x).sum())


def _lines() -> tuple[Line, ...]:
    return tuple(
        Line(
            arm.name,
            RATES,
            lambda y, a=a: np.asarray(y[:, a, :, DRIFT]),  # type: ignore[misc]
            None,
        )
        for a, arm in enumerate(ARMS)
    )
