"""The rows of a measured model: each layer's, then those over layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import polars as pl
import torch

from spectrank.collapse.certificates import (
    COLUMNS as CERTIFICATE_COLUMNS,
)
from spectrank.collapse.certificates import (
    Applicability,
    Norm,
    certificate_rows,
)
from spectrank.collapse.features import (
    alignment_rows,
    effective_depth,
    feature_rows,
    kept_rows,
    layer_law,
    nc4_of,
    regression_rows,
    target_rank,
)
from spectrank.collapse.statistics import (
    EffectiveDecay,
    KeptRows,
    LayerStatistics,
    OutputStatistics,
    Statistics,
)
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassMoments, ClassSummary, CrossSummary
from spectrank.metrics import numerical_rank
from spectrank.scanning.rows import value_columns

Row = dict[str, Any]

COLUMNS: Mapping[str, Any] = {
    "m": pl.Int64,
    "n": pl.Int64,
    "dtype": pl.String,
    "layer_type": pl.String,
    "tied_to": pl.String,
    "of": pl.String,
    "cells": pl.String,
    "num_samples": pl.Int64,
    "num_classes": pl.Int64,
    "weight_decay": pl.Float64,
    "decay": pl.String,
    **CERTIFICATE_COLUMNS,
}
"""Producer columns; ``of`` says what a row is about: ``features`` (the layer's input),
``gradients`` (of the loss for its output), ``weight`` or ``model``; ``cells`` which
cells a certificate rests on."""

_MODEL, _OUTPUTS = "model", "outputs"
# Of single-precision features: directions below are rounding.
_SINGLE_RTOL = 1e-6
# Shares of rows on which the nearest class centre may disagree with the model.
_TOLERANCES = (0.0, 0.01, 0.05)


@final
@dataclass(frozen=True)
class Request:
    """What of the statistics becomes rows.

    Attributes:
        norms: Of the certificates.
        ranks: Of their profile; None for their own choice.
        clusters: Whether k-means is run on the kept rows.
        alignments: Whether the six alignments are taken.
        rank_rtol: Threshold of the gradient's numerical rank.
        seed: Of k-means.
    """

    norms: Sequence[Norm]
    ranks: Sequence[int] | None
    clusters: bool
    alignments: bool
    rank_rtol: float
    seed: int


def layer_rows(
    layer: LayerStatistics,
    statistics: Statistics,
    decay: EffectiveDecay,
    known: Applicability,
    request: Request,
) -> list[Row]:
    """All rows of one weight.

    Args:
        layer: Its statistics.
        statistics: Of the pass.
        decay: Of the weight.
        known: What stands against the certificates.
        request: What is asked for.

    Returns:
        Rows for `Table.from_rows`.
    """
    key = _key(layer, statistics, decay)
    rows = [key | {"of": "features"} | r for r in _features(layer, statistics)]
    rows += [key | {"of": "features"} | r for r in _kept(layer, request)]
    if layer.cross is None:
        return rows
    rows += [key | {"of": "gradients"} | r for r in _gradients(layer, request)]
    if request.alignments:
        aligned = alignment_rows(layer.cross, layer.weight)
        rows += [key | {"of": "weight"} | r for r in aligned]
    certificates = _certificates(layer, statistics, decay, known, request)
    return rows + [key | {"of": "weight"} | r for r in certificates]


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
        rtol = _rtol(outputs.dtype)
        rows += [key | r for r in feature_rows(outputs.logits, rtol=rtol)]
        if outputs.kept is not None:
            found = _of_kept(outputs.kept, outputs.logits, request)
            rows += [key | r for r in found]
    model = key | {"subject": _MODEL, "of": "model"}
    if outputs.num_labelled:
        share = Value.exact(outputs.num_agreeing / outputs.num_labelled)
        rows.append(model | _row("accuracy", None, share))
    if not math.isnan(statistics.loss):
        error = 64.0 * torch.finfo(outputs.dtype).eps * abs(statistics.loss)
        value = Value.around(statistics.loss, error)
        rows.append(model | _row("loss", "without penalty", value))
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
        made.append(key | _row("layer_law", "rate", law.rate) | {"values": variation})
        fit = Value.exact(law.correlation)
        if math.isnan(law.correlation):
            fit = Value.undefined("degenerate", law.rate.reason or "D is constant")
        made.append(key | _row("layer_law", "correlation", fit))
    if not all(math.isnan(x) for x in mismatch):
        for tolerance in _TOLERANCES:
            depth = effective_depth(mismatch, tolerance=tolerance)
            row = _row("effective_depth", f"tolerance={tolerance:g}", depth)
            made.append(key | row | {"values": mismatch})
    return made


def _key(
    layer: LayerStatistics, statistics: Statistics, decay: EffectiveDecay
) -> dict[str, Any]:
    known = not math.isnan(decay.coefficient)
    return {
        "subject": layer.weight_name,
        "view": layer.view,
        "m": layer.weight.shape[0],
        "n": layer.weight.shape[1],
        "dtype": str(layer.dtype).removeprefix("torch."),
        "layer_type": layer.layer_type,
        "tied_to": ", ".join(layer.uses[1:]) or None,
        "num_samples": statistics.num_samples,
        "num_classes": layer.num_classes,
        "weight_decay": decay.coefficient if known else None,
        "decay": decay.kind,
    }


def _features(layer: LayerStatistics, statistics: Statistics) -> list[Row]:
    last = layer is statistics.layers[-1]
    if layer.num_classes is not None:
        classifier = last and layer.weight.shape[0] == layer.num_classes
        return feature_rows(
            layer.features,
            weight=layer.weight,
            classifier=classifier,
            rtol=_rtol(layer.dtype),
        )
    covariance = None
    targets = statistics.outputs.targets
    if last and targets is not None and len(targets.mean) == layer.weight.shape[0]:
        covariance = targets.covariance
    rows = regression_rows(
        layer.features,
        num_directions=num_target_directions(statistics),
        weight=layer.weight,
        target_covariance=covariance,
    )
    return [*rows, _row("wcv", None, layer.features.wcv)]


def num_target_directions(statistics: Statistics) -> int:
    """K of a regression: the rank of its centred targets.

    Args:
        statistics: Of the pass.

    Returns:
        The rank, from the targets themselves where all were kept, else from their
        covariance; at least 1.
    """
    outputs = statistics.outputs
    kept = outputs.kept
    if kept is not None and kept.exact and kept.targets is not None:
        return max(target_rank(kept.targets), 1)
    if outputs.targets is None:
        return 1
    scale = outputs.targets.covariance
    return max(int(torch.linalg.matrix_rank(scale, hermitian=True)), 1)


def _kept(layer: LayerStatistics, request: Request) -> list[Row]:
    kept = layer.kept
    if kept is None or layer.num_classes is None:
        return []
    if kept.predictions is None:
        reason = "the model's outputs have other positions than the rows of this layer"
        lost = Value.undefined("skipped", reason)
        return [_row("nc4", None, lost)]
    # Rows of a convolution are patches, those kept are its whole inputs; and of several
    # uses the first alone is kept.
    other = layer.view == "conv-unfolded" or kept.num_seen != layer.features.num_samples
    centres = _summary_of(kept, layer.num_classes) if other else layer.features
    rows = _of_kept(kept, centres, request)
    whole = {"view": "whole-input"} if layer.view == "conv-unfolded" else {}
    return [r | whole for r in rows]


def _of_kept(kept: KeptRows, centres: ClassSummary, request: Request) -> list[Row]:
    if kept.predictions is None:
        return []
    if request.clusters:
        return kept_rows(
            centres, kept.rows, kept.labels, kept.predictions, seed=request.seed
        )
    value = nc4_of(centres, kept.rows, kept.predictions, num_rows=kept.num_seen)
    row = _row("nc4", None, value)
    if not kept.exact:
        said = f"on a uniform sample of {len(kept.rows)} of {kept.num_seen} rows"
        row["reason"] = said if row["reason"] is None else f"{row['reason']}; {said}"
    return [row]


def _summary_of(kept: KeptRows, num_classes: int) -> ClassSummary:
    rows = kept.rows
    moments = ClassMoments(
        num_classes, rows.shape[1], scatter="trace", device=rows.device
    )
    moments.update(rows, kept.labels)
    return moments.compute()


def _gradients(layer: LayerStatistics, request: Request) -> list[Row]:
    assert layer.cross is not None
    sides = layer.cross.outputs
    rows = [
        _row("wcv", None, sides.wcv),
        _row("rtcv", None, sides.rtcv),
        _row("mean_square", None, sides.mean_square),
    ]
    if layer.minibatch is not None:
        rank = numerical_rank(layer.minibatch.core, rtol=request.rank_rtol)
        most = min(layer.minibatch.num_rows, *layer.weight.shape)
        made = _row("gradient_rank", f"rtol={request.rank_rtol:g}", rank)
        rows.append(made | {"index": layer.minibatch.num_rows, "bound": float(most)})
    return rows


def _certificates(
    layer: LayerStatistics,
    statistics: Statistics,
    decay: EffectiveDecay,
    known: Applicability,
    request: Request,
) -> list[Row]:
    assert layer.cross is not None
    coefficient = 0.0 if math.isnan(decay.coefficient) else decay.coefficient
    ranks = request.ranks
    if ranks is None and layer.num_classes is None:
        k = num_target_directions(statistics)
        most = min(layer.weight.shape)
        ranks = sorted({r for r in (1, k, 2 * k) if r < most})
    found: list[tuple[str, CrossSummary]] = [(layer.cells, layer.cross)]
    if layer.position_cross is not None:
        found.append(("class-positions", layer.position_cross))
    return [
        row | {"cells": cells}
        for cells, cross in found
        for row in certificate_rows(
            layer.weight,
            cross,
            divisor=layer.divisor,
            weight_decay=coefficient,
            applicability=known,
            ranks=ranks,
            norms=request.norms,
        )
    ]


def _row(metric: str, variant: str | None, value: Value) -> Row:
    return {
        "kind": "measurement",
        "metric": metric,
        "variant": variant,
        **value_columns(value),
    }


def _by_layer(
    rows: Sequence[Row], subjects: Sequence[str], metric: str, variant: str | None
) -> list[float]:
    found = {
        r["subject"]: r["value"]
        for r in rows
        if r["metric"] == metric and r.get("variant") == variant
    }
    return [found.get(subject, math.nan) for subject in subjects]


def _rtol(dtype: torch.dtype) -> float | None:
    """Threshold of directions between class means, by the precision of the features."""
    return None if dtype == torch.float64 else _SINGLE_RTOL
