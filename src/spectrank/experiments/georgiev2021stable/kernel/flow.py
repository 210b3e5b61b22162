r"""Wide networks follow the flow of their own kernel at the start.

Trained by full-batch gradient descent on squares, the loss is that of kernel flow but
for an error that falls with the width. A kernel of another network of the same law
predicts it as well only where the kernel is not random: not at a bounded stable rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import final

import numpy as np

from spectrank.experiments.claims import Claim, Relation
from spectrank.experiments.georgiev2021stable.claims import KEY
from spectrank.experiments.georgiev2021stable.estimates import slopes
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.kernel.claims import ours
from spectrank.experiments.georgiev2021stable.kernel.descent import (
    Halves,
    descend,
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

_DEPTH = 3
_SHARE = 0.5
_NUM_LOSSES = 61
_WITHIN = 0.01
_BOUNDED = 4.0
_AXES = Axes(
    "width",
    "largest difference of loss and prediction / first loss",
    "error_of_prediction",
    "log",
    "log",
)
_OWN, _OTHER = 0, 1


@final
@dataclass(frozen=True)
class FlowSize:
    """How much is trained.

    Attributes:
        num_seeds: R independent replicates.
        num_networks: M for each point and replicate, at least 2.
        widths: Ascending.
    """

    num_seeds: int
    num_networks: int
    widths: tuple[int, ...]


def part(halves: Halves, size: FlowSize) -> Part:
    """Return the comparison of training with kernel flow.

    Args:
        halves: What is learned.
        size: How much is trained.

    Returns:
        The part.
    """
    name = f"kernel-flow-{halves.data}"
    nets = _nets(halves, size)
    asked = questions(halves, size)

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
            "share": _SHARE,
            "num_losses": _NUM_LOSSES,
        },
        num_steps=size.num_seeds * len(nets),
    )


def measure(
    nets: Sequence[Net],
    halves: Halves,
    size: FlowSize,
    seed: int,
    stream: Sequence[str],
    tick: Tick,
) -> np.ndarray:
    """Train networks and record how far their loss is from two predictions.

    Args:
        nets: P laws.
        halves: What is learned.
        size: How much.
        seed: Base seed.
        stream: Names of the part, for the streams.
        tick: Called after each law of each replicate.

    Returns:
        (R, P, M, 2) logs of the largest difference over the steps, over the first
        loss: from the network's own kernel, and from the next network's.
    """
    found = np.empty((size.num_seeds, len(nets), size.num_networks, 2))
    for r, p in np.ndindex(*found.shape[:2]):
        generator = derive_generator(seed, *stream, nets[p].label, r)
        own = start(nets[p], halves, size.num_networks, generator)
        rates = _SHARE * halves.num_inputs / 2.0 / own.eigenvalues[:, -1]
        losses = descend(own, halves, rates, _NUM_LOSSES)
        predicted = [
            predicted_losses(own, halves, rates, _NUM_LOSSES),
            # Row i with the kernel of row i + 1, at the rate of row i.
            np.roll(
                predicted_losses(own, halves, rates.roll(1), _NUM_LOSSES), -1, axis=0
            ),
        ]
        for k, expected in enumerate(predicted):
            far = np.abs(losses - expected).max(1) / losses[:, 0]
            found[r, p, :, k] = np.log(far)
        tick()
    return found


def _nets(halves: Halves, size: FlowSize) -> list[Net]:
    n = DIMENSIONS[halves.data]
    return [
        hidden_net(f"rank {rank:g}, width {width}", n, width, _DEPTH, "flat", rank)
        for ranks in (_diverging, _bounded)
        for width, rank in ((width, ranks(width)) for width in size.widths)
    ]


def _diverging(width: int) -> float:
    return width / 4.0


def _bounded(width: int) -> float:
    return _BOUNDED


def questions(halves: Halves, size: FlowSize) -> list[Question]:
    """Return what is asked.

    Args:
        halves: What is learned.
        size: How much is trained.

    Returns:
        The questions, to answer from what `measure` records.
    """
    num, last = len(size.widths), size.widths[-1]
    x = np.log(size.widths)
    lines = tuple(
        Line(f"{rank}, {of} kernel", list(size.widths), _geometric(i, num, k), None)
        for i, rank in enumerate(("stable rank n/4", f"stable rank {_BOUNDED:g}"))
        for k, of in ((_OWN, "own"), (_OTHER, "another network's"))
    )
    falls = _claim(
        "error-falls-with-width",
        "The loss follows kernel flow the closer the wider the network: at stable rank "
        "n/4 the log-log slope of the error in the width is at most -0.5.",
        "log_log_slope",
        "at_most",
        -0.5,
        halves,
        size,
    )
    close = _claim(
        "wide-nets-follow-their-kernel",
        f"At width {last} and stable rank n/4 the loss is within {_WITHIN:g} of its "
        "first value from kernel flow at every step (geometric mean over networks).",
        "error_of_prediction",
        "at_most",
        _WITHIN,
        halves,
        size,
    )
    random = _claim(
        "random-kernel-random-training",
        f"At width {last} another network's kernel predicts the loss worse at stable "
        f"rank {_BOUNDED:g} than at n/4: log of the ratio of the errors.",
        "log_ratio_of_errors",
        "at_least",
        0.25,
        halves,
        size,
    )
    return [
        Question(
            falls,
            lambda y: slopes(x, y[:, :num, :, _OWN].mean(-1)),
            _AXES,
            lines[:1] + lines[2:3],
        ),
        Question(
            close,
            lambda y: np.exp(y[:, num - 1, :, _OWN].mean(-1)),
            _AXES,
            lines[:1],
        ),
        Question(
            random,
            lambda y: (y[:, 2 * num - 1] - y[:, num - 1])[..., _OTHER].mean(-1),
            _AXES,
            lines,
        ),
    ]


def _geometric(i: int, num: int, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """Geometric mean over networks of one family's errors, (R, G)."""
    return lambda y: np.exp(y[:, i * num : (i + 1) * num, :, k].mean(-1))


def _claim(
    name: str,
    statement: str,
    quantity: str,
    relation: Relation,
    expected: float,
    halves: Halves,
    size: FlowSize,
) -> Claim:
    protocol = (
        f"ReLU networks of {_DEPTH} weights without biases, widths "
        f"{listed(size.widths)}, one output, ||W||_F^2 = 2 m, square weight flat; "
        f"{size.num_seeds} seeds x {size.num_networks} networks at each point; "
        f"{halves.text()}; {_NUM_LOSSES - 1} steps of full-batch gradient descent at "
        f"{_SHARE:g} over the largest eigenvalue, kernel flow in the same steps"
    )
    return ours(
        f"flow.{name}",
        halves.data,
        statement,
        protocol=protocol,
        quantity=quantity,
        expected=expected,
        tolerance=0.0,
        relation=relation,
    )
