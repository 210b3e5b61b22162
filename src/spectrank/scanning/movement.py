"""How far one matrix moved: norms, spectra, directions, and the bounds on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectrank.linalg import FactorProduct, Operand, Spectrum, Value
from spectrank.linalg.subspaces import (
    LeadingSubspaces,
    largest_angle,
    subspace_overlap,
    wedin_bound,
)
from spectrank.scanning.requests import MetricRequest
from spectrank.scanning.rows import measured_rows, value_columns

_WEYL = "Weyl: |s_i(A) - s_i(B)| <= ||A - B||_2"
# Norms of matrices whose products of entries neither overflow nor vanish.
_EVERYDAY = 1e-100, 1e100
_WEDIN = "Wedin (1972): sin <= ||A - B||_2 / (s_k(A) - s_k+1(B))"


@dataclass(frozen=True, eq=False)
class Measure:
    """What is measured of a pair.

    Attributes:
        requests: Metrics with their options.
        spectrum: Matrix to spectrum with all values.
        leading: Matrix to the same, and its leading directions.
        spectra: Whether spectra become rows.
    """

    requests: Sequence[MetricRequest]
    spectrum: Callable[[Operand], Spectrum]
    leading: Callable[[Tensor], tuple[Spectrum, LeadingSubspaces | None]]
    spectra: bool


def moved_rows(
    key: dict[str, Any],
    before: Tensor,
    after: Tensor,
    measure: Measure,
    update: FactorProduct | None = None,
) -> list[dict[str, Any]]:
    """Rows of one pair.

    Args:
        key: Columns that name the matrix.
        before: Matrix (m, n).
        after: Matrix (m, n), any precision.
        measure: What to measure.
        update: The difference, where it is known better than by subtracting.

    Returns:
        Rows of kind ``measurement``, ``check`` and ``spectrum``.
    """
    A, B = (x.detach().to(torch.float64) for x in (before, after))
    s_d = measure.spectrum(B - A if update is None else update)
    # An update may be too small for float64 to tell the sum from the matrix.
    same = s_d.status == "degenerate"
    if same:
        s_a = s_b = measure.spectrum(before)
        a = b = None
    else:
        (s_a, a), (s_b, b) = measure.leading(before), measure.leading(after)
    runs = {"before": s_a, "after": s_b} | ({} if same else {"difference": s_d})
    parts = {
        run: measured_rows({**key, "run": run}, s, measure.requests, measure.spectra)
        for run, s in runs.items()
    }
    rows = [row for part in parts.values() for row in part]
    rows += [
        _change(old, new)
        for old, new in zip(parts["before"], parts["after"], strict=False)
        if old["kind"] == "measurement"
    ]
    rows += _distance_rows(key, A, B, s_a, s_b, s_d)
    if same:
        return rows
    if min(s_a.status, s_b.status) == max(s_a.status, s_b.status) == "ok":
        rows.append(_displacement_row(key, s_a, s_b, s_d))
        rows += _direction_rows(key, a, b, s_d)
    return rows


def _change(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    # A change may be negative, so it is no Value; interval arithmetic all the same.
    worse = a if a["status"] != "ok" else b
    row = {
        **worse,
        "run": "change",
        "value": b["value"] - a["value"],
        "lower": math.nextafter(b["lower"] - a["upper"], -math.inf),
        "upper": math.nextafter(b["upper"] - a["lower"], math.inf),
    }
    missed = (a["failure_probability"] or 0.0) + (b["failure_probability"] or 0.0)
    return {**row, "failure_probability": min(missed, 1.0) or None}


def _distance_rows(
    key: dict[str, Any],
    A: Tensor,
    B: Tensor,
    s_a: Spectrum,
    s_b: Spectrum,
    s_d: Spectrum,
) -> list[dict[str, Any]]:
    base = {**key, "kind": "measurement", "run": "difference"}
    same = s_b is s_a
    reason = "identical, to the last bit" if same else None
    if s_a.status == "nonfinite" or s_d.status == "nonfinite":
        change = Value.undefined("nonfinite", "the matrix has NaN or infinite entries")
    elif same:
        change = Value.exact(0.0)
    elif s_a.status == "degenerate":
        change = Value.undefined("degenerate", "the matrix before is zero or empty")
    else:
        change = s_d.frobenius / s_a.frobenius
    cosine = _cosine(A, B, s_a, s_b) if change.status == "ok" else change
    rows = []
    for metric, value in (("relative_change", change), ("cosine", cosine)):
        row = {**base, "metric": metric, **value_columns(value)}
        rows.append({**row, "reason": row.get("reason") or reason})
    return rows


def _cosine(A: Tensor, B: Tensor, s_a: Spectrum, s_b: Spectrum) -> Value:
    if not A.numel():
        return Value.undefined("degenerate", "the matrices are empty")
    norms = s_a.frobenius.value, s_b.frobenius.value
    a, b = A.reshape(-1), B.reshape(-1)
    if not all(_EVERYDAY[0] < norm < _EVERYDAY[1] for norm in norms):
        a, b = (x / x.abs().amax().clamp_min(5e-324) for x in (a, b))
        norms = float(a.norm()), float(b.norm())
    if 0.0 in norms:
        return Value.undefined("degenerate", "one of the matrices is zero")
    error = 2.3e-16 * (math.sqrt(A.numel()) + 8.0)
    value = max(-1.0, min(1.0, float(torch.dot(a, b)) / (norms[0] * norms[1])))
    return Value(value, max(value - error, -1.0), min(value + error, 1.0))


def _displacement_row(
    key: dict[str, Any], s_a: Spectrum, s_b: Spectrum, s_d: Spectrum
) -> dict[str, Any]:
    assert s_a.sigma is not None
    assert s_b.sigma is not None
    assert s_a.sigma_error is not None
    assert s_b.sigma_error is not None
    gaps = (s_a.sigma - s_b.sigma).abs()
    value = float(gaps.amax())
    error = float((s_a.sigma_error + s_b.sigma_error).amax())
    return {
        **key,
        "kind": "check",
        "metric": "singular_value_displacement",
        "reason": "no singular value moves farther than the difference is large",
        "value": value,
        "lower": max(value - error, 0.0),
        "upper": value + error,
        "error_kind": "rounding",
        "status": "ok",
        **_judged(value - error, value, s_d.sigma_max.upper),
        "source": _WEYL,
    }


def _judged(least: float, value: float, bound: float) -> dict[str, Any]:
    holds = least <= bound
    return {
        "bound": bound,
        "slack": bound - value,
        "verdict": "holds" if holds else "violated",
    }


def _direction_rows(
    key: dict[str, Any],
    a: LeadingSubspaces | None,
    b: LeadingSubspaces | None,
    s_d: Spectrum,
) -> list[dict[str, Any]]:
    if a is None or b is None:
        return []
    num = min(a.left.shape[1], b.left.shape[1])
    rows = []
    for side in ("left", "right"):
        U, V = (getattr(x, side)[:, :num] for x in (a, b))
        rows += _side_rows(key, side, U, V, a, b, s_d)
    return rows


def _side_rows(
    key: dict[str, Any],
    side: str,
    U: Tensor,
    V: Tensor,
    a: LeadingSubspaces,
    b: LeadingSubspaces,
    s_d: Spectrum,
) -> list[dict[str, Any]]:
    num = U.shape[1]
    # What the angles of either basis may be off, by the gap below direction num.
    off = a.angle_error(num) + b.angle_error(num)
    tied = off >= 1.0
    overlap, angle = subspace_overlap(U, V), largest_angle(U, V)
    reason = f"directions {num} and {num + 1} are tied: any of them would do"
    base = {
        **key,
        "kind": "measurement",
        "run": "difference",
        "variant": f"{side},k={num}",
        "error_kind": "rounding",
        "status": "degenerate" if tied else "ok",
        "reason": reason if tied else None,
    }
    # Both are Lipschitz in the angles: the squared cosines with constant 2.
    rows = [
        _between(base, "subspace_overlap", overlap, 2.0 * off, 1.0),
        _between(base, "largest_angle", angle, math.pi / 2.0 * off, math.pi / 2.0),
    ]
    bound = wedin_bound(s_d.sigma_max.upper, a.value_at(num - 1), b.value_at(num))
    sine = math.sin(angle)
    vacuous = bound >= 1.0
    check = {
        **base,
        "kind": "check",
        "run": None,
        "metric": "largest_sine",
        "reason": "the difference is small beside the gap behind the directions",
        "value": sine,
        **_judged(sine - off, sine, bound),
        "source": _WEDIN,
    }
    if vacuous:
        check |= {"verdict": "vacuous", "reason": "the gap is below the difference"}
    chance = {**base, "run": "random", "status": "ok", "reason": None}
    rows.append(_between(chance, "subspace_overlap", num / len(U), 0.0, 1.0))
    return [*rows, check]


def _between(
    base: dict[str, Any], metric: str, value: float, error: float, most: float
) -> dict[str, Any]:
    return {
        **base,
        "metric": metric,
        "value": value,
        "lower": max(value - error, 0.0),
        "upper": min(value + error, most),
    }
