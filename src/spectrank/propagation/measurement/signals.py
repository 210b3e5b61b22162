"""Signals and angles of one batch, before and after the activations."""

from __future__ import annotations

import torch
from torch import Tensor

from spectrank.model import Batch, LayerBatch
from spectrank.propagation.measurement.context import Context, masked
from spectrank.propagation.measurement.samples import (
    flat,
    laid_out,
    log_norms,
    log_squares,
    pair_angles,
    readable,
    vectors,
)
from spectrank.propagation.measurement.sites import Sites
from spectrank.propagation.measurement.tally import Place, Site
from spectrank.propagation.names import NETWORK


def add_signals(context: Context, batch: Batch, sites: Sites) -> None:
    """Add the signals and angles of every layer.

    Args:
        context: Of the pass.
        batch: With its records.
        sites: Where the activations are.
    """
    reference = _reference(context, batch)
    if reference is None:
        reason = "no layer takes or gives numbers"
        context.tally.skip(NETWORK, "signal_gain", reason)
        return
    log_x, size, inputs = reference
    # NaN is no zero: its rows are nonfinite.
    context.silent = context.silent and not bool((log_x != -torch.inf).any())
    if context.wants("angles") and inputs is not None:
        _add_pairs(context, Place("input", 0), "pre", inputs)
    for name, place in context.places.items():
        record = context.only(batch, name, "signal_gain")
        if record is None:
            continue
        rows = record.output_rows(select="unmasked")
        found: dict[Site, tuple[LayerBatch, Tensor]] = {"pre": (record, rows)}
        post = _post(context, batch, record, rows, sites)
        if post is not None:
            found["post"] = post
        for site, (own, values) in found.items():
            if context.wants("signal"):
                logs = log_squares(own, values)
                _add_gains(context, place, site, logs, log_x, record)
                per_sample = values.numel() / len(logs)
                context.tally.size(place, site, size / per_sample)
            if context.wants("angles"):
                _add_angles(context, place, site, own, values)


def _add_gains(
    context: Context,
    place: Place,
    site: Site,
    logs: Tensor,
    log_x: Tensor,
    record: LayerBatch,
) -> None:
    # A sample of zeros has no gain; NaN goes on, and makes the row nonfinite.
    some = log_x != -torch.inf
    if not bool(some.all()):
        reason = "samples of zeros have no gain relative to the input: left out"
        context.tally.skip(NETWORK, "signal_gain", reason, "input")
    if bool(some.any()):
        gains = context.tally.gains(place, "signal", site)
        gains.update((logs - log_x)[some, None])
    if record.inputs is None or not record.inputs.is_floating_point():
        return
    given = record.input_rows(select="unmasked")
    log_in = log_squares(record, given, of_inputs=True)
    # A sample that does not reach the layer has no gain there.
    own = (logs - log_in)[log_in > -torch.inf]
    if len(own):
        context.tally.gains(place, "layer", site).update(own[:, None])


def _add_angles(
    context: Context, place: Place, site: Site, record: LayerBatch, rows: Tensor
) -> None:
    found = vectors(record, rows)
    if found is None:
        reason = "samples have different numbers of positions"
        context.tally.skip(place.subject, "cosine", reason, site)
        return
    _add_pairs(context, place, site, found)


def _add_pairs(context: Context, place: Place, site: Site, x: Tensor) -> None:
    """Samples 0 and 1, 2 and 3, ...: no sample is in two pairs."""
    num = len(x) // 2 * 2
    if not num:
        return
    found = pair_angles(x[:num:2, None], x[1:num:2, None])
    context.tally.angles(place, site).update(*found)


def _post(
    context: Context, batch: Batch, record: LayerBatch, rows: Tensor, sites: Sites
) -> tuple[LayerBatch, Tensor] | None:
    """The activation's record and rows; None, with a skip row, where unknown."""
    name, subject = record.name, context.places[record.name].subject
    activation = sites.activations.get(name)
    if activation is None:
        reason = sites.general or sites.reasons.get(name)
        if reason:
            context.tally.skip(subject, "signal_gain", reason, "post")
        return None
    if activation.function is not None:
        return record, activation.function(rows)
    assert activation.module is not None
    calls = batch.calls(activation.module)
    shown = laid_out(record, calls[0].outputs) if len(calls) == 1 else None
    if shown is None:
        reason = f"its activation {activation.module} ran {len(calls)} times, or on "
        reason += "another number of entries"
        context.tally.skip(subject, "signal_gain", reason, "post")
        return None
    return shown, shown.output_rows(select="unmasked")


def _reference(
    context: Context, batch: Batch
) -> tuple[Tensor, float, Tensor | None] | None:
    """Logarithms of |x|^2, entries per sample, and the inputs as vectors."""
    num, x = batch.num_samples, context.source()
    if num is not None and x is not None:
        found = flat(masked(x, batch), num, context.samples_axis)
        if found is not None:
            return log_norms(found), float(found.shape[1]), found
    for name in context.places:
        # Token ids have no norm: the first layer that gives numbers stands in.
        calls = batch.calls(name)
        if calls and readable(calls[0]) is None:
            rows = calls[0].output_rows(select="unmasked")
            logs = log_squares(calls[0], rows)
            context.tally.skip(
                NETWORK,
                "signal_gain",
                "relative to the input: inputs are no numbers, all gains are relative "
                f"to the outputs of {name}",
                "input",
            )
            return logs, rows.numel() / len(logs), None
    return None
