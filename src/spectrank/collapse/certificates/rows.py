"""Rows of the certificates of one layer: what was measured, bounds and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.collapse.certificates.bounds import RankBounds
from spectrank.collapse.certificates.caveats import Applicability, caveat_row
from spectrank.collapse.certificates.softmax import softmax_bound, sums_to_zero
from spectrank.collapse.certificates.tails import (
    NORMS,
    Norm,
    add,
    dist_to_rank,
    ratio,
)
from spectrank.collapse.certificates.theorem import rank_bounds
from spectrank.collapse.certificates.verdicts import (
    SOURCE,
    Row,
    check_row,
    number,
)
from spectrank.linalg import Value
from spectrank.linalg.moments import CrossSummary
from spectrank.linalg.shapes import Matrix
from spectrank.scanning.rows import value_columns

# Producer column: the bound without the part due to e.
COLUMNS: Mapping[str, Any] = {"bound_at_stationarity": pl.Float64}

# Share of the bound from which e is called its main part.
_MAIN = 0.5

_NO_DECAY = "no weight decay acts on the weight, so no bound follows"
_ZERO = "the weight is zero"


def certificate_rows(
    weight: Matrix,
    cross: CrossSummary,
    *,
    divisor: float,
    weight_decay: float,
    applicability: Applicability | None = None,
    ranks: Sequence[int] | None = None,
    norms: Sequence[Norm] = NORMS,
    gradient: Matrix | None = None,
) -> list[Row]:
    """Measure a layer's distance to low rank and judge it against theorem A.

    Rows carry no name of the layer. Checks ``rank_bound`` have the distance as
    ``value``, the bound with the part due to e as ``bound``, and k as ``index``;
    ``verdict`` is ``not_applicable`` where a hypothesis fails, there is no decay, or
    k >= min(m, n); ``violated`` where the distance exceeds the bound by more than
    rounding; ``vacuous`` where the bound is not below the weight's norm; else
    ``holds``. Where the derivatives sum to zero over the outputs (a softmax or a
    LayerNorm reads the layer), variant ``softmax`` judges rank m - 1.
    Source (derived): tests/collapse/certificates/test_collapse_rows.py.

    Args:
        weight: (m, n) real matrix.
        cross: Statistics over cells, as `rank_bounds` takes them.
        divisor: F.
        weight_decay: lambda.
        applicability: From `applicability`; by default nothing is known against it.
        ranks: Ranks of the profile.
        norms: Which distances.
        gradient: Of the loss as trained, known from elsewhere.

    Returns:
        Rows of kind ``measurement`` and ``check``.
    """
    bounds = rank_bounds(
        weight,
        cross,
        divisor=divisor,
        weight_decay=weight_decay,
        ranks=ranks,
        norms=norms,
        gradient=gradient,
    )
    known = applicability or Applicability(weight_decay)
    return [
        *residual_rows(bounds),
        *distance_rows(bounds),
        gradient_share_row(bounds),
        *bound_rows(bounds, known),
        *_softmax_rows(weight, cross, divisor, bounds, known),
        *(caveat_row(caveat, _refused(bounds, known)) for caveat in known.caveats),
    ]


def residual_rows(bounds: RankBounds) -> list[Row]:
    """Return how far the weight is from a stationary point.

    Args:
        bounds: Of the layer.

    Returns:
        ``stationarity_residual``: ``absolute`` ||e||_F, ``relative`` to lambda ||W||_F,
        and the ``share`` of the Frobenius bound that e makes up.
    """
    e = bounds.residual_norms["frobenius"]
    return [
        _measured("stationarity_residual", "absolute", e),
        _measured("stationarity_residual", "relative", bounds.relative_residual),
        _measured("stationarity_residual", "share", bounds.residual_share),
    ]


def distance_rows(bounds: RankBounds) -> list[Row]:
    """Return the distances to rank k of the weight and of the gradient.

    Args:
        bounds: Of the layer.

    Returns:
        ``distance_to_rank`` with the norm as variant, absolute; ``relative`` and
        ``gradient relative`` in the Frobenius norm.
    """
    rows = [
        _measured("distance_to_rank", norm, value, k)
        for (norm, k), value in bounds.distances.items()
    ]
    whole = bounds.weight_norms["frobenius"]
    for k in bounds.ranks:
        relative = ratio(bounds.distances["frobenius", k], whole, "the weight is zero")
        rows.append(_measured("distance_to_rank", "relative", relative, k))
        gradient = bounds.gradient_distances[k]
        rows.append(_measured("distance_to_rank", "gradient relative", gradient, k))
    return rows


def gradient_share_row(bounds: RankBounds) -> Row:
    """Return the within-cells share of the gradient against its distance to rank K.

    Free of the decay and of stationarity, so it is judged whatever the optimizer.

    Args:
        bounds: Of the layer.

    Returns:
        A check ``within_gradient_share``.
    """
    k = bounds.num_cells
    share = bounds.within_gradient_share
    found = bounds.gradient_distances[k]
    blocked = None
    if k >= min(bounds.shape):
        blocked = _size_reason(bounds, k)
    one = Value.exact(1.0)
    return check_row("within_gradient_share", None, k, found, share, one, blocked, "")


def bound_rows(bounds: RankBounds, known: Applicability) -> list[Row]:
    """Return the checks of all levels.

    Args:
        bounds: Of the layer.
        known: What stands against the theorem.

    Returns:
        Checks ``rank_bound`` with variants ``B3 <norm>``, ``B2``, ``B1`` and ``A3``.
    """
    levels: list[tuple[str, Norm, int, Value]] = [
        (f"B3 {norm}", norm, k, value) for (norm, k), value in bounds.b3.items()
    ]
    levels += [("B2", "frobenius", bounds.num_cells, bounds.b2)]
    levels += [("B1", "frobenius", bounds.num_cells, bounds.b1)]
    levels += [("A3", "frobenius", k, value) for k, value in bounds.a3.items()]
    return [bound_row(bounds, known, *level) for level in levels]


def bound_row(
    bounds: RankBounds,
    known: Applicability,
    variant: str,
    norm: Norm,
    k: int,
    stationary: Value,
) -> Row:
    """Return one check ``rank_bound``.

    Args:
        bounds: Of the layer.
        known: What stands against the theorem.
        variant: Name of the level.
        norm: In which the distance is measured.
        k: Rank.
        stationary: The bound without the part due to e.

    Returns:
        The row.
    """
    blocked = _blocked(bounds, known, k)
    whole = add(stationary, bounds.excess[norm])
    words = _words(bounds.excess[norm], whole, known)
    found, norm_ = bounds.distances[norm, k], bounds.weight_norms[norm]
    row = check_row("rank_bound", variant, k, found, whole, norm_, blocked, words)
    return {**row, "bound_at_stationarity": number(stationary)}


def _softmax_rows(
    weight: Matrix,
    cross: CrossSummary,
    divisor: float,
    bounds: RankBounds,
    known: Applicability,
) -> list[Row]:
    """Return the check of rank m - 1 where derivatives sum to zero; else nothing."""
    if not sums_to_zero(cross):
        return []
    k, decay = len(weight) - 1, bounds.weight_decay
    limit = softmax_bound(weight, cross, divisor=divisor, weight_decay=decay)
    found, whole = dist_to_rank(weight, k), bounds.weight_norms["frobenius"]
    blocked = _blocked(bounds, known, k)
    words = (
        "all of it is due to distance from stationarity: the derivatives sum to zero "
        "over the outputs, as a softmax or a LayerNorm that reads them makes them do"
    )
    return [check_row("rank_bound", "softmax", k, found, limit, whole, blocked, words)]


def _blocked(bounds: RankBounds, known: Applicability, k: int) -> str | None:
    if not known.applies:
        return known.reason
    if bounds.weight_decay == 0.0:
        return _NO_DECAY
    if k >= min(bounds.shape):
        return _size_reason(bounds, k)
    if bounds.weight_norms["frobenius"].value == 0.0:
        return _ZERO
    return None


def _refused(bounds: RankBounds, known: Applicability) -> str | None:
    """Why no bound applies, whatever the rank; None where some rank has one."""
    if not known.applies:
        return known.reason
    if bounds.weight_decay == 0.0:
        return _NO_DECAY
    norm, residual = (
        values["frobenius"] for values in (bounds.weight_norms, bounds.residual_norms)
    )
    if norm.value == 0.0:
        return _ZERO
    for value in (norm, residual):
        if math.isnan(value.value):
            return value.reason or "a number is missing"
    return None


def _size_reason(bounds: RankBounds, k: int) -> str:
    m, n = bounds.shape
    return (
        f"every {m} x {n} matrix has rank at most {min(m, n)}, so its distance to rank "
        f"{k} is 0 anyway"
    )


def _words(excess: Value, bound: Value, known: Applicability) -> str:
    """Say what weakens a bound: distance from stationarity, and known caveats."""
    words = []
    share = ratio(excess, bound, "the bound is zero").value
    if share == share:
        much = ", the most," if share >= _MAIN else ""
        words.append(f"{share:.2g} of it{much} is due to distance from stationarity")
    words += [c.reason for c in known.caveats if c.weight == "weakens"]
    return "; ".join(words)


def _measured(metric: str, variant: str, value: Value, k: int | None = None) -> Row:
    return {
        **value_columns(value),
        "kind": "measurement",
        "metric": metric,
        "variant": variant,
        "index": k,
        "source": SOURCE,
    }
