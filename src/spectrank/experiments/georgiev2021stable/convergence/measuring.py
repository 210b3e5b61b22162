"""What is done in a cell: learning rates, the choice of an arm, the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from spectrank.experiments.georgiev2021stable.convergence.cells import (
    ARMS_AT_ONCE,
    Cell,
)
from spectrank.experiments.georgiev2021stable.convergence.ensembles import Arm
from spectrank.experiments.georgiev2021stable.convergence.rates import search
from spectrank.experiments.georgiev2021stable.convergence.training import (
    Member,
    Reached,
    Task,
    train,
)
from spectrank.experiments.papers import Tick
from spectrank.experiments.tuning import Best

_FINALISTS = 5


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """What a cell found.

    Attributes:
        cell: Which.
        tuned: Arm to its learning rate; one that diverged at every rate is absent.
        chosen: The best arm of prescribed stable rank.
        reached: Arm to what its fresh seeds reached.
    """

    cell: Cell
    tuned: Mapping[str, Best]
    chosen: str
    reached: Mapping[str, Reached]


def measure(cell: Cell, seed: int, tick: Tick) -> Measured:
    """Tune all arms, choose the best of them, then train all on fresh seeds.

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
    chosen = choose_arm(task, cell.arms, tuned, num=cell.num_choosing, seed=seed)
    reached = compare_arms(
        task, cell.arms, tuned, num=cell.num_fresh, seed=seed, tick=tick
    )
    return Measured(cell, tuned, chosen, reached)


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


def choose_arm(
    task: Task,
    arms: tuple[Arm, ...],
    tuned: Mapping[str, Best],
    *,
    num: int,
    seed: int,
) -> str:
    """Choose the fastest arm of prescribed stable rank, on seeds of their own.

    The five arms with the fewest steps in the tuning are tried again at their rates.
    The seeds of the tuning would favour an arm that they happened to suit.

    Args:
        task: What to learn.
        arms: Which arms.
        tuned: Arm to its learning rate.
        num: Seeds.
        seed: Base seed.

    Returns:
        Its name; the first such arm where all diverged.
    """
    own = [arm for arm in arms if arm.fraction is not None]
    ranked = sorted(
        (arm for arm in own if arm.name in tuned), key=lambda a: tuned[a.name].value
    )
    finalists = ranked[:_FINALISTS]
    if not finalists:
        return own[0].name
    members = [
        Member(arm, tuned[arm.name].learning_rate, replicate)
        for arm in finalists
        for replicate in range(num)
    ]
    found = train(task, members, "choosing", num=num, seed=seed)
    # Restricted: one seed that diverges does not rule an arm out.
    costs = np.log(found.steps).reshape(-1, num).mean(1)
    return finalists[int(costs.argmin())].name


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
    for start in range(0, len(arms), ARMS_AT_ONCE):
        block = [a for a in arms[start : start + ARMS_AT_ONCE] if a.name in tuned]
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
