"""`scan`: every weight matrix of a model, measured, with nothing left out silently."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor, nn

from spectrank.errors import CheckpointError, SpectrankWarning
from spectrank.linalg import (
    DEFAULT_FAILURE_PROBABILITY,
    DEFAULT_RTOL,
    Certify,
    Need,
    Spectrum,
    Value,
    spectrum,
)
from spectrank.metrics import Metric
from spectrank.model import Skip, WeightMatrix, describe, iter_weights
from spectrank.scanning.provenance import InputHash, environment
from spectrank.scanning.requests import MetricRequest, parse_metrics
from spectrank.table import Table

Source = nn.Module | Mapping[str, Tensor] | str | Path

COLUMNS: Mapping[str, Any] = {
    "m": pl.Int64,
    "n": pl.Int64,
    "dtype": pl.String,
    "layer_type": pl.String,
    "tied_to": pl.String,
    "inferred": pl.Boolean,
}


@dataclass(frozen=True)
class Progress:
    """Where a scan stands, told before each matrix and once at the end.

    Attributes:
        name: The matrix about to be measured; None at the end.
        num_done: Matrices finished.
        num_matrices: Matrices in all.
        entries_done: Entries of the finished matrices.
        num_entries: Entries in all.
    """

    name: str | None
    num_done: int
    num_matrices: int
    entries_done: int
    num_entries: int


def scan(
    source: Source,
    *,
    metrics: str | Iterable[str | Metric] | None = None,
    select: str | Sequence[str] | None = None,
    views: Mapping[str, str] | None = None,
    rtol: float = DEFAULT_RTOL,
    certify: Certify = "probabilistic",
    failure_probability: float = DEFAULT_FAILURE_PROBABILITY,
    seed: int = 0,
    spectra: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Table:
    """Measure every weight matrix of a module, a state dict, a file or a folder.

    One matrix is in memory at a time. A matrix that cannot be read or measured is a
    row with its reason; the others are not affected. The model is left as it was.

    Args:
        source: Module, mapping of names to tensors, or path to a safetensors or
            PyTorch file or a folder of them.
        metrics: Names such as ``stable_rank`` or ``energy_rank:q=0.9``, as a list or
            a comma-separated string; every notion of rank and norm by default. Asking
            for norms and stable ranks alone spares the full spectra.
        select: Glob pattern(s) on the names; all by default.
        views: Glob pattern -> view, where the view is not to be inferred.
        rtol: Largest relative width of the enclosure of the spectral norm.
        certify: ``probabilistic`` or ``deterministic`` upper ends.
        failure_probability: Of each probabilistic upper end.
        seed: Of the random starts.
        spectra: Whether full spectra, where computed, become rows.
        progress: Called before each matrix and at the end.

    Returns:
        Table with rows of kind ``measurement``, ``spectrum`` and ``skip``.

    Example:
        >>> import torch, spectrank as sr
        >>> table = sr.scan({"fc.weight": torch.eye(8)}, metrics="stable_rank")
        >>> table.value("fc.weight", "stable_rank")
        8.0
    """
    requests = parse_metrics(metrics)
    needs = frozenset[Need]().union(*(request.needs for request in requests))
    started = time.perf_counter()
    provenance = environment()
    info = describe(source)
    digest = InputHash(info.files)

    def measure(W: Tensor) -> Spectrum:
        return spectrum(
            W,
            needs,
            rtol=rtol,
            certify=certify,
            failure_probability=failure_probability,
            seed=seed,
        )

    # Descriptions only; the tensors come one by one.
    weights = list(iter_weights(source, select=select, views=views))
    rows, unread = _measure_all(weights, requests, measure, spectra, progress)
    if unread:
        warnings.warn(
            f"{len(unread)} of the tensors could not be read, first {unread[0]}; "
            "their rows of kind 'skip' say why",
            SpectrankWarning,
            stacklevel=2,
        )
    matrices = [w for w in weights if isinstance(w, WeightMatrix)]
    provenance |= {
        "input": info.label,
        "input_kind": info.kind,
        "input_hash": digest.result(),
        "device": "see rows" if not matrices else _device(source),
        "seed": seed,
        "settings": {
            "metrics": [request.text for request in requests],
            "select": [select] if isinstance(select, str) else select,
            "views": dict(views) if views else None,
            "rtol": rtol,
            "certify": certify,
            "failure_probability": failure_probability,
        },
        "definitions": {
            request.metric.name: {
                "formula": request.metric.formula,
                "source": request.metric.source,
            }
            for request in requests
        },
        "num_tensors": info.num_tensors,
        "num_parameters": info.num_parameters,
        "num_parameters_measured": sum(
            w.shape[0] * w.shape[1] for w in matrices if w.name not in unread
        ),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


def _device(source: Source) -> str:
    tensors: Iterable[Tensor] = ()
    if isinstance(source, nn.Module):
        tensors = source.parameters()
    elif isinstance(source, Mapping):
        tensors = source.values()
    devices = {str(t.device) for t in tensors if isinstance(t, Tensor)}
    return ", ".join(sorted(devices)) or "cpu"


def _measure_all(
    weights: Sequence[WeightMatrix | Skip],
    requests: Sequence[MetricRequest],
    measure: Callable[[Tensor], Spectrum],
    spectra: bool,
    progress: Callable[[Progress], None] | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows in the model's order and the names that could not be read."""
    sizes = [
        w.shape[0] * w.shape[1] if isinstance(w, WeightMatrix) else 0 for w in weights
    ]
    count = sum(isinstance(w, WeightMatrix) for w in weights)
    rows: list[dict[str, Any]] = []
    unread: list[str] = []
    done = entries = 0
    for weight, size in zip(weights, sizes, strict=True):
        if isinstance(weight, Skip):
            rows.append(_skip_row(weight))
            continue
        if progress:
            progress(Progress(weight.name, done, count, entries, sum(sizes)))
        try:
            s = measure(weight.tensor())
        except CheckpointError as error:
            unread.append(weight.name)
            rows.append(_unread_row(weight, error))
        else:
            rows += _matrix_rows(weight, s, requests, spectra)
        done, entries = done + 1, entries + size
    if progress:
        progress(Progress(None, done, count, entries, sum(sizes)))
    return rows, unread


