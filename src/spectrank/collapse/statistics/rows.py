"""Rows of one call of a layer: outer-product pairs, their cells, what may be kept.

N  samples    R  rows: positions of samples    P  positions    m, n  of the weight
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from spectrank.collapse.statistics.keep import Parts
from spectrank.collapse.statistics.labels import BatchTargets
from spectrank.collapse.statistics.sites import Site
from spectrank.errors import DomainError
from spectrank.model import Batch, LayerBatch


@final
@dataclass(frozen=True, eq=False)
class CallRows:
    """The rows of one call.

    Attributes:
        inputs: (R, n) input rows, all of them.
        gradients: (R, m) output gradients; None without a loss.
        labels: (R,) class of each row; None where no row has one.
        labelled: (R,) bool, rows that have a label and are no padding; None for all.
        samples: (R,) sample of each row; None where that is not known.
    """

    inputs: Tensor
    gradients: Tensor | None
    labels: Tensor | None
    labelled: Tensor | None
    samples: Tensor | None


def call_rows(
    site: Site,
    record: LayerBatch,
    batch: Batch,
    targets: BatchTargets,
    *,
    graded: bool,
    ignored: int,
) -> CallRows:
    """Read a call.

    Args:
        site: The layer.
        record: Its call.
        batch: The batch of the call.
        targets: Of the batch.
        graded: Whether there are output gradients.
        ignored: Label that means none.

    Returns:
        Every row, so that the pairs add up to the gradient of the weight.
    """
    inputs = record.input_rows(select="all", unfold=site.unfolds)
    gradients = record.gradient_rows(select="all") if graded else None
    dense = record.outputs.ndim == 2 and len(inputs) == batch.num_samples
    samples = _samples(record, len(inputs), dense)
    labels = targets.labels
    if labels is None:
        return CallRows(inputs, gradients, None, None, samples)
    if labels.ndim == 1:
        spread = None if samples is None else labels[samples.to(labels.device)]
    else:
        spread = _own_labels(record)
    if spread is None:
        return CallRows(inputs, gradients, None, None, samples)
    kept = spread != ignored
    if batch.mask is not None:
        kept = kept & _unmasked(site, record, len(inputs)).to(kept.device)
    labelled = None if bool(kept.all()) else kept
    return CallRows(inputs, gradients, spread, labelled, samples)


def kept_parts(
    site: Site,
    record: LayerBatch,
    rows: CallRows,
    targets: BatchTargets,
    *,
    gradients: bool,
    ignored: int,
) -> Parts | None:
    """The rows of a call that may be kept, with what belongs to them.

    Args:
        site: The layer.
        record: Its call.
        rows: Of the call.
        targets: Of the batch.
        gradients: Whether output gradients are kept too.
        ignored: Label that means none.

    Returns:
        The labelled rows, or of a convolution its whole inputs, one row a sample; None
        where they have no labels.
    """
    if site.unfolds:
        return _whole_inputs(record, targets, ignored)
    parts: Parts = {"rows": rows.inputs}
    if gradients and rows.gradients is not None:
        parts["gradients"] = rows.gradients
    if targets.labels is None:
        parts["labels"] = torch.zeros(len(rows.inputs), dtype=torch.int64)
        if rows.samples is not None and targets.values is not None:
            parts["targets"] = targets.values[rows.samples.to(targets.values.device)]
        return parts
    if rows.labels is None:
        return None
    parts["labels"] = rows.labels
    chosen = _predictions(record, rows, targets)
    if chosen is not None:
        parts["predictions"] = chosen
    return _picked(parts, rows.labelled)


def _whole_inputs(
    record: LayerBatch, targets: BatchTargets, ignored: int
) -> Parts | None:
    labels, inputs = targets.labels, record.inputs
    if labels is None or labels.ndim != 1 or inputs is None:
        return None
    if len(inputs) != len(labels):
        return None
    parts: Parts = {"rows": inputs.flatten(1), "labels": labels}
    if targets.predictions is not None:
        parts["predictions"] = targets.predictions
    return _picked(parts, labels != ignored)


def _picked(parts: Parts, chosen: Tensor | None) -> Parts:
    if chosen is None:
        return parts
    return {name: part[chosen.to(part.device)] for name, part in parts.items()}


def _predictions(
    record: LayerBatch, rows: CallRows, targets: BatchTargets
) -> Tensor | None:
    """(R,) classes that the model chose; None where outputs have other positions."""
    chosen = targets.predictions
    if chosen is None:
        return None
    if chosen.ndim == 1:
        samples = rows.samples
        return None if samples is None else chosen[samples.to(chosen.device)]
    same = record.outputs.shape[:-1] == chosen.shape
    return chosen.flatten() if same else None


def _samples(record: LayerBatch, size: int, dense: bool) -> Tensor | None:
    if dense:
        return torch.arange(size, device=record.outputs.device)
    try:
        return record.row_samples(select="all")
    except DomainError:
        # Positions of this layer are not those of the batch: its rows have no sample.
        return None


def _own_labels(record: LayerBatch) -> Tensor | None:
    try:
        return record.row_labels(select="all")
    except DomainError:
        return None


def _unmasked(site: Site, record: LayerBatch, size: int) -> Tensor:
    """(R,) bool: rows that are no padding."""
    shape = list(record.outputs.shape)
    dims = len(getattr(site.module, "kernel_size", ())) if site.unfolds else 0
    shape[len(shape) - dims - 1] = 1
    numbers = torch.arange(size, device=record.outputs.device).reshape(shape)
    # The record selects among numbers of rows as it would among the rows.
    kept = replace(record, outputs=numbers).output_rows(select="unmasked")
    mask = torch.zeros(size, dtype=torch.bool, device=numbers.device)
    mask[kept.flatten()] = True
    return mask
