"""Linear tails on ReLU trunks, down to a risk of 1e-80: only the tail must obey.

R  seeds    F  losses    T  risks    Q  quantities
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.claims import Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.flows import Pace, scaled_flow
from spectrank.experiments.le2022training.limits.measuring import (
    Chain,
    certificates,
    singular_values,
    stable_ranks,
)
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.le2022training.problems import (
    Loss,
    chain,
    chain_forward,
    gaussian,
    separable,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)

NAME = "linear-tail"
_NET = Chain((5, 32, 24, 8, 6, 1), num_relus=2)
_SCALE = 0.5
_LOSSES: tuple[Loss, ...] = ("logistic", "exponential")
_RISKS = (1e-2, 1e-10, 1e-40, 1e-80)
_DIGITS = tuple(-math.log10(risk) for risk in _RISKS)
_EARLIER = ((1.23, 1.56), (1.60, 1.78), (1.04, 1.06), (1.03, 1.05))
"""Stable ranks at 1e-100 of an earlier run of ours, trunk 12-10, layer by layer."""
_ALIGNED, _EXCESS, _DRIFT, _TRUNK, _RANKS = range(5)
_AXES = Axes("log10 of 1 / risk", "stable rank", "stable_rank", "log")


@final
@dataclass(frozen=True)
class TrunkSize:
    """How much is followed.

    Attributes:
        num_seeds: R.
        num_samples: n.
    """

    num_seeds: int
    num_samples: int = 40


def part(size: TrunkSize) -> Part:
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
        num_steps=len(_LOSSES),
        network=asdict(_NET),
        scale=_SCALE,
        risks=_RISKS,
        pace=asdict(Pace(1)),
    )


def measure(size: TrunkSize, seed: int, tick: Tick) -> np.ndarray:
    """Follow the flow with every loss.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every loss.

    Returns:
        (R, F, T, Q): alignment, excess over a bound, drift of a bound, how far the
        second layer's tail lies above the constant of linear layers, relative to it,
        and stable ranks of the layers but the last.
    """
    num = size.num_seeds
    found = np.empty((num, len(_LOSSES), len(_RISKS), _RANKS + _NET.depth - 1))
    data = separable(seed, (NAME,), num, _NET.widths[0], size.num_samples)
    start = gaussian(seed, (NAME,), num, chain(_NET.widths), scale=_SCALE)
    forward = chain_forward(_NET.depth, num_relus=_NET.num_relus)
    traced = _NET.trace()
    targets = [math.log(risk) for risk in _RISKS]
    for f, loss in enumerate(_LOSSES):
        problem = replaced(data, forward=forward, loss=loss)
        for t, now in enumerate(scaled_flow(problem, start, targets, Pace(_NET.depth))):
            excess, aligned, drift = certificates(traced, start, now)
            found[:, f, t, _ALIGNED], found[:, f, t, _EXCESS] = aligned, excess
            found[:, f, t, _DRIFT] = drift
            found[:, f, t, _TRUNK] = _above_linear(start, now)
            found[:, f, t, _RANKS:] = stable_ranks(now, range(_NET.depth - 1))
        tick()
    return found


def _above_linear(start: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> np.ndarray:
    """Tail of the second layer over what it would be bounded by if all were linear."""
    bound = torch.zeros(len(next(iter(start.values()))), dtype=torch.float64)
    for i in range(1, _NET.depth - 1):
        above, below = start[f"{i + 1}.weight"], start[f"{i}.weight"]
        gap = above.mT @ above - below @ below.mT
        bound += torch.linalg.eigvalsh(gap)[:, -1] - gap.diagonal(dim1=1, dim2=2).sum(1)
    tail = np.square(singular_values(now["1.weight"])[:, 1:]).sum(1)
    return np.asarray((tail - bound.numpy()) / bound.numpy())


def questions(size: TrunkSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is followed.

    Returns:
        The questions; what they read is (R, F, T, Q).
    """
    widths = "-".join(map(str, _NET.widths))
    protocol = (
        f"network {widths} without biases, ReLU after its first two layers, the rest "
        f"linear, started at {_SCALE:g} times N(0, 1/fan-in); {size.num_seeds} draws "
        f"of the network and of {size.num_samples} separable points; flow of the log "
        f"of the {{loss}} risk to {listed(_RISKS)}"
    )
    return [
        question
        for f, loss in enumerate(_LOSSES)
        for question in _of_loss(f, loss, protocol.format(loss=loss))
    ]


def _of_loss(f: int, loss: str, protocol: str) -> list[Question]:
    def ask(
        name: str,
        statement: str,
        quantity: str,
        relation: Relation,
        expected: float | None,
        estimates: Estimates,
        *,
        place: str = "",
        source: str = "",
    ) -> Question:
        asked = claim(
            f"{NAME}.{name}.{loss}",
            statement,
            protocol=protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            place=place,
            source=source,
        )
        return Question(asked, estimates, _AXES, _lines(f))

    tails, trunk = _EARLIER[2:], _EARLIER[1]
    return [
        ask(
            "certificate",
            "Every bound on the linear tail that the start gives, drift added, holds "
            "at every risk.",
            "largest_relative_excess_over_a_bound",
            "at_most",
            1e-9,
            lambda y: y[:, f, :, _EXCESS].max(1),
            place="Theorem 2",
            source="constants of the bounds ours",
        ),
        ask(
            "drift",
            "Drift of the integration adds at most a hundredth to a bound.",
            "relative_drift_of_a_bound",
            "at_most",
            1e-2,
            lambda y: y[:, f, :, _DRIFT].max(1),
            source="derived: gaps of the tail are conserved by the flow",
        ),
        ask(
            "aligned",
            "At a risk of 1e-80 the layers of the tail are aligned.",
            "smallest_alignment",
            "at_least",
            0.999,
            lambda y: y[:, f, -1, _ALIGNED],
            place="Corollary 1",
            source="the limit; an earlier run of ours had 0.9996 or more",
        ),
        ask(
            "ranks-fall",
            "The excess of the tail's largest stable rank over 1 falls with the risk.",
            "log10_of_stable_rank_minus_one",
            "decreasing",
            None,
            lambda y: np.log10(y[:, f, :, _RANKS + 2 :].max(2) - 1.0),
            place="Corollary 1",
            source=f"the limit; an earlier run of ours had {tails[0]} and {tails[1]}",
        ),
        ask(
            "trunk-exceeds",
            "The second layer, a ReLU layer, leaves the bound that it would obey were "
            "all layers linear: its tail lies above it.",
            "relative_excess_over_the_linear_bound",
            "at_least",
            0.0,
            lambda y: y[:, f, -1, _TRUNK],
            source=f"an earlier run of ours saw it in 16 of 16 runs, stable rank "
            f"{trunk}",
        ),
    ]


def _lines(f: int) -> tuple[Line, ...]:
    found = []
    for i, (low, high) in enumerate(_EARLIER):
        words = "ReLU" if i < _NET.num_relus else "linear"
        beside = f"{words}, earlier {low:g} to {high:g}"
        found.append(Line(f"W_{i + 1}, {beside}", _DIGITS, _rank(f, i), None))
    return tuple(found)


def _rank(f: int, layer: int) -> Estimates:
    return lambda y: np.asarray(y[:, f, :, _RANKS + layer])
