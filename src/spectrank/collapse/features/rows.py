"""Rows of the collapse of a layer's features, without the columns that name a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spectrank.collapse.features.alignments import ALIGNMENTS, canonical_alignments
from spectrank.collapse.features.between import KnownBetween
from spectrank.collapse.features.centres import nc4_of
from spectrank.collapse.features.clusters import pca_bracket_of, tcv
from spectrank.collapse.features.geometry import (
    NC2_VARIANTS,
    NC3_VARIANTS,
    nc2_classifier,
    nc2_of,
    nc3_of,
)
from spectrank.collapse.features.regression import nrc1_of, nrc2_of, nrc3_of
from spectrank.collapse.features.subspaces import subspace_angles
from spectrank.collapse.features.variability import (
    NC1_VARIANTS,
    SPAN_VARIANTS,
    nc1_of,
    nc1_on_span,
)
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary, CrossSummary
from spectrank.scanning.rows import value_columns

Row = dict[str, Any]

_NO_SCATTER = "needs the full scatter of the features, of which only {} was kept"


def feature_rows(
    summary: ClassSummary,
    *,
    weight: Tensor | None = None,
    classifier: bool = False,
    rtol: float | None = None,
    lost: str | None = None,
) -> list[Row]:
    """Rows of the class statistics of a layer's input.

    ``index`` is the number of directions between class means for NC1 on the span, K
    for TCV and the PCA bracket. A metric that needs a scatter which was not kept is a
    row of status ``skipped``.

    Args:
        summary: Statistics of the features by class.
        weight: (m, d) weight that they enter, for the angles.
        classifier: Whether its m rows are those of the classes (NC2, NC3).
        rtol: Directions between class means below it are left out; give about 1e-6 for
            features computed in float32.
        lost: Why the full scatter was not kept; None to say that it was not.

    Returns:
        Rows for `Table.from_rows`, to be joined with the layer's columns.
    """
    known: KnownBetween = {}
    lost = lost or _NO_SCATTER.format(summary.kind)
    rows = [
        row("wcv", None, summary.wcv),
        row("rtcv", None, summary.rtcv),
        *_cluster_rows(summary, lost),
        *(_nc1_row(summary, variant, rtol, known, lost) for variant in NC1_VARIANTS),
        *_nc2_rows("features", [(v, nc2_of(summary, v)) for v in NC2_VARIANTS]),
    ]
    if weight is not None:
        rows.append(_angles(summary, weight, rtol, known))
    if weight is not None and classifier:
        of = [(v, nc2_classifier(weight, v)) for v in NC2_VARIANTS]
        rows += _nc2_rows("classifier", of)
        rows += [row("nc3", v, nc3_of(summary, weight, v)) for v in NC3_VARIANTS]
    return rows


def alignment_rows(cross: CrossSummary, weight: Tensor) -> list[Row]:
    """Rows of the six alignments; skipped where a scatter was not kept.

    Args:
        cross: Statistics of the layer.
        weight: (m, n) weight.

    Returns:
        Six rows, metric ``alignment_*``, variant ``cosine``.
    """
    kept = {cross.inputs.kind, cross.outputs.kind} == {"full"}
    reason = "needs the full scatter of inputs and gradients"
    values = (
        canonical_alignments(cross, weight)
        if kept
        else dict.fromkeys(ALIGNMENTS, Value.undefined("skipped", reason))
    )
    return [row(f"alignment_{name}", "cosine", v) for name, v in values.items()]


def regression_rows(
    summary: ClassSummary,
    *,
    num_directions: int,
    weight: Tensor | None = None,
    target_covariance: Tensor | None = None,
) -> list[Row]:
    """Rows of regression collapse.

    Args:
        summary: Statistics of the features; of one class, where there are none.
        num_directions: K, the rank of the targets (`target_rank`).
        weight: (m, d) weight that the features enter.
        target_covariance: (t, t), where the weight is the last one.

    Returns:
        Rows ``nrc1`` (index K) and, as far as given, ``nrc2`` and ``nrc3``.
    """
    if summary.kind == "full":
        rows = [row("nrc1", None, nrc1_of(summary, num_directions), num_directions)]
        if weight is not None:
            rows.append(row("nrc2", None, nrc2_of(summary, weight)))
    else:
        lost = Value.undefined("skipped", _NO_SCATTER.format(summary.kind))
        names = ["nrc1"] if weight is None else ["nrc1", "nrc2"]
        rows = [row(name, None, lost) for name in names]
    if weight is not None and target_covariance is not None:
        rows.append(row("nrc3", None, nrc3_of(weight, target_covariance)))
    return rows


def kept_rows(
    summary: ClassSummary,
    features: Tensor,
    labels: Tensor,
    predictions: Tensor,
    *,
    num_clusters: int | None = None,
    label_weight: float | None = None,
    num_starts: int = 3,
    seed: int,
) -> list[Row]:
    """Rows of what needs the samples themselves: NC4 and the k-means variation.

    Args:
        summary: Statistics of all N rows, whose means are the centres.
        features: (n, d) rows that were kept, all N or a uniform sample.
        labels: (n,) their classes.
        predictions: (n,) classes that the network predicts, or (n, K) logits.
        num_clusters: K; by default the number of classes that the kept rows have.
        label_weight: tau, which adds the label-aware row.
        num_starts: Random starts of k-means, beside the classes.
        seed: Of those starts.

    Returns:
        Rows ``nc4`` and ``tcv`` (index K), with the reason where they rest on a sample.
    """
    num_rows = summary.num_samples
    share = nc4_of(summary, features, predictions, num_rows=max(num_rows, len(labels)))
    k = len(torch.unique(labels)) if num_clusters is None else num_clusters
    options: dict[str, Any] = {
        "num_clusters": max(k, 1),
        "num_starts": num_starts,
        "seed": seed,
    }
    rows = [
        row("nc4", None, share),
        row("tcv", "kmeans", tcv(features, labels, **options), k),
    ]
    if label_weight is not None:
        value = tcv(features, labels, label_weight=label_weight, **options)
        rows.append(row("tcv", "kmeans-labels", value, k))
    if len(labels) < num_rows:
        said = f"on a uniform sample of {len(labels)} of {num_rows} rows"
        for r in rows:
            r["reason"] = said if r["reason"] is None else f"{r['reason']}; {said}"
        for r in rows[1:]:
            # The enclosure is of the sample's variation, not of all rows'.
            r["reason"] += "; the interval encloses the TCV of the sample"
    return rows


def row(
    metric: str, variant: str | None, value: Value, index: int | None = None
) -> Row:
    """Row of one measured number.

    Args:
        metric: Its name.
        variant: Which convention.
        value: The number.
        index: K, class or rank.

    Returns:
        The row, without the columns that name the layer.
    """
    return {
        "kind": "measurement",
        "metric": metric,
        "variant": variant,
        "index": index,
        **value_columns(value),
    }


def _cluster_rows(summary: ClassSummary, why: str) -> list[Row]:
    """TCV_K between the PCA bracket and the class partition, and the bracket."""
    k, value = summary.num_present, summary.wcv
    if summary.kind != "full":
        lost = Value.undefined("skipped", why)
        return [row("tcv", "classes", value, k), row("pca_bracket", "lower", lost, k)]
    bracket = pca_bracket_of(summary, max(k, 1))
    if value.status == "ok":
        lower = min(bracket.lower, value.upper)
        value = Value(value.upper, lower, value.upper, "certified")
    return [
        row("tcv", "classes", value, k),
        row("pca_bracket", "lower", bracket, k),
    ]


def _nc1_row(
    summary: ClassSummary,
    variant: Any,
    rtol: float | None,
    known: KnownBetween,
    why: str,
) -> Row:
    if variant not in SPAN_VARIANTS:
        return row("nc1", variant, nc1_of(summary, variant))
    if summary.kind != "full":
        lost = Value.undefined("skipped", why)
        return row("nc1", variant, lost)
    value, between = nc1_on_span(summary, variant, rtol=rtol, known=known)
    if between is None:
        return row("nc1", variant, value)
    made = row("nc1", variant, value, between.rank)
    return made | {"reason": made["reason"] or between.shortage}


def _nc2_rows(of: str, values: list[tuple[Any, Value]]) -> list[Row]:
    return [row(f"nc2_{name}", of, value) for name, value in values]


def _angles(
    summary: ClassSummary, weight: Tensor, rtol: float | None, known: KnownBetween
) -> Row:
    """One row: the largest angle, and all of them as a list."""
    angles = subspace_angles(summary, weight, rtol=rtol, known=known)
    made = row("subspace_angle", "largest", angles[-1], len(angles))
    if angles[-1].status != "ok":
        return made | {"index": None}
    return made | {"values": [a.value for a in angles]}
