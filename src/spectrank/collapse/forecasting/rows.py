"""Rows of a forecast: spectra with their range over starts, ranks, trust."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import polars as pl
import torch
from torch import Tensor

from spectrank.collapse.forecasting.minimise import Minimum
from spectrank.collapse.forecasting.trust import SHARE_LIMIT, trust
from spectrank.linalg.value import Value
from spectrank.metrics import numerical_rank
from spectrank.model import WeightMatrix, iter_matrices
from spectrank.scanning.rows import COLUMNS as MATRIX_COLUMNS
from spectrank.scanning.rows import matrix_key, value_columns

COLUMNS: Mapping[str, Any] = MappingProxyType(
    {
        **MATRIX_COLUMNS,
        "weight_decay": pl.Float64,
        "seed": pl.Int64,
        "lower_values": pl.List(pl.Float64),
        "upper_values": pl.List(pl.Float64),
    }
)
"""Producer columns: those of a scan, the decay, the seed of a redraw (null for the
model's own start), and the range of ``values`` over the starts."""

_Ended = Sequence[tuple[int | None, str, Minimum]]
_ROUTE = "centroids"


def forecast_rows(
    ended: _Ended,
    rtcv: Value,
    shares: Mapping[str, float],
    *,
    weight_decay: float,
    rtol: float,
    zero: float,
) -> list[dict[str, Any]]:
    """Rows of one weight decay.

    Args:
        ended: Seed, manner and minimum of each start, the model's own first.
        rtcv: Of the inputs.
        shares: Of the parameters at the first minimum (``data_shares``).
        weight_decay: Of all of them.
        rtol: Relative threshold of the rank.
        zero: Frobenius norm up to which a matrix counts as zero: the tolerance on the
            gradient leaves it undetermined.

    Returns:
        Rows for `Table.from_rows` with ``COLUMNS``.
    """
    key = {"weight_decay": weight_decay, "route": _ROUTE}
    rows: list[dict[str, Any]] = [
        {
            **key,
            "kind": "measurement",
            "subject": "inputs",
            "metric": "rtcv",
            "variant": "cells",
            **value_columns(rtcv),
        }
    ]
    rows += [
        {
            **key,
            "kind": "measurement",
            "subject": "model",
            "metric": "objective",
            "seed": seed,
            "value": minimum.objective,
            "status": minimum.status,
            "reason": minimum.reason or how,
        }
        for seed, how, minimum in ended
    ]
    layers = [_layer(matrices, zero) for matrices in _matrices(ended)]
    worst = max((layer.spread for layer in layers), default=0.0)
    for layer in layers:
        rows += _layer_rows(layer, ended, key, rtol, zero)
        rows += _trust_rows(layer, ended, key, shares, worst)
    return rows


@final
@dataclass(frozen=True, eq=False)
class _Layer:
    """One weight matrix at the end of every start."""

    first: WeightMatrix
    matrices: tuple[Tensor, ...]
    sigma: Tensor  # (starts, min(m, n))
    spread: float
    zero: bool


def _layer(weights: Sequence[WeightMatrix], zero: float) -> _Layer:
    matrices = tuple(w.tensor().detach().double() for w in weights)
    sigma = torch.stack([_singular_values(w) for w in matrices])
    size = float(torch.linalg.vector_norm(sigma[0]))
    return _Layer(weights[0], matrices, sigma, _spread(sigma, zero), size <= zero)


def _matrices(ended: _Ended) -> list[tuple[WeightMatrix, ...]]:
    """The same matrix of every start, matrix by matrix."""
    found = [list(iter_matrices(minimum.model, split=False)) for _, _, minimum in ended]
    return list(zip(*found, strict=True))


def _base(layer: _Layer, ended: _Ended, key: Mapping[str, Any]) -> dict[str, Any]:
    """Key columns, and the worst status of all starts."""
    worst = next((m for _, _, m in ended if m.status != "ok"), ended[0][2])
    found = {**key, **matrix_key(layer.first)}
    return {**found, "status": worst.status, "reason": worst.reason}


def _layer_rows(
    layer: _Layer,
    ended: _Ended,
    key: Mapping[str, Any],
    rtol: float,
    zero: float,
) -> list[dict[str, Any]]:
    base, sigma = _base(layer, ended, key), layer.sigma
    count = base["reason"] or f"range over {len(ended)} starts"
    rows: list[dict[str, Any]] = [
        {
            **base,
            "kind": "spectrum",
            "metric": "singular_values",
            "variant": "forecast",
            "values": sigma[0].tolist(),
            "lower_values": sigma.amin(0).tolist(),
            "upper_values": sigma.amax(0).tolist(),
            "reason": count,
        },
        {
            **base,
            "kind": "measurement",
            "metric": "numerical_rank",
            "variant": f"rtol={rtol:g}",
            **_rank(layer.matrices, rtol, zero),
            "reason": count,
        },
        {
            **base,
            "kind": "measurement",
            "metric": "forecast_spread",
            "variant": "starts",
            "value": layer.spread,
        },
    ]
    rows += [
        {
            **base,
            "kind": "spectrum",
            "metric": "singular_values",
            "variant": "start",
            "seed": seed,
            "values": values.tolist(),
            "status": minimum.status,
            "reason": minimum.reason or how,
        }
        for (seed, how, minimum), values in zip(ended, sigma, strict=True)
    ]
    return rows


def _trust_rows(
    layer: _Layer,
    ended: _Ended,
    key: Mapping[str, Any],
    shares: Mapping[str, float],
    worst_spread: float,
) -> list[dict[str, Any]]:
    base = _base(layer, ended, key)
    share = math.nan if layer.zero else shares.get(layer.first.name)
    found = trust(share, layer.spread, worst_spread=worst_spread, num_starts=len(ended))
    known = not math.isnan(found.share)
    return [
        {
            **base,
            "kind": "measurement",
            "metric": "forecast_error",
            "variant": "estimate",
            "value": found.error,
            **({} if known else {"status": "degenerate", "reason": found.reason}),
        },
        {
            **base,
            "kind": "check",
            "metric": "forecast_trust",
            "variant": "data share",
            "value": found.share,
            "bound": SHARE_LIMIT,
            "slack": SHARE_LIMIT - found.share,
            "verdict": found.verdict,
            "reason": found.reason,
        },
    ]


def _rank(matrices: Sequence[Tensor], rtol: float, zero: float) -> dict[str, float]:
    ranks = [
        Value.exact(0.0)
        if float(torch.linalg.vector_norm(w)) <= zero
        else numerical_rank(w, rtol=rtol)
        for w in matrices
    ]
    return {
        "value": ranks[0].value,
        "lower": min(rank.lower for rank in ranks),
        "upper": max(rank.upper for rank in ranks),
    }


def _singular_values(w: Tensor) -> Tensor:
    if not bool(torch.isfinite(w).all()):
        # LAPACK refuses; the status of the row says why.
        return torch.full((min(w.shape),), math.nan, dtype=w.dtype)
    sigma: Tensor = torch.linalg.svdvals(w)
    return sigma


def _spread(sigma: Tensor, zero: float) -> float:
    """Largest relative difference from the first start."""
    size = float(torch.linalg.vector_norm(sigma[0]))
    if size <= zero:
        # Zero from every start is agreement; what is left of it has no direction.
        largest = float(torch.linalg.vector_norm(sigma, dim=1).max())
        return 0.0 if largest <= zero else math.inf
    differences = torch.linalg.vector_norm(sigma - sigma[0], dim=1)
    return float(differences.max()) / size
