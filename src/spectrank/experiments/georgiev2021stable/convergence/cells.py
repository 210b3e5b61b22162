"""A cell of the study: one data set, network and optimiser, and all its arms."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from spectrank.experiments.georgiev2021stable.convergence.ensembles import (
    Arm,
    Network,
    Scope,
    cnn,
    mlp,
)
from spectrank.experiments.georgiev2021stable.convergence.training import (
    OptimizerName,
    Task,
)
from spectrank.experiments.images import Images

Kind = Literal["mlp", "cnn"]

ARMS_AT_ONCE = 8
"""Compared between two ticks."""


@final
@dataclass(frozen=True)
class Cell:
    """What is trained, on what, and how much.

    Attributes:
        images: What is learned.
        depth: Number of weights.
        width: Units, or channels, of a hidden layer.
        optimizer: ``sgd``, ``momentum`` (0.9) or ``adam``.
        arms: Laws that are compared; ``gaussian`` and ``orthogonal`` among them.
        target: Smoothed training loss to fall below.
        budget: Most steps.
        centre: Learning rate around which the search begins.
        batch_size: Samples a step.
        num_tuning: Seeds a learning rate is judged by.
        num_choosing: Other seeds, on which the best arm is chosen.
        num_fresh: Other seeds, on which arms are compared.
        kind: ``mlp`` or ``cnn``.
        scope: Which weights an arm decides.
        asked: Names of the claims that are asked; None for all that the arms allow.
    """

    images: Images
    depth: int
    width: int
    optimizer: OptimizerName
    arms: tuple[Arm, ...]
    target: float
    budget: int
    centre: float
    batch_size: int = 64
    num_tuning: int = 3
    num_choosing: int = 12
    num_fresh: int = 10
    kind: Kind = "mlp"
    scope: Scope = "hidden"
    asked: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Dotted words, such as ``digits.depth-8.width-64.sgd``."""
        kind = "" if self.kind == "mlp" else f".{self.kind}"
        scope = "" if self.scope == "hidden" else f".{self.scope}"
        return (
            f"{self.images.data}{kind}.depth-{self.depth}.width-{self.width}."
            f"{self.optimizer}{scope}"
        )

    @property
    def title(self) -> str:
        """Where in a few words, such as ``digits, depth 8, width 64, sgd``."""
        kind = "" if self.kind == "mlp" else " CNN"
        scope = "" if self.scope == "hidden" else ", first weight too"
        return (
            f"{self.images.data}{kind}, depth {self.depth}, width {self.width}, "
            f"{self.optimizer}{scope}"
        )

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """(m, n) of a hidden weight, unfolded."""
        return self.width, self.width * (9 if self.kind == "cnn" else 1)

    @property
    def settings(self) -> dict[str, Any]:
        """All that a result depends on but the seed, as plain JSON."""
        return asdict(self)

    @property
    def num_steps(self) -> int:
        """Ticks of `measure`."""
        return 1 + math.ceil(len(self.arms) / ARMS_AT_ONCE)

    def text(self) -> str:
        """Return the protocol in words."""
        what = "first weight and hidden ones" if self.scope != "hidden" else "hidden"
        network = (
            f"ReLU network of {self.depth} weights, width {self.width}"
            if self.kind == "mlp"
            else f"ReLU CNN of {self.depth} weights, 3x3 kernels, {self.width} channels"
        )
        num = self.images.num_train
        count = "all" if num is None else f"the first {num}"
        rule = {"sgd": "SGD", "momentum": "SGD, momentum 0.9", "adam": "Adam"}
        return (
            f"{network}; an arm decides the {what} weights, the others are Gaussian "
            f"(He; readout of variance 1/n), biases trained from 0; {count} training "
            f"images of {self.images.data}, centred, each of length sqrt(d); "
            f"{rule[self.optimizer]}, batches of {self.batch_size}; learning rate of "
            f"each arm on a grid of half octaves by {self.num_tuning} seeds, the grid "
            f"extended until the optimum is inside; then {self.num_fresh} other seeds, "
            "paired between arms: steps until the training loss, smoothed by "
            f"{0.9:g}, is below {self.target:g}, at most {self.budget}{self._chosen}"
        )

    @property
    def _chosen(self) -> str:
        if self.asked is None:
            return ""
        return (
            "; asked here because runs with the base seeds 0, 1 and 2 answered it "
            "alike, other claims are left to the full run"
        )

    def network(self) -> Network:
        """Return the architecture."""
        if self.kind == "cnn":
            return cnn(self.width, self.depth - 2, 10, scope=self.scope)
        return mlp(self.images.num_pixels, self.width, self.depth, 10, scope=self.scope)

    def task(self) -> Task:
        """Return what every member is trained to do; reads the data."""
        train_set, test_set = self.images.train, self.images.test
        return Task(
            name=self.name,
            network=self.network(),
            inputs=train_set.inputs,
            labels=train_set.labels,
            test=(test_set.inputs, test_set.labels),
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            target=self.target,
            budget=self.budget,
        )
