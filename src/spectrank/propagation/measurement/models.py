"""Means over the inputs of one given model, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import capture
from spectrank.model.capture.choose import choose_layers
from spectrank.model.capture.tensors import moved
from spectrank.model.capture.undisturbed import RandomStream
from spectrank.propagation.measurement.context import Context, Request
from spectrank.propagation.measurement.derivatives import (
    Directions,
    add_gradients,
    add_tangents,
)
from spectrank.propagation.measurement.directions import (
    NoOutput,
    cotangent_loss,
    logits_of,
)
from spectrank.propagation.measurement.signals import add_signals
from spectrank.propagation.measurement.sites import find_sites
from spectrank.propagation.measurement.tally import Tally
from spectrank.propagation.names import NETWORK


def measure_model(
    model: nn.Module, loader: Iterable[Any], request: Request, tally: Tally
) -> None:
    """Send every batch through the model and fill the tally.

    Args:
        model: Left as it was.
        loader: Of batches.
        request: What and how.
        tally: Filled.

    Raises:
        ArgumentTypeError: Inputs of another precision than the model's.
        DomainError: There is no batch, or all samples are zero.
        RuntimeError: The model raised it for a reason of its own.
    """  # noqa: DOC502 - a part is raised by the functions called
    names = [layer.name for layer in choose_layers(model, request.layers)]
    context = Context(model, names, request, tally)
    with RandomStream().active():
        batches = iter(loader)
        first = next(batches, None)
    if first is None:
        raise DomainError(
            "there must be a batch to measure, the loader gave none; a generator that "
            "was read before is empty, pass the loader itself"
        )
    try:
        _run(context, first, batches)
    except NoOutput as error:
        # Raised in the first batch, before anything of it was kept.
        tally.skip(NETWORK, "gradient_gain", str(error))
        others = request.quantities - {"gradients"}
        context.request = replace(request, quantities=others)
        if others:
            _run(context, first, batches)
    except RuntimeError as error:
        _explain(context, error)
        raise
    if context.silent and (context.wants("signal") or context.wants("angles")):
        raise DomainError(
            "signal gains and angles are relative to the input, got samples of zeros "
            "alone; pass other inputs, or quantities=['gradients', 'jacobian']"
        )


def _explain(context: Context, error: RuntimeError) -> None:
    """Say so where the input's precision is why the model cannot run."""
    x = context.source()
    held = (*context.model.parameters(), *context.model.buffers())
    own = next((p.dtype for p in held if p.is_floating_point()), None)
    if x is None or own is None or x.dtype == own or "type" not in str(error).lower():
        return
    raise ArgumentTypeError(
        f"inputs have the dtype of the model, here {own}, got {x.dtype}; pass "
        f"dtype={own} to convert the inputs, or convert the model"
    ) from error


def _run(context: Context, first: Any, rest: Iterator[Any]) -> None:
    request = context.request
    context.silent = True
    call = context.unpack(moved(first, request.device, request.dtype))
    sites = find_sites(context.model, list(context.places), call)
    activations = [a.module for a in sites.activations.values() if a.module]
    repeats = 1 if request.cotangents == "logits" else request.num_directions
    taps = capture(
        context.model,
        layers=list(dict.fromkeys([*context.places, *activations])),
        mode=request.mode,
        device=request.device,
        dtype=request.dtype,
        unpack=context.unpack,
        batch_axis=request.batch_axis,
        **_gradient_options(context),
    )
    gathered = Directions(context.tally)
    moving = context.wants("jacobian")
    with taps:
        for batch in taps.over(_repeated(first, rest, repeats)):
            context.check_samples(batch)
            if batch.index % repeats == 0:
                gathered.flush()
                add_signals(context, batch, sites)
            if context.wants("gradients"):
                add_gradients(context, batch, gathered)
            if moving:
                moving = add_tangents(context, batch, sites, gathered)
    gathered.flush()


def _gradient_options(context: Context) -> dict[str, Any]:
    request = context.request
    if not context.wants("gradients"):
        return {}
    if isinstance(request.cotangents, str) and request.cotangents == "logits":
        return {"gradients": "logits", "forward": logits_of}
    loss = cotangent_loss(request.cotangents, request.generator, context.samples_axis)
    return {"gradients": "loss", "loss": loss}


def _repeated(first: Any, rest: Iterator[Any], times: int) -> Iterator[Any]:
    for _ in range(times):
        yield first
    for raw in rest:
        for _ in range(times):
            yield raw
