r"""Tails of free residual blocks and of convolutions, down to a risk of 1e-60.

A block U Y x + Z x doubles the rank that is left to what is below it, a convolution
multiplies it by the positions of its kernel or by the channels that it reads, whichever
are fewer. The paper has 8 where we have 2.

R  seeds    T  risks    S  levels of the tail, the lowest first    Q  quantities
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.experiments.le2022training.conservation.junctions import (
    convolve,
)
from spectrank.experiments.le2022training.flows import Pace, scaled_flow
from spectrank.experiments.le2022training.limits.measuring import certificates, one
from spectrank.experiments.le2022training.problems import (
    Forward,
    Params,
    affine,
    gaussian,
    separable,
)
from spectrank.experiments.papers import Tick
from spectrank.invariance import certify
from spectrank.model import Graph, graph

RISKS = (1e-2, 1e-10, 1e-30, 1e-60)
DIGITS = tuple(-math.log10(risk) for risk in RISKS)
EXCESS, DRIFT, RANKS = range(3)
_INPUTS = 8
_TRUNK, _WIDTH, _INNER = 12, 8, 6
_LOW, _HIGH = 6, 5


@final
class FreeBlock(nn.Module):
    """U Y x + Z x."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.y = nn.Linear(width, inner, bias=False)
        self.u = nn.Linear(inner, width, bias=False)
        self.z = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: (N, width).

        Returns:
            (N, width).
        """
        out: Tensor = self.u(self.y(x)) + self.z(x)
        return out


@final
@dataclass(frozen=True)
class TailNet:
    """A ReLU trunk with a linear tail, as a module and as a function of all seeds.

    Attributes:
        name: In claims' keys.
        words: In their protocols.
        build: Makes the module.
        forward: The same function, of parameters of every seed.
        limits: kappa of each level of the tail, the lowest first, by hand.
        degree: Largest degree of the function in its parameters.
        expected: What an earlier run of ours had; empty for nothing.
    """

    name: str
    words: str
    build: Callable[[], nn.Module]
    forward: Forward
    limits: tuple[int, ...]
    degree: int
    expected: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its parameters.

        Returns:
            Name to shape.
        """
        return {k: tuple(p.shape) for k, p in self.build().named_parameters()}

    def trace(self) -> Graph:
        """Return its graph.

        Returns:
            The graph.
        """
        return graph(self.build(), torch.zeros(1, _INPUTS, dtype=torch.float64))


def networks() -> tuple[TailNet, ...]:
    """Return the two networks.

    Returns:
        Blocks with free skips; convolutions, flattened into dense layers.
    """
    return (
        TailNet(
            "free-blocks",
            f"layer {_INPUTS}-{_TRUNK} with ReLU; linear from there: layer "
            f"{_TRUNK}-{_WIDTH}, two blocks U Y x + Z x of inner width {_INNER}, head",
            _blocks,
            _blocks_forward,
            (4, 2, 1, 1),
            7,
            "an earlier run of ours with three blocks had 1.44, 1.83, 1.54 at 1e-102",
        ),
        TailNet(
            "convolutions",
            f"convolution of {_LOW} channels with ReLU; linear from there: two "
            f"convolutions of {_LOW} and {_HIGH} channels over two places, two "
            f"positions flattened, layer {2 * _HIGH}-{_WIDTH}, head",
            _convolutions,
            _convolutions_forward,
            (4, 2, 1, 1),
            5,
        ),
    )


def _blocks() -> nn.Module:
    return nn.Sequential(
        nn.Linear(_INPUTS, _TRUNK, bias=False),
        nn.ReLU(),
        nn.Linear(_TRUNK, _WIDTH, bias=False),
        FreeBlock(_WIDTH, _INNER),
        FreeBlock(_WIDTH, _INNER),
        nn.Linear(_WIDTH, 1, bias=False),
    ).double()


def _blocks_forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    h = affine(params, "2", affine(params, "0", x).relu())
    for block in ("3", "4"):
        branch = affine(params, f"{block}.u", affine(params, f"{block}.y", h))
        h = branch + affine(params, f"{block}.z", h)
    return affine(params, "5", h)[..., 0]


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, _INPUTS)),
        nn.Conv1d(1, _LOW, 3, bias=False),
        nn.ReLU(),
        nn.Conv1d(_LOW, _LOW, 2, bias=False),
        nn.Conv1d(_LOW, _HIGH, 2, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(2 * _HIGH, _WIDTH, bias=False),
        nn.Linear(_WIDTH, 1, bias=False),
    ).double()


def _convolutions_forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    h = convolve(params, "1", x.unsqueeze(2)).relu()
    h = convolve(params, "4", convolve(params, "3", h), stride=2).flatten(2)
    return affine(params, "7", affine(params, "6", h))[..., 0]


@final
@dataclass(frozen=True)
class TailsSize:
    """How much is followed.

    Attributes:
        num_seeds: R.
        num_samples: n.
    """

    num_seeds: int
    num_samples: int = 15


def pace(net: TailNet) -> Pace:
    """Return the steps of a network's flow.

    Args:
        net: The network.

    Returns:
        The pace: in log R by about 1 a step, which costs a bound less than 1 %.
    """
    return Pace(net.degree, fall=1.0)


def measure(net: TailNet, size: TailsSize, seed: int, tick: Tick) -> np.ndarray:
    """Follow the flow of a network.

    Args:
        net: The network.
        size: How much.
        seed: Base seed.
        tick: Called at the end.

    Returns:
        (R, T, Q): largest relative excess over a bound, drift of a bound, and the
        stable rank of each level of the tail but the head.
    """
    num, labels = size.num_seeds, (net.name,)
    data = separable(seed, labels, num, _INPUTS, size.num_samples)
    problem = replaced(data, forward=net.forward)
    start = gaussian(seed, labels, num, net.shapes())
    traced = net.trace()
    found = np.empty((num, len(RISKS), RANKS + len(net.limits) - 1))
    targets = [math.log(risk) for risk in RISKS]
    for t, now in enumerate(scaled_flow(problem, start, targets, pace(net))):
        excess, _, drift = certificates(traced, start, now)
        found[:, t, EXCESS], found[:, t, DRIFT] = excess, drift
        found[:, t, RANKS:] = certified_ranks(traced, start, now, net.limits)[:, :-1]
    tick()
    return found


def certified_ranks(
    traced: Graph, start: Params, now: Params, limits: tuple[int, ...]
) -> np.ndarray:
    """Stable ranks of the levels of a tail, as they are certified.

    Args:
        traced: Graph of the network.
        start: Parameters of every seed at the start.
        now: Parameters now.
        limits: What they are certified to go to.

    Returns:
        (R, S); NaN where a parameter is not finite, or where another limit is
        certified than the one that is expected.
    """
    num = len(next(iter(now.values())))
    found = np.full((num, len(limits)), np.nan)
    for r in range(num):
        table = certify(traced, start=one(start, r), now=one(now, r))
        rows = [row for row in table.frame.to_dicts() if row["metric"] == "stable_rank"]
        if tuple(row["limit"] for row in rows) == limits:
            found[r] = [row["value"] for row in rows]
    return found
