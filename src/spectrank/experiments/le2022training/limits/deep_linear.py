r"""Deep linear networks on separable data, down to a risk of 1e-100.

The limit has rank one and aligned layers; what is above it goes with
(log 1/R)^{-2/L}, slower than any experiment waits. Asserted are the certificates and
the alignment; stable ranks stand beside those of an earlier run of ours on other draws.

R  seeds    C  configurations    T  risks    Q  quantities
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from typing import final

import numpy as np

from spectrank.experiments.claims import Relation
from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.flows import Pace, norm, scaled_flow
from spectrank.experiments.le2022training.limits.measuring import (
    Chain,
    certificates,
    hard_margin,
    stable_ranks,
)
from spectrank.experiments.le2022training.problems import (
    Params,
    Problem,
    chain,
    chain_forward,
    gaussian,
    separable,
    slope,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
    question_part,
)
from spectrank.invariance.growth import predicted_norm_squared

NAME = "deep-linear"
_NUM_INPUTS, _WIDTH = 4, 8
_STIFF = 0.25
_RISKS = (1e-3, 1e-10, 1e-100)
_DIGITS = tuple(-math.log10(risk) for risk in _RISKS)
_CONFIGURATIONS = ((3, 1.0), (5, 1.0), (3, 0.1), (5, 0.1))
_EARLIER = (
    ((1.36, 1.65), (1.14, 1.26), (1.028, 1.054)),
    ((2.06, 2.59), (1.64, 1.94), (1.27, 1.43)),
    ((1.0036, 1.0064), (1.0014, 1.0024), (1.0003, 1.0005)),
    ((1.0129, 1.0207), (1.0073, 1.0115), (1.0028, 1.0044)),
)
"""Least and largest of six seeds of an earlier run: largest stable rank of a layer."""
_RANK, _ALIGNED, _EXCESS, _DRIFT, _GROWTH, _COSINE, _DIRECTION, _MARGIN = range(8)
_RANKS = Axes("log10 of 1 / risk", "largest stable rank", "stable_rank", "log")


@final
@dataclass(frozen=True)
class DeepSize:
    """How much is followed.

    Attributes:
        num_seeds: R.
        num_samples: n.
    """

    num_seeds: int
    num_samples: int = 50


def part(size: DeepSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is followed.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    return question_part(
        NAME,
        questions(size),
        record,
        settings={
            "size": asdict(size),
            "configurations": _CONFIGURATIONS,
            "risks": _RISKS,
            "width": _WIDTH,
            "pace": asdict(Pace(1, stiff=_STIFF)),
        },
        num_steps=len(_CONFIGURATIONS),
    )


def measure(size: DeepSize, seed: int, tick: Tick) -> np.ndarray:
    """Follow the flow of every configuration.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every configuration.

    Returns:
        (R, C, T, Q).
    """
    num = size.num_seeds
    found = np.empty((num, len(_CONFIGURATIONS), len(_RISKS), 8))
    for c, (depth, scale) in enumerate(_CONFIGURATIONS):
        net = Chain((_NUM_INPUTS, *[_WIDTH] * (depth - 1), 1))
        names = (NAME, f"depth {depth}")
        data = separable(seed, names, num, _NUM_INPUTS, size.num_samples)
        problem = replaced(data, forward=chain_forward(depth))
        start = gaussian(seed, names, num, chain(net.widths), scale=scale)
        targets = [math.log(risk) for risk in _RISKS]
        pace = Pace(depth, stiff=_STIFF)
        for t, now in enumerate(scaled_flow(problem, start, targets, pace)):
            found[:, c, t] = _numbers(net, problem, start, now)
        tick()
    return found


def _numbers(net: Chain, problem: Problem, start: Params, now: Params) -> np.ndarray:
    """(R, Q)."""
    depth = net.depth
    here, size = slope(problem, now), norm(now)
    excess, aligned, drift = certificates(net.trace(), start, now)
    gamma, direction = hard_margin(problem)
    predicted = [
        predicted_norm_squared(float(log_risk), margin, depth)
        for log_risk, margin in zip(here.log_risk, gamma, strict=True)
    ]
    along = sum((now[k] * g).flatten(1).sum(1) for k, g in here.gradients.items())
    product = now["0.weight"]
    for i in range(1, depth):
        product = now[f"{i}.weight"] @ product
    vector = product[:, 0].numpy()
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    share = here.margins.amin(1) / size**depth
    return np.stack(
        [
            stable_ranks(now, range(depth)).max(1),
            aligned,
            excess,
            drift,
            size.square().numpy() / predicted,
            -np.asarray(along) / (size * norm(here.gradients)).numpy(),
            (vector * direction).sum(1),
            share.numpy() / (gamma * depth ** (-depth / 2)),
        ],
        1,
    )


def questions(size: DeepSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is followed.

    Returns:
        The questions; what they read is (R, C, T, Q).
    """
    protocol = (
        f"linear networks of width {_WIDTH}, depth 3 and 5, started at 1 and 0.1 times "
        f"N(0, 1/fan-in), without biases; {size.num_seeds} draws of the network and of "
        f"{size.num_samples} separable points in R^{_NUM_INPUTS}; flow of the log of "
        f"the logistic risk to {listed(_RISKS)}"
    )
    found = []
    for c, (depth, scale) in enumerate(_CONFIGURATIONS):
        found += _of_configuration(c, f"depth-{depth}-scale-{scale:g}", protocol)
    return [*found, *_of_small_starts(protocol)]


