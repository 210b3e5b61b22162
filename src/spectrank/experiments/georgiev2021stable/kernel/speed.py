r"""Speed-ups at a fixed learning rate are scale effects: tuned, they go.

At a fixed spectral norm a larger stable rank makes the mean kernel larger, which does
what a larger learning rate does. So arms are compared at one rate for all and each at
its own; at a fixed Frobenius norm, where the mean kernels are equal, one rate is fair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from spectrank.experiments.claims import Claim, Relation
from spectrank.experiments.georgiev2021stable.convergence.cells import Cell
from spectrank.experiments.georgiev2021stable.convergence.ensembles import Arm
from spectrank.experiments.georgiev2021stable.convergence.measuring import tune_rates
from spectrank.experiments.georgiev2021stable.convergence.training import (
    Member,
    Reached,
    train,
)
from spectrank.experiments.georgiev2021stable.kernel.claims import ours
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    figures_of,
)
from spectrank.experiments.images import Images
from spectrank.experiments.papers import Part, PartResult, Tick

_FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
SPECTRAL = tuple(Arm("spike", share, "spectral") for share in _FRACTIONS)
FROBENIUS = tuple(Arm("spike", share) for share in _FRACTIONS)
_NUM = len(_FRACTIONS)
# Columns of what is measured: one rate for all, then each at its own.
_SHARED, _EQUAL, _OWN = 0, _NUM, 2 * _NUM
_BELOW = 4.0
_AXES = Axes(
    "stable rank / width of the hidden weights",
    "steps to the target loss",
    "steps_to_target",
    "log",
    "log",
)


@final
@dataclass(frozen=True)
class Limits:
    """What the claims accept, as factors of the steps.

    Attributes:
        shared: Least ratio of the slowest arm to the fastest at one rate.
        own: Largest ratio of the two larger stable ranks at their own rates.
        equal: Largest ratio at one Frobenius norm and one rate.
        left: Largest share of the log of the first ratio that tuning leaves.
    """

    shared: float = 1.5
    own: float = 1.25
    equal: float = 1.1
    left: float = 2.0 / 3.0


LIMITS = Limits()


def part(cell: Cell) -> Part:
    """Return the comparison of one learning rate with tuned ones.

    Args:
        cell: Data, network and budget; its arms are `SPECTRAL`.

    Returns:
        The part.
    """
    asked = questions(cell)

    def run(seed: int, tick: Tick) -> PartResult:
        recorded = measure(cell, seed, tick)
        rows = [row for question in asked for row in question.rows(recorded, seed)]
        checksums = {cell.images.data: dict(cell.images.sha256)}
        return PartResult(tuple(rows), figures_of(asked), checksums)

    return Part(
        name=f"kernel-speed-{cell.images.data}",
        claims=tuple(question.claim for question in asked),
        settings={**cell.settings, "below": _BELOW},
        num_steps=3,
        run=run,
    )


def measure(cell: Cell, seed: int, tick: Tick) -> np.ndarray:
    """Tune the arms of one spectral norm, then train all on fresh seeds.

    Args:
        cell: What is trained.
        seed: Base seed.
        tick: Called after the tuning, and after each of the two comparisons.

    Returns:
        (R, 9) logs of the steps to the target, by stable rank: at one rate, a quarter
        of the lowest tuned one, with fixed spectral norm and with fixed Frobenius
        norm; then with fixed spectral norm at each arm's own rate. The budget where it
        was not reached, NaN where the loss diverged.
    """
    task = cell.task()
    tuned = tune_rates(
        task, SPECTRAL, num=cell.num_tuning, centre=cell.centre, seed=seed
    )
    tick()
    own = [
        tuned[arm.name].learning_rate if arm.name in tuned else math.inf
        for arm in SPECTRAL
    ]
    shared = min(own) / _BELOW
    num = cell.num_fresh
    found = []
    for pairs in (
        [(arm, shared) for arm in (*SPECTRAL, *FROBENIUS)],
        list(zip(SPECTRAL, own, strict=True)),
    ):
        members = [
            Member(arm, rate, replicate)
            for arm, rate in pairs
            for replicate in range(num)
        ]
        reached = train(task, members, "fresh", num=num, seed=seed)
        found.append(_logs(reached).reshape(-1, num).T)
        tick()
    return np.concatenate(found, axis=1)


def _logs(reached: Reached) -> np.ndarray:
    lost = reached.diverged & ~reached.reached
    return np.where(lost, np.nan, np.log(reached.steps))


def questions(cell: Cell) -> list[Question]:
    """Return what is asked.

    Args:
        cell: Where.

    Returns:
        The questions, to answer from what `measure` records.
    """
    slow = _claim(
        "faster-at-one-rate",
        "At a fixed spectral norm and one learning rate networks of stable rank n/8 "
        f"need at least {LIMITS.shared:g} times the steps of those of n/2.",
        "at_least",
        math.log(LIMITS.shared),
        0.0,
        cell,
    )
    gone = _claim(
        "no-faster-when-tuned",
        "Each at its own learning rate, stable ranks n/4 and n/2 need the same steps "
        f"within a factor of {LIMITS.own:g}: what one rate showed was scale.",
        "equals",
        0.0,
        math.log(LIMITS.own),
        cell,
    )
    less = _claim(
        "shrinks-when-tuned",
        "Each at its own learning rate, less than two thirds of the difference (in the "
        "log) between n/8 and n/2 at one rate is left; that n/8 lies further from the "
        "critical scale n/4 explains what is.",
        "at_most",
        0.0,
        0.0,
        cell,
    )
    equal = _claim(
        "one-rate-is-fair-at-fixed-frobenius-norm",
        "Control: at a fixed Frobenius norm and one learning rate stable ranks n/8 and "
        f"n/2 need the same steps within a factor of {LIMITS.equal:g}.",
        "equals",
        0.0,
        math.log(LIMITS.equal),
        cell,
    )
    shared = _line("spectral norm, one rate", _SHARED)
    own = _line("spectral norm, own rates", _OWN)
    frobenius = _line("Frobenius norm, one rate", _EQUAL)
    return [
        Question(slow, lambda y: _ratio(y, _SHARED, 0), _AXES, (shared, frobenius)),
        Question(gone, lambda y: _ratio(y, _OWN, 1), _AXES, (shared, own)),
        Question(
            less,
            lambda y: _ratio(y, _OWN, 0) - LIMITS.left * _ratio(y, _SHARED, 0),
            _AXES,
            (shared, own),
        ),
        Question(equal, lambda y: _ratio(y, _EQUAL, 0), _AXES, (shared, frobenius)),
    ]


def _ratio(y: np.ndarray, first: int, arm: int) -> np.ndarray:
    """(R,) log of the steps of an arm over those of the largest stable rank."""
    return np.asarray(y[:, first + arm] - y[:, first + _NUM - 1])


def _line(series: str, first: int) -> Line:
    return Line(series, _FRACTIONS, lambda y: np.exp(y[:, first : first + _NUM]), None)


def _claim(
    name: str,
    statement: str,
    relation: Relation,
    expected: float,
    tolerance: float,
    cell: Cell,
) -> Claim:
    protocol = (
        f"{cell.text()}; spike spectra, the spectral norm that of a Gaussian He "
        f"matrix or ||W||_F^2 = 2 m; the one rate is {1 / _BELOW:g} of the lowest "
        "tuned one"
    )
    claim = ours(
        f"speed.{name}",
        cell.images.data,
        statement,
        protocol=protocol,
        quantity="log_ratio_of_steps",
        expected=expected,
        tolerance=tolerance,
        relation=relation,
    )
    return replace(claim, source=_SOURCE)


_SOURCE = (
    "derived: at a fixed spectral norm the mean kernel is multilinear in the stable "
    "ranks, as in the module georgiev2021stable.kernel.laws; that tuning takes the "
    "difference away is a hypothesis of ours"
)


def speed_cell(data: str) -> Cell:
    """Return where the comparison is made.

    Args:
        data: ``digits``, ``mnist`` or ``fashion-mnist``.

    Returns:
        The cell.
    """
    small = data == "digits"
    return Cell(
        images=Images(data) if small else Images(data, 20_000, 5_000),
        depth=5,
        width=64 if small else 128,
        optimizer="sgd",
        arms=SPECTRAL,
        target=TARGETS[data],
        budget=300,
        centre=0.3,
        num_tuning=4,
        num_fresh=20,
    )


TARGETS = {"digits": 0.2, "mnist": 0.3, "fashion-mnist": 0.6}
"""Data set to the training loss to fall below."""
