"""The rows of one weight: its features, gradients, kept rows and certificates."""

from __future__ import annotations

import math
from typing import Any

from spectrank.collapse.certificates import Applicability
from spectrank.collapse.features import (
    alignment_rows,
    feature_rows,
    regression_rows,
    resolution,
)
from spectrank.collapse.rows.certified import certified_rows, num_target_directions
from spectrank.collapse.rows.kept import layer_kept_rows
from spectrank.collapse.rows.request import Request, Row, measured
from spectrank.collapse.statistics import (
    EffectiveDecay,
    LayerStatistics,
    Statistics,
)
from spectrank.metrics import numerical_rank


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
    rows += [key | {"of": "features"} | r for r in layer_kept_rows(layer, request)]
    if layer.cross is None:
        return rows
    rows += [key | {"of": "gradients"} | r for r in _gradients(layer, request)]
    if request.alignments:
        aligned = alignment_rows(layer.cross, layer.weight)
        rows += [key | {"of": "weight"} | r for r in aligned]
    certificates = certified_rows(layer, statistics, decay, known, request)
    return rows + [key | {"of": "weight"} | r for r in certificates]


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
            rtol=resolution(layer.features, layer.dtype),
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
    return [*rows, measured("wcv", None, layer.features.wcv)]


def _gradients(layer: LayerStatistics, request: Request) -> list[Row]:
    assert layer.cross is not None
    sides = layer.cross.outputs
    rows = [
        measured("wcv", None, sides.wcv),
        measured("rtcv", None, sides.rtcv),
        measured("mean_square", None, sides.mean_square),
    ]
    if layer.minibatch is not None:
        rank = numerical_rank(layer.minibatch.core, rtol=request.rank_rtol)
        most = min(layer.minibatch.num_rows, *layer.weight.shape)
        made = measured("gradient_rank", f"rtol={request.rank_rtol:g}", rank)
        rows.append(made | {"index": layer.minibatch.num_rows, "bound": float(most)})
    return rows