def _of_configuration(c: int, name: str, protocol: str) -> list[Question]:
    ranges = ", ".join(f"{low:g} to {high:g}" for low, high in _EARLIER[c])
    beside = f"six seeds of an earlier run of ours had largest stable ranks {ranges}"
    return [
        _ask(
            f"certificate.{name}",
            "Every bound on tails, stable ranks and alignment that the start gives, "
            "drift added, holds at every risk.",
            "largest_relative_excess_over_a_bound",
            1e-9,
            _largest(c, _EXCESS),
            _RANKS,
            _lines(_RANK, [c], True),
            protocol,
            place="Theorem 2",
            source=f"constants of the bounds ours; {beside}",
        ),
        _ask(
            f"drift.{name}",
            "What discrete steps add to a bound on a tail is a thousandth of it.",
            "relative_drift_of_a_bound",
            1e-3,
            _largest(c, _DRIFT),
            Axes("log10 of 1 / risk", "drift of a bound", "drift", "log", "log"),
            _lines(_DRIFT, [c]),
            protocol,
            source="derived: gaps are conserved by the flow",
        ),
        _ask(
            f"alignment-grows.{name}",
            "Neighbouring layers align as the risk falls: log10 of 1 - |<u, v>|.",
            "log10_misalignment",
            None,
            lambda y: np.log10((1.0 - y[:, c, :, _ALIGNED]).clip(1e-16)),
            Axes("log10 of 1 / risk", "alignment", "alignment", "log"),
            _lines(_ALIGNED, [c]),
            protocol,
            relation="decreasing",
            place="Theorem 2",
        ),
        _ask(
            f"ranks-fall.{name}",
            "The largest stable rank falls towards 1 with the risk.",
            "log10_of_stable_rank_minus_one",
            None,
            lambda y: np.log10(y[:, c, :, _RANK] - 1.0),
            _RANKS,
            _lines(_RANK, [c], True),
            protocol,
            relation="decreasing",
            place="Theorem 2",
            source=beside,
        ),
    ]


def _of_small_starts(protocol: str) -> list[Question]:
    misaligned = Axes("log10 of 1 / risk", "alignment", "alignment", "log")
    growth = Axes("log10 of 1 / risk", "||w||^2 over prediction", "ratio", "log")
    margin = Axes("log10 of 1 / risk", "share of the largest margin", "share", "log")
    cosine = Axes("log10 of 1 / risk", "cosine", "cosine", "log")
    found = []
    for c, rate in ((2, 10 ** (-2 / 3)), (3, 10 ** (-2 / 5))):
        depth = _CONFIGURATIONS[c][0]
        found += [
            _ask(
                f"aligned-early.depth-{depth}",
                "From a small start layers are aligned to 0.999 at a risk of 1e-3.",
                "alignment",
                0.999,
                lambda y, c=c: y[:, c, 0, _ALIGNED],  # type: ignore[misc]
                misaligned,
                _lines(_ALIGNED, [c]),
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
                    (y[:, c, 2, _RANK] - 1.0) / (y[:, c, 1, _RANK] - 1.0)
                ),
                _RANKS,
                _lines(_RANK, [c], True),
                protocol,
                relation="equals",
                tolerance=0.03,
                source="derived: ||w||^2 = L (log(1/R) / gamma)^(2/L); an earlier run "
                "of ours had 0.20 and 0.39",
            ),
        ]
    return [
        *found,
        _ask(
            "norm-predicted",
            "At depth 3 the squared norm is what the largest margin predicts.",
            "norm_squared_over_prediction",
            1.0,
            lambda y: y[:, 2, 2, _GROWTH],
            growth,
            _lines(_GROWTH, range(4)),
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
            lambda y: y[:, 2, 2, _MARGIN],
            margin,
            _lines(_MARGIN, range(4)),
            protocol,
            relation="at_least",
            source="derived; six seeds of an earlier run of ours had 0.998 to 0.999",
        ),
        _ask(
            "margin-far",
            "From a start of size 1 at depth 5 it is at most three quarters of it.",
            "share_of_the_largest_margin",
            0.75,
            lambda y: y[:, 1, 2, _MARGIN],
            margin,
            _lines(_MARGIN, range(4)),
            protocol,
            source="derived; six seeds of an earlier run of ours had 0.62 to 0.67",
        ),
        _ask(
            "kkt-cosine",
            "From a small start at depth 3 weights and descent direction agree.",
            "cosine_of_weights_and_descent",
            0.999,
            lambda y: y[:, 2, 2, _COSINE],
            cosine,
            _lines(_COSINE, range(4)),
            protocol,
            relation="at_least",
            source="derived; six seeds of an earlier run of ours had 0.9995 or more",
        ),
        _ask(
            "svm-direction",
            "The product of the layers has the direction of the hard-margin solution.",
            "cosine_to_the_hard_margin_solution",
            0.99,
            lambda y: y[:, :, 1, _DIRECTION].min(1),
            cosine,
            _lines(_DIRECTION, range(4)),
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
            f"depth {_CONFIGURATIONS[c][0]}, scale {_CONFIGURATIONS[c][1]:g}",
            _DIGITS,
            lambda y, c=c: np.asarray(y[:, c, :, quantity]),  # type: ignore[misc]
            [sum(pair) / 2 for pair in _EARLIER[c]] if beside else None,
        )
        for c in configurations
    )
