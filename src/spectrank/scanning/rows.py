"""Rows of a scan: a matrix, its numbers, its spectrum, or why there are none."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.errors import CheckpointError, SpectrankWarning
from spectrank.linalg import Spectrum, Value
from spectrank.model import Skip, WeightMatrix
from spectrank.scanning.requests import MetricRequest

# Key columns of a scan beside the core schema.
COLUMNS: Mapping[str, Any] = {
    "m": pl.Int64,
    "n": pl.Int64,
    "dtype": pl.String,
    "layer_type": pl.String,
    "tied_to": pl.String,
    "inferred": pl.Boolean,
    "note": pl.String,
    "num_resolved": pl.Int64,
}


def matrix_key(weight: WeightMatrix) -> dict[str, Any]:
    """Return the columns that name a matrix, the same in all its rows.

    Args:
        weight: The matrix.

    Returns:
        Column to value.
    """
    return {
        "subject": weight.name,
        "view": weight.view,
        "m": weight.shape[0],
        "n": weight.shape[1],
        "dtype": str(weight.dtype).removeprefix("torch."),
        "layer_type": weight.layer_type,
        "tied_to": ", ".join(weight.tied_to) or None,
        "inferred": weight.inferred,
        "note": weight.note,
    }


def matrix_rows(
    weight: WeightMatrix,
    s: Spectrum,
    requests: Sequence[MetricRequest],
    spectra: bool,
) -> list[dict[str, Any]]:
    """Return the rows of a measured matrix: one a metric, one for the spectrum.

    Args:
        weight: What was measured.
        s: Its spectrum.
        requests: Metrics with their options.
        spectra: Whether singular values become a row.

    Returns:
        Rows for `Table.from_rows`.
    """
    return measured_rows(matrix_key(weight), s, requests, spectra)


def measured_rows(
    key: Mapping[str, Any],
    s: Spectrum,
    requests: Sequence[MetricRequest],
    spectra: bool,
) -> list[dict[str, Any]]:
    """Return the rows of a spectrum: one a metric, one for the values.

    Args:
        key: Columns that name the matrix, ``subject`` among them.
        s: Its spectrum.
        requests: Metrics with their options.
        spectra: Whether singular values become a row.

    Returns:
        Rows for `Table.from_rows`.
    """
    rows = [
        {
            **key,
            "kind": "measurement",
            "metric": request.metric.name,
            "variant": request.variant,
            "route": s.route,
            **value_columns(_value(request, s, key["subject"])),
        }
        for request in requests
    ]
    if spectra and s.sigma is not None and s.status == "ok":
        rows.append(
            {
                **key,
                "num_resolved": s.num_resolved,
                "reason": _floor(s),
                "kind": "spectrum",
                "metric": "singular_values",
                "values": s.sigma.tolist(),
                "route": s.route,
                "error_kind": "rounding",
                "status": s.status,
            }
        )
    return rows


def _value(request: MetricRequest, s: Spectrum, name: str) -> Value:
    """Return the metric's value; a plug-in that raises is a row, not the end."""
    try:
        return request.metric(s, **request.options)
    except Exception as error:
        reason = f"{request.text} raised {type(error).__name__}: {error}"
        warnings.warn(f"{name}: {reason}", SpectrankWarning, stacklevel=2)
        return Value.undefined("skipped", reason)


def value_columns(value: Value) -> dict[str, Any]:
    """Return a number with its enclosure and status as columns.

    Args:
        value: Of a metric.

    Returns:
        Column to value.
    """
    return {
        "value": float(value.value),
        "lower": float(value.lower),
        "upper": float(value.upper),
        "error_kind": value.error_kind,
        "failure_probability": value.failure_probability or None,
        "status": value.status,
        "reason": value.reason,
    }


def _floor(s: Spectrum) -> str | None:
    """Say which values are known only to be small."""
    if s.num_resolved is None or s.num_resolved == min(s.shape):
        return None
    return (
        f"values after the first {s.num_resolved} are below what the route resolves: "
        "they are known only to be small"
    )


def skip_row(skip: Skip) -> dict[str, Any]:
    """Return the row of a tensor that is no matrix."""
    return {
        "kind": "skip",
        "subject": skip.name,
        "metric": "scan",
        "status": "skipped",
        "reason": skip.reason,
        "dtype": None if skip.dtype is None else str(skip.dtype).removeprefix("torch."),
        "layer_type": skip.layer_type,
    }


def unread_row(weight: WeightMatrix, error: CheckpointError) -> dict[str, Any]:
    """Return the row of a matrix that could not be read."""
    return lost_row(weight, f"could not be read: {error}")


def lost_row(weight: WeightMatrix, reason: str) -> dict[str, Any]:
    """Return the row of a matrix without numbers.

    Args:
        weight: The matrix.
        reason: Why it was not measured.

    Returns:
        A row of kind ``skip`` that carries its shape.
    """
    return {
        **matrix_key(weight),
        "kind": "skip",
        "metric": "scan",
        "status": "skipped",
        "reason": reason,
    }
