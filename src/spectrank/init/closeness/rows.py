"""Rows of the report: two checks, what was measured, what each reference has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from spectrank.init.closeness.judge import (
    Judgement,
    judge_conditioned,
    judge_initial,
)
from spectrank.init.closeness.layer import Layer
from spectrank.init.closeness.marchenko_pastur import distance
from spectrank.init.closeness.nulls import (
    LEAST_EFFECTIVE,
    GaussianNull,
    Moments,
    effective_draws,
    moments,
    normalised_weights,
)
from spectrank.init.closeness.references import Reference
from spectrank.linalg import Spectrum, ensemble
from spectrank.metrics import get_metric
from spectrank.scanning.rows import value_columns

Row = dict[str, Any]

# Key columns beside the core schema, then what only reference rows have.
COLUMNS: Mapping[str, Any] = {
    "m": pl.Int64,
    "n": pl.Int64,
    "dtype": pl.String,
    "layer_type": pl.String,
    "tied_to": pl.String,
    "state": pl.String,
    "deviation": pl.Float64,
    "z_score": pl.Float64,
    "standard_error": pl.Float64,
    "num_draws": pl.Int64,
}

# Rest of the squared norm below which there is no rest to look at.
_NO_REST = 1e-9
_OURS = "derived here; tests/init/closeness"


def layer_rows(
    key: Row,
    layer: Layer,
    s: Spectrum,
    null: GaussianNull,
    rest: GaussianNull | None,
    known: Sequence[Reference],
    level: float,
) -> list[Row]:
    """Return the rows of a measured matrix.

    Args:
        key: Columns that name the matrix.
        layer: What was measured.
        s: Its spectrum, with the enclosures.
        null: Gaussian matrices of its shape.
        rest: The same with one row and one column less; None for a vector.
        known: Initialisations.
        level: Probability of a false alarm of each check.

    Returns:
        Rows for `Table.from_rows`.
    """
    log_weights = weights = None
    if rest is not None and layer.rest_share >= _NO_REST:
        log_weights = rest.log_weights(layer.normal_rank)
        weights = normalised_weights(log_weights)
        if effective_draws(weights) < LEAST_EFFECTIVE:
            weights = None
    rows = [
        _check("at_initialisation", judge_initial(layer, null, known, level), level),
        _check(
            "explained_by_stable_rank",
            judge_conditioned(layer, rest, log_weights, level),
            level,
        ),
        *_rank_rows(layer, s, null, rest, weights),
        *_rest_rows(layer, rest, weights),
        *_norm_rows(layer, s, null, known),
    ]
    excess = {"metric": "entry_excess_kurtosis", "value": layer.excess, "route": "sum"}
    rows.append({"kind": "measurement", "status": "ok", **excess})
    return [{**key, **row} for row in rows]


def unmeasured_rows(key: Row, s: Spectrum) -> list[Row]:
    """Return the rows of a zero, empty or non-finite matrix.

    Args:
        key: Columns that name the matrix.
        s: Its spectrum, which says why it has no numbers.

    Returns:
        Two checks that do not apply and the measurements with their status.
    """
    judgement = Judgement("not_applicable", "unknown", f"cannot tell: {s.reason}")
    rows = [
        _check(name, judgement, None) | {"status": s.status}
        for name in ("at_initialisation", "explained_by_stable_rank")
    ]
    names = ("stable_rank", "participation_ratio", "frobenius_norm", "spectral_norm")
    rows += [_measured(name, s) for name in names]
    return [{**key, **row} for row in rows]


def _check(name: str, judgement: Judgement, level: float | None) -> Row:
    return {
        "kind": "check",
        "metric": name,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "state": judgement.state,
        "value": judgement.p_value,
        "bound": None if judgement.p_value is None else level,
        "route": None if judgement.p_value is None else "monte-carlo",
        "status": "ok",
        "source": _OURS,
    }


def _measured(name: str, s: Spectrum) -> Row:
    metric = get_metric(name)
    return {
        "kind": "measurement",
        "metric": name,
        **value_columns(metric(s)),
        "route": s.route,
        "source": metric.source,
    }


def _expected(
    name: str, variant: str, found: float, law: Moments, route: str, **more: Any
) -> Row:
    """What an ensemble has: its mean, its spread, and where the matrix lies in it."""
    z = None
    if law.deviation > 0.0 and math.isfinite(found):
        z = (found - law.mean) / law.deviation
    error = 4.0 * law.standard_error
    return {
        "kind": "measurement",
        "metric": name,
        "variant": variant,
        "value": law.mean,
        "lower": law.mean - error,
        "upper": law.mean + error,
        "error_kind": "stderr" if law.standard_error else "rounding",
        "status": "ok",
        "route": route,
        "source": _OURS,
        "deviation": law.deviation,
        "z_score": z,
        "standard_error": law.standard_error or None,
        "num_draws": law.num_draws or None,
        **more,
    }


def _fixed(value: float, deviation: float = 0.0) -> Moments:
    return Moments(value, deviation, 0.0, 0)


def _rank_rows(
    layer: Layer,
    s: Spectrum,
    null: GaussianNull,
    rest: GaussianNull | None,
    weights: np.ndarray | None,
) -> Iterator[Row]:
    p, r, ratio = layer.size, layer.stable_rank, layer.participation_ratio
    yield _measured("stable_rank", s)
    yield _expected(
        "stable_rank",
        "gaussian",
        r,
        moments(np.exp(null.log_stable_rank)),
        "monte-carlo",
    )
    yield _expected("stable_rank", "orthogonal", r, _fixed(p), "exact")
    yield _measured("participation_ratio", s)
    yield _expected(
        "participation_ratio",
        "gaussian",
        ratio,
        moments(np.exp(null.log_participation_ratio)),
        "monte-carlo",
    )
    yield _expected("participation_ratio", "orthogonal", ratio, _fixed(p), "exact")
    if rest is not None and weights is not None:
        # r^2 / (1 + (r - 1)^2 / rho') with rho' that of the rest.
        bulk = np.exp(rest.log_participation_ratio)
        values = r * r / (1.0 + (r - 1.0) ** 2 / bulk)
        law = moments(values, weights)
        yield _expected("participation_ratio", "conditioned", ratio, law, "monte-carlo")
    for name in ("flat", "spike"):
        law = _fixed(
            ensemble(layer.m, layer.n, stable_rank=r, spectrum=name).participation_ratio
        )
        yield _expected("participation_ratio", name, ratio, law, "exact")


def _rest_rows(
    layer: Layer, rest: GaussianNull | None, weights: np.ndarray | None
) -> Iterator[Row]:
    if rest is None or layer.rest_share < _NO_REST or layer.size < 3:
        return
    stable, ratio = layer.rest_ranks()
    pairs = [("rest_participation_ratio", ratio, rest.log_participation_ratio)]
    if layer.squares is not None:
        pairs.insert(0, ("rest_stable_rank", stable, rest.log_stable_rank))
    for name, found, logs in pairs:
        yield _plain(name, found)
        if weights is not None:
            law = moments(np.exp(logs), weights)
            yield _expected(name, "conditioned", found, law, "monte-carlo")
    if layer.squares is None:
        return
    found = distance(layer.squares[1:], rest.m, rest.n)
    yield _plain("rest_distance_to_noise", found)
    yield _expected(
        "rest_distance_to_noise",
        "gaussian",
        found,
        moments(rest.distances),
        "monte-carlo",
    )


def _plain(name: str, value: float) -> Row:
    return {
        "kind": "measurement",
        "metric": name,
        "value": value,
        "status": "ok" if math.isfinite(value) else "nonfinite",
        "source": _OURS,
    }


def _norm_rows(
    layer: Layer, s: Spectrum, null: GaussianNull, known: Sequence[Reference]
) -> Iterator[Row]:
    m, n = layer.m, layer.n
    yield _measured("frobenius_norm", s)
    for reference in known:
        law = _fixed(*reference.frobenius_norm(m, n))
        yield _expected("frobenius_norm", reference.name, layer.frobenius, law, "exact")
    yield _measured("spectral_norm", s)
    # Norm and shape of a Gaussian matrix are independent; other entries have the same
    # largest value to leading order.
    shape = moments(np.exp(-0.5 * null.log_stable_rank))
    for reference in known:
        norm, spread = reference.frobenius_norm(m, n)
        top = s.sigma_max.value
        if reference.law == "orthogonal":
            law, route = _fixed(norm / math.sqrt(layer.size)), "exact"
        else:
            law = Moments(
                norm * shape.mean,
                math.hypot(norm * shape.deviation, spread * shape.mean),
                norm * shape.standard_error,
                shape.num_draws,
            )
            route = "monte-carlo" if reference.law == "normal" else "asymptotic"
        yield _expected("spectral_norm", reference.name, top, law, route)
