"""Linear tails on images, down to a risk of 1e-40 by gradient flow.

Without biases, images of length one, every draw of a network in one batch.

R  seeds    A  arms    T  risks    Q  quantities, then S singular values
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spectrank.experiments.images import Images
from spectrank.experiments.le2022training.claims import KEY
from spectrank.experiments.le2022training.flows import Pace, scaled_flow
from spectrank.experiments.le2022training.images.measuring import (
    NUM_NUMBERS,
    Quantity,
    data_numbers,
    last_spectrum,
    tail_numbers,
)
from spectrank.experiments.le2022training.images.networks import (
    Network,
    build,
    draw_,
)
from spectrank.experiments.le2022training.images.training import labels_of
from spectrank.experiments.le2022training.limits.measuring import one
from spectrank.experiments.le2022training.problems import Forward, Params, Problem
from spectrank.experiments.papers import Tick
from spectrank.experiments.seeds import derive_generator
from spectrank.invariance import Laws, find
from spectrank.invariance.laws import evaluate_all
from spectrank.model import Graph, graph

NAME = "images-tail"
RISKS = (1e-2, 1e-10, 1e-40)


@final
@dataclass(frozen=True)
class TailArm:
    """A network whose tail is followed.

    Attributes:
        name: Of the arm.
        network: Which.
        degree: Largest number of layers on a path.
        homogeneous: Whether all paths have that many.
        num_outputs: 1 for a digit against the rest, 10 for all classes.
        fall: By how much a step lowers the log of the risk, about.
    """

    name: str
    network: Network
    degree: int
    homogeneous: bool = True
    num_outputs: int = 1
    # Kinks of many units ask for small steps.
    fall: float = 0.15

    @property
    def pace(self) -> Pace:
        """Of its flow."""
        return Pace(self.degree, fall=self.fall)


DENSE = (
    TailArm("mlp", "mlp", 5),
    TailArm("residual", "residual", 7, homogeneous=False),
    TailArm("ten-classes", "mlp", 5, num_outputs=10),
)
CNN = (TailArm("cnn", "cnn", 4),)


@final
@dataclass(frozen=True)
class TailSize:
    """How much is followed.

    Attributes:
        images: On what.
        num_seeds: R.
        arms: Which networks.
    """

    images: Images
    num_seeds: int
    arms: tuple[TailArm, ...] = DENSE


def measure(size: TailSize, seed: int, tick: Tick) -> np.ndarray:
    """Follow the flow of every arm.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every arm.

    Returns:
        (R, A, T + 1, Q + S), the start first; NaN of what was not measured, and of
        draws that did not reach a risk.
    """
    shape = (size.num_seeds, len(size.arms), len(RISKS) + 1, NUM_NUMBERS)
    found = np.empty(shape)
    for a, arm in enumerate(size.arms):
        found[:, a] = followed(arm, size, seed)
        tick()
    return found


def followed(arm: TailArm, size: TailSize, seed: int) -> np.ndarray:
    """Follow all draws of a network.

    Args:
        arm: Which.
        size: Data and number of draws.
        seed: Base seed.

    Returns:
        (R, T + 1, Q + S).
    """
    problem, start, nets = problem_of(arm, size, seed)
    targets = [math.log(risk) for risk in RISKS]
    moments = [start, *scaled_flow(problem, start, targets, arm.pace)]
    traced = graph(nets[0], problem.inputs[0, :2])
    laws = find(traced, loss=None if arm.num_outputs == 1 else "cross_entropy")
    found = []
    for r, net in enumerate(nets):
        batch = (problem.inputs[r], problem.labels[r])
        own = [one(moment, r) for moment in moments]
        found.append(_looked_at(net, traced, laws, batch, own))
    return np.stack(found)


def problem_of(
    arm: TailArm, size: TailSize, seed: int
) -> tuple[Problem, Params, list[nn.Module]]:
    """Draw the networks of an arm, as single ones and as one batch on the data.

    Args:
        arm: Which.
        size: Data and number of draws.
        seed: Base seed.

    Returns:
        The batch on images of length 1, its parameters, and the R networks.
    """
    data, num = size.images.train, size.num_seeds
    side = data.inputs.shape[-1]
    inputs = data.inputs.double() / side
    labels = [labels_of(arm.num_outputs, data.labels, r) for r in range(num)]
    nets: list[nn.Module] = []
    for r in range(num):
        net = build(arm.network, side, num_outputs=arm.num_outputs, bias=False)
        draw_(net, derive_generator(seed, KEY, NAME, arm.name, r))
        nets.append(net)
    start = {
        name: torch.stack([net.get_parameter(name).detach() for net in nets])
        for name, _ in nets[0].named_parameters()
    }
    problem = Problem(
        _forward(nets[0], scalar=arm.num_outputs == 1),
        inputs.expand(num, *inputs.shape),
        torch.stack(labels),
    )
    return problem, start, nets


def _forward(net: nn.Module, *, scalar: bool) -> Forward:
    def call(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(net, dict(params), (x,))
        return out[:, 0] if scalar else out

    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = vmap(call)(dict(params), x)
        return out

    return forward


def _looked_at(
    net: nn.Module,
    traced: Graph,
    laws: Laws,
    batch: tuple[Tensor, Tensor],
    moments: Sequence[Params],
) -> np.ndarray:
    """(T + 1, Q + S) of one draw, which is loaded into a network."""
    softmax = not batch[1].dtype.is_floating_point
    start = moments[0]
    first = evaluate_all(laws, start)
    found = np.full((len(moments), NUM_NUMBERS), np.nan)
    patterns = None
    for t, now in enumerate(moments):
        if not all(bool(v.isfinite().all()) for v in now.values()):
            break
        net.load_state_dict(now)
        numbers = tail_numbers(net, traced, laws, start, softmax=softmax)
        seen, patterns = data_numbers(net, [batch], patterns)
        for quantity, value in (numbers | seen).items():
            found[t, quantity] = value
        found[t, Quantity.DRIFT] = max(
            float((value - first[k]).abs().max() / first[k].abs().max().clamp(min=1.0))
            for k, value in evaluate_all(laws, now).items()
        )
        found[t, len(Quantity) :] = last_spectrum(net, traced)
    return found


def settings_of(size: TailSize) -> dict[str, object]:
    """Return all that the result depends on but the seed.

    Args:
        size: How much is followed.

    Returns:
        Plain values.
    """
    return {
        "images": asdict(size.images),
        "num_seeds": size.num_seeds,
        "arms": [asdict(arm) | {"pace": asdict(arm.pace)} for arm in size.arms],
        "risks": RISKS,
    }
