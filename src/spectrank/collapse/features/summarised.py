"""What the functions of features share: class statistics of rows, and refusals.

N  rows (samples)      d  columns (features)      K  classes      C  those with rows
"""

from __future__ import annotations

import math
from typing import TypeGuard

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassMoments, ClassSummary

EPS = torch.finfo(torch.float64).eps


def class_summary(
    features: Tensor,
    labels: Tensor | None,
    *,
    num_classes: int | None = None,
    full: bool = False,
) -> ClassSummary:
    """Class statistics of features held in memory.

    Args:
        features: (N, d) rows, real floating-point.
        labels: (N,) class of each row; None for a single class.
        num_classes: K; by default the largest label plus one.
        full: Whether the (d, d) scatter is kept, not its trace alone.

    Returns:
        The statistics, in float64.

    Raises:
        DomainError: A label is negative.
    """
    features = matrix("features", features)
    if _has_negatives(labels):
        # The accumulator would tell to name ignore_label, which no function here has.
        raise DomainError(
            f"labels must lie in [0, K), got {labels.min()}; leave rows without a "
            "class out: kept = labels >= 0, features[kept], labels[kept]"
        )
    if labels is None:
        labels = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    elif isinstance(labels, Tensor) and num_classes is None:
        # Of soft labels or an empty tensor the accumulator says what is wrong.
        num_classes = int(labels.max()) + 1 if labels.numel() else 1
    moments = ClassMoments(
        max(num_classes or 1, 1),
        features.shape[1],
        scatter="full" if full else "trace",
        device=features.device,
    )
    moments.update(features, labels)
    return moments.compute()


def _has_negatives(labels: Tensor | None) -> TypeGuard[Tensor]:
    if not isinstance(labels, Tensor) or not labels.numel():
        return False
    soft = labels.is_floating_point() or labels.is_complex()
    return not soft and bool((labels < 0).any())


def matrix(name: str, rows: Tensor) -> Tensor:
    """Return a (rows, columns) tensor, detached.

    Args:
        name: Argument's name, for the message.
        rows: What was given.

    Returns:
        The tensor.

    Raises:
        ArgumentTypeError: Not a tensor.
        ShapeError: Not of two dimensions.
    """
    if not isinstance(rows, Tensor):
        raise ArgumentTypeError(
            f"{name} must be a torch.Tensor, got {type(rows).__name__}; "
            "convert first, e.g. torch.as_tensor(rows)"
        )
    if rows.ndim != 2:
        raise ShapeError(
            f"{name} must have two dimensions, got shape {tuple(rows.shape)}; "
            "flatten each row, e.g. rows.flatten(1)"
        )
    return rows.detach()


def same_width(weight: Tensor, summary: ClassSummary) -> Tensor:
    """Return a weight that acts on these features, in float64.

    Args:
        weight: (m, d) matrix.
        summary: Of features with d columns.

    Returns:
        The weight, beside the statistics.

    Raises:
        ShapeError: It has another number of columns.
    """
    weight = matrix("weight", weight)
    d = len(summary.origin)
    if weight.shape[1] != d:
        raise ShapeError(
            f"weight must have {d} columns, one for each feature, got shape "
            f"{tuple(weight.shape)}; pass the layer that these features enter"
        )
    return weight.to(summary.origin.device, torch.float64)


def present(summary: ClassSummary) -> Tensor:
    """(C,) numbers of the classes that have rows."""
    return summary.counts.nonzero().flatten()


def refusal(summary: ClassSummary, *, num_classes: int = 2) -> Value | None:
    """Return why nothing can be said between classes; None where it can.

    Args:
        summary: Statistics of the features.
        num_classes: Fewest classes with rows.

    Returns:
        An undefined value with the reason, or None.
    """
    if summary.status != "ok":
        return Value.undefined(summary.status, summary.reason or summary.status)
    if summary.num_present < num_classes:
        return Value.undefined(
            "degenerate",
            f"{summary.num_present} of {len(summary.counts)} classes have rows, "
            f"{num_classes} are needed",
        )
    return None


def rounded(value: float, error: float) -> Value:
    """Return a number with its rounding error; NaN with a reason if not finite.

    Args:
        value: Non-negative number.
        error: Bound on its absolute error.

    Returns:
        The enclosed value.
    """
    if not math.isfinite(value):
        return Value.undefined("nonfinite", f"{value} is beyond float64's range")
    return Value.around(value, error)
