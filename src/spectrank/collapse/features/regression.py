r"""NRC1-NRC3: collapse where targets are vectors, K being the rank of the targets.

    Sigma  (d, d) covariance of the features, 1/N      W  (t, d) last weight
    Sigma_Y  (t, t) covariance of the targets, 1/N     t  targets

The names are those of Andriopoulos et al. for regression. The normalisation here is
ours: shares of the features' total variation, and a distance between unit matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from spectrank.collapse.features.clusters import pca_bracket, pca_bracket_of
from spectrank.collapse.features.summarised import (
    EPS,
    class_summary,
    matrix,
    refusal,
    rounded,
    same_width,
)
from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary, MomentSummary

NrcVariant = Literal["nrc1", "nrc2", "nrc3"]
NRC_VARIANTS: tuple[NrcVariant, ...] = get_args(NrcVariant)

# Thresholds tried before the best is refined: the distance may have several minima.
_GRID = 65
# Roundings of a target, counted generously: it may have been computed in its dtype.
_MOST = 64.0


def nrc(
    features: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    variant: NrcVariant = "nrc1",
) -> Value:
    """Regression collapse of features, in [0, 1] (nrc3 in [0, 1.42]); 0 collapsed.

    ``nrc1``: share of variation outside the first K principal directions, K the rank of
    the targets. ``nrc2``: share outside the row space of the last weight. ``nrc3``: see
    `nrc3_of`. Invariant to shift, scale and rotation. ``degenerate`` for constant
    features or targets.
    Source (derived): tests/collapse/features/test_collapse_regression.py.

    Args:
        features: (N, d) input of the last layer.
        targets: (N, t) targets.
        weight: (t, d) last weight, for nrc2 and nrc3.
        variant: One of ``NRC_VARIANTS``.

    Returns:
        Value with its rounding error.

    Raises:
        UnknownNameError: There is no such variant.
        ShapeError: Numbers of rows differ.
        DomainError: The weight is missing.
    """
    if variant not in NRC_VARIANTS:
        raise UnknownNameError(
            f"variant must be one of {', '.join(NRC_VARIANTS)}, got {variant!r}; "
            "'nrc1' needs no weight"
        )
    dtype = matrix("targets", targets).dtype
    targets = targets.detach().to(torch.float64)
    if len(targets) != len(matrix("features", features)):
        raise ShapeError(
            f"targets must have {len(features)} rows as the features, got "
            f"{len(targets)}; pass targets of the same samples"
        )
    if variant == "nrc1":
        return _outside_principal(features, target_rank(targets, dtype=dtype))
    if weight is None:
        raise DomainError(
            f"{variant} needs the last weight, got None; pass weight=layer.weight"
        )
    if variant == "nrc2":
        return nrc2_of(class_summary(features, None, full=True), weight)
    centred = targets - targets.mean(0)
    return nrc3_of(weight, centred.mT @ centred / len(targets))


def target_rank(targets: Tensor, *, dtype: torch.dtype | None = None) -> int:
    r"""Rank of the centred targets, which K is in regression.

    Counts singular values above :math:`\epsilon\max(N,t)\,\sigma_1`, as NumPy's
    ``matrix_rank``, but held between 1/2 and 64 times :math:`\epsilon\|Y\|_F` of the
    targets with their mean. Rounding to the dtype moves singular values by at most the
    lower end, a common offset included; the upper keeps a million float32 rows, whose
    first term is 0.1, from losing a direction.

    Args:
        targets: (N, t) targets.
        dtype: Whose spacing :math:`\epsilon` is, where the targets were cast since; by
            default their own. That of float64 for whole numbers.

    Returns:
        The rank; 0 for equal targets and for some that are not finite.
    """
    eps = target_eps(matrix("targets", targets).dtype if dtype is None else dtype)
    raw = targets.detach().to(torch.float64)
    size = float(raw.abs().max()) if raw.numel() else 0.0
    if not 0.0 < size < float("inf"):
        return 0
    # So that no square leaves float64's range.
    raw = raw / size
    # Less a row first: equal rows then are exactly zero.
    rows = raw - raw[:1]
    sigma = torch.linalg.svdvals(rows - rows.mean(0))
    return int((sigma > _noise(eps, rows.shape, sigma[0], raw.norm())).sum())


def covariance_rank(moments: MomentSummary, dtype: torch.dtype) -> int:
    """The same from the targets' covariance, which resolves no better than 1e-8.

    Args:
        moments: Of the targets.
        dtype: Of the targets.

    Returns:
        The rank; 0 for equal targets and for some that are not finite.
    """
    covariance, second = moments.covariance, moments.second_moment().trace()
    if not bool(torch.isfinite(covariance).all()):
        return 0
    mu, num = torch.linalg.eigvalsh(covariance).clamp(min=0.0), len(covariance)
    shape = (moments.count, num)
    noise = _noise(target_eps(dtype), shape, mu[-1].sqrt(), second.sqrt())
    return int((mu > max(noise**2, num * EPS * float(mu[-1]))).sum())


def _noise(eps: float, shape: Sequence[int], largest: Tensor, norm: Tensor) -> float:
    """Threshold of singular values; with both numbers over sqrt(N) so is the answer."""
    size = eps * float(norm)
    return min(max(eps * max(shape) * float(largest), 0.5 * size), _MOST * size)


def target_eps(dtype: torch.dtype) -> float:
    """Return the spacing of targets of a dtype; whole numbers are exact in float64."""
    return float(torch.finfo(dtype).eps) if dtype.is_floating_point else EPS


def nrc1_of(summary: ClassSummary, num_directions: int) -> Value:
    r"""Share :math:`\sum_{i>K}\mu_i/\operatorname{tr}\Sigma` outside K directions.

    Args:
        summary: Statistics of the features with the full scatter.
        num_directions: K, the rank of the targets.

    Returns:
        Value in [0, 1]; ``degenerate`` for constant features.
    """
    total = summary.total_variation
    if (refused := _constant(summary)) is not None:
        return refused
    return (pca_bracket_of(summary, num_directions + 1) / total).clip(0.0, 1.0)


def nrc2_of(summary: ClassSummary, weight: Tensor) -> Value:
    r"""Share of the features' variation outside the row space of the weight.

    Args:
        summary: Statistics of the features with the full scatter.
        weight: (t, d) weight that they enter.

    Returns:
        Value in [0, 1]; ``degenerate`` for constant features.
    """
    weight = same_width(weight, summary)
    if (refused := _constant(summary)) is not None:
        return refused
    if not bool(torch.isfinite(weight).all()):
        return Value.undefined("nonfinite", "the weight has entries not finite")
    _, s, rows = torch.linalg.svd(weight, full_matrices=True)
    unit = max(weight.shape) * EPS
    rank = int((s > unit * s[0]).sum())
    outside = rows[rank:]
    covariance = summary.total_covariance()
    share = float(((outside @ covariance) * outside).sum().clamp(min=0.0))
    total = float(covariance.trace())
    lost = unit * float(s[0] / s[rank - 1]) if rank else 0.0
    # The row space turns by the error of W over its least singular value; the share
    # along it moves by the square root of what it holds, at first order.
    part = share / total
    error = summary.scatter_error + len(covariance) * EPS
    error += 2.0 * lost * (part**0.5 + lost)
    return rounded(part, error).clip(0.0, 1.0)


def nrc3_of(weight: Tensor, target_covariance: Tensor) -> Value:
    r"""Distance of :math:`WW^T` from the soft-thresholded root of target covariance.

    :math:`\min_{c\ge0}\|U(WW^T)-U((\Sigma_Y^{1/2}-cI)_+)\|_F` with
    :math:`U(A)=A/\|A\|_F`; in :math:`[0,\sqrt2]`. At a minimum of
    :math:`\frac1{2N}\|WH-Y\|_F^2+\frac a2\|W\|_F^2+\frac b{2N}\|H\|_F^2` over W and
    free features H it is 0, with :math:`c=\sqrt{ab}`. Invariant to the scale of W.
    Source (derived): tests/collapse/features/test_collapse_regression.py.

    Args:
        weight: (t, d) last weight.
        target_covariance: (t, t) of centred targets, if the layer has a bias.

    Returns:
        Value with its rounding error, that of the search included; ``degenerate`` for
        a zero weight or constant targets.

    Raises:
        ShapeError: The covariance is not (t, t).
    """
    weight = matrix("weight", weight).to(torch.float64)
    t = len(weight)
    if target_covariance.shape != (t, t):
        raise ShapeError(
            f"target_covariance must have shape ({t}, {t}) for a weight of {t} rows, "
            f"got {tuple(target_covariance.shape)}; pass that of the layer's targets"
        )
    covariance = target_covariance.detach().to(weight.device, torch.float64)
    if not bool(torch.isfinite(weight).all() and torch.isfinite(covariance).all()):
        return Value.undefined("nonfinite", "entries that are not finite")
    mu, vectors = torch.linalg.eigh(covariance)
    roots = mu.clamp(min=0.0).sqrt().numpy(force=True)
    largest = float(weight.abs().max())
    if largest == 0.0 or not roots[-1] > 0.0:
        return Value.undefined("degenerate", "the weight is zero or targets constant")
    gram = (weight / largest) @ (weight / largest).mT
    gram = vectors.mT @ (gram / gram.norm()) @ vectors
    diagonal = gram.diagonal().numpy(force=True)
    distance, width = _nearest_threshold(diagonal, roots)
    slip = width + 8.0 * t * EPS
    # |A - B|^2 = 2 - 2 <A, B> would lose half the digits near 0: off-diagonal and
    # diagonal parts are squared apart.
    rest = float((gram - torch.diag(gram.diagonal())).norm())
    return rounded(float(np.hypot(distance, rest)), slip).clip(0.0, 2.0**0.5)


def _nearest_threshold(diagonal: np.ndarray, roots: np.ndarray) -> tuple[float, float]:
    """Least distance of the diagonal from thresholded roots, and the search's slack."""
    top = float(roots[-1])

    def distance(c: float) -> float:
        kept = np.maximum(roots / top - c, 0.0)
        return float(np.linalg.norm(diagonal - kept / np.linalg.norm(kept)))

    # At 1 nothing is left; just below only the first direction is, whatever c.
    grid = np.linspace(0.0, 1.0, _GRID)[:-1]
    at = int(np.argmin([distance(c) for c in grid]))
    low, high = grid[max(at - 1, 0)], min(grid[at] + 1.0 / _GRID, 1.0 - EPS * 2.0)
    found = minimize_scalar(
        distance, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    )
    return min(float(found.fun), distance(float(grid[at]))), 1e-9


def _outside_principal(features: Tensor, num_directions: int) -> Value:
    summary = class_summary(features, None)
    if (refused := _constant(summary)) is not None:
        return refused
    tail = pca_bracket(features, num_directions + 1)
    return (tail / summary.total_variation).clip(0.0, 1.0)


def _constant(summary: ClassSummary) -> Value | None:
    """Why there is no variation to share; None where there is."""
    if refused := refusal(summary, num_classes=1):
        return refused
    total = summary.total_variation
    if total.status == "ok" and total.value > 0.0:
        return None
    return Value.undefined("degenerate", total.reason or "all rows are equal: 0/0")
