r"""Training of the sweeps: long enough for the decay to be felt, then to rest.

Weight decay forgets the start at the rate ``learning_rate * weight_decay``, so that a
network is trained for at least

    sum_t eta_t lambda >= 5,    eta_t = schedule(t) * learning_rate / (1 - momentum),

five decay times: exp(-5) = 0.7 % of the start is left. The learning rate is constant,
then falls as a parabola to zero over the last half of the steps, which takes the noise
of batches out of the gradient (a third less residual than a straight line).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor

from spectrank.experiments.images import Images
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural.networks import Network
from spectrank.train import SGD, Adam, FleetResult, FleetView, stack, train_fleet
from spectrank.train.fleet.threads import single_threaded

DECAY_TIMES = 5.0
"""Least number of decay times of a network that counts as trained."""


@final
@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        learning_rate: At the start.
        momentum: Of SGD.
        batch_size: Samples a step; None for all.
        rule: ``sgd`` with coupled weight decay, or ``adamw`` (momentum is not used).
        tail: Share of the steps over which the learning rate falls to zero, in [0, 1].
        least_steps: Also trained for so many.
        most_steps: Not trained for more.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    batch_size: int | None = 128
    rule: Literal["sgd", "adamw"] = "sgd"
    tail: float = 0.5
    least_steps: int = 1000
    most_steps: int = 100_000

    @property
    def rate(self) -> float:
        """Learning rate of the sum of all steps that one gradient takes part in."""
        return self.learning_rate / (1.0 - self.momentum * (self.rule == "sgd"))

    def num_steps(self, weight_decay: float) -> int:
        """Return how many steps a network takes.

        Args:
            weight_decay: At least 0; without decay as many as are allowed.

        Returns:
            The steps.
        """
        # The parabola's mean is a third; one step more for the sum against the mean.
        full = self.rate * weight_decay * (1.0 - self.tail * 2.0 / 3.0)
        wanted = math.ceil(DECAY_TIMES / full) + 1 if full > 0.0 else self.most_steps
        return min(max(self.least_steps, wanted), self.most_steps)

    def decay_times(self, weight_decay: float) -> float:
        """Return the decay times of those steps.

        Args:
            weight_decay: At least 0.

        Returns:
            The sum over the steps of learning rate times decay.
        """
        num = self.num_steps(weight_decay)
        factors = sum(self.factor(step, num) for step in range(num))
        return factors * self.rate * weight_decay

    def factor(self, step: int, num_steps: int) -> float:
        """Return the factor of the learning rate.

        Args:
            step: Updates done.
            num_steps: In all.

        Returns:
            In (0, 1].
        """
        if self.tail == 0.0:
            return 1.0
        return min(1.0, (num_steps - step) / (self.tail * num_steps)) ** 2

    def optimizer(self, weight_decay: float) -> SGD | Adam:
        """Return the rule of a fleet.

        Args:
            weight_decay: Of every parameter, biases too.

        Returns:
            The optimiser.
        """
        if self.rule == "adamw":
            return Adam(
                learning_rate=self.learning_rate,
                weight_decay=weight_decay,
                decoupled=True,
            )
        return SGD(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=weight_decay,
        )

    def text(self) -> str:
        """Return the recipe in words, for a claim's protocol.

        Returns:
            A clause.
        """
        size = "full batches" if self.batch_size is None else f"b={self.batch_size}"
        rule = f"SGD (momentum {self.momentum:g})" if self.rule == "sgd" else "AdamW"
        tail = f", last {100 * self.tail:g}% falling to 0" if self.tail else ""
        return (
            f"{rule}, learning rate {self.learning_rate:g}{tail}, {size}, at least "
            f"{DECAY_TIMES:g} decay times, biases decayed too"
        )


@final
@dataclass(frozen=True)
class Cell:
    """A point of a sweep.

    Attributes:
        network: Architecture.
        weight_decay: lambda, at least 0.
        recipe: Of the training.
        noise: Standard deviation of Gaussian noise added to every pixel, drawn once
            for every network; images have length sqrt(d).
    """

    network: Network
    weight_decay: float
    recipe: Recipe = field(default_factory=Recipe)
    noise: float = 0.0


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """Networks of one cell, one for each seed.

    Attributes:
        result: Of the fleet.
        inputs: (R, N, ...) what each was trained on.
        labels: (N,).
        test: Inputs and labels of the test set, as clean as the data are.
    """

    result: FleetResult
    inputs: Tensor
    labels: Tensor
    test: tuple[Tensor, Tensor]


def train(
    cell: Cell,
    images: Images,
    *,
    num_seeds: int,
    seed: int,
    stream: tuple[str, ...],
    on_step: Callable[[int, FleetView], None] | None = None,
    observe_every: int = 1,
) -> Trained:
    """Train the networks of a cell.

    The r-th networks of cells that share an architecture start at the same point and
    meet the same noise: cells are compared in pairs.

    Args:
        cell: What.
        images: On what.
        num_seeds: R.
        seed: Base seed.
        stream: Names of the part.
        on_step: Called with the steps done and a view of the fleet.
        observe_every: Steps between two calls.

    Returns:
        The networks and their data.
    """
    text = cell.network.text()
    drawn = [
        cell.network.draw(derive_generator(seed, *stream, "start", text, r))
        for r in range(num_seeds)
    ]
    clean = images.train.inputs
    inputs = clean.expand(num_seeds, *clean.shape)
    if cell.noise:
        inputs = torch.stack(
            [
                clean + cell.noise * _noise(clean, seed, (*stream, "noise"), r)
                for r in range(num_seeds)
            ]
        )
    labels, test = images.train.labels, (images.test.inputs, images.test.labels)
    num_steps = cell.recipe.num_steps(cell.weight_decay)
    with single_threaded(torch.device("cpu")):
        result = train_fleet(
            drawn[0],
            stack(drawn),
            inputs if cell.noise else clean,
            labels.expand(num_seeds, -1) if cell.noise else labels,
            dataset=range(num_seeds) if cell.noise else None,
            optimizer=cell.recipe.optimizer(cell.weight_decay),
            batch_size=cell.recipe.batch_size,
            seeds=[derive_seed(seed, *stream, "batches", r) for r in range(num_seeds)],
            max_steps=num_steps,
            schedule=lambda step: cell.recipe.factor(step, num_steps),
            record_every=max(1, num_steps),
            evaluations={"test": test},
            on_step=on_step,
            observe_every=observe_every,
        )
    return Trained(result, inputs, labels, test)


def _noise(like: Tensor, seed: int, stream: tuple[str, ...], replicate: int) -> Tensor:
    generator = derive_generator(seed, *stream, replicate)
    return torch.randn(like.shape, generator=generator)
