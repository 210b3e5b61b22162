"""Rows of what weight decay promises: by cells, and by the best partition found."""

from __future__ import annotations

import math

from spectrank.collapse.certificates import (
    Applicability,
    certificate_rows,
    partition_rows,
)
from spectrank.collapse.features import covariance_rank, target_rank
from spectrank.collapse.rows.request import Request, Row
from spectrank.collapse.statistics import (
    EffectiveDecay,
    LayerStatistics,
    Statistics,
)
from spectrank.linalg.moments import CrossSummary


def certified_rows(
    layer: LayerStatistics,
    statistics: Statistics,
    decay: EffectiveDecay,
    known: Applicability,
    request: Request,
) -> list[Row]:
    """Rows of a layer's certificates.

    Args:
        layer: Its statistics, with a loss.
        statistics: Of the pass.
        decay: Of the weight.
        known: What stands against the certificates.
        request: What is asked for.

    Returns:
        As `certificate_rows` over classes and, where there are such cells, over
        (class, position); with ``clusters`` also over the best partitions found.
    """
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
    rows = [
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
    if request.clusters:
        made = _partitions(layer, coefficient, known, request)
        rows += [row | {"cells": "partition"} for row in made]
    return rows


def num_target_directions(statistics: Statistics) -> int:
    """K of a regression: the rank of its centred targets.

    Args:
        statistics: Of the pass.

    Returns:
        The rank to the precision of the targets' dtype, from the targets themselves
        where all were kept, else from their covariance; at least 1.
    """
    outputs = statistics.outputs
    kept = outputs.kept
    if kept is not None and kept.exact and kept.targets is not None:
        return max(target_rank(kept.targets, dtype=outputs.target_dtype), 1)
    if outputs.targets is None:
        return 1
    return max(covariance_rank(outputs.targets, outputs.target_dtype), 1)


def _partitions(
    layer: LayerStatistics, coefficient: float, known: Applicability, request: Request
) -> list[Row]:
    """Rows over the best partitions found; one that says so where rows are missing."""
    kept, cross = layer.kept, layer.cross
    assert cross is not None
    k, most = cross.inputs.num_present, min(layer.weight.shape)
    ranks = [r for r in (request.ranks or (k, 2 * k)) if 1 <= r < most]
    if kept is None or kept.gradients is None or len(kept.rows) != cross.num_samples:
        reason = "a partition needs every row of the layer, and not all were kept"
        row = {"kind": "check", "metric": "rank_bound", "variant": "partition"}
        said = {"verdict": "not_applicable", "status": "skipped", "reason": reason}
        return [row | said]
    return partition_rows(
        layer.weight,
        kept.gradients,
        kept.rows,
        divisor=layer.divisor,
        weight_decay=coefficient,
        ranks=ranks,
        seed=request.seed,
        labels=None if layer.num_classes is None else kept.labels,
        applicability=known,
    )
