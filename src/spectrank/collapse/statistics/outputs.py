"""Statistics of what the model gives: logits by class, or outputs beside targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.collapse.statistics.keep import KeptRows, Parts, RowKeeper
from spectrank.collapse.statistics.labels import BatchTargets, Reading
from spectrank.collapse.statistics.settings import Settings
from spectrank.linalg.moments import (
    ClassMoments,
    ClassSummary,
    Moments,
    MomentSummary,
)

# A full scatter of more logits would outweigh all layers.
_MAX_FULL = 2048
# Nor are class means held of so many entries: 10,000 logits by 10,000 classes.
_MAX_MEANS = 1 << 24


@final
@dataclass(frozen=True, eq=False)
class OutputStatistics:
    """Statistics of the model's outputs.

    Attributes:
        logits: Of the outputs by class (one cell for regression); None where they do
            not fit the labels, or are more than 16 million means.
        kept: Rows of the outputs; None if none were kept.
        targets: Mean and scatter of regression targets; None for classes.
        num_labelled: Number of labels that the outputs can be compared with.
        num_agreeing: Number of them that the model's choice equals.
        num_nonfinite: Number of them whose outputs are not finite, and choose nothing.
        scatter_reason: Why ``logits`` has no full scatter though one was asked for.
        dtype: Of the outputs.
        target_dtype: Of the regression targets, the coarsest that came; float64
            without.
    """

    logits: ClassSummary | None
    kept: KeptRows | None
    targets: MomentSummary | None
    num_labelled: int
    num_agreeing: int
    num_nonfinite: int
    dtype: torch.dtype
    target_dtype: torch.dtype = torch.float64
    scatter_reason: str | None = None


@final
class OutputAccumulator:
    """Sums of the outputs over the batches of a pass.

    Args:
        settings: Of the pass.
        reading: How targets are read.
        device: Where the sums live.
    """

    def __init__(
        self, settings: Settings, reading: Reading, device: torch.device
    ) -> None:
        self._settings, self._reading, self._device = settings, reading, device
        self.logits: ClassMoments | None = None
        self.targets: Moments | None = None
        # Outputs are small beside features.
        self.keeper = RowKeeper(settings.capacity, seed=settings.seed)
        self.num_labelled = 0
        self.num_agreeing = 0
        self.num_nonfinite = 0
        self._dtype = torch.float64
        self._target_dtype: torch.dtype | None = None

    def update(self, targets: BatchTargets) -> None:
        """Take in a batch.

        Args:
            targets: With the outputs beside them.
        """
        if targets.values is not None:
            self._add_values(targets.values, targets.dtype)
        if targets.logits is None:
            return
        rows = targets.logits
        parts: Parts = {"rows": rows}
        if targets.labels is None:
            parts["labels"] = torch.zeros(len(rows), dtype=torch.int64)
            if targets.values is not None:
                parts["targets"] = targets.values
        else:
            parts["labels"] = targets.labels.flatten()
            if targets.predictions is not None:
                parts["predictions"] = targets.predictions.flatten()
            kept = parts["labels"] != self._settings.ignored
            if not bool(kept.all()):
                parts = {name: part[kept] for name, part in parts.items()}
        self._add(parts)

    def compute(self) -> OutputStatistics:
        """Return the statistics so far."""
        logits = None if self.logits is None else self.logits.compute()
        return OutputStatistics(
            logits=logits,
            kept=self.keeper.compute(),
            targets=None if self.targets is None else self.targets.compute(),
            num_labelled=self.num_labelled,
            num_agreeing=self.num_agreeing,
            num_nonfinite=self.num_nonfinite,
            dtype=self._dtype,
            target_dtype=self._target_dtype or torch.float64,
            scatter_reason=self._scatter_reason(logits),
        )

    def _scatter_reason(self, made: ClassSummary | None) -> str | None:
        if made is None or self._settings.scatter != "full" or made.kind == "full":
            return None
        return (
            "needs the full scatter of the outputs, which is kept of at most "
            f"{_MAX_FULL} outputs: these have {len(made.origin)}"
        )

    def _add(self, parts: Parts) -> None:
        rows, labels = parts["rows"], parts["labels"]
        self._dtype = rows.dtype
        num_classes, dim = self._reading.num_classes or 1, rows.shape[1]
        if self.logits is None and num_classes * dim <= _MAX_MEANS:
            full = dim <= _MAX_FULL and self._settings.scatter == "full"
            self.logits = ClassMoments(
                num_classes,
                dim,
                scatter="full" if full else "trace",
                precision=self._settings.precision,
                device=self._device,
            )
        if self.logits is not None:
            self.logits.update(rows, labels)
            self.keeper.update(parts)
        if "predictions" in parts:
            self.num_labelled += len(labels)
            self.num_agreeing += int((parts["predictions"] == labels).sum())
            self.num_nonfinite += int((~torch.isfinite(rows).all(1)).sum())

    def _add_values(self, values: Tensor, dtype: torch.dtype) -> None:
        if dtype.is_floating_point and values.numel():
            known = self._target_dtype or dtype
            coarser = torch.finfo(dtype).eps > torch.finfo(known).eps
            self._target_dtype = dtype if coarser else known
        if self.targets is None:
            self.targets = Moments(values.shape[1], device=self._device)
        self.targets.update(values)
