"""`scan`: every weight matrix of a model, measured, with nothing left out silently."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, SpectrankWarning
from spectrank.linalg import (
    DEFAULT_FAILURE_PROBABILITY,
    DEFAULT_RTOL,
    Certify,
)
from spectrank.metrics import Metric
from spectrank.model import (
    Skip,
    Source,
    WeightMatrix,
    describe,
    graph,
    iter_weights,
)
from spectrank.scanning.measure import Settings, measure_matrix
from spectrank.scanning.patterns import check_patterns, check_types
from spectrank.scanning.provenance import (
    InputHash,
    defined,
    described,
    environment,
)
from spectrank.scanning.rows import COLUMNS, skip_row
from spectrank.table import Table


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
    metrics: str | Metric | Iterable[str | Metric] | None = None,
    select: str | Sequence[str] | None = None,
    views: Mapping[str, str] | None = None,
    rtol: float = DEFAULT_RTOL,
    certify: Certify = "probabilistic",
    failure_probability: float = DEFAULT_FAILURE_PROBABILITY,
    seed: int = 0,
    spectra: bool = True,
    example_input: Any = None,
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
        example_input: What the module takes: a tensor, a tuple of arguments or a dict
            of keyword arguments. With it the table also carries which layer feeds
            which, and the page draws it.
        progress: Called before each matrix and at the end.

    Returns:
        Table with rows of kind ``measurement``, ``spectrum`` and ``skip``.

    Example:
        >>> import torch, spectrank as sr
        >>> table = sr.scan({"fc.weight": torch.eye(8)}, metrics="stable_rank")
        >>> round(table.value("fc.weight", "stable_rank"), 9)
        8.0
    """
    settings = Settings.of(
        metrics,
        rtol=rtol,
        certify=certify,
        failure_probability=failure_probability,
        seed=seed,
        spectra=spectra,
    )
    started = time.perf_counter()
    provenance = environment()
    # Descriptions only; the tensors come one by one.
    check_types(select, views)
    wiring = _wiring(source, example_input)
    weights = list(iter_weights(source, select=select, views=views))
    check_patterns(weights, select, views, what="a scan")
    info = describe(source)
    digest = InputHash(info.files)
    rows, unread = _measure_all(weights, settings, progress)
    if unread:
        warnings.warn(
            f"{len(unread)} of the tensors could not be read, first {unread[0]}; "
            "their rows of kind 'skip' say why",
            SpectrankWarning,
            stacklevel=2,
        )
    measured = [
        w for w in weights if isinstance(w, WeightMatrix) and w.name not in unread
    ]
    provenance |= {
        **described(info, digest.result(), _device(source)),
        **defined(settings.requests),
        **wiring,
        "seed": seed,
        "settings": {
            "metrics": list(settings.metrics),
            "select": [select] if isinstance(select, str) else select,
            "views": dict(views) if views else None,
            "rtol": rtol,
            "certify": certify,
            "failure_probability": failure_probability,
        },
        "num_parameters_measured": sum(w.shape[0] * w.shape[1] for w in measured),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


def _wiring(source: Source, example_input: Any) -> dict[str, Any]:
    """Which layer feeds which, for the provenance; empty without an input."""
    if example_input is None:
        return {}
    if not isinstance(source, nn.Module):
        raise ArgumentTypeError(
            "example_input needs a module that can be traced, got a source of type "
            f"{type(source).__name__}; leave it out, or pass the module"
        )
    return {"graph": graph(source, example_input).as_dict()}


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
    settings: Settings,
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
            rows.append(skip_row(weight))
            continue
        if progress:
            progress(Progress(weight.name, done, count, entries, sum(sizes)))
        measured = measure_matrix(weight, settings)
        if measured[0]["kind"] == "skip":
            unread.append(weight.name)
        rows += measured
        done, entries = done + 1, entries + size
    if progress:
        progress(Progress(None, done, count, entries, sum(sizes)))
    return rows, unread
