"""Fleets of the study: members of all arms trained at once, and what they reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.georgiev2021stable.convergence.ensembles import Arm, Network
from spectrank.experiments.seeds import derive_seed
from spectrank.train import SGD, Adam, FleetResult, train_fleet
from spectrank.train.fleet.optimizers import Optimizer
from spectrank.train.fleet.threads import single_threaded

OptimizerName = Literal["sgd", "momentum", "adam"]
Stage = Literal["tuning", "choosing", "fresh"]
"""Learning rates are found on the seeds of the first, the best arm on those of the
second; arms are compared on those of the last alone."""

SMOOTHING = 0.9
_MOST_MEMBERS, _MOST_BYTES = 128, 2**27
"""Members trained at once; their parameters, of which a fleet holds five copies."""


@final
@dataclass(frozen=True, eq=False)
class Task:
    """What every member is trained to do.

    Attributes:
        name: Of the cell, for the streams of randomness.
        network: Architecture.
        inputs: (N, ...) float32.
        labels: (N,).
        test: Inputs and labels on which members are judged.
        optimizer: Rule.
        batch_size: Samples a step.
        target: Smoothed loss to fall below.
        budget: Most steps.
    """

    name: str
    network: Network
    inputs: Tensor
    labels: Tensor
    test: tuple[Tensor, Tensor]
    optimizer: OptimizerName
    batch_size: int
    target: float
    budget: int


@final
@dataclass(frozen=True)
class Member:
    """One network to be trained.

    Attributes:
        arm: How it is drawn.
        learning_rate: To train with.
        replicate: Which draw, and which order of the data: equal ones are paired.
    """

    arm: Arm
    learning_rate: float
    replicate: int


@final
@dataclass(frozen=True, eq=False)
class Reached:
    """What members reached; M of them.

    Attributes:
        steps: (M,) updates until the smoothed loss fell below the target; the budget
            for those that did not get there.
        reached: (M,) whether they did.
        diverged: (M,) whether the loss was no number at some step.
        final_loss: (M,) smoothed loss at the end.
        accuracy: (M,) on the test set at the end of the budget; NaN if diverged, or
            not measured.
    """

    steps: np.ndarray
    reached: np.ndarray
    diverged: np.ndarray
    final_loss: np.ndarray
    accuracy: np.ndarray

    def of(self, members: Sequence[int] | np.ndarray) -> Reached:
        """Return some of the members.

        Args:
            members: Their indices.

        Returns:
            The same numbers of these.
        """
        index = np.asarray(members, dtype=np.int64)
        return Reached(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Reached]) -> Reached:
        """Return members of several fleets, one after the other.

        Args:
            parts: At least one.

        Returns:
            The same numbers of all.
        """
        return Reached(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Reached)
            )
        )


def first_below(losses: np.ndarray, target: float) -> np.ndarray:
    """Step at which each member's smoothed loss is first below the target.

    Smoothed as `train_fleet` does: an exponential average of the losses of the batches
    before each update, divided by its weights' sum.

    Args:
        losses: (steps, M) of every step; NaN from where a member had stopped.
        target: Loss.

    Returns:
        (M,) steps counted from 1; 0 for never.
    """
    average = np.zeros(losses.shape[1])
    found = np.zeros(losses.shape[1], dtype=np.int64)
    for step, row in enumerate(losses, start=1):
        with np.errstate(invalid="ignore", over="ignore"):
            average = SMOOTHING * average + (1.0 - SMOOTHING) * row
            below = average / (1.0 - SMOOTHING**step) < target
        found[below & (found == 0)] = step
    return found


def train(
    task: Task, members: Sequence[Member], stage: Stage, *, num: int, seed: int
) -> Reached:
    """Train members, each as if it were alone.

    In the stage ``fresh`` a member goes on to the budget and is judged on the test set;
    before, it stops at the target and is not.

    Args:
        task: What to learn.
        members: Whom; replicates below ``num``.
        stage: Whose seeds.
        num: Replicates of the stage.
        seed: Base seed.

    Returns:
        What they reached, in the order of the members.
    """
    # Members of an arm together: its networks are drawn once a chunk.
    order = sorted(range(len(members)), key=lambda i: (members[i].arm.name, i))
    num_bytes = 4 * sum(math.prod(layer.shape) for layer in task.network.layers)
    size = min(_MOST_MEMBERS, max(1, _MOST_BYTES // num_bytes))
    parts = []
    for start in range(0, len(order), size):
        chunk = [members[i] for i in order[start : start + size]]
        parts.append(_fleet(task, chunk, stage, num, seed))
    return Reached.joined(parts).of(np.argsort(np.asarray(order)))


def _fleet(
    task: Task, members: Sequence[Member], stage: Stage, num: int, seed: int
) -> Reached:
    stops = stage != "fresh"
    result = train_fleet(
        # The fleet copies the template and never reads what it holds.
        task.network.make().to_empty(device="cpu"),
        _parameters(task, members, stage, num, seed),
        task.inputs,
        task.labels,
        optimizer=_optimizer(task.optimizer, [m.learning_rate for m in members]),
        max_steps=task.budget,
        batch_size=task.batch_size,
        seeds=[
            derive_seed(seed, task.name, stage, "order", m.replicate) for m in members
        ],
        target_loss=task.target if stops else None,
        smoothing=SMOOTHING,
        record_every=task.budget if stops else 1,
        evaluations=None if stops else {"test": task.test},
    )
    return _reached(task, result, stops)


def _parameters(
    task: Task, members: Sequence[Member], stage: Stage, num: int, seed: int
) -> dict[str, Tensor]:
    drawn: dict[str, Mapping[str, Tensor]] = {}
    # One thread: a QR on several may round otherwise.
    with single_threaded(torch.device("cpu")):
        for member in members:
            if member.arm.name not in drawn:
                drawn[member.arm.name] = task.network.sample(
                    member.arm, num, seed, task.name, stage
                )
    names = next(iter(drawn.values()))
    return {
        name: torch.stack([drawn[m.arm.name][name][m.replicate] for m in members])
        for name in names
    }


def _optimizer(name: OptimizerName, rates: Sequence[float]) -> Optimizer:
    if name == "adam":
        return Adam(learning_rate=rates)
    return SGD(learning_rate=rates, momentum=0.9 if name == "momentum" else 0.0)


def _reached(task: Task, result: FleetResult, stopped: bool) -> Reached:
    diverged = np.array([status == "nonfinite" for status in result.status])
    if stopped:
        reached = np.array([status == "target" for status in result.status])
        steps = np.where(reached, result.num_steps, task.budget)
        accuracy = np.full(len(steps), np.nan)
    else:
        first = first_below(result.losses, task.target)
        reached = first > 0
        steps = np.where(reached, first, task.budget)
        accuracy = result.evaluations["test_accuracy"]
    return Reached(steps.astype(float), reached, diverged, result.final_loss, accuracy)
