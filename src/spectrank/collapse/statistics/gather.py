"""One pass over data that fills the statistics of every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spectrank.collapse.statistics.accumulate import LayerAccumulator
from spectrank.collapse.statistics.exact_loss import exact_sum, in_float64
from spectrank.collapse.statistics.hints import hinted
from spectrank.collapse.statistics.labels import (
    BatchTargets,
    Reading,
    TargetKind,
    num_counted,
    read,
    settle,
)
from spectrank.collapse.statistics.outputs import OutputAccumulator
from spectrank.collapse.statistics.reduce import reduce_pass
from spectrank.collapse.statistics.settings import Scatter, Settings
from spectrank.collapse.statistics.sites import Site, find_sites
from spectrank.collapse.statistics.state import Pass, Statistics
from spectrank.errors import DomainError
from spectrank.model import Batch, Skip, capture, describe_loss
from spectrank.model.capture.choose import Choices
from spectrank.model.capture.objective import LossLike
from spectrank.model.capture.step import Forward
from spectrank.model.capture.undisturbed import Mode
from spectrank.model.capture.unpack import Unpack
from spectrank.model.losses import Loss

Divisor = float | Callable[[Batch], float]
KEEP_BYTES = 256 << 20
"""Memory for rows that are kept, 256 MiB."""


def gather(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    loss: LossLike | None,
    layers: Choices = None,
    targets: TargetKind | None = None,
    num_classes: int | None = None,
    divisor: Divisor | None = None,
    scatter: Scatter = "full",
    scatter_out: Scatter = "trace",
    precision: Literal["float64", "float32"] = "float64",
    positions: bool = True,
    keep_bytes: int = KEEP_BYTES,
    keep_gradients: bool = False,
    seed: int = 0,
    mode: Mode = "eval",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    unpack: Unpack | None = None,
    forward: Forward | None = None,
    batch_axis: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Statistics:
    r"""Gather class statistics of inputs and output gradients of every layer.

    One forward and, with a loss, one backward pass per batch; the model is left as it
    was. Sums are float64 and centred as they grow, so that a collapse of 1e-12 is as
    accurate as in two passes; they depend on the batches by rounding only. A weight
    that is used several times is summed over its uses.

    Args:
        model: Any module.
        loader: Any iterable of batches.
        loss: As in `spectrank.capture`, the loss as trained (an ``nn`` loss with its
            reduction); None for features alone, without a backward pass.
        layers: As in `spectrank.capture`.
        targets: ``classes`` or ``regression``; None to go by loss and targets. Under an
            elementwise loss, one-hot rows are classes and anything else is regression.
        num_classes: K; None for the size of the outputs.
        divisor: F, or its part of a batch, for a loss that is a callable; None for one
            that `describe_loss` knows.
        scatter: Of the inputs: ``full``, or ``trace`` for sums alone.
        scatter_out: Of the output gradients.
        precision: Of products; ``float32`` states a larger error.
        positions: Whether rows of the same position (and use) get cells of their own
            where K times their number is below min(m, n).
        keep_bytes: Memory for rows, shared by the layers; 0 keeps none.
        keep_gradients: Keep output gradients beside the rows (not of convolutions).
        seed: Of the sample where not all rows fit.
        mode: In which the model runs; ``eval`` by default.
        device: Where batches go; None for the device of the model.
        dtype: Of floating-point inputs; None keeps it.
        unpack: As in `spectrank.capture`.
        forward: As in `spectrank.capture`.
        batch_axis: As in `spectrank.capture`.
        group: Processes to sum over, each with batches of its own: a collective.

    Returns:
        The statistics; with ``group`` those of all processes, on each of them.

    Raises:
        DomainError: No batch, or no sample that counts; soft labels; a callable loss
            without ``divisor``; an option outside its range.
    """
    described = _described(loss, divisor)
    exact = in_float64(loss)
    if keep_bytes < 0:
        raise DomainError(
            f"keep_bytes must be at least 0, got {keep_bytes}; pass 0 to keep no rows"
        )
    sites, skips = find_sites(model, layers)
    if not sites:
        raise DomainError(
            "there must be a layer with one weight matrix, got "
            f"{', '.join(skip.name for skip in skips)}: {skips[0].reason}; "
            "choose others with layers="
        )
    taps = capture(
        model,
        [name for site in sites for name in site.uses],
        gradients=None if loss is None else "loss",
        loss=loss,
        mode=mode,
        device=device,
        dtype=dtype,
        unpack=unpack,
        forward=forward,
        batch_axis=batch_axis,
    )
    state: Pass | None = None
    with taps:
        for batch in hinted(taps.over(loader), model):
            if state is None:
                reading = settle(
                    batch, described, targets=targets, num_classes=num_classes
                )
                settings = Settings(
                    num_classes=reading.num_classes,
                    graded=loss is not None,
                    scatter=scatter,
                    scatter_out=scatter_out,
                    precision=precision,
                    positions=positions,
                    ignored=_ignored(described),
                    capacity=_capacity(sites, batch, keep_bytes, keep_gradients),
                    keep_gradients=keep_gradients,
                    # Equal keys on two processes would keep rows in pairs.
                    seed=seed if group is None else seed + dist.get_rank(group),
                )
                state = _begin(sites, settings, reading, batch)
            found = read(batch, state.reading)
            _add(state, batch, found, exact, divisor)
            if batch.loss is not None:
                state.loss += _loss_sum(batch, exact)
    if state is None:
        raise DomainError(
            "statistics need at least one batch, the loader gave none; an iterator "
            "that was used up gives none either: pass a loader or a list"
        )
    if group is not None:
        reduce_pass(state, group)
    if described is not None and not state.divisor:
        raise DomainError(
            "statistics need a sample that counts, got none in "
            f"{state.num_batches} batches: they are empty, or every label is ignored "
            f"({_ignored(described)}) or weighs 0; check the labels of the loader"
        )
    return _finish(state, skips, graded=loss is not None)


def _described(loss: LossLike | None, divisor: Divisor | None) -> Loss | None:
    if loss is None:
        return None
    described = describe_loss(loss)
    if isinstance(described, Loss):
        return described
    if divisor is None:
        raise DomainError(
            "what a loss is divided by must be known to compare its gradient with the "
            f"decay: {described.reason}; pass divisor=, the number that the sum over "
            "the whole loader is divided by, or a function of the batch"
        )
    return None


def _ignored(described: Loss | None) -> int:
    known = None if described is None else described.ignore_index
    return -100 if known is None else known


def _capacity(
    sites: tuple[Site, ...], batch: Batch, keep_bytes: int, keep_gradients: bool
) -> int:
    """Number of rows that every layer may keep."""
    size = 0
    for site in sites:
        calls = batch.calls(site.name)
        if calls and (inputs := calls[0].inputs) is not None and inputs.numel():
            n = inputs[0].numel() if site.unfolds else site.shape[1]
            m = site.shape[0] if keep_gradients and not site.unfolds else 0
            size += (n + m) * inputs.element_size()
    return keep_bytes // size if size else 0


def _begin(
    sites: tuple[Site, ...], settings: Settings, reading: Reading, batch: Batch
) -> Pass:
    device = torch.device("cpu") if batch.outputs is None else batch.outputs.device
    accumulators = tuple(LayerAccumulator(s, settings, device) for s in sites)
    outputs = OutputAccumulator(settings, reading, device)
    return Pass(accumulators, outputs, reading, device, settings.ignored)


def _add(
    state: Pass,
    batch: Batch,
    targets: BatchTargets,
    described: Loss | None,
    divisor: Divisor | None,
) -> None:
    if batch.loss is not None:
        if callable(divisor):
            state.divisor += divisor(batch)
        elif divisor is not None:
            state.divisor = float(divisor)
        elif described is not None and batch.outputs is not None:
            state.divisor += described.mean_factor(batch.outputs, batch.targets)
    for layer in state.layers:
        layer.update(batch, targets)
    state.outputs.update(targets)
    state.num_batches += 1
    state.num_samples += num_counted(batch, targets, state.ignored)


def _loss_sum(batch: Batch, exact: Loss | None) -> float:
    assert batch.loss is not None
    if exact is None or batch.outputs is None or not isinstance(batch.targets, Tensor):
        return float(batch.loss)
    return exact_sum(exact, batch.outputs, batch.targets)


def _finish(state: Pass, skips: tuple[Skip, ...], *, graded: bool) -> Statistics:
    divisor = state.divisor if graded else math.nan
    found = [(layer, layer.compute(divisor)) for layer in state.layers]
    unseen = tuple(
        Skip(
            layer.site.weight_name,
            "its layer was not called in this pass",
            layer.site.shape,
            None,
            type(layer.site.module).__name__,
        )
        for layer, statistics in found
        if statistics is None
    )
    return Statistics(
        layers=tuple(s for _, s in found if s is not None),
        skips=(*skips, *unseen),
        outputs=state.outputs.compute(),
        reading=state.reading,
        num_samples=state.num_samples,
        num_batches=state.num_batches,
        divisor=divisor,
        loss=state.loss / divisor if graded and divisor else math.nan,
    )
