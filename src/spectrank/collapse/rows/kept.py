"""Rows of what needs the samples themselves: nearest class centres and k-means."""

from __future__ import annotations

from spectrank.collapse.features import kept_rows, nc4_of
from spectrank.collapse.rows.request import Request, Row, measured
from spectrank.collapse.statistics import KeptRows, LayerStatistics
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassMoments, ClassSummary


def layer_kept_rows(layer: LayerStatistics, request: Request) -> list[Row]:
    """Rows of a layer's kept inputs.

    Args:
        layer: Its statistics.
        request: What is asked for.

    Returns:
        ``nc4``, and with ``clusters`` the k-means variation; empty where no rows were
        kept, or there are no classes.
    """
    kept = layer.kept
    if kept is None or layer.num_classes is None:
        return []
    if kept.predictions is None:
        reason = "the model's outputs have other positions than the rows of this layer"
        lost = Value.undefined("skipped", reason)
        return [measured("nc4", None, lost)]
    # Rows of a convolution are patches, those kept are its whole inputs; and of several
    # uses the first alone is kept.
    other = layer.view == "conv-unfolded" or kept.num_seen != layer.features.num_samples
    centres = _summary_of(kept, layer.num_classes) if other else layer.features
    rows = of_kept(kept, centres, request)
    whole = {"view": "whole-input"} if layer.view == "conv-unfolded" else {}
    return [r | whole for r in rows]


def of_kept(kept: KeptRows, centres: ClassSummary, request: Request) -> list[Row]:
    """Rows of kept rows of features.

    Args:
        kept: All, or a sample.
        centres: Class statistics of all rows.
        request: What is asked for.

    Returns:
        As `layer_kept_rows`; empty where the model's choices are not known.
    """
    if kept.predictions is None:
        return []
    if request.clusters:
        return kept_rows(
            centres, kept.rows, kept.labels, kept.predictions, seed=request.seed
        )
    value = nc4_of(centres, kept.rows, kept.predictions, num_rows=kept.num_seen)
    row = measured("nc4", None, value)
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
