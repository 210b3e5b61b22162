"""The rows of a whole model: its outputs, accuracy, loss, and laws over layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from spectrank.collapse.features import (
    effective_depth,
    feature_rows,
    layer_law,
    resolution,
)
from spectrank.collapse.rows.kept import of_kept
from spectrank.collapse.rows.request import Request, Row, measured
from spectrank.collapse.statistics import OutputStatistics, Statistics
from spectrank.linalg import Value

_MODEL, _OUTPUTS = "model", "outputs"
# Shares of rows on which the nearest class centre may disagree with the model.
_TOLERANCES = (0.0, 0.01, 0.05)


def output_rows(
    outputs: OutputStatistics, statistics: Statistics, request: Request
) -> list[Row]:
    """Rows of the model's outputs as the last features.

    Args:
        outputs: Of the pass.
        statistics: Of the pass.
        request: What is asked for.

    Returns:
        Rows of subject ``outputs``, and accuracy and loss of subject ``model``.
    """
    key = {
        "subject": _OUTPUTS,
        "of": "features",
        "num_samples": statistics.num_samples,
        "num_classes": statistics.reading.num_classes,
    }
    rows: list[Row] = []
    if outputs.logits is not None and statistics.reading.kind == "classes":
        rtol = resolution(outputs.logits, outputs.dtype)
        why = outputs.scatter_reason
        rows += [key | r for r in feature_rows(outputs.logits, rtol=rtol, lost=why)]
        if outputs.kept is not None:
            found = of_kept(outputs.kept, outputs.logits, request)
            rows += [key | r for r in found]
    model = key | {"subject": _MODEL, "of": "model"}
    if outputs.num_labelled:
        share = Value.exact(outputs.num_agreeing / outputs.num_labelled)
        if lost := outputs.num_nonfinite:
            # An argmax over NaN is the place of the NaN, no choice of a class.
            said = f"{lost} of {outputs.num_labelled} outputs are not finite"
            share = Value.undefined("nonfinite", said)
        rows.append(model | measured("accuracy", None, share))
    if not math.isnan(statistics.divisor):
        value = Value.undefined("nonfinite", f"the loss is {statistics.loss}")
        if math.isfinite(statistics.loss):
            error = 64.0 * torch.finfo(outputs.dtype).eps * abs(statistics.loss)
            value = Value.around(statistics.loss, error)
        rows.append(model | measured("loss", "without penalty", value))
    return rows


def depth_rows(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Rows over the layers: the law of He & Su and the effective depth.

    Args:
        rows: Of all layers and outputs.
        names: Subjects in the order of the layers.

    Returns:
        Rows of subject ``model``; ``values`` holds what went in, layer by layer.
    """
    subjects = [*names, _OUTPUTS]
    variation = _by_layer(rows, subjects, "nc1", "he-su")
    mismatch = _by_layer(rows, subjects, "nc4", None)
    made: list[Row] = []
    key = {"subject": _MODEL, "of": "model"}
    if not all(math.isnan(x) for x in variation):
        law = layer_law(variation)
        rate, fit = law.rate, Value.exact(law.correlation)
        if math.isnan(law.correlation):
            fit = Value.undefined("degenerate", rate.reason or "D is constant")
        if lost := _undefined(rows, subjects, "nc1", "he-su"):
            rate = fit = lost
        made.append(key | measured("layer_law", "rate", rate) | {"values": variation})
        made.append(key | measured("layer_law", "correlation", fit))
    if not all(math.isnan(x) for x in mismatch):
        for tolerance in _TOLERANCES:
            depth = effective_depth(mismatch, tolerance=tolerance)
            row = measured("effective_depth", f"tolerance={tolerance:g}", depth)
            made.append(key | row | {"values": mismatch})
    return made


def _by_layer(
    rows: Sequence[Row], subjects: Sequence[str], metric: str, variant: str | None
) -> list[float]:
    found = {
        r["subject"]: r["value"]
        for r in rows
        if r["metric"] == metric and r.get("variant") == variant
    }
    return [found.get(subject, math.nan) for subject in subjects]


def _undefined(
    rows: Sequence[Row], subjects: Sequence[str], metric: str, variant: str
) -> Value | None:
    """Why the first layer without a number has none; None where all have one."""
    for subject in subjects:
        wanted = (subject, metric, variant)
        found = [
            r for r in rows if (r["subject"], r["metric"], r.get("variant")) == wanted
        ]
        if not found:
            return Value.undefined("degenerate", f"{metric} of {subject} is not known")
        if found[0]["status"] != "ok":
            status, reason = found[0]["status"], found[0]["reason"]
            return Value.undefined(status, f"{metric} {variant} of {subject}: {reason}")
    return None
