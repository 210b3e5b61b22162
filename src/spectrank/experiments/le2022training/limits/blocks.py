"""ReLU layers: pairs of units with one pattern, and blocks of units of one class.

A ReLU layer as a whole neither conserves its gap matrix nor goes to rank one. What does
is each set of its units that are active on the same samples.

R  seeds    T  risks    Q  quantities
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.figures import listed
from spectrank.experiments.le2022training.claims import KEY, claim
from spectrank.experiments.le2022training.flows import Pace, moved, scaled_flow
from spectrank.experiments.le2022training.measured import measured_part
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
from spectrank.experiments.questions import Axes, Line, Question
from spectrank.experiments.seeds import derive_generator

NAME = "relu-layers"
_PAIRS_WIDTHS = (6, 12, 6, 1)
_STEP = 4e-3
_BLOCK_WIDTHS = (3, 30, 1)
_RISKS = (1e-10, 1e-30, 1e-60)
_DIGITS = tuple(-math.log10(risk) for risk in _RISKS)
_DIAGONAL, _TOGETHER, _OTHERS, _BLOCK, _WHOLE = range(5)
_GROWN = 4.0


@final
@dataclass(frozen=True)
class BlocksSize:
    """How much is followed.

    Attributes:
        num_seeds: R.
        num_samples: Of the pairs' data; the blocks have three points.
        time: Of the pairs' training.
    """

    num_seeds: int
    num_samples: int = 30
    time: float = 20.0


def part(size: BlocksSize) -> Part:
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
        num_steps=2,
        widths=[_PAIRS_WIDTHS, _BLOCK_WIDTHS],
        step=_STEP,
        risks=_RISKS,
        pace=asdict(Pace(1)),
    )


def measure(size: BlocksSize, seed: int, tick: Tick) -> np.ndarray:
    """Train once for the pairs, and follow the flow once for the blocks.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after each.

    Returns:
        (R, T, Q): largest drift of a diagonal entry of the gap matrix and of one of
        units that were active together all the time, median of the others (alike at
        every risk); largest sigma_2 / sigma_1 of a block that grew; that of the layer.
    """
    found = np.empty((size.num_seeds, len(_RISKS), 5))
    found[:, :, :_BLOCK] = pair_drifts(size, seed)[:, None]
    tick()
    problem = _three_points(seed, size.num_seeds)
    start = gaussian(seed, (NAME, "blocks"), size.num_seeds, chain(_BLOCK_WIDTHS))
    targets = [math.log(risk) for risk in _RISKS]
    for t, now in enumerate(scaled_flow(problem, start, targets, Pace(2))):
        for r in range(size.num_seeds):
            found[r, t, _BLOCK:] = block_ratios(
                start["0.weight"][r], now["0.weight"][r], problem.inputs[r]
            )
    tick()
    return found


def pair_drifts(size: BlocksSize, seed: int) -> np.ndarray:
    """Train by gradient descent and watch which units are active together.

    Args:
        size: How much.
        seed: Base seed.

    Returns:
        (R, 3): largest drift on the diagonal and of pairs that were active together
        at every step (0 without one), median drift of the other pairs.
    """
    num, width = size.num_seeds, _PAIRS_WIDTHS[1]
    data = separable(seed, (NAME, "pairs"), num, _PAIRS_WIDTHS[0] - 1, size.num_samples)
    ones = torch.ones_like(data.inputs[..., :1])
    problem = replaced(
        data,
        inputs=torch.cat([data.inputs, ones], 2),
        forward=chain_forward(len(_PAIRS_WIDTHS) - 1, num_relus=1),
    )
    params = gaussian(seed, (NAME, "pairs"), num, chain(_PAIRS_WIDTHS))
    # Spread thresholds make some units active on all samples, some on none.
    params["0.weight"][:, :, -1] = torch.linspace(-1.5, 1.5, width, dtype=torch.float64)
    first = _gap(params)
    together = torch.ones(num, width, width, dtype=torch.bool)
    back = torch.full((num,), -_STEP, dtype=torch.float64)
    for _ in range(round(size.time / _STEP)):
        active = problem.inputs @ params["0.weight"].mT > 0.0
        together &= (active[..., :, None] == active[..., None, :]).all(1)
        params = moved(params, slope(problem, params).of_risk(), back)
    drift = (_gap(params) - first).abs().numpy()
    found = np.zeros((num, 3))
    same, diagonal = together.numpy(), np.eye(width, dtype=bool)
    for r in range(num):
        found[r, _DIAGONAL] = drift[r][diagonal].max()
        found[r, _TOGETHER] = drift[r][same[r] & ~diagonal].max(initial=0.0)
        found[r, _OTHERS] = np.median(drift[r][~same[r]])
    return found


def _gap(params: Params) -> Tensor:
    above, below = params["1.weight"], params["0.weight"]
    return above.mT @ above - below @ below.mT


def block_ratios(start: Tensor, now: Tensor, x: Tensor) -> tuple[float, float]:
    """sigma_2 / sigma_1 of the blocks of units of one pattern, and of the layer.

    Args:
        start: (n, d) weight at the start.
        now: (n, d) weight.
        x: (N, d) samples; their signs now are the patterns.

    Returns:
        The largest ratio of a block of two units or more whose squared norm is at
        least four times that at the start, NaN without one; that of the whole. NaN of
        weights that did not arrive.
    """
    if not bool(now.isfinite().all()):
        return math.nan, math.nan
    active = x @ now.T > 0.0
    code = (active * 2 ** torch.arange(len(x))[:, None]).sum(0)
    found = []
    for value in sorted(set(code.tolist())):
        block, before = now[code == value], start[code == value]
        grown = float(block.square().sum()) >= _GROWN * float(before.square().sum())
        if value > 0 and len(block) > 1 and grown:
            sigma = torch.linalg.svdvals(block)
            found.append(float(sigma[1] / sigma[0]))
    whole = torch.linalg.svdvals(now)
    return max(found, default=math.nan), float(whole[1] / whole[0])


def _three_points(seed: int, num: int) -> Problem:
    """Three unit vectors at random angles, labels 1, -1, 1."""
    inputs = []
    for r in range(num):
        generator = derive_generator(seed, KEY, NAME, "points", r)
        points = torch.randn(
            3, _BLOCK_WIDTHS[0], dtype=torch.float64, generator=generator
        )
        inputs.append(points / points.norm(dim=1, keepdim=True))
    labels = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).expand(num, -1)
    return Problem(chain_forward(2, num_relus=1), torch.stack(inputs), labels)


def questions(size: BlocksSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is followed.

    Returns:
        The questions; what they read is (R, T, Q).
    """
    pairs = (
        f"network {listed(_PAIRS_WIDTHS, '-')}, ReLU after the first layer, thresholds "
        f"spread over the units; {size.num_seeds} draws of it and of "
        f"{size.num_samples} separable points; gradient descent on the logistic loss, "
        f"rate {_STEP:g}, to time {size.time:g}; pairs of units whose pattern was the "
        "same on all samples in every step, against the median of the other pairs"
    )
    blocks = (
        f"network {listed(_BLOCK_WIDTHS, '-')} without biases, ReLU; {size.num_seeds} "
        "draws of it and of three unit vectors labelled 1, -1, 1; flow of the log of "
        f"the logistic risk to {listed(_RISKS)}; blocks of units with one pattern, of "
        f"at least {_GROWN:g} times the squared norm they started with"
    )
    ratio = Axes("log10 of 1 / risk", "sigma_2 / sigma_1", "ratio", "log", "log")
    drift = Axes("log10 of 1 / risk", "drift", "drift", "log", "log")
    lines = (
        Line("blocks that grew, largest", _DIGITS, lambda y: y[:, :, _BLOCK], None),
        Line("the layer", _DIGITS, lambda y: y[:, :, _WHOLE], None),
    )
    drifts = tuple(
        Line(name, _DIGITS, lambda y, q=q: np.asarray(y[:, :, q]), None)  # type: ignore[misc]
        for q, name in enumerate(("diagonal", "same pattern", "other pairs"))
    )
    asked = [
        (claim(f"{NAME}.vertex", "ReLU units: drift of a unit's own law is a hundredth "
               "of that of a pair that is not conserved, or less.", protocol=pairs,
               quantity="log10_ratio_of_drifts", relation="at_most", expected=-2.0,
               place="Lemma 2", source="an earlier run of ours had 5e-5 against 0.96"),
         lambda y: np.log10(y[:, 0, _DIAGONAL] / y[:, 0, _OTHERS]), drift, drifts),
        (claim(f"{NAME}.pairs", "So is that of pairs with the same pattern on every "
               "sample.", protocol=pairs, quantity="log10_ratio_of_drifts",
               relation="at_most", expected=-2.0, place="Lemma 2",
               source="36 runs of ours had a thousandth or less"),
         lambda y: np.log10((y[:, 0, _TOGETHER] / y[:, 0, _OTHERS]).clip(1e-16)),
         drift, drifts),
        (claim(f"{NAME}.others", "Pairs with different patterns are not conserved.",
               protocol=pairs, quantity="log10_median_drift", relation="at_least",
               expected=-3.0, place="Lemma 4"),
         lambda y: np.log10(y[:, 0, _OTHERS]), drift, drifts),
        (claim(f"{NAME}.blocks-rank-one", "At a risk of 1e-60 every block that grew is "
               "near rank one.", protocol=blocks, quantity="sigma_2_over_sigma_1",
               relation="at_most", expected=0.25,
               source="derived: the tail of a block of one pattern is bounded; an "
               "earlier run of ours had 0.002 to 0.14"),
         lambda y: y[:, -1, _BLOCK], ratio, lines),
        (claim(f"{NAME}.blocks-fall", "Their second singular value falls against the "
               "first from 1e-30 to 1e-60: log10 of the ratio.", protocol=blocks,
               quantity="log10_sigma_2_over_sigma_1", relation="decreasing",
               source="derived"),
         lambda y: np.log10(y[:, 1:, _BLOCK]), ratio, lines),
        (claim(f"{NAME}.layer-not-rank-one", "The layer as a whole is not.",
               protocol=blocks, quantity="sigma_2_over_sigma_1", relation="at_least",
               expected=0.2, source="an earlier run of ours had 0.46 to 0.85"),
         lambda y: y[:, -1, _WHOLE], ratio, lines),
    ]  # fmt: skip
    return [Question(*each) for each in asked]
