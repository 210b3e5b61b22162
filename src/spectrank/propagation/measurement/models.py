"""Means over the inputs of one given model, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from spectrank.errors import DomainError
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
from spectrank.propagation.measurement.directions import cotangent_loss
from spectrank.propagation.measurement.signals import add_signals
from spectrank.propagation.measurement.sites import find_sites
from spectrank.propagation.measurement.tally import Tally


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
        DomainError: There is no batch.
    """
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
    _run(context, first, batches)


def _run(context: Context, first: Any, rest: Iterator[Any]) -> None:
    request = context.request
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
        return {"gradients": "logits"}
    loss = cotangent_loss(request.cotangents, request.generator, context.samples_axis)
    return {"gradients": "loss", "loss": loss}


def _repeated(first: Any, rest: Iterator[Any], times: int) -> Iterator[Any]:
    for _ in range(times):
        yield first
    for raw in rest:
        for _ in range(times):
            yield raw
