"""Angles between the span of class means and what a weight reads most strongly."""

from __future__ import annotations

import math

import scipy.linalg
import torch
from torch import Tensor

from spectrank.collapse.features.between import KnownBetween, known_directions
from spectrank.collapse.features.summarised import EPS, refusal, same_width
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary

# Smaller weights gain nothing by the Gram matrix.
_GRAM_SIDE = 64
# Largest turn of a vector, in radians, that the Gram matrix may cost.
_GRAM_TURN = 1e-8


def subspace_angles(
    summary: ClassSummary,
    weight: Tensor,
    *,
    rtol: float | None = None,
    known: KnownBetween | None = None,
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
        known: As in `nc1_on_span`.

    Returns:
        Angles with their rounding errors.
    """
    weight = same_width(weight, summary)
    if refused := refusal(summary):
        return (refused,)
    if not bool(torch.isfinite(weight).all()):
        return (Value.undefined("nonfinite", "the weight has entries not finite"),)
    between = known_directions(summary, "classes", "classes", rtol, known)
    found = _top_directions(weight, between.rank)
    if isinstance(found, Value):
        return (found,)
    rows, error = found
    angles = _principal_angles(between.directions, rows)
    error += between.relative_error + len(summary.origin) * EPS
    right = math.pi / 2.0
    return tuple(Value.around(x, 2.0 * error).clip(0.0, right) for x in angles.tolist())


def _top_directions(weight: Tensor, most: int) -> tuple[Tensor, float] | Value:
    """First min(most, rank W) right singular vectors, and how far they may turn."""
    m, d = weight.shape
    if 0 < most < min(m, d) and min(m, d) > _GRAM_SIDE:
        found = _from_gram(weight, most)
        if found is not None:
            return found
    _, s, rows = torch.linalg.svd(weight, full_matrices=False)
    unit = max(m, d) * EPS
    rank = int((s > unit * s[0]).sum())
    num = min(most, rank)
    if num == 0:
        what = "all class means are equal" if rank else "the weight is zero"
        return Value.undefined("degenerate", what)
    below = float(s[num]) if num < len(s) else 0.0
    gap = float(s[num - 1]) - below
    # Wedin: singular vectors turn by the error of W over the gap behind them.
    error = unit * float(s[0]) / gap if gap > 0.0 else math.inf
    if error >= 1.0:
        return Value.undefined(
            "degenerate",
            f"singular values {num} and {num + 1} of the weight are equal: "
            "its top directions are not defined",
        )
    return rows[:num], error


def _from_gram(weight: Tensor, num: int) -> tuple[Tensor, float] | None:
    """The same from the Gram matrix of the smaller side; None where it is too coarse.

    Four times faster than the whole decomposition (0.15 s and 0.64 s at 1024), but the
    vectors turn by the error of the squares over the gap between squares.

    Args:
        weight: (m, d) matrix.
        num: Number of vectors, below min(m, d).

    Returns:
        (num, d) orthonormal rows and the sine of the largest turn.
    """
    m, d = weight.shape
    scale = float(weight.abs().max())
    if not scale > 0.0:
        return None
    W = weight / scale
    tall = W if m >= d else W.mT
    squares, vectors = _largest(tall.mT @ tall, num + 1)
    top, gap = float(squares[0]), float(squares[num - 1] - squares[num])
    if not gap > 0.0:
        return None
    unit = (m + d) * EPS
    error = unit * top / gap
    if m < d:
        # W^T pulls left vectors towards the top; rounding counts by the condition.
        vectors = torch.linalg.qr(W.mT @ vectors[:, :num]).Q
        error += unit * (top / float(squares[num - 1])) ** 0.5
    return (vectors[:, :num].mT, error) if error <= _GRAM_TURN else None


def _largest(symmetric: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """(num,) largest eigenvalues, descending, with (n, num) eigenvectors."""
    if symmetric.device.type != "cpu":
        values, vectors = torch.linalg.eigh(symmetric)
        return values.flip(0)[:num], vectors.flip(1)[:, :num]
    n = len(symmetric)
    found = scipy.linalg.eigh(
        symmetric.numpy(), subset_by_index=[n - num, n - 1], check_finite=False
    )
    values, vectors = (torch.from_numpy(x) for x in found)
    return values.flip(0), vectors.flip(1)


def _principal_angles(left: Tensor, right: Tensor) -> Tensor:
    """Angles of the rows of ``right`` to those of ``left``, ascending.

    Not scipy.linalg.subspace_angles: where some angles are above 45 degrees and others
    below, version 1.17.1 takes the small ones from the cosine, and 1e-9 reads 0.

    Args:
        left: (a, d) orthonormal rows, a >= b.
        right: (b, d) orthonormal rows.

    Returns:
        (b,) radians.
    """
    cosines = torch.linalg.svdvals(right @ left.mT)
    sines = torch.linalg.svdvals(right - (right @ left.mT) @ left)
    return torch.atan2(sines.flip(0)[: len(right)], cosines)
