"""What the targets of a batch are: classes, or numbers to be regressed.

    N  samples    T  positions    C  outputs    R  rows of logits

Hard labels come as integers, as exact one-hot rows, or as -1 and +1 (0 and 1) of a
single output. Soft labels are refused: class statistics are not defined for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.model import Batch
from spectrank.model.losses import Loss

TargetKind = Literal["classes", "regression"]
_ELEMENTWISE = frozenset(
    {"mse", "l1", "smooth_l1", "huber", "MSELoss", "L1Loss", "SmoothL1Loss"}
    | {"HuberLoss"}
)
# Losses of torch that compare entry by entry, under both their names.
_BY_ENTRY = _ELEMENTWISE | frozenset(
    {"bce", "bce_with_logits", "BCELoss", "BCEWithLogitsLoss", "KLDivLoss"}
    | {"PoissonNLLLoss", "SoftMarginLoss", "HingeEmbeddingLoss"}
)
_SIGNED = frozenset({"logistic", "exponential", "SoftMarginLoss"})


@final
@dataclass(frozen=True)
class Reading:
    """How the targets of a loader are read, settled on its first batch.

    Attributes:
        kind: ``classes`` or ``regression``.
        num_classes: C; None for regression.
        signed: Labels are -1 and +1.
        loss: Name of the loss, for messages; None without one.
    """

    kind: TargetKind
    num_classes: int | None
    signed: bool
    loss: str | None


@final
@dataclass(frozen=True, eq=False)
class BatchTargets:
    """The targets of one batch.

    Attributes:
        labels: (N,) class of each sample, or (N, T, ...) of each position; None for
            regression.
        values: (N, t) float64 regression targets; None for classes.
        predictions: The class that the model chose, of the shape of ``labels``; None
            where its outputs do not tell.
        logits: (R, C) outputs with the classes last, one row per entry of ``labels``
            (per sample for regression); None where the outputs do not fit.
        dtype: Of the targets as they came.
    """

    labels: Tensor | None
    values: Tensor | None
    predictions: Tensor | None
    logits: Tensor | None
    dtype: torch.dtype = torch.float64


def settle(
    batch: Batch,
    loss: Loss | None,
    *,
    targets: TargetKind | None,
    num_classes: int | None,
) -> Reading:
    """Decide how targets are read.

    Args:
        batch: The first.
        loss: Description of the loss; None for a callable or no loss.
        targets: What the user states; None to go by the loss and the batch.
        num_classes: What the user states; None to go by the outputs.

    Returns:
        The reading.

    Raises:
        DomainError: Targets that are soft labels, or that are neither.
    """
    name = None if loss is None else loss.name
    kind = targets or _kind(batch, name)
    if kind == "regression":
        return Reading(kind, None, False, name)
    signed = name in _SIGNED
    found = num_classes or _num_classes(batch, name)
    if found is None:
        raise DomainError(
            "the number of classes must be known, the outputs of the model have no "
            "axis for them; pass num_classes="
        )
    return Reading(kind, found, signed, name)


def read(batch: Batch, reading: Reading) -> BatchTargets:
    """Targets of a batch under a reading.

    Args:
        batch: Of the pass.
        reading: Of its first batch.

    Returns:
        Labels or values, and the outputs beside them.

    Raises:
        ShapeError: Outputs (N, 1) beside targets (N,) under an elementwise loss.
    """  # noqa: DOC502 - raised by the check called
    check_layout(reading.loss, batch.outputs, batch.targets)
    if reading.kind == "regression":
        values = _values(batch)
        logits = _flat_outputs(batch, len(values))
        return BatchTargets(None, values, None, logits, batch.targets.dtype)
    labels = _labels(batch, reading)
    logits = _class_outputs(batch, labels, reading.loss)
    predictions = None
    if logits is not None:
        chosen = logits.argmax(-1) if logits.shape[-1] > 1 else _sided(logits, reading)
        predictions = chosen.reshape(labels.shape)
    return BatchTargets(labels, None, predictions, logits)


def num_counted(batch: Batch, targets: BatchTargets, ignored: int) -> int:
    """Number of rows of a batch that count.

    Args:
        batch: Of the pass.
        targets: Of the batch.
        ignored: Label that means none.

    Returns:
        Labels that are not ignored and stand at no padding; samples for regression, 0
        where the batch does not tell.
    """
    labels = targets.labels
    if labels is None:
        return batch.num_samples or 0
    kept = labels != ignored
    if batch.mask is not None and batch.mask.shape == kept.shape:
        kept = kept & batch.mask.to(kept.device)
    return int(kept.sum())


def check_layout(loss: str | None, outputs: Tensor | None, targets: object) -> None:
    """Refuse (N, 1) beside (N,), which torch would train as N x N pairs.

    Args:
        loss: Its name.
        outputs: Of the model.
        targets: Beside them.

    Raises:
        ShapeError: One of the two has a last axis of one that the other lacks.
    """
    if loss not in _BY_ENTRY or outputs is None or not isinstance(targets, Tensor):
        return
    shapes = tuple(outputs.shape), tuple(targets.shape)
    if shapes[0] == (*shapes[1], 1) or shapes[1] == (*shapes[0], 1):
        way = "unsqueeze" if outputs.ndim > targets.ndim else "squeeze"
        raise ShapeError(
            f"{loss} needs targets of the outputs' shape {shapes[0]}, got {shapes[1]}: "
            "torch broadcasts the two or refuses them, so this is not the loss of one "
            f"target a sample; pass targets.{way}(-1)"
        )


def _kind(batch: Batch, loss: str | None) -> TargetKind:
    targets = batch.targets
    if targets is None:
        raise DomainError(
            "cluster statistics need targets, the batch has none; "
            "give (input, labels), or pass unpack="
        )
    if not isinstance(targets, Tensor):
        raise DomainError(
            "cluster statistics need targets that are a tensor, the batch has a "
            f"{type(targets).__name__}; convert it in the loader, e.g. "
            "torch.as_tensor(labels), and number labels that are strings"
        )
    if loss in _ELEMENTWISE:
        return "classes" if _one_hot(targets) else "regression"
    hard = batch.labels is not None or _one_hot(targets) or _binary(targets)
    if hard:
        return "classes"
    raise DomainError(
        "cells are classes or, for a regression loss, none: got targets of "
        f"{targets.dtype} and shape {tuple(targets.shape)}, which are soft labels; "
        "pass targets.argmax(1), or targets='regression'"
    )


def _one_hot(targets: Tensor) -> bool:
    if targets.ndim != 2 or targets.shape[1] < 2 or not len(targets):
        return False
    zero_or_one = (targets == 0) | (targets == 1)
    return bool(zero_or_one.all()) and bool((targets.sum(1) == 1).all())


def _binary(targets: Tensor) -> bool:
    flat = targets.ndim == 1 or (targets.ndim == 2 and targets.shape[1] == 1)
    flat = flat and targets.dtype != torch.bool
    return flat and bool(((targets == 0) | (targets.abs() == 1)).all())


def _num_classes(batch: Batch, loss: str | None) -> int | None:
    targets, outputs = batch.targets, batch.outputs
    if _one_hot(targets):
        return int(targets.shape[1])
    if outputs is None:
        return None
    labels = batch.labels
    if labels is None or outputs.ndim == 1 or outputs.shape[-1] == 1:
        return 2
    return int(outputs.shape[-1 if _last(outputs, labels, loss) else 1])


def _labels(batch: Batch, reading: Reading) -> Tensor:
    targets = batch.targets
    if batch.labels is not None and not _one_hot(targets):
        labels = batch.labels
    elif _one_hot(targets):
        labels = targets.argmax(1)
    elif isinstance(targets, Tensor) and _binary(targets):
        labels = targets.flatten().to(torch.int64)
    else:
        raise DomainError(
            "the targets of every batch must be classes as those of the first were, "
            f"got {_described(targets)} in batch {batch.index}; pass "
            "targets='regression', or labels of one kind"
        )
    # No loss of signed labels has one to ignore.
    return (labels + 1) // 2 if reading.signed else labels


def _values(batch: Batch) -> Tensor:
    targets = batch.targets
    if not isinstance(targets, Tensor) or targets.is_complex():
        raise DomainError(
            "regression targets must be a real tensor, got "
            f"{_described(targets)} in batch {batch.index}; pass unpack="
        )
    values = targets.detach().to(torch.float64)
    return values.reshape(len(values), -1)


def _flat_outputs(batch: Batch, size: int) -> Tensor | None:
    outputs = batch.outputs
    if outputs is None or outputs.ndim == 0 or len(outputs) != size:
        return None
    return outputs.reshape(size, -1)


def _last(outputs: Tensor, labels: Tensor, loss: str | None) -> bool:
    """Whether the classes are on the last axis; where both fit, torch takes axis 1."""
    second = outputs.ndim > 2 and (outputs.shape[0], *outputs.shape[2:]) == labels.shape
    causal = loss is not None and "causal" in loss
    return outputs.shape[:-1] == labels.shape and (causal or not second)


def _class_outputs(batch: Batch, labels: Tensor, loss: str | None) -> Tensor | None:
    """Outputs as rows in the order of ``labels``; None where they do not fit."""
    outputs = batch.outputs
    if outputs is None:
        return None
    if outputs.shape == labels.shape:
        outputs = outputs.unsqueeze(-1)
    elif not _last(outputs, labels, loss) and outputs.ndim > 2:
        outputs = outputs.movedim(1, -1)
    if outputs.shape[:-1] != labels.shape:
        return None
    return outputs.reshape(-1, outputs.shape[-1])


def _sided(logits: Tensor, reading: Reading) -> Tensor:
    """Class of a single output: by its sign, or by 1/2 where it is a probability."""
    threshold = 0.5 if reading.loss in {"bce", "BCELoss"} else 0.0
    return (logits[:, 0] > threshold).to(torch.int64)


def _described(targets: object) -> str:
    if isinstance(targets, Tensor):
        return f"targets of {targets.dtype} and shape {tuple(targets.shape)}"
    return f"targets of type {type(targets).__name__}"
