r"""The rate of training scales with the stable ranks as the mean kernel does.

At a fixed learning rate the residual's modes decay at eta lambda_i(K). At fixed
spectral norms E K is multilinear in the stable ranks of the other layers, so the steps
to half the loss fall as the inverse of that; at fixed Frobenius norms they stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable.claims import KEY
from spectrank.experiments.georgiev2021stable.estimates import slopes
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.kernel.claims import ours
from spectrank.experiments.georgiev2021stable.kernel.descent import (
    Halves,
    descend,
    log_steps,
    predicted_losses,
    start,
)
from spectrank.experiments.georgiev2021stable.kernel.nets import Net, hidden_net
from spectrank.experiments.georgiev2021stable.kernel.trained import trained_part
from spectrank.experiments.georgiev2021stable.protocol import DIMENSIONS
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.seeds import derive_generator

_DEPTH = 4
_WIDTH = 128
_FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
_RANKS = tuple(_WIDTH * share for share in _FRACTIONS)
_LOGS = np.log(_RANKS)
_SHARE = 0.5
_LEVEL = 0.5
_NUM_LOSSES = 400
_TOLERANCE = 0.15
_AXES = Axes(
    "stable rank of the square weights",
    "steps until the loss is halved",
    "steps_to_half",
    "log",
    "log",
)
_FOUND, _PREDICTED = 0, 1


@final
@dataclass(frozen=True)
class RateSize:
    """How much is trained.

    Attributes:
        num_seeds: R independent replicates.
        num_networks: M for each point and replicate.
    """

    num_seeds: int
    num_networks: int


def part(halves: Halves, size: RateSize) -> Part:
    """Return the comparison of steps over stable ranks.

    Args:
        halves: What is learned.
        size: How much is trained.

    Returns:
        The part.
    """
    name = f"kernel-rate-{halves.data}"
    nets = networks(halves)
    asked = questions(nets, halves, size)

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(nets, halves, size, seed, (KEY, name), tick)

    return trained_part(
        name,
        halves,
        asked,
        record,
        settings={
            "halves": asdict(halves),
            "size": asdict(size),
            "points": [[net.label, repr(net.random())] for net in nets],
            "sigmas": [net.sigmas for net in nets],
            "share": _SHARE,
            "level": _LEVEL,
            "num_losses": _NUM_LOSSES,
        },
        num_steps=size.num_seeds * 2,
    )


def networks(halves: Halves) -> list[Net]:
    """Networks at fixed spectral norms, then at fixed Frobenius norms.

    Args:
        halves: For the number of inputs.

    Returns:
        One for each norm and stable rank.
    """
    n = DIMENSIONS[halves.data]
    he = [
        hidden_net(f"frobenius, rank {r:g}", n, _WIDTH, _DEPTH, "flat", r)
        for r in _RANKS
    ]
    sigmas = (
        # Those of Gaussian He weights; the readout has length sqrt 2 as at He scale.
        math.sqrt(2.0) * (1.0 + math.sqrt(_WIDTH / n)),
        *[2.0 * math.sqrt(2.0)] * (_DEPTH - 2),
        math.sqrt(2.0),
    )
    fixed = [
        Net(f"spectral, rank {r:g}", x.widths, x.spectra, x.stable_ranks, sigmas)
        for r, x in zip(_RANKS, he, strict=True)
    ]
    return [*fixed, *he]


def measure(
    nets: Sequence[Net],
    halves: Halves,
    size: RateSize,
    seed: int,
    stream: Sequence[str],
    tick: Tick,
) -> np.ndarray:
    """Train networks, those of one norm and replicate at one learning rate.

    Args:
        nets: As `networks` has them.
        halves: What is learned.
        size: How much.
        seed: Base seed.
        stream: Names of the part, for the streams.
        tick: Called after each norm of each replicate.

    Returns:
        (R, P, M, 2) logs of the steps to half the loss: found, and as the network's own
        kernel predicts. NaN where the loss was not halved.
    """
    num = len(_RANKS)
    found = np.empty((size.num_seeds, len(nets), size.num_networks, 2))
    for r, first in np.ndindex(size.num_seeds, len(nets) // num):
        family = range(first * num, (first + 1) * num)
        starts = [
            start(
                nets[p],
                halves,
                size.num_networks,
                derive_generator(seed, *stream, nets[p].label, r),
            )
            for p in family
        ]
        top = max(float(own.eigenvalues[:, -1].max()) for own in starts)
        rate = _SHARE * halves.num_inputs / 2.0 / top
        rates = torch.full((size.num_networks,), rate, dtype=torch.float64)
        for p, own in zip(family, starts, strict=True):
            losses = descend(own, halves, rates, _NUM_LOSSES, until=_LEVEL)
            expected = predicted_losses(own, halves, rates, _NUM_LOSSES)
            found[r, p, :, _FOUND] = log_steps(losses, _LEVEL)
            found[r, p, :, _PREDICTED] = log_steps(expected, _LEVEL)
        tick()
    return found


def questions(nets: Sequence[Net], halves: Halves, size: RateSize) -> list[Question]:
    """Return what is asked.

    Args:
        nets: As `networks` has them.
        halves: What is learned.
        size: How much is trained.

    Returns:
        The questions, to answer from what `measure` records.
    """
    num = len(_RANKS)
    means = np.log([[net.law.mean for net in nets[:num]]])
    slope = -float(slopes(_LOGS, means)[0])
    fixed, control = _lines("spectral norm", 0), _lines("Frobenius norm", num)
    scales = _claim(
        "scales-with-the-mean-kernel",
        "At fixed spectral norms and one learning rate the steps to half the loss go "
        f"inversely with the mean kernel: their log-log slope in the stable rank of "
        f"the {_DEPTH - 2} square weights is {slope:.4g}, that of 1 / E K.",
        "log_log_slope",
        slope,
        _TOLERANCE,
        halves,
        size,
    )
    stays = _claim(
        "stays-at-fixed-frobenius-norm",
        "Control: at fixed Frobenius norms and one learning rate the steps do not "
        "depend on the stable rank: the log-log slope is 0.",
        "log_log_slope",
        0.0,
        _TOLERANCE,
        halves,
        size,
    )
    own = _claim(
        "follows-the-own-kernel",
        "The steps are those that the network's own kernel at the start predicts: log "
        "of found over predicted (mean over the stable ranks at fixed spectral norms).",
        "log_ratio_of_steps",
        0.0,
        0.1,
        halves,
        size,
    )
    return [
        Question(
            scales,
            lambda y: slopes(_LOGS, y[:, :num, :, _FOUND].mean(-1)),
            _AXES,
            fixed,
        ),
        Question(
            stays,
            lambda y: slopes(_LOGS, y[:, num:, :, _FOUND].mean(-1)),
            _AXES,
            control,
        ),
        Question(
            own,
            lambda y: (y[..., _FOUND] - y[..., _PREDICTED])[:, :num].mean((1, 2)),
            _AXES,
            fixed,
        ),
    ]


def _lines(name: str, first: int) -> tuple[Line, ...]:
    def of(kind: int, series: str) -> Line:
        return Line(
            f"{name}, {series}",
            _RANKS,
            lambda y: np.exp(y[:, first : first + len(_RANKS), :, kind].mean(-1)),
            None,
        )

    return of(_FOUND, "trained"), of(_PREDICTED, "by its own kernel")


def _claim(
    name: str,
    statement: str,
    quantity: str,
    expected: float,
    tolerance: float,
    halves: Halves,
    size: RateSize,
) -> Claim:
    protocol = (
        f"ReLU networks of {_DEPTH} weights without biases, width {_WIDTH}, one "
        "output; first weight Gaussian He, square weights flat of stable rank "
        f"{listed(_RANKS)}, either spectral norm 2 sqrt 2 or ||W||_F^2 = 2 m; "
        f"{size.num_seeds} seeds x {size.num_networks} networks at each point; "
        f"{halves.text()}; full-batch gradient descent, in each replicate one learning "
        f"rate for all stable ranks, {_SHARE:g} over the largest eigenvalue of all"
    )
    return ours(
        f"rate.{name}",
        halves.data,
        statement,
        protocol=protocol,
        quantity=quantity,
        expected=expected,
        tolerance=tolerance,
    )
