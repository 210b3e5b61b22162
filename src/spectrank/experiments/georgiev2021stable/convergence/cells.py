"""A cell of the study: one data set, network and optimiser, and all its arms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import numpy as np

from spectrank.experiments.georgiev2021stable.convergence.ensembles import (
    Arm,
    Network,
    Scope,
    cnn,
    mlp,
)
from spectrank.experiments.georgiev2021stable.convergence.images import Images
from spectrank.experiments.georgiev2021stable.convergence.rates import search
from spectrank.experiments.georgiev2021stable.convergence.training import (
    Member,
    OptimizerName,
    Reached,
    Task,
    train,
)
from spectrank.experiments.papers import Tick
from spectrank.experiments.tuning import Best

Kind = Literal["mlp", "cnn"]

_ARMS_AT_ONCE = 8


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
        num_fresh: Other seeds, on which arms are compared.
        kind: ``mlp`` or ``cnn``.
        scope: Which weights an arm decides.
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
    num_fresh: int = 10
    kind: Kind = "mlp"
    scope: Scope = "hidden"

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
        return 1 + math.ceil(len(self.arms) / _ARMS_AT_ONCE)

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
            f"{0.9:g}, is below {self.target:g}, at most {self.budget}"
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


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """What a cell found.

    Attributes:
        cell: Which.
        tuned: Arm to its learning rate; one that diverged at every rate is absent.
        reached: Arm to what its fresh seeds reached.
    """

    cell: Cell
    tuned: Mapping[str, Best]
    reached: Mapping[str, Reached]


def measure(cell: Cell, seed: int, tick: Tick) -> Measured:
    """Tune the learning rate of all arms, then train them on fresh seeds.

    Args:
        cell: What is trained.
        seed: Base seed.
        tick: Called after the tuning and after every few arms.

    Returns:
        What was found.
    """
    task = cell.task()
    tuned = tune_rates(
        task, cell.arms, num=cell.num_tuning, centre=cell.centre, seed=seed
    )
    tick()
    reached = compare_arms(
        task, cell.arms, tuned, num=cell.num_fresh, seed=seed, tick=tick
    )
    return Measured(cell, tuned, reached)


def tune_rates(
    task: Task, arms: tuple[Arm, ...], *, num: int, centre: float, seed: int
) -> dict[str, Best]:
    """Find the learning rate of each arm that gets to the target soonest.

    Minimised is the mean over seeds of the log of the steps. A member that does not
    get there in the budget counts with more than the budget, by the ratio of its
    smoothed loss to the target, so that of two rates that are too small the larger is
    better; one that diverges counts as infinite.

    Args:
        task: What to learn.
        arms: Which arms.
        num: Seeds.
        centre: Rate to begin at.
        seed: Base seed.

    Returns:
        Arm to its best rate; one that diverged at every rate is absent.
    """
    by_name = {arm.name: arm for arm in arms}

    def evaluate(pairs: Any) -> list[float]:
        members = [
            Member(by_name[name], rate, replicate)
            for name, rate in pairs
            for replicate in range(num)
        ]
        found = train(task, members, "tuning", num=num, seed=seed)
        costs: list[float] = objective(found, task).reshape(-1, num).mean(1).tolist()
        return costs

    return search(list(by_name), evaluate, centre=centre)


def objective(found: Reached, task: Task) -> np.ndarray:
    """What a learning rate is judged by, for each member.

    Args:
        found: What members reached.
        task: What they learned.

    Returns:
        (M,) log of the steps, above that of the budget if censored; ``inf`` where it
        diverged.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        late = np.log(np.maximum(found.final_loss / task.target, 1.0))
    cost = np.log(found.steps) + np.where(found.reached, 0.0, late)
    lost = (found.diverged & ~found.reached) | ~np.isfinite(cost)
    return np.where(lost, np.inf, cost)


def compare_arms(
    task: Task,
    arms: tuple[Arm, ...],
    tuned: Mapping[str, Best],
    *,
    num: int,
    seed: int,
    tick: Tick,
) -> dict[str, Reached]:
    """Train every arm at its own learning rate on fresh seeds.

    Args:
        task: What to learn.
        arms: Which arms.
        tuned: Arm to its learning rate.
        num: Seeds.
        seed: Base seed.
        tick: Called after every few arms.

    Returns:
        Arm to what its replicates reached. An arm without a rate reached nothing.
    """
    found = {arm.name: _nothing(task, num) for arm in arms}
    for start in range(0, len(arms), _ARMS_AT_ONCE):
        block = [a for a in arms[start : start + _ARMS_AT_ONCE] if a.name in tuned]
        members = [
            Member(arm, tuned[arm.name].learning_rate, replicate)
            for arm in block
            for replicate in range(num)
        ]
        if members:
            whole = train(task, members, "fresh", num=num, seed=seed)
            for i, arm in enumerate(block):
                found[arm.name] = whole.of(range(i * num, (i + 1) * num))
        tick()
    return found


def _nothing(task: Task, num: int) -> Reached:
    never = np.zeros(num, dtype=bool)
    unknown = np.full(num, np.nan)
    return Reached(np.full(num, float(task.budget)), never, ~never, unknown, unknown)
