r"""NC4: does the nearest class centre decide as the network does, layer by layer?

N  rows      d  features      K  classes      C  those with rows
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spectrank.collapse.features.summarised import (
    class_summary,
    matrix,
    present,
    refusal,
)
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary

# Rows of a tile against all centres: 2,048 against 10,000 are 160 MB.
_TILE = 2048
# Half width of an interval, in standard errors.
_WIDTH = 4.0


def nc4(features: Tensor, labels: Tensor, predictions: Tensor) -> Value:
    """NC4: share of rows where the nearest class centre is not the prediction.

    In [0, 1]; 0 where the network decides by the nearest class mean. With the true
    labels as ``predictions`` it is the error of the nearest-centre classifier. Not
    invariant to linear maps of the features. Of centres equally near the first counts.
    Source (stated): Papyan, Han & Donoho (2020), reference notebook.

    Args:
        features: (N, d) rows.
        labels: (N,) true classes, which define the centres.
        predictions: (N,) classes that the network predicts, or (N, K) logits.

    Returns:
        Exact value.
    """
    return nc4_of(class_summary(features, labels), features, predictions)


def nc4_of(
    summary: ClassSummary,
    features: Tensor,
    predictions: Tensor,
    *,
    num_rows: int | None = None,
) -> Value:
    """NC4 of rows against given class statistics; see `nc4`.

    Args:
        summary: Statistics whose means are the centres.
        features: (n, d) rows, all or a uniform sample of them.
        predictions: (n,) predicted classes, or (n, K) logits.
        num_rows: N, where the rows are a sample of so many without replacement; the
            value then has the interval of four standard errors.

    Returns:
        Exact share, or an estimate with its standard error.

    Raises:
        ShapeError: Numbers of rows differ.
        DomainError: ``num_rows`` is less than the rows given, or predicted classes are
            not of an integer dtype.
    """
    # argmax would take NaN for the largest.
    lost = predictions.ndim == 2 and bool(torch.isnan(predictions).any())
    if predictions.ndim == 2:
        predictions = predictions.argmax(1)
    n = len(matrix("features", features))
    if predictions.shape != (n,):
        raise ShapeError(
            f"predictions must be ({n},) or ({n}, K), one for each row of features, "
            f"got shape {tuple(predictions.shape)}; keep rows of both"
        )
    if predictions.is_floating_point():
        raise DomainError(
            "predictions must be class numbers of an integer dtype or (N, K) logits, "
            f"got (N,) numbers of {predictions.dtype}; of a single logit pass logit > 0"
        )
    if num_rows is not None and num_rows < n:
        raise DomainError(
            f"num_rows must be at least the {n} rows given, got {num_rows}; "
            "it counts the rows that they were sampled from"
        )
    if refused := refusal(summary, num_classes=1):
        return refused
    if n == 0:
        return Value.undefined("degenerate", "no rows were kept")
    if lost:
        return Value.undefined("nonfinite", "predictions have NaN logits")
    nearest = nearest_centre(summary, features)
    share = int((nearest != predictions.to(nearest.device)).sum()) / n
    if num_rows is None or num_rows == n:
        return Value.exact(share)
    return _estimated(share, n, num_rows)


def nearest_centre(summary: ClassSummary, features: Tensor) -> Tensor:
    r"""Class whose mean is nearest, :math:`\arg\min_c\|x-\mu_c\|`.

    Args:
        summary: Statistics whose means are the centres.
        features: (N, d) rows.

    Returns:
        (N,) int64 classes.
    """
    classes = present(summary)
    centres = summary.shifts[classes]
    chosen = []
    for rows in torch.split(features.detach(), _TILE):
        # Less the common origin first: exact where the rows differ little.
        rows = rows.to(centres.device, torch.float64) - summary.origin
        scale = float(torch.maximum(rows.abs().max(), centres.abs().max())) or 1.0
        scores = torch.addmm(
            (centres / scale).square().sum(1),
            rows / scale,
            (centres / scale).mT,
            alpha=-2.0,
        )
        chosen.append(classes[scores.argmin(1)])
    return torch.cat(chosen) if chosen else classes.new_empty(0)


def effective_depth(mismatches: Sequence[float], *, tolerance: float = 0.0) -> Value:
    """First layer, counted from 1, whose NC4 mismatch is at most ``tolerance``.

    From there on the nearest class centre decides as the network does. Between 1 and
    the number of layers; ``degenerate`` where no layer is that near. It is the first
    such layer even if a later one is worse.
    Source (stated): Galanti, Gyorgy & Hutter, nearest-centre mismatch by layer.

    Args:
        mismatches: NC4 of each layer, in the order of the layers; NaN where unknown.
        tolerance: Largest share of rows that may disagree.

    Returns:
        Exact count.

    Raises:
        DomainError: ``tolerance`` is not in [0, 1).
    """
    if not 0.0 <= tolerance < 1.0:
        raise DomainError(
            f"tolerance must lie in [0, 1), got {tolerance}; it is a share of rows, "
            "e.g. 0.01"
        )
    for depth, mismatch in enumerate(mismatches, start=1):
        if mismatch <= tolerance:
            return Value.exact(float(depth))
    return Value.undefined(
        "degenerate",
        f"none of {len(mismatches)} layers mismatches on at most {tolerance:g} of rows",
    )


def _estimated(share: float, n: int, num_rows: int) -> Value:
    # One of each added (Agresti): none among n does not prove that there is none.
    smoothed = (share * n + 1.0) / (n + 2.0)
    left_out = (num_rows - n) / max(num_rows - 1, 1)
    error = (smoothed * (1.0 - smoothed) / n * left_out) ** 0.5
    return Value.around(share, _WIDTH * error, "stderr").clip(0.0, 1.0)
