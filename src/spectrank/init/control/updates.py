"""`spectral_updates`: where spectral updates are predicted to help, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, SpectrankError
from spectrank.init.control.condition import (
    COLUMNS,
    DEFINITIONS,
    Condition,
    check_smoothness,
    condition_rows,
    gradient_of,
    spectral_update_condition,
)
from spectrank.init.control.layers import LinearLayer, linear_layers, skip_of, skipped
from spectrank.model import Skip, capture
from spectrank.model.capture import Batch, LayerBatch
from spectrank.model.capture.objective import LossLike
from spectrank.model.capture.undisturbed import Mode
from spectrank.model.capture.unpack import Unpack
from spectrank.model.losses import Loss, describe_loss
from spectrank.scanning.provenance import environment
from spectrank.table import Table
from spectrank.train.sinks.base import check_count


def spectral_updates(
    model: nn.Module,
    data: Iterable[Any],
    *,
    loss: LossLike,
    select: str | Sequence[str] | None = None,
    smoothness: float = 1.0,
    max_batches: int | None = None,
    mode: Mode = "eval",
    device: torch.device | str | None = None,
    unpack: Unpack | None = None,
) -> Table:
    r"""Gradient nuclear rank against activation stable rank, layer by layer.

    A spectral update (Muon, polar or matrix-sign steps) is predicted to beat a
    Euclidean one where :math:`\|G\|_*^2/\|G\|_F^2 \ge \|A\|_F^2/\|A\|_2^2`; the module
    `condition` has the derivation and its limits. For each minibatch A holds what the
    layer took (all rows of all its calls, patches of a convolution), G is the gradient
    of the loss for its weight, from output gradients in float64. The model is left as
    it was.

    Rows of a layer: ``gradient_nuclear_rank_squared``, ``activation_stable_rank``,
    ``spectral_update_ratio`` (their ratio, with ``favoured`` and ``share_favoured``),
    ``guaranteed_decrease`` of variant ``euclidean`` and ``spectral``. Several
    minibatches: the mean, ``standard_error`` over them, ends at 4 standard errors;
    ``favoured`` is ``undecided`` where 1 lies between them. One: ends of its rounding.
    Other matrices (embeddings, recurrent gates, grouped and transposed convolutions,
    tied weights) leave a skip row, and so does a layer that did not run, with a
    `SpectrankWarning`. ``degenerate`` where a gradient or input is zero.

    Source (stated): the condition, Davis & Drusvyatskiy (2025), arXiv:2512.04299,
    abstract. Source (derived): the decreases,
    test_control_condition.py::test_both_guarantees_hold_on_random_least_squares.

    Args:
        model: Any module.
        data: A loader, or one batch: a tuple ``(input, targets)`` or a mapping.
        loss: As `spectrank.capture` takes it. The decreases are of the loss as
            trained, by its own reduction; of the mean over samples for a callable.
        select: Glob pattern(s) of weight names; None for all.
        smoothness: beta, for the decreases: of the loss summed over samples, as a
            function of the layer's output. 1 for half the squared error in the last
            layer, 2 for ``mse`` summed over outputs, 1/2 for ``cross_entropy``; of an
            earlier layer it is an assumption. The ratio does not depend on it.
        max_batches: Stop there; None for all.
        mode: Of the model in the pass, as for `spectrank.capture`.
        device: Where batches go.
        unpack: From a batch to a call, as for `spectrank.capture`.

    Returns:
        The rows; ``index`` numbers the layers from 1.

    Raises:
        ArgumentTypeError: An argument or a batch is of another type.
        DomainError: No batch, an empty one, one that does not suit the model or the
            loss, or none of the selected layers is linear.

    Example:
        >>> model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = (torch.randn(32, 6), torch.randint(0, 3, (32,)))
        >>> table = spectral_updates(model, batch, loss="cross_entropy")
        >>> table.where(metric="spectral_update_ratio").frame["favoured"].len()
        2
    """  # noqa: DOC502 - some are raised by the functions called
    beta = _checked(smoothness, max_batches, loss)
    found = linear_layers(model, select)
    layers = [layer for layer in found if isinstance(layer, LinearLayer)]
    read: dict[str, list[Condition]] = {layer.path: [] for layer in layers}
    scales: dict[str, list[float]] = {layer.path: [] for layer in layers}
    described = describe_loss(loss)
    options: Any = {"mode": mode, "device": device, "unpack": unpack}
    taps = capture(model, list(read), gradients="loss", loss=loss, **options)
    num_batches = 0
    with _own_words(), taps:
        for batch in taps.over(islice(_batches(data), max_batches)):
            num_batches += 1
            _check_filled(batch)
            factor = _mean_factor(described, batch)
            for layer in layers:
                condition = _read(layer, batch.calls(layer.path))
                if condition is not None:
                    read[layer.path].append(condition)
                    scales[layer.path].append(1.0 / (beta * factor))
    if not num_batches:
        raise DomainError(
            "updates are read from at least one batch, got none; "
            "pass a batch or a loader that is not exhausted"
        )
    settings = {
        "loss": described.name,
        "smoothness": beta,
        "mode": mode,
        "num_batches": num_batches,
    }
    made = {
        **environment(),
        "input": type(model).__name__,
        "input_kind": "module",
        "definitions": DEFINITIONS,
        "settings": settings,
    }
    rows = _all_rows(found, read, scales)
    return Table.from_rows(rows, provenance=made, columns=COLUMNS)


_NOT_RUN = (
    "the layer was not called as a module with a gradient in this pass, so neither its "
    "inputs nor its output gradients are known"
)


def _checked(smoothness: float, max_batches: int | None, loss: object) -> float:
    if max_batches is not None:
        check_count("max_batches", max_batches)
    if loss is None:
        raise DomainError(
            "gradients are those of a loss, got None; pass loss='cross_entropy', an nn "
            "loss or a callable that sums over samples"
        )
    return check_smoothness(smoothness)


@contextmanager
def _own_words() -> Iterator[None]:
    """Errors of the pass, with the ways out that the caller has."""
    try:
        yield
    except (ArgumentTypeError, DomainError) as error:
        text = str(error)
        if " to capture" not in text:
            raise
        kind: type[SpectrankError] = type(error)
        raise kind(text.replace("= to capture", "=")) from error
    except IndexError as error:
        raise DomainError(
            f"a batch must suit the model and the loss, got an index out of range: "
            f"{error}; labels of cross_entropy lie below the number of outputs, tokens "
            "below that of the embedding"
        ) from error


def _check_filled(batch: Batch) -> None:
    if batch.num_samples == 0:
        raise DomainError(
            "gradients are read from batches with samples, got an empty one; leave it "
            "out of the data"
        )


def _all_rows(
    found: Sequence[LinearLayer | Skip],
    read: Mapping[str, Sequence[Condition]],
    scales: Mapping[str, Sequence[float]],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for item in found:
        if isinstance(item, Skip):
            rows.append(skip_of(item))
        elif read[item.path]:
            at = scales[item.path]
            rows += condition_rows(item.key, read[item.path], scales=at)
        else:
            rows.append(skip_of(skipped(item.weight, _NOT_RUN)))
    return rows


def _batches(data: Iterable[Any]) -> Iterable[Any]:
    one = isinstance(data, tuple | Mapping | Tensor)
    one = one or (isinstance(data, list) and bool(data) and isinstance(data[0], Tensor))
    return [data] if one else data


def _mean_factor(described: Any, batch: Batch) -> float:
    """Sum-reduced loss over the loss as trained; of a user's callable that is N."""
    if isinstance(described, Loss) and batch.outputs is not None:
        factor = described.mean_factor(batch.outputs, batch.targets)
        return factor or float("nan")
    return float(batch.num_samples or 1)


def _read(layer: LinearLayer, calls: Sequence[LayerBatch]) -> Condition | None:
    calls = [call for call in calls if call.output_gradients is not None]
    if not calls:
        return None
    inputs = torch.cat(
        [call.input_rows(select="all", unfold=layer.unfolds) for call in calls]
    )
    deltas = torch.cat([call.gradient_rows(select="all") for call in calls])
    return spectral_update_condition(gradient_of(deltas, inputs), inputs)
