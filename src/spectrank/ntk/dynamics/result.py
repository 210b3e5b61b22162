"""`KernelFlow`: what a kernel predicts of training, at chosen times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import polars as pl
from torch import Tensor

from spectrank.linalg.value import Status
from spectrank.ntk.dynamics.convention import Convention
from spectrank.table import Table

COLUMNS = MappingProxyType({"time": pl.Float64, "learning_rate": pl.Float64})
"""Producer columns: ``time`` of a continuous flow; steps are in ``step``."""


@final
@dataclass(frozen=True, eq=False)
class KernelFlow:
    """Outputs and losses of training in the kernel regime.

    Attributes:
        times: (T,) float64, as asked for: times of the flow, or numbers of steps.
        outputs: (T, n, c) float64, on the training points.
        losses: (T,) of the training points.
        test_outputs: (T, m, c); None without test points.
        test_losses: (T,); None without labels of theirs.
        eigenvalues: (N,) of the kernel, descending; for mse mode i decays like
            exp(-rate lambda_i t), or (1 - learning_rate rate lambda_i)^k after k steps.
        rate: Of the loss: what multiplies f - y in its gradient.
        largest_learning_rate: Limit of gradient descent, see `largest_learning_rate`.
        learning_rate: Of gradient descent; None for the continuous flow.
        convention: The loss with its reduction and factor.
        status: ``ok``; ``nonfinite`` where outputs left the range of float64,
            ``not_converged`` where the solver gave up (NaN from there on).
        reason: Why the status is not ``ok``.
    """

    times: Tensor
    outputs: Tensor
    losses: Tensor
    test_outputs: Tensor | None
    test_losses: Tensor | None
    eigenvalues: Tensor
    rate: float
    largest_learning_rate: float
    learning_rate: float | None
    convention: Convention
    status: Status = "ok"
    reason: str | None = None

    def __repr__(self) -> str:
        T, n, c = self.outputs.shape
        kind = (
            "flow"
            if self.learning_rate is None
            else f"gradient descent, learning_rate={self.learning_rate:g}"
        )
        return (
            f"KernelFlow({self.convention.loss}, {kind}, {T} times, {n} samples, "
            f"{c} outputs, loss {float(self.losses[0]):.4g} -> "
            f"{float(self.losses[-1]):.4g}, status={self.status!r})"
        )

    def table(self) -> Table:
        """Losses as rows, one for each time.

        Returns:
            Table of ``loss`` with subject ``train`` (and ``test``), time in ``time`` or
            ``step``, and the largest learning rate.
        """
        rows = list(self._rows("train", self.losses))
        if self.test_losses is not None:
            rows += self._rows("test", self.test_losses)
        rows.append(
            {
                "kind": "measurement",
                "subject": "train",
                "metric": "largest_learning_rate",
                "value": self.largest_learning_rate,
                "status": "ok",
            }
        )
        provenance = {
            "loss": self.convention.loss,
            "reduction": self.convention.reduction,
            "factor": self.convention.factor,
            "learning_rate": self.learning_rate,
        }
        return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)

    def _rows(self, subject: str, losses: Tensor) -> Iterator[dict[str, Any]]:
        discrete = self.learning_rate is not None
        for t, loss in zip(self.times.tolist(), losses.tolist(), strict=True):
            fine = math.isfinite(loss)
            yield {
                "kind": "measurement",
                "subject": subject,
                "metric": "loss",
                "variant": self.convention.loss,
                "step": int(t) if discrete else None,
                "time": None if discrete else t,
                "learning_rate": self.learning_rate,
                "value": loss,
                "status": "ok" if fine else self.status,
                "reason": None if fine else self.reason,
                "route": "closed form" if self.convention.loss == "mse" else "solver",
            }
