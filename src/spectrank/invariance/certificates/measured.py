"""What a level of a tail is checked for, with the bound of each number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.invariance.certificates.checks import Check
from spectrank.invariance.certificates.levels import Level, gap
from spectrank.invariance.certificates.recursion import TailBound

# Of a computed singular value, relative to the largest matrix of the chain.
ROUNDING = 64.0 * torch.finfo(torch.float64).eps


@final
@dataclass(frozen=True, eq=False)
class Context:
    """The numbers that a level is judged with, in the unit of the computation.

    Attributes:
        level: The level now.
        above: The level that reads it, now; None for the last.
        bound: What is certified of it.
        spread: Bound on the sum of the r largest eigenvalues of the gap above minus
            that of the r smallest; None without one.
        unit: By which lengths are divided in this computation.
        size: Largest squared Frobenius norm in the chain.
    """

    level: Level
    above: Level | None
    bound: TailBound
    spread: float | None
    unit: float
    size: float

    @property
    def tolerance(self) -> float:
        """Rounding of a sum of squares."""
        return ROUNDING * self.size


def checks(context: Context) -> Iterator[Check]:
    """Checks of one level.

    Args:
        context: The level and its bounds.

    Yields:
        Stable rank always; tail, next singular value and alignment where all levels
        above are matrices.
    """
    s = torch.linalg.svdvals(context.level.entering)
    yield _stable_rank(context, s)
    if context.bound.tails:
        yield _tail(context, s)
    if context.bound.weyl is not None and context.bound.kappa < len(s):
        yield _next_value(context, s)
    if context.above is not None and context.spread is not None:
        yield _alignment(context)


def _stable_rank(context: Context, s: Tensor) -> Check:
    """||A||_F^2 / ||A||_2^2 against kappa + E / ||A||_2^2."""
    squares = s.square()
    top = float(squares[0])
    bound = context.bound
    if top == 0.0:
        return Check("stable_rank", math.nan, math.nan, float(len(s)), 0.0)
    return Check(
        "stable_rank",
        float(squares.sum()) / top,
        bound.kappa + bound.excess / top,
        float(len(s)),
        2.0 * context.tolerance / top,
    )


def _tail(context: Context, s: Tensor) -> Check:
    """Sum of the squared singular values from number r + 1 on against E."""
    r, unit = context.bound.kappa, context.unit**2
    squares = s.square()
    rest = max(1.0 - r / len(s), 0.0)
    return Check(
        "tail",
        float(squares[r:].sum()) * unit,
        context.bound.excess * unit,
        float(squares.sum()) * rest * unit,
        context.tolerance * unit,
        index=r,
    )


def _next_value(context: Context, s: Tensor) -> Check:
    """s_{r+1} against the root of what Weyl gives."""
    bound, r = context.bound, context.bound.kappa
    assert bound.weyl is not None
    square = bound.weyl + bound.weyl_drift
    return Check(
        "next_singular_value",
        float(s[r]) * context.unit,
        math.sqrt(max(square, 0.0)) * context.unit,
        # s_{r+1} is at most what equal singular values would give.
        float(s.square().sum().sqrt()) / math.sqrt(r + 1) * context.unit,
        math.sqrt(context.tolerance) * context.unit,
        index=r + 1,
    )


def _alignment(context: Context) -> Check:
    r"""Smallest cosine between the top r directions of two neighbouring matrices.

    U spans the top r left singular vectors of [A b], V the top r right ones of the
    next matrix B, and M = [A b][A b]^T = B^T B - D. Ky Fan, for B^T B and for M:

        tr(V^T M V) >= sum_{i <= r} lambda_i(M) - S_r(D),
        S_r(D) = sum_{i <= r} lambda_i(D) - sum of the r smallest lambda_i(D),

    while with |sin|^2 = r - |U^T V|_F^2 and lambda_{r+1}(M) <= E

        tr(V^T M V) <= sum_{i <= r} lambda_i(M) - (lambda_r - lambda_{r+1})(M) |sin|^2.

    For r = 1 it is |<u, v>|.

    Args:
        context: The level, the one above it and S_r of the gap between them.

    Returns:
        The check, of a lower bound; 0 where nothing is certified.
    """
    assert context.above is not None
    assert context.spread is not None
    r = context.bound.kappa
    u, s, _ = torch.linalg.svd(context.level.augmented, full_matrices=False)
    v = torch.linalg.svd(context.above.leaving, full_matrices=False)[2][:r].mT
    top, second = float(s[r - 1].square()), max(context.bound.excess, 0.0)
    view = "[W b]" if context.level.bias.shape[1] else None
    metric, index = ("alignment", None) if r == 1 else ("subspace_alignment", r)
    if top == 0.0:
        nan = math.nan
        return Check(metric, nan, nan, 0.0, 0.0, lower=True, index=index, view=view)
    square = 1.0 - context.spread / (top - second) if top > second else -math.inf
    bound = math.sqrt(square) if square > 0.0 else 0.0
    below = float(s[r : r + 1].square().sum())
    return Check(
        metric,
        float(torch.linalg.svdvals(u[:, :r].mT @ v)[-1]),
        bound,
        0.0,
        # Directions turn by rounding over the distance to the next ones.
        context.tolerance / max(top - below, context.tolerance),
        lower=True,
        index=index,
        view=view,
    )


def spread(
    start: Level, start_above: Level, now: Level, now_above: Level, r: int
) -> float:
    """Bound on S_r of a gap now, from start and drift.

    S_r is the sum of the r largest eigenvalues minus that of the r smallest:
    sublinear in the gap, by Ky Fan.

    Args:
        start: A level at the start.
        start_above: The one that reads it.
        now: The level now.
        now_above: The one that reads it, now.
        r: Number of directions.

    Returns:
        Squared unit of the weights, not negative.
    """
    before = gap(start, start_above)
    return _spread(before, r) + _spread(gap(now, now_above) - before, r)


def _spread(matrix: Tensor, r: int) -> float:
    values = torch.linalg.eigvalsh(matrix)
    return float(values[-r:].sum() - values[:r].sum())
