"""Gradients and directional derivatives of one batch, at every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from spectrank.model import Batch
from spectrank.propagation.measurement.context import Context, masked
from spectrank.propagation.measurement.directions import directions
from spectrank.propagation.measurement.gradients import input_gradients
from spectrank.propagation.measurement.samples import laid_out, log_squares
from spectrank.propagation.measurement.sites import Sites
from spectrank.propagation.measurement.tally import Place, Tally
from spectrank.propagation.measurement.tangents import tangents
from spectrank.propagation.names import NETWORK


@final
class Directions:
    """The directions of one batch, averaged per sample before samples are compared.

    Args:
        tally: To be filled.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._held: dict[tuple[Place, str, str], list[Tensor]] = {}

    def add(self, place: Place, quantity: str, site: str, logs: Tensor) -> None:
        """Keep one direction's gains.

        Args:
            place: The layer.
            quantity: ``gradient`` or ``jacobian``.
            site: ``post``, ``pre`` or empty.
            logs: (N,) logarithms.
        """
        self._held.setdefault((place, quantity, site), []).append(logs)

    def flush(self) -> None:
        """Hand the batch over."""
        for (place, quantity, site), parts in self._held.items():
            self._tally.gains(place, quantity, site).update(torch.stack(parts, dim=1))
        self._held.clear()


def add_gradients(context: Context, batch: Batch, gathered: Directions) -> None:
    """Add J_l^T v at the input of every layer.

    Args:
        context: Of the pass.
        batch: With output gradients.
        gathered: Filled.
    """
    for name, place in context.places.items():
        record = context.only(batch, name, "gradient_gain")
        if record is None:
            continue
        found = input_gradients(context.model, record, context.request.mode)
        if isinstance(found, str):
            context.tally.skip(place.subject, "gradient_gain", found)
            continue
        for gradient in found:
            shown = replace(record, inputs=gradient)
            rows = shown.input_rows(select="unmasked")
            logs = log_squares(shown, rows, of_inputs=True)
            gathered.add(place, "gradient", "", logs)


def add_tangents(
    context: Context, batch: Batch, sites: Sites, gathered: Directions
) -> bool:
    """Add J u at every layer, u one random direction per sample.

    Args:
        context: Of the pass.
        batch: With its records.
        sites: Where the activations are.
        gathered: Filled.

    Returns:
        Whether it can be done again with the next batch.

    Raises:
        RuntimeError: The model raised it for a reason of its own.
    """
    x, call = context.source(), context.call
    if x is None or call is None or batch.num_samples is None:
        reason = "inputs are no floating-point tensor that could move"
        context.tally.skip(NETWORK, "jacobian_gain", reason)
        return False
    # What is not read at a masked position must not be sent there.
    allowed = masked(torch.ones_like(x), batch)
    u = directions(x, context.request.generator, context.samples_axis, allowed)
    watched = [name for name in context.places if len(batch.calls(name)) == 1]
    watched += [a.module for a in sites.activations.values() if a.module]
    try:
        seen = tangents(context.model, call, x, u, watched, context.request.mode)
    except RuntimeError as error:
        if "forward" not in str(error).lower():
            raise
        text = str(error).strip().splitlines()[0][:200]
        reason = f"a step has no forward mode: {text}"
        context.tally.skip(NETWORK, "jacobian_gain", reason)
        return False
    for name in context.places:
        _add_tangent(context, batch, name, sites, seen, gathered)
    return True


def _add_tangent(
    context: Context,
    batch: Batch,
    name: str,
    sites: Sites,
    seen: dict[str, list[Tensor | None]],
    gathered: Directions,
) -> None:
    record, place = context.only(batch, name, "jacobian_gain"), context.places[name]
    if record is None:
        return
    moving = seen.get(name, [])
    if len(moving) != 1 or moving[0] is None:
        reason = "the module is not called, or does not depend on the input"
        context.tally.skip(place.subject, "jacobian_gain", reason)
        return
    shown = replace(record, outputs=moving[0])
    rows = shown.output_rows(select="unmasked")
    gathered.add(place, "jacobian", "pre", log_squares(shown, rows))
    activation = sites.activations.get(name)
    if activation is None:
        return
    if activation.function is not None:
        at = record.output_rows(select="unmasked")
        pair = (at,), (rows.to(at.dtype),)
        after: Tensor = torch.func.jvp(activation.function, *pair)[1]
        gathered.add(place, "jacobian", "post", log_squares(record, after))
        return
    assert activation.module is not None
    other = seen.get(activation.module, [])
    later = None
    if len(other) == 1 and other[0] is not None:
        later = laid_out(record, other[0])
    if later is not None:
        after = later.output_rows(select="unmasked")
        gathered.add(place, "jacobian", "post", log_squares(later, after))