def _matrix_rows(
    weight: WeightMatrix,
    s: Spectrum,
    requests: Sequence[MetricRequest],
    spectra: bool,
) -> list[dict[str, Any]]:
    key = _key(weight)
    rows = [
        {
            **key,
            "kind": "measurement",
            "metric": request.metric.name,
            "variant": request.variant,
            "route": s.route,
            **_numbers(request.metric(s, **request.options)),
        }
        for request in requests
    ]
    if spectra and s.sigma is not None and s.status == "ok":
        rows.append(
            {
                **key,
                "kind": "spectrum",
                "metric": "singular_values",
                "values": s.sigma.tolist(),
                "route": s.route,
                "error_kind": "rounding",
                "status": s.status,
            }
        )
    return rows


def _numbers(value: Value) -> dict[str, Any]:
    return {
        "value": float(value.value),
        "lower": float(value.lower),
        "upper": float(value.upper),
        "error_kind": value.error_kind,
        "failure_probability": value.failure_probability or None,
        "status": value.status,
        "reason": value.reason,
    }


def _key(weight: WeightMatrix) -> dict[str, Any]:
    return {
        "subject": weight.name,
        "view": weight.view,
        "m": weight.shape[0],
        "n": weight.shape[1],
        "dtype": str(weight.dtype).removeprefix("torch."),
        "layer_type": weight.layer_type,
        "tied_to": ", ".join(weight.tied_to) or None,
        "inferred": weight.inferred,
    }


def _skip_row(skip: Skip) -> dict[str, Any]:
    return {
        "kind": "skip",
        "subject": skip.name,
        "metric": "scan",
        "status": "skipped",
        "reason": skip.reason,
        "dtype": None if skip.dtype is None else str(skip.dtype).removeprefix("torch."),
        "layer_type": skip.layer_type,
    }


def _unread_row(weight: WeightMatrix, error: CheckpointError) -> dict[str, Any]:
    return {
        **_key(weight),
        "kind": "skip",
        "metric": "scan",
        "status": "skipped",
        "reason": f"could not be read: {error}",
    }
