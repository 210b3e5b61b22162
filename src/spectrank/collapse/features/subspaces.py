"""Angles between the span of class means and what a weight reads most strongly."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.linalg import subspace_angles as _scipy_angles
from torch import Tensor

from spectrank.collapse.features.between import between_directions
from spectrank.collapse.features.summarised import EPS, refusal, same_width
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary


def subspace_angles(
    summary: ClassSummary, weight: Tensor, *, rtol: float | None = None
) -> tuple[Value, ...]:
    r"""Principal angles of span{mu_c - mu} and the top right singular vectors of W.

    r = rank of the centred class means, at most C - 1; the singular vectors are the
    first min(r, rank W). Radians in :math:`[0,\pi/2]`, ascending; all 0 where the
    weight reads the span of the means most. Invariant to scale and shift of the
    features and to the scale of W. One undefined value (``degenerate``) where means are
    equal, W is zero, or the cut falls between equal singular values.
    Source (stated): Rangamani, Lindegaard, Galanti & Poggio (2023).

    Args:
        summary: Statistics of the inputs of the layer.
        weight: (m, d) weight of the layer.
        rtol: Directions between means below it are left out.

    Returns:
        Angles with their rounding errors.
    """
    weight = same_width(weight, summary)
    if refused := refusal(summary):
        return (refused,)
    if not bool(torch.isfinite(weight).all()):
        return (Value.undefined("nonfinite", "the weight has entries not finite"),)
    between = between_directions(summary, rtol=rtol)
    _, s, rows = torch.linalg.svd(weight, full_matrices=False)
    unit = max(weight.shape) * EPS
    rank = int((s > unit * s[0]).sum())
    num = min(between.rank, rank)
    if num == 0:
        what = "all class means are equal" if rank else "the weight is zero"
        return (Value.undefined("degenerate", what),)
    below = float(s[num]) if num < len(s) else 0.0
    gap = float(s[num - 1]) - below
    # Wedin: singular vectors turn by the error of W over the gap behind them.
    error = unit * float(s[0]) / gap if gap > 0.0 else math.inf
    if error >= 1.0:
        return (
            Value.undefined(
                "degenerate",
                f"singular values {num} and {num + 1} of the weight are equal: "
                "its top directions are not defined",
            ),
        )
    # Small angles have no accurate cosine; scipy takes them from the sine.
    angles = _scipy_angles(
        between.directions.mT.cpu().numpy(), rows[:num].mT.cpu().numpy()
    )
    error += between.relative_error + len(summary.origin) * EPS
    right = math.pi / 2.0
    return tuple(
        Value.around(float(x), 2.0 * error).clip(0.0, right) for x in np.sort(angles)
    )
