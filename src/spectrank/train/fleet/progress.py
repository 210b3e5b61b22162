"""What is known of each member's run: losses, smoothed loss, steps, how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

RUNNING, TARGET, MAX_STEPS, NONFINITE = 0, 1, 2, 3
NAMES = ("running", "target", "max_steps", "nonfinite")


@dataclass(frozen=True)
class Stopping:
    """When members stop, and what is kept of their losses.

    Attributes:
        max_steps: (M,) most updates.
        target: (M,) smoothed loss to fall below; ``-inf`` for none.
        smoothing: Weight of the past in the smoothed loss, in [0, 1).
        record_every: Keep the loss of every so many steps, and of the first.
    """

    max_steps: np.ndarray
    target: np.ndarray
    smoothing: float
    record_every: int

    def recorded(self) -> np.ndarray:
        """Steps whose losses are kept, counted from 1.

        Returns:
            Ascending.
        """
        steps = np.arange(1, int(self.max_steps.max(initial=0)) + 1)
        kept: np.ndarray = steps[(steps == 1) | (steps % self.record_every == 0)]
        return kept


@final
class Progress:
    """Numbers of all members; groups write to their own members' alone.

    Attributes:
        status: (M,) index into ``NAMES``.
        num_steps: (M,) updates done.
        average: (M,) weighted sum of the losses, not yet divided by its weights' sum.
        losses: (num_recorded, M); NaN where a member had stopped.
        last: (M,) loss of the last batch.
    """

    def __init__(self, stopping: Stopping, num_members: int) -> None:
        self.stopping = stopping
        steps = stopping.recorded()
        self._row = {int(step): row for row, step in enumerate(steps)}
        self.status = np.where(stopping.max_steps == 0, MAX_STEPS, RUNNING)
        self.num_steps = np.zeros(num_members, dtype=np.int64)
        self.average = np.zeros(num_members)
        self.losses = np.full((len(steps), num_members), np.nan)
        self.last = np.full(num_members, np.nan)

    def observe(self, members: np.ndarray, step: int, losses: np.ndarray) -> np.ndarray:
        """Take the losses of one step.

        Args:
            members: (G,) indices.
            step: This step, counted from 1.
            losses: (G,) before the update.

        Returns:
            (G,) status: NONFINITE members stop before the update, others after it.
        """
        if (row := self._row.get(step)) is not None:
            self.losses[row, members] = losses
        self.last[members] = losses
        bad = ~np.isfinite(losses)
        past = self.stopping.smoothing
        with np.errstate(invalid="ignore", over="ignore"):
            self.average[members] = past * self.average[members] + (1 - past) * losses
            smoothed = self.average[members] / (1.0 - past**step)
            reached = smoothed < self.stopping.target[members]
        spent = step >= self.stopping.max_steps[members]
        status = np.select(
            [bad, reached, spent], [NONFINITE, TARGET, MAX_STEPS], RUNNING
        )
        self.num_steps[members] = np.where(bad, step - 1, step)
        self.status[members] = status
        return status

    def smoothed(self) -> np.ndarray:
        """Smoothed loss of each member at its last step.

        Returns:
            (M,); NaN without a step.
        """
        # A non-finite loss counts as a loss seen, though not as a step taken.
        seen = self.num_steps + (self.status == NONFINITE)
        with np.errstate(invalid="ignore", divide="ignore"):
            smoothed: np.ndarray = self.average / (1 - self.stopping.smoothing**seen)
        return smoothed

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that changes, for a checkpoint.

        Returns:
            Name to array.
        """
        names = ("status", "num_steps", "average", "losses", "last")
        return {name: getattr(self, name) for name in names}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a checkpoint.

        Args:
            arrays: As ``arrays`` gave them.
        """
        for name in self.arrays():
            getattr(self, name)[...] = arrays[name]

    def active(self) -> np.ndarray:
        """Members that go on.

        Returns:
            Indices, ascending.
        """
        return np.flatnonzero(self.status == RUNNING)
