"""One arm of a study: an Optuna study shared by processes."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal, final

from spectrank.errors import DomainError
from spectrank.experiments.seeds import derive_seed
from spectrank.experiments.storage import (
    Storage,
    claim_mark,
    is_mine,
    is_stale,
    quiet,
)
from spectrank.extras import need

State = Literal["complete", "diverged", "failed", "running"]

_PARAMETER = "learning_rate"
_MARK, _REASON = "spectrank_claim", "spectrank_reason"
_BOUNDS = "spectrank_bounds"


@final
@dataclass(frozen=True)
class TrialRecord:
    """What is known of a trial.

    Attributes:
        number: Within its arm.
        learning_rate: None where none was drawn before its process ended.
        value: None unless complete.
        state: ``complete``, ``diverged``, ``failed`` or ``running``.
        reason: Of a divergence or failure.
    """

    number: int
    learning_rate: float | None
    value: float | None
    state: State
    reason: str | None


@final
@dataclass(frozen=True, eq=False)
class ArmStudy:
    """An arm's trials, asked for and told by several processes.

    Attributes:
        study: Optuna's study.
        seed: Of the learning rates.
        bounds: Smallest and largest learning rate.
        stale_after: Seconds after which another machine's trial is given up.
    """

    study: Any
    seed: int
    bounds: tuple[float, float]
    stale_after: float
    _asked: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        storage: Storage,
        name: str,
        *,
        direction: str,
        seed: int,
        bounds: tuple[float, float],
        stale_after: float,
    ) -> ArmStudy:
        """Open or make the study of an arm.

        Args:
            storage: Where it is kept.
            name: Of the study and arm.
            direction: ``minimize`` or ``maximize``.
            seed: Of the learning rates.
            bounds: Smallest and largest learning rate.
            stale_after: Seconds after which another machine's trial is given up.

        Returns:
            The arm.

        Raises:
            DomainError: It was begun in the other direction or another range.
        """
        optuna = need("optuna", "tuning learning rates")
        with quiet(optuna):
            study = optuna.create_study(
                study_name=name,
                storage=storage.optuna,
                direction=direction,
                load_if_exists=True,
            )
        if study.direction.name.lower() != direction:
            raise DomainError(
                f"a study keeps its direction, {name} was begun to "
                f"{study.direction.name.lower()}, got {direction!r}; choose another "
                "study_name"
            )
        begun = study.user_attrs.get(_BOUNDS)
        if begun is None:
            study.set_user_attr(_BOUNDS, list(bounds))
        elif tuple(begun) != tuple(bounds):
            raise DomainError(
                f"a study keeps its range, {name} was begun with learning rates in "
                f"{list(begun)}, got {list(bounds)}; choose another study_name"
            )
        return cls(study, seed, bounds, stale_after)

    def ask(self, num_trials: int) -> tuple[float, int] | None:
        """Claim a trial, if fewer than so many are done or being done.

        Args:
            num_trials: Of this arm in all.

        Returns:
            Learning rate and number; None where none is left.
        """
        self._fail_stale()
        if len(self._counted()) >= num_trials:
            return None
        trial = self.study.ask()
        trial.set_user_attr(_MARK, claim_mark())
        self._asked[trial.number] = trial
        # Two processes that saw one place left both asked: the later number yields.
        if sum(t.number < trial.number for t in self._counted()) >= num_trials:
            self.fail(trial.number, "asked for by two processes at once; not run")
            return None
        self.study.sampler = self._sampler(trial.number)
        return trial.suggest_float(_PARAMETER, *self.bounds, log=True), trial.number

    def tell(self, number: int, value: float) -> None:
        """Finish a trial; a value that is not finite prunes it.

        Args:
            number: Of the trial.
            value: What was measured.
        """
        if math.isfinite(value):
            self.study.tell(number, value, skip_if_finished=True)
        else:
            self._note(number, f"diverged: the value is {value}")
            self._finish(number, "PRUNED")

    def fail(self, number: int, reason: str) -> None:
        """Give a trial up; its place is asked for anew.

        Args:
            number: Of the trial.
            reason: In one sentence.
        """
        self._note(number, reason)
        self._finish(number, "FAIL")

    def is_settled(self) -> bool:
        """Return whether nobody is running a trial of this arm.

        Returns:
            Whether all are done or given up. A trial whose process is gone is given
            up by the next `ask`, which then has its place to fill: given up here, its
            place would be left empty.
        """
        return all(t.state.is_finished() for t in self._trials())

    def trials(self) -> list[TrialRecord]:
        """Return all trials in the order of their numbers.

        Returns:
            One record each, failed ones included.
        """
        return [_record(t) for t in self._trials()]

    def _trials(self) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False))

    def _counted(self) -> list[Any]:
        """Trials that are done or being done; a failed one frees its place."""
        states = {"COMPLETE", "PRUNED", "RUNNING"}
        return [t for t in self._trials() if t.state.name in states]

    def _fail_stale(self) -> None:
        for trial in self._trials():
            if trial.state.name != "RUNNING":
                continue
            mark = trial.user_attrs.get(_MARK)
            # Optuna's own start has no time zone; ours is good between machines.
            start = mark["asked"] if mark else trial.datetime_start.timestamp()
            age = time.time() - start
            if not is_mine(mark) and is_stale(mark, age, self.stale_after):
                self._finish(trial.number, "FAIL")

    def _sampler(self, number: int) -> Any:
        """A sampler for one trial: a stream of its own in every process."""
        optuna = need("optuna", "tuning learning rates")
        # constant_liar: the other trials of a batch are running, keep away from them.
        return optuna.samplers.TPESampler(
            seed=derive_seed(self.seed, number) % 2**32, constant_liar=True
        )

    def _note(self, number: int, reason: str) -> None:
        optuna = need("optuna", "tuning learning rates")
        # Another process may have given the trial up and closed it.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._asked[number].set_user_attr(_REASON, reason)

    def _finish(self, number: int, state: str) -> None:
        optuna = need("optuna", "tuning learning rates")
        self.study.tell(
            number, state=optuna.trial.TrialState[state], skip_if_finished=True
        )


def _record(trial: Any) -> TrialRecord:
    states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "diverged"}
    state = states.get(trial.state.name, "failed")
    if not trial.state.is_finished():
        state = "running"
    reason = trial.user_attrs.get(_REASON)
    if state == "failed" and reason is None:
        reason = "its process ended before it was done"
    return TrialRecord(
        number=trial.number,
        learning_rate=trial.params.get(_PARAMETER),
        value=trial.value if state == "complete" else None,
        state=state,
        reason=reason,
    )
