"""What a trained fleet hands back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import polars as pl
from torch import Tensor, nn

from spectrank.table import Table
from spectrank.train.fleet.stacking import unstack

COLUMNS: Mapping[str, Any] = {
    "arm": pl.String,
    "seed": pl.Int64,
    "learning_rate": pl.Float64,
    "weight_decay": pl.Float64,
    "batch_size": pl.Int64,
    "ended": pl.String,
}


@final
@dataclass(frozen=True, eq=False)
class FleetResult:
    """Parameters, losses and ends of all members.

    Attributes:
        template: The architecture.
        parameters: Name to (M, *shape): of each member when it stopped. Of one that
            ended ``nonfinite``, as they were when the loss was no number.
        status: How each member ended: ``target``, ``max_steps`` or ``nonfinite``.
        num_steps: (M,) updates taken.
        target_loss: (M,) smoothed loss to fall below; ``-inf`` for none.
        final_loss: (M,) smoothed training loss at the last step; NaN without a step.
        steps: (num_recorded,) steps whose losses were kept, counted from 1.
        losses: (num_recorded, M) losses of the batches of these steps, before the
            update; NaN where a member had stopped.
        evaluations: Such as ``test_accuracy`` to (M,); NaN where the outputs are no
            numbers.
        members: What a row of the table says of each member: seed, arm, rates.
        route: ``mlp``, ``vmap`` or ``loop``.
        provenance: Of the table.
    """

    template: nn.Module
    parameters: Mapping[str, Tensor]
    status: tuple[str, ...]
    num_steps: np.ndarray
    target_loss: np.ndarray
    final_loss: np.ndarray
    steps: np.ndarray
    losses: np.ndarray
    evaluations: Mapping[str, np.ndarray]
    members: tuple[Mapping[str, Any], ...]
    route: str
    provenance: Mapping[str, Any]

    @property
    def num_members(self) -> int:
        """Number of networks."""
        return len(self.status)

    @property
    def steps_to_target(self) -> np.ndarray:
        """(M,) updates until the smoothed loss fell below the target, NaN if never."""
        reached = np.array([status == "target" for status in self.status])
        return np.where(reached, self.num_steps, math.nan)

    def module(self, member: int) -> nn.Module:
        """One member as a module of its own.

        Args:
            member: Its index.

        Returns:
            A new module.
        """
        return unstack(self.template, self.parameters, member)

    def state_dict(self, member: int) -> dict[str, Tensor]:
        """Parameters of one member.

        Args:
            member: Its index.

        Returns:
            Name to a copy.
        """
        return {name: p[member].clone() for name, p in self.parameters.items()}

    def table(self, *, curves: bool = True) -> Table:
        """One row a number.

        Rows are of kind ``measurement``, subject ``network``, ``run`` the index of the
        member, ``step`` the updates taken (for ``train_loss`` the step of the batch).
        Metrics: ``train_loss``, ``final_train_loss``, ``steps_to_target`` and the
        evaluations. A member that did not reach its target has no ``steps_to_target``
        but a ``lower`` end, the updates it took (censored), status
        ``not_converged`` and the reason.

        Args:
            curves: Whether to include ``train_loss``.

        Returns:
            The table.
        """
        rows = [row for member in range(self.num_members) for row in self._rows(member)]
        if curves:
            rows += self._curves()
        return Table.from_rows(rows, columns=COLUMNS, provenance=dict(self.provenance))

    def _rows(self, member: int) -> Iterator[dict[str, Any]]:
        key = self._key(member) | {"step": int(self.num_steps[member])}
        yield key | _number("final_train_loss", self.final_loss[member])
        if math.isfinite(self.target_loss[member]):
            yield key | self._steps_to_target(member)
        for name, values in self.evaluations.items():
            yield key | _number(name, values[member])

    def _steps_to_target(self, member: int) -> dict[str, Any]:
        row = {"metric": "steps_to_target", "bound": float(self.target_loss[member])}
        steps = float(self.num_steps[member])
        match self.status[member]:
            case "target":
                return row | {"value": steps, "status": "ok"}
            case "nonfinite":
                reason = f"the loss was no number after {steps:.0f} steps"
                return row | {"status": "nonfinite", "reason": reason}
            case _:
                reason = f"not reached in {steps:.0f} steps"
                return row | {
                    "lower": steps,
                    "status": "not_converged",
                    "reason": reason,
                }

    def _curves(self) -> Iterator[dict[str, Any]]:
        for member in range(self.num_members):
            key = self._key(member)
            seen = self.num_steps[member] + (self.status[member] == "nonfinite")
            for step, loss in zip(self.steps, self.losses[:, member], strict=True):
                if step <= seen:
                    yield key | {"step": int(step)} | _number("train_loss", loss)

    def _key(self, member: int) -> dict[str, Any]:
        return {
            "kind": "measurement",
            "subject": "network",
            "run": str(member),
            "route": self.route,
            "ended": self.status[member],
            **self.members[member],
        }


def _number(metric: str, value: float) -> dict[str, Any]:
    status = "ok" if math.isfinite(value) else "nonfinite"
    return {"metric": metric, "value": float(value), "status": status}
