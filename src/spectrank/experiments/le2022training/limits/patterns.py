"""Activation patterns and signs of weights along a flow: fewer and fewer change.

Nothing says that they settle: a direction that converges does not fix the pattern, and
stable signs are a regime of the limit. What is asked is whether flips become fewer.

R  seeds    T  risks    Q  quantities
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from itertools import pairwise
from typing import final

import numpy as np
from torch import nn

from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.flows import Pace, scaled_flow
from spectrank.experiments.le2022training.limits.measuring import one
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.le2022training.problems import (
    chain,
    chain_forward,
    gaussian,
    separable,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Axes, Line, Question
from spectrank.invariance import ActivationPatterns, activation_patterns

NAME = "patterns"
_WIDTHS = (5, 24, 12, 1)
_RISKS = (0.5, 1e-2, 1e-10, 1e-40, 1e-80)
_DIGITS = tuple(-math.log10(risk) for risk in _RISKS[1:])
SWITCHES, SIGNS = range(2)
_AXES = Axes("log10 of 1 / risk", "share since the risk before", "share", "log")


@final
@dataclass(frozen=True)
class PatternsSize:
    """How much is followed.

    Attributes:
        num_seeds: R.
        num_samples: n.
    """

    num_seeds: int
    num_samples: int = 40


def part(size: PatternsSize) -> Part:
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
        num_steps=1,
        widths=_WIDTHS,
        risks=_RISKS,
        pace=asdict(_pace()),
    )


def measure(size: PatternsSize, seed: int, tick: Tick) -> np.ndarray:
    """Follow the flow and look at patterns and signs at every risk.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called at the end.

    Returns:
        (R, T - 1, Q): since the risk before the share of pairs of a hidden unit and a
        sample that switched, and of weights that turned their sign.
    """
    num = size.num_seeds
    data = separable(seed, (NAME,), num, _WIDTHS[0], size.num_samples)
    depth = len(_WIDTHS) - 1
    problem = replaced(data, forward=chain_forward(depth, num_relus=depth - 1))
    start = gaussian(seed, (NAME,), num, chain(_WIDTHS))
    targets = [math.log(risk) for risk in _RISKS]
    seen = scaled_flow(problem, start, targets, _pace())
    found = np.empty((num, len(_RISKS) - 1, 2))
    for r in range(num):
        net, previous = _network(), None
        for t, now in enumerate(seen):
            # Modules call layer i by its place among the activations.
            net.load_state_dict({_renamed(k): v for k, v in one(now, r).items()})
            patterns = activation_patterns(
                net,
                [problem.inputs[r]],
                previous=previous,
                layers=["0", "2"],
            )
            if t:
                found[r, t - 1] = shares(patterns)
            previous = patterns
    tick()
    return found


def shares(patterns: ActivationPatterns) -> tuple[float, float]:
    """Shares of what changed against the moment before.

    Args:
        patterns: With ``previous``.

    Returns:
        Of pairs of a unit and a sample, and of weights.
    """
    rows = patterns.table().frame.to_dicts()
    flips = [row for row in rows if row["metric"] == "activation_flips"]
    pairs = sum(row["num_units"] * row["num_rows"] for row in flips)
    turned = sum(r["value"] for r in rows if r["metric"] == "weight_sign_flips")
    weights = sum(a * b for a, b in pairwise(_WIDTHS))
    return sum(row["value"] for row in flips) / pairs, turned / weights


def _pace() -> Pace:
    return Pace(len(_WIDTHS) - 1, fall=1.0)


def _network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(_WIDTHS):
        layers += [nn.Linear(a, b, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def _renamed(name: str) -> str:
    layer, kind = name.split(".")
    return f"{2 * int(layer)}.{kind}"


def questions(size: PatternsSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is followed.

    Returns:
        The questions; what they read is (R, T - 1, Q).
    """
    protocol = (
        f"ReLU network {listed(_WIDTHS, '-')} without biases; {size.num_seeds} draws "
        f"of it and of {size.num_samples} separable points; flow of the log of the "
        f"logistic risk to {listed(_RISKS)}; shares from one risk to the next"
    )
    lines = (
        Line("units and samples", _DIGITS, lambda y: y[:, :, SWITCHES], None),
        Line("signs of weights", _DIGITS, lambda y: y[:, :, SIGNS], None),
    )
    found = []
    # Signs of weights settle later than patterns, and differ more between draws.
    for name, quantity, words, most, written in (
        ("activations", SWITCHES, "pairs of a unit and a sample that switch", 1 / 3,
         "a third"),
        ("weight-signs", SIGNS, "weights that turn their sign", 2 / 3, "two thirds"),
    ):  # fmt: skip
        found += [
            Question(
                claim(
                    f"{NAME}.{name}-fewer",
                    f"From 1e-40 to 1e-80 the share of {words} is at most {written} "
                    "of that from 0.5 to 1e-2.",
                    protocol=protocol,
                    quantity="ratio_of_shares",
                    relation="at_most",
                    expected=most,
                    source="ours: the direction converges, so that what is away from "
                    "a boundary stays on its side",
                ),
                lambda y, q=quantity: y[:, -1, q] / y[:, 0, q],  # type: ignore[misc]
                _AXES,
                lines,
            ),
            Question(
                claim(
                    f"{NAME}.{name}-early",
                    f"Early, from 0.5 to 1e-2, the share of {words} is 2 % or more: a "
                    "short run is not in that regime.",
                    protocol=protocol,
                    quantity="share",
                    relation="at_least",
                    expected=0.02,
                    source="an earlier run of ours had flips up to two thirds of the "
                    "way",
                ),
                lambda y, q=quantity: np.asarray(y[:, 0, q]),  # type: ignore[misc]
                _AXES,
                lines,
            ),
        ]
    return found
