"""A data set as its cells of equal targets: one centroid and a count for each.

Samples with the same target (class, or row of targets) form a cell. Two passes over the
loader, the first for the targets alone; what is kept is one input per cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.moments import ClassMoments
from spectrank.linalg.value import Value
from spectrank.model.capture.unpack import unpack_batch


@final
@dataclass(frozen=True, eq=False)
class Centroids:
    """The cells of a data set.

    Attributes:
        inputs: (K, ...) float64 mean input of each cell.
        targets: (K,) or (K, ...) the target that its samples share, as given.
        counts: (K,) int64 number of samples.
        rtcv: Relative variation of the inputs within cells, in [0, 1].
    """

    inputs: Tensor
    targets: Tensor
    counts: Tensor
    rtcv: Value

    @property
    def num_samples(self) -> int:
        """Number of samples that were counted."""
        return int(self.counts.sum())


def centroids(
    model: nn.Module, loader: Iterable[Any], *, ignore_index: int | None = None
) -> Centroids:
    """Mean input of every distinct target, in one stream.

    Regression targets that (nearly) all differ have no cells and are refused; one-hot
    rows have. Means are formed in float64 without cancellation.
    Source (derived): tests/collapse/forecasting/test_collapse_centroids.py.

    Args:
        model: For the names of its arguments, where batches are dicts; not run.
        loader: Of batches ``(inputs, targets, ...)`` or dicts; read twice, in any
            order.
        ignore_index: Integer target whose samples do not count.

    Returns:
        The cells in ascending order of their targets.

    Raises:
        DomainError: Inputs that cannot be averaged, no cells, or data that change
            from pass to pass.
    """
    cells, total = _distinct(model, loader, ignore_index)
    if cells.is_floating_point() and 2 * len(cells) > total:
        raise DomainError(
            "centroids need samples that share their targets, "
            f"got {len(cells)} distinct targets for {total} samples; "
            "pass class labels or one-hot rows"
        )
    moments: ClassMoments | None = None
    shape: torch.Size = torch.Size()
    for inputs, targets in _batches(model, loader, ignore_index):
        rows, shape = inputs.flatten(1), inputs.shape[1:]
        if moments is None:
            moments = ClassMoments(len(cells), rows.shape[1], scatter="trace")
        moments.update(rows.detach().cpu(), _cell_of(targets, cells))
    assert moments is not None
    summary = moments.compute()
    if summary.status == "nonfinite":
        raise DomainError(
            "centroids need finite inputs, "
            f"{int(summary.num_nonfinite.sum())} rows are not; leave them out"
        )
    if summary.num_samples != total:
        raise DomainError(
            "a loader must give the same samples each time, got "
            f"{total} and then {summary.num_samples}; pass a fixed data set"
        )
    return Centroids(
        inputs=summary.means.reshape(-1, *shape),
        targets=cells,
        counts=summary.counts,
        rtcv=summary.rtcv,
    )


def data_batches(
    model: nn.Module, loader: Iterable[Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of every batch, where a batch is one input a sample.

    Args:
        model: For the names of its arguments.
        loader: Of batches.

    Yields:
        (N, ...) floating-point inputs and their targets, (N,) or (N, c).

    Raises:
        ArgumentTypeError: The model takes several inputs, or none is a tensor.
        DomainError: Inputs are not floating-point, or targets are not finite.
        ShapeError: There is not one target (or row of targets) for each sample.
    """  # noqa: DOC502 - raised by the check called
    for batch in loader:
        call = unpack_batch(batch, model, keep_targets=False)
        values = (*call.args, *call.kwargs.values())
        inputs, targets = values[0] if len(values) == 1 else None, call.targets
        if len(values) == 1 and targets is not None:
            _check_tensors(inputs, targets)
        if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
            raise ArgumentTypeError(
                "a forecast needs batches of one input tensor and one target tensor, "
                f"got {len(values)} inputs and a {type(targets).__name__}; "
                "wrap the model so that it takes one"
            )
        if not inputs.is_floating_point():
            raise DomainError(
                "centroids are means of inputs, so inputs must be floating-point, "
                f"got {inputs.dtype}; scale images to floats, embed tokens first"
            )
        _check_targets(inputs, targets)
        yield inputs, targets


def _check_tensors(inputs: object, targets: object) -> None:
    for name, found in (("inputs", inputs), ("targets", targets)):
        if not isinstance(found, Tensor):
            raise ArgumentTypeError(
                f"{name} of a forecast must be a tensor, the batch has a "
                f"{type(found).__name__}; convert it in the loader, e.g. "
                f"torch.as_tensor({name}), and number labels that are strings"
            )


def _check_targets(inputs: Tensor, targets: Tensor) -> None:
    limit = 2 if targets.is_floating_point() else 1
    if not 1 <= targets.ndim <= limit or len(targets) != len(inputs):
        raise ShapeError(
            "a forecast needs one class label, or one row of targets, a sample, got "
            f"targets {tuple(targets.shape)} for inputs {tuple(inputs.shape)}; "
            "sequences of labels have no centroids"
        )
    if targets.is_floating_point() and not bool(torch.isfinite(targets).all()):
        raise DomainError("targets must be finite, got NaN or infinity; leave them out")


def _batches(
    model: nn.Module, loader: Iterable[Any], ignore_index: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    for inputs, targets in data_batches(model, loader):
        if ignore_index is None or targets.is_floating_point():
            yield inputs, targets
            continue
        kept = targets != ignore_index
        yield inputs[kept.to(inputs.device)], targets[kept]


def _distinct(
    model: nn.Module, loader: Iterable[Any], ignore_index: int | None
) -> tuple[Tensor, int]:
    if iter(loader) is loader:
        raise ArgumentTypeError(
            "a forecast reads its loader more than once, "
            f"{type(loader).__name__} can be read once; pass a DataLoader or a list"
        )
    known: Tensor | None = None
    total = 0
    for _, targets in _batches(model, loader, ignore_index):
        t = targets.detach().cpu()
        stacked = t if known is None else torch.cat([known, t])
        known = torch.unique(stacked, dim=0)
        total += len(t)
    if known is None or total == 0:
        raise DomainError(
            "a forecast needs at least one sample that counts, got none; "
            "pass a loader with labels"
        )
    return known, total


def _cell_of(targets: Tensor, cells: Tensor) -> Tensor:
    """Index of each target among the sorted distinct ones."""
    stacked = torch.cat([cells, targets.detach().cpu()])
    found, index = torch.unique(stacked, dim=0, return_inverse=True)
    if len(found) != len(cells):
        raise DomainError(
            "a loader must give the same targets each time, "
            f"{len(found) - len(cells)} were new in the second pass; fix the data set"
        )
    labels: Tensor = index[len(cells) :]
    return labels
