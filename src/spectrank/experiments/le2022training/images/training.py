"""Networks on images by minibatch steps, watched: what the laws do, and the ranks.

R  seeds    A  arms    T  checkpoints    Q  quantities, then S singular values
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from spectrank.experiments.images import Images, Split
from spectrank.experiments.le2022training.claims import KEY
from spectrank.experiments.le2022training.images.measuring import (
    NUM_NUMBERS,
    Quantity,
    data_numbers,
    last_spectrum,
    law_numbers,
    tail_numbers,
)
from spectrank.experiments.le2022training.images.networks import (
    Network,
    build,
    draw_,
)
from spectrank.experiments.papers import Tick
from spectrank.experiments.seeds import derive_generator
from spectrank.invariance import Watch, find
from spectrank.model import graph

NAME = "images"
BATCH, STEPS, CHECKPOINTS = 50, 300, 4
_LOOKED_AT = 500

Recipe = Literal["sgd", "momentum", "adam"]
RECIPES = MappingProxyType(
    {
        "sgd": "SGD at rate {rate:.2g}",
        "momentum": "SGD at rate {rate:.2g}, momentum 0.9, weight decay 5e-4",
        "adam": "Adam at rate {rate:.2g}",
    }
)
# Of kernels, on images of 64 pixels.
_RATES = MappingProxyType({"sgd": 0.05, "momentum": 0.01, "adam": 1e-3})


@final
@dataclass(frozen=True)
class Arm:
    """A network and how it is trained.

    Attributes:
        name: Of the arm.
        network: Which.
        recipe: Which optimizer.
        num_outputs: 10 for cross-entropy on all classes; 1 for the logistic loss of a
            digit against the rest, digit r mod 10 in draw r.
    """

    name: str
    network: Network
    recipe: Recipe
    num_outputs: int = 10


ARMS = (
    Arm("mlp", "mlp", "sgd"),
    Arm("one-versus-rest", "mlp", "sgd", 1),
    Arm("cnn", "cnn", "sgd"),
    Arm("residual", "residual", "sgd"),
    Arm("cnn-momentum", "cnn", "momentum"),
    Arm("mlp-adam", "mlp", "adam"),
)


@final
@dataclass(frozen=True)
class ImagesSize:
    """How much is trained.

    Attributes:
        images: On what.
        num_seeds: R.
    """

    images: Images
    num_seeds: int


def measure(size: ImagesSize, seed: int, tick: Tick) -> np.ndarray:
    """Train every arm of every seed.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after each.

    Returns:
        (R, A, T + 1, Q + S), the start first.
    """
    shape = (size.num_seeds, len(ARMS), CHECKPOINTS + 1, NUM_NUMBERS)
    found = np.empty(shape)
    for r in range(size.num_seeds):
        for a, arm in enumerate(ARMS):
            found[r, a] = trained(arm, size.images.train, seed, r)
            tick()
    return found


def trained(arm: Arm, data: Split, seed: int, replicate: int) -> np.ndarray:
    """Train one network under watch.

    Args:
        arm: Which.
        data: On what.
        seed: Base seed.
        replicate: r.

    Returns:
        (T + 1, Q + S).
    """
    inputs, labels = (
        data.inputs.double(),
        labels_of(arm.num_outputs, data.labels, replicate),
    )
    # Arms of one network and task start alike and see the same batches.
    stream = (arm.network, arm.num_outputs, replicate)
    generator = derive_generator(seed, KEY, NAME, *stream)
    net = build(arm.network, inputs.shape[-1], num_outputs=arm.num_outputs)
    draw_(net, generator)
    traced = graph(net, inputs[:2])
    laws = find(traced, loss=None if arm.num_outputs == 1 else "cross_entropy")
    start = {k: v.detach().clone() for k, v in net.named_parameters()}
    pieces = (torch.split(both, _LOOKED_AT) for both in (inputs, labels))
    looked = list(zip(*pieces, strict=True))
    found = np.empty((CHECKPOINTS + 1, NUM_NUMBERS))
    patterns, every = None, STEPS // CHECKPOINTS
    optimizer = _optimizer(arm, net, inputs[0].numel())
    with Watch(net, laws, optimizer=optimizer, every=every) as watch:
        for t in range(CHECKPOINTS + 1):
            if t:
                for _ in range(every):
                    chosen = torch.randperm(len(inputs), generator=generator)[:BATCH]
                    _step(net, optimizer, inputs[chosen], labels[chosen])
            softmax = arm.num_outputs > 1
            numbers = tail_numbers(net, traced, laws, start, softmax=softmax)
            seen, patterns = data_numbers(net, looked, patterns)
            found[t, len(Quantity) :] = last_spectrum(net, traced)
            for quantity, value in (numbers | seen).items():
                found[t, quantity] = value
    for t in range(CHECKPOINTS + 1):
        rows = watch.table().where(step=t * every).frame.to_dicts()
        for quantity, value in law_numbers(rows, laws, start).items():
            found[t, quantity] = value
    return found


def labels_of(num_outputs: int, labels: Tensor, replicate: int) -> Tensor:
    """What a network learns.

    Args:
        num_outputs: 1 for a digit against the rest.
        labels: (N,) digits.
        replicate: r.

    Returns:
        (N,) digits, or 1 for digit r mod 10 and -1 for the rest.
    """
    if num_outputs > 1:
        return labels
    return torch.where(labels == replicate % 10, 1.0, -1.0).double()


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, or logistic loss of one output.

    Args:
        outputs: (N, C).
        labels: (N,), classes, or -1 and 1.

    Returns:
        A number.
    """
    if labels.dtype.is_floating_point:
        return functional.softplus(-labels * outputs[:, 0]).mean()
    return functional.cross_entropy(outputs, labels)


def rate_of(arm: Arm, num_pixels: int) -> float:
    """Learning rate of an arm.

    Args:
        arm: Which.
        num_pixels: d.

    Returns:
        That of its recipe; with kernels 64 / d of it, as they are shared by so many
        places, whose gradients add up.
    """
    return _RATES[arm.recipe] * (64 / num_pixels if arm.network == "cnn" else 1.0)


def _optimizer(arm: Arm, net: nn.Module, num_pixels: int) -> Optimizer:
    rate = rate_of(arm, num_pixels)
    if arm.recipe == "adam":
        return Adam(net.parameters(), lr=rate)
    if arm.recipe == "momentum":
        return SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    return SGD(net.parameters(), lr=rate)


def _step(net: nn.Module, optimizer: Optimizer, inputs: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    loss_of(net(inputs), labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
