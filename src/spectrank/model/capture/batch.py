"""Batch: the records of one batch, dropped when the next one begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from spectrank.errors import DomainError, UnknownNameError
from spectrank.model.capture.records import LayerBatch
from spectrank.model.capture.rows import Samples


@final
class Batch:
    """One batch of a pass: the records of its layers and what the model gave.

    Its records are dropped when the next batch begins; a LayerBatch taken out of it
    lives as long as it is held.

    Attributes:
        index: 0 for the first batch.
        outputs: Logits of the model, detached; None where it gives no tensor.
        targets: As the loss took them.
        labels: Integer targets, (N,) or one per position; under
            ``causal_cross_entropy`` already those that a position is compared with.
        mask: (N, T), True at positions that are no padding; None without one.
        num_samples: N; None where the batch does not tell.
        loss: Sum-reduced loss, a scalar tensor; None where none was asked for.
    """

    def __init__(
        self,
        index: int,
        outputs: Tensor | None,
        targets: Any,
        loss: Tensor | None,
        samples: Samples,
        records: Mapping[str, tuple[LayerBatch, ...]],
    ) -> None:
        self.index = index
        self.outputs = outputs
        self.targets = targets
        self.loss = loss
        self.labels = samples.labels
        self.mask = samples.mask
        self.num_samples = samples.num_samples
        self._records: Mapping[str, tuple[LayerBatch, ...]] | None = records

    def __getitem__(self, name: str) -> LayerBatch:
        """The one call of a layer.

        A layer used several times must be read by ``calls``: taking the first use
        for the only one would lose a part of the gradient.

        Args:
            name: Of a captured layer.

        Returns:
            Its record.

        Raises:
            UnknownNameError: The layer did not run in this batch, or ran repeatedly.
        """
        calls = self.calls(name)
        if len(calls) == 1:
            return calls[0]
        if calls:
            raise UnknownNameError(
                f"batch[{name!r}] needs a layer that is used once, it was used "
                f"{len(calls)} times; read batch.calls({name!r})"
            )
        raise UnknownNameError(
            f"batch[{name!r}] needs a layer that was captured and ran, "
            f"this batch has {', '.join(self.layers)}; choose it with layers="
        )

    def calls(self, name: str) -> tuple[LayerBatch, ...]:
        """Every call of a layer in the order of the pass; empty if it did not run.

        Args:
            name: Of a layer.

        Returns:
            Its records, ``call`` 0, 1, ...

        Raises:
            DomainError: The records were dropped.
        """  # noqa: DOC502 - raised by the function called
        return self._held().get(name, ())

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that ran, in the order of the model."""
        return tuple(self._held())

    def drop(self) -> None:
        """Let go of the records."""
        self._records = None

    def _held(self) -> Mapping[str, tuple[LayerBatch, ...]]:
        if self._records is None:
            raise DomainError(
                f"records are read inside the loop, those of batch {self.index} are "
                "dropped when it goes on; keep the tensors that you need"
            )
        return self._records
