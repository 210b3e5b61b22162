"""Learning rates tuned per arm, in batches of a fleet's size, on shared storage.

Every arm is an Optuna study of its own. A batch holds trials of all arms, so that a
fleet trains them at once. A trial's learning rate comes from a sampler seeded by
(seed, arm, trial number): one process repeats itself exactly, and several processes on
one storage never try the same number twice.

A trial is claimed by the process that asks for it. Trials whose process is gone are
failed and asked for anew, so that a study that was killed resumes and ends with the
number of trials it was asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from spectrank.errors import DomainError, ShapeError
from spectrank.experiments.arms import ArmStudy
from spectrank.experiments.seeds import derive_seed
from spectrank.experiments.storage import open_storage
from spectrank.experiments.tuning import Tuning, summarise
from spectrank.extras import need

Direction = Literal["minimize", "maximize"]

_POLL = 0.1


@final
@dataclass(frozen=True)
class Trial:
    """One training run to be made.

    Attributes:
        arm: Name of the arm.
        learning_rate: To train with.
        number: Of the trial within its arm.
    """

    arm: str
    learning_rate: float
    number: int


Evaluate = Callable[[Sequence[Trial]], Sequence[float]]


def tune(
    arms: Sequence[str],
    evaluate: Evaluate,
    *,
    num_trials: int,
    batch_size: int,
    low: float,
    high: float,
    direction: Direction = "minimize",
    storage: str | Path | Any = None,
    study_name: str = "study",
    seed: int = 0,
    stale_after: float = 3600.0,
) -> Tuning:
    """Find the best learning rate of every arm.

    Values that are not finite count as diverged: the trial is pruned, which tells the
    sampler to stay away, and the study goes on. An exception of ``evaluate`` fails its
    trials and is raised; the next call asks for them anew. With other processes on the
    same storage, the call returns when their trials are done too.

    Args:
        arms: Names, all different.
        evaluate: Maps a batch of trials, of several arms, to one value each.
        num_trials: For each arm, over all processes and calls.
        batch_size: Most trials in a batch; the fleet's size.
        low: Smallest learning rate.
        high: Largest; sampled on a log scale.
        direction: ``minimize`` or ``maximize``.
        storage: Path of an SQLite file, any Optuna storage URL or storage object;
            None keeps the study in memory.
        study_name: Tells this study from others on the storage.
        seed: Of the learning rates.
        stale_after: Seconds after which an unfinished trial of another machine is
            given up; one of this machine is as soon as its process is gone.

    Returns:
        All trials as a Table, and the best of each arm.

    Raises:
        DomainError: An argument is out of range.
        ShapeError: ``evaluate`` gave another number of values.
        MissingExtraError: Optuna is not installed.

    Example:
        >>> import math
        >>> def evaluate(trials):
        ...     return [abs(math.log10(t.learning_rate) + 2) for t in trials]
        >>> found = tune(
        ...     ["sgd"], evaluate, num_trials=16, batch_size=4, low=1e-4, high=1.0
        ... )
        >>> 0.002 < found.best["sgd"].learning_rate < 0.05
        True
        >>> found.best["sgd"].edge is None
        True
    """  # noqa: DOC502
    _check(arms, num_trials, batch_size, low, high, direction, stale_after)
    need("optuna", "tuning learning rates")
    opened = open_storage(storage)
    try:
        studies = {
            arm: ArmStudy.open(
                opened,
                f"{study_name}/{arm}",
                direction=direction,
                seed=derive_seed(seed, study_name, arm),
                bounds=(low, high),
                stale_after=stale_after,
            )
            for arm in arms
        }
        _run(studies, evaluate, num_trials, batch_size)
        return summarise(
            {arm: study.trials() for arm, study in studies.items()},
            study_name=study_name,
            direction=direction,
            bounds=(low, high),
            seed=seed,
        )
    finally:
        opened.close()


def _run(
    studies: dict[str, ArmStudy],
    evaluate: Evaluate,
    num_trials: int,
    batch_size: int,
) -> None:
    while True:
        batch = _asked(studies, num_trials, batch_size)
        if batch:
            _evaluated(studies, evaluate, batch)
        elif all(study.is_settled() for study in studies.values()):
            return
        else:
            time.sleep(_POLL)


def _asked(
    studies: dict[str, ArmStudy], num_trials: int, batch_size: int
) -> list[Trial]:
    """Ask the arms in turn until the batch is full or nothing is left to ask."""
    batch: list[Trial] = []
    open_arms = list(studies)
    while open_arms and len(batch) < batch_size:
        for arm in list(open_arms):
            if len(batch) == batch_size:
                break
            try:
                asked = studies[arm].ask(num_trials)
            except BaseException:
                # Claimed and never run: nobody else would give them up.
                for trial in batch:
                    studies[trial.arm].fail(trial.number, "asked for, not run")
                raise
            if asked is None:
                open_arms.remove(arm)
            else:
                batch.append(Trial(arm, *asked))
    return batch


def _evaluated(
    studies: dict[str, ArmStudy], evaluate: Evaluate, batch: list[Trial]
) -> None:
    told = 0
    try:
        values = [float(value) for value in evaluate(tuple(batch))]
        if len(values) != len(batch):
            raise ShapeError(
                f"evaluate returns one value for each trial, got {len(values)} for "
                f"{len(batch)}; return nan for a run that diverged"
            )
        for trial, value in zip(batch, values, strict=True):
            studies[trial.arm].tell(trial.number, value)
            told += 1
    finally:
        # Nobody will finish the rest: without this they would seem to be running.
        for trial in batch[told:]:
            studies[trial.arm].fail(trial.number, "evaluate raised an exception")


def _check(
    arms: Sequence[str],
    num_trials: int,
    batch_size: int,
    low: float,
    high: float,
    direction: Any,
    stale_after: float,
) -> None:
    if not arms or isinstance(arms, str) or len(set(arms)) < len(arms):
        raise DomainError(
            f"arms are different names, at least one, got {arms!r}; pass a list"
        )
    for name, count in (("num_trials", num_trials), ("batch_size", batch_size)):
        if count < 1:
            raise DomainError(f"{name} must be at least 1, got {count}; raise it")
    if not (0.0 < low < high and math.isfinite(high)):
        raise DomainError(
            f"learning rates need 0 < low < high < inf, got low={low}, high={high}; "
            "swap or change them"
        )
    if direction not in {"minimize", "maximize"}:
        raise DomainError(
            f"direction is minimize or maximize, got {direction!r}; choose one"
        )
    if not stale_after > 0.0:
        raise DomainError(
            f"stale_after is a time above 0 seconds, got {stale_after}; raise it"
        )
