r"""Mean signal of random ReLU networks, measured and as the claim has it.

The signal after L layers, each followed by its ReLU, is |h_L|^2 / |x|^2. With
independent bi-orthogonally invariant weights of spectral norm sigma_l and stable rank
sr_l, and n_{l-1} inputs to layer l,

    E |h_L|^2 / |x|^2 = prod_l sigma_l^2 sr_l / (2 n_{l-1}).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.papers import Tick
from spectrank.experiments.seeds import derive_generator
from spectrank.random_nets import RandomMLP
from spectrank.train.fleet.threads import single_threaded

_BATCH = 64
"""Networks held at once."""

Forward = Callable[[Sequence[Tensor], Tensor], Tensor]
"""Maps stacked float32 weights and (N, d) float64 inputs to (num, *F) numbers."""


@final
@dataclass(frozen=True)
class Point:
    """One setting at which networks are drawn.

    Attributes:
        label: Tells its random stream from those of all other points.
        law: The law of the networks.
    """

    label: str
    law: RandomMLP


def spectral_mean_signal(
    widths: Sequence[int], sigmas: Sequence[float], stable_ranks: Sequence[float]
) -> float:
    r"""Exact mean signal, :math:`\prod_l \sigma_l^2\, sr_l / (2 n_{l-1})`.

    Written down from the claim's own formula, apart from
    ``RandomMLP.mean_signal``, which shares code with the sampler.
    Source (derived): tests/experiments/test_experiments_georgiev2021stable.py.

    Args:
        widths: n_0 to n_L.
        sigmas: Spectral norm of each layer.
        stable_ranks: Stable rank of each layer.

    Returns:
        The mean of |h_L|^2 / |x|^2, for every x.
    """
    return math.prod(
        sigma**2 * rank / (2.0 * n)
        for sigma, rank, n in zip(sigmas, stable_ranks, widths[:-1], strict=True)
    )


@final
@dataclass(frozen=True)
class Observable:
    """What is recorded of each network.

    Attributes:
        name: Part of the settings that tell one result from another.
        forward: Computes it for a batch of networks.
    """

    name: str
    forward: Forward

    def __call__(
        self,
        law: RandomMLP,
        inputs: Tensor,
        *,
        num_networks: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw networks and record each.

        Args:
            law: Of the networks.
            inputs: (N, d) float64 rows of length 1.
            num_networks: How many.
            generator: Source of randomness.

        Returns:
            (num_networks, *F) float64, independent of each other.
        """
        found = []
        for first in range(0, num_networks, _BATCH):
            num = min(_BATCH, num_networks - first)
            # float32: its 1e-6 is nothing beside the spread over networks, at half the
            # memory traffic, which is what a run waits for.
            weights = law.sample_weights(generator, num=num, dtype=torch.float32)
            found.append(self.forward(weights, inputs).double())
        return torch.cat(found)


def _mean_signal(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    h = inputs.T.float()
    for W in weights:
        h = torch.relu(W @ h)
    return h.double().square().sum(-2).mean(-1)


def signals(
    law: RandomMLP,
    inputs: Tensor,
    *,
    num_networks: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw networks and return the signal of each, averaged over the inputs.

    Args:
        law: Of the networks; activation ``relu``.
        inputs: (N, d) float64 rows of length 1.
        num_networks: How many.
        generator: Source of randomness.

    Returns:
        (num_networks,) mean over the inputs of |h_L|^2, independent of each other.
    """
    observe = Observable("mean signal", _mean_signal)
    return observe(law, inputs, num_networks=num_networks, generator=generator)


def measure(
    points: Sequence[Point],
    inputs: Tensor,
    *,
    num_seeds: int,
    num_networks: int,
    seed: int,
    stream: Sequence[str],
    tick: Tick,
    observe: Observable | None = None,
) -> np.ndarray:
    """Draw the networks of all points and seeds, each from a stream of its own.

    Args:
        points: The design.
        inputs: (N, d) float64 rows of length 1.
        num_seeds: R independent replicates of the whole design.
        num_networks: K networks for each point and replicate.
        seed: Base seed.
        stream: Names of the part and data, for the streams.
        tick: Called after each point of each replicate.
        observe: What is recorded of each network, (K, *F); by default its signal.

    Returns:
        (R, P, K, *F), for signals (R, P, K).
    """
    draw = signals if observe is None else observe
    found = []
    # One thread: small products do not gain from a second one, and where other
    # programs hold the cores they wait for it (14 times as long).
    with single_threaded(inputs.device):
        for replicate in range(num_seeds):
            for point in points:
                recorded = draw(
                    point.law,
                    inputs,
                    num_networks=num_networks,
                    generator=derive_generator(seed, *stream, point.label, replicate),
                )
                found.append(recorded.numpy())
                tick()
    stacked = np.stack(found)
    return stacked.reshape(num_seeds, len(points), *stacked.shape[1:])
