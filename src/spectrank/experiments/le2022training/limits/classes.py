"""Deep linear networks with several outputs: C - 1 singular values can grow.

R  seeds    T  risks    Q  quantities
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch

from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import KEY, claim
from spectrank.experiments.le2022training.flows import Pace, scaled_flow
from spectrank.experiments.le2022training.limits.measuring import (
    Chain,
    certificates,
    singular_values,
)
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.le2022training.problems import (
    Problem,
    chain,
    chain_forward,
    gaussian,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)
from spectrank.experiments.seeds import derive_generator

NAME = "several-outputs"
_C = 3
_NET = Chain((5, 8, 7, 6, _C))
_RISKS = (1e-1, 1e-5, 1e-20)
_DIGITS = tuple(-math.log10(risk) for risk in _RISKS)
_PER_CLASS, _NOISE = 12, 0.15
_EXCESS, _SUMS, _SIGMA = range(3)
_LAYER = 1
_AXES = Axes("log10 of 1 / risk", "singular values of W_2", "sigma", "linear", "log")


@final
@dataclass(frozen=True)
class ClassesSize:
    """How much is followed.

    Attributes:
        num_seeds: R.
    """

    num_seeds: int


def part(size: ClassesSize) -> Part:
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
        network=asdict(_NET),
        risks=_RISKS,
        per_class=_PER_CLASS,
        noise=_NOISE,
        pace=asdict(Pace(1)),
    )


def measure(size: ClassesSize, seed: int, tick: Tick) -> np.ndarray:
    """Follow the flow of softmax cross-entropy.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called at the end.

    Returns:
        (R, T, Q): excess over a bound, drift of the column sums of the last layer, and
        the singular values of the second layer.
    """
    num = size.num_seeds
    problem, start = (
        _problem(seed, num),
        gaussian(seed, (NAME,), num, chain(_NET.widths)),
    )
    found = np.empty((num, len(_RISKS), _SIGMA + min(_NET.widths[1:3])))
    last = f"{_NET.depth - 1}.weight"
    targets = [math.log(risk) for risk in _RISKS]
    traced = _NET.trace()
    for t, now in enumerate(scaled_flow(problem, start, targets, Pace(_NET.depth))):
        found[:, t, _EXCESS] = certificates(traced, start, now, softmax=True)[0]
        drift = now[last].sum(1) - start[last].sum(1)
        found[:, t, _SUMS] = drift.abs().amax(1)
        found[:, t, _SIGMA:] = singular_values(now[f"{_LAYER}.weight"])
    tick()
    return found


def _problem(seed: int, num: int) -> Problem:
    """Points around C orthonormal centres, closer to their own than to the others."""
    labels = torch.arange(_C).repeat_interleave(_PER_CLASS).expand(num, -1)
    inputs = []
    for r in range(num):
        generator = derive_generator(seed, KEY, NAME, "data", r)
        square = torch.randn(
            _NET.widths[0], _NET.widths[0], dtype=torch.float64, generator=generator
        )
        centres = torch.linalg.qr(square)[0][:_C]
        noise = torch.randn(
            _C * _PER_CLASS, _NET.widths[0], dtype=torch.float64, generator=generator
        )
        points = centres[labels[r]] + _NOISE * noise.clamp(-2.0, 2.0)
        inputs.append(points / points.norm(dim=1).max())
    forward = chain_forward(_NET.depth, scalar=False)
    return Problem(forward, torch.stack(inputs), labels)


def questions(size: ClassesSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is followed.

    Returns:
        The questions; what they read is (R, T, Q).
    """
    protocol = (
        f"linear network {listed(_NET.widths, '-')} without biases, {size.num_seeds} "
        f"draws of it and of {_PER_CLASS} points in each of {_C} separable classes; "
        f"flow of the log of softmax cross-entropy to {listed(_RISKS)}"
    )
    earlier = "an earlier run of ours had 3.18, 2.97 against 1.28, 1.00, 0.66"
    return [
        Question(
            claim(
                f"{NAME}.certificate",
                "Every bound that the start gives, drift added, holds at every risk: "
                "on the tail beyond C - 1 singular values and on the C-th one.",
                protocol=protocol,
                quantity="largest_relative_excess_over_a_bound",
                relation="at_most",
                expected=1e-9,
                source="derived: Weyl's inequality layer by layer, and conserved "
                "column sums of the last layer",
            ),
            lambda y: y[:, :, _EXCESS].max(1),
            _AXES,
            _lines(),
        ),
        Question(
            claim(
                f"{NAME}.column-sums",
                "The column sums of the softmax layer are constant.",
                protocol=protocol,
                quantity="log10_largest_drift",
                relation="at_most",
                expected=-10.0,
                source="derived: cotangents of softmax cross-entropy sum to 0; a "
                "linear law has no drift at all",
            ),
            lambda y: np.log10(y[:, :, _SUMS].max(1).clip(1e-17)),
            Axes("log10 of 1 / risk", "drift", "drift", "linear", "log"),
            (Line("column sums", _DIGITS, lambda y: y[:, :, _SUMS], None),),
        ),
        Question(
            claim(
                f"{NAME}.growing",
                "From a risk of 0.1 to 1e-20 the second singular value grows by half "
                "or more.",
                protocol=protocol,
                quantity="ratio_of_singular_values",
                relation="at_least",
                expected=1.5,
                source=f"ours; {earlier}",
            ),
            _growth(1),
            _AXES,
            _lines(),
        ),
        Question(
            claim(
                f"{NAME}.not-growing",
                "The C-th singular value does not grow by more than a quarter.",
                protocol=protocol,
                quantity="ratio_of_singular_values",
                relation="at_most",
                expected=1.25,
                source=f"ours; {earlier}",
            ),
            _growth(_C - 1),
            _AXES,
            _lines(),
        ),
    ]


def _growth(index: int) -> Estimates:
    return lambda y: np.asarray(y[:, -1, _SIGMA + index] / y[:, 0, _SIGMA + index])


def _lines() -> tuple[Line, ...]:
    return tuple(
        Line(
            f"sigma_{i + 1}",
            _DIGITS,
            lambda y, i=i: np.asarray(y[:, :, _SIGMA + i]),  # type: ignore[misc]
            None,
        )
        for i in range(_C + 1)
    )
