"""`scan`: every weight matrix of a model, measured, with nothing left out silently."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, SpectrankWarning
from spectrank.linalg import DEFAULT_FAILURE_PROBABILITY, DEFAULT_RTOL, Certify
from spectrank.linalg.null import Null
from spectrank.metrics import Metric
from spectrank.model import (
    Skip,
    Source,
    Views,
    WeightMatrix,
    describe,
    graph,
    iter_weights,
)
from spectrank.scanning.measure import (
    DEFAULT_NUM_NULL,
    Compat,
    Rows,
    Settings,
)
from spectrank.scanning.null_rows import NULL_METRICS
from spectrank.scanning.patterns import (
    check_callback,
    check_known,
    check_patterns,
    check_types,
)
from spectrank.scanning.provenance import (
    InputHash,
    defined,
    described,
    environment,
)
from spectrank.scanning.rows import COLUMNS
from spectrank.scanning.running.child import Reading
from spectrank.scanning.running.run import Progress as Progress
from spectrank.scanning.running.run import Resources, run_all
from spectrank.scanning.weightwatcher import COLUMNS as WEIGHTWATCHER_COLUMNS
from spectrank.table import Table


def scan(
    source: Source,
    *,
    metrics: str | Metric | Iterable[str | Metric] | None = None,
    select: str | Sequence[str] | None = None,
    views: Views = None,
    rtol: float = DEFAULT_RTOL,
    certify: Certify = "probabilistic",
    failure_probability: float = DEFAULT_FAILURE_PROBABILITY,
    seed: int = 0,
    spectra: bool = True,
    null: Null | None = None,
    num_null: int = DEFAULT_NUM_NULL,
    compat: Compat | None = None,
    example_input: Any = None,
    workers: int = 1,
    resume: str | Path | None = None,
    ray: str | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
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
        views: Glob pattern -> view, where the view is not to be inferred; or one view,
            such as ``conv-operator:32x32``, for every tensor that it fits.
        rtol: Largest relative width of the enclosure of the spectral norm.
        certify: ``probabilistic`` or ``deterministic`` upper ends.
        failure_probability: Of each probabilistic upper end.
        seed: Of the random starts.
        spectra: Whether full spectra, where computed, become rows.
        null: Random matrix to compare each one with: ``permuted`` or ``gaussian``. As
            the next two, it asks for all singular values.
        num_null: Draws of it.
        compat: ``weightwatcher`` adds that tool's columns, under its names, as variant
            ``weightwatcher``.
        example_input: What the module takes: a tensor, a tuple of arguments or a dict
            of keyword arguments. With it the table also carries which layer feeds
            which, and the page draws it; ``conv-operator`` takes its sizes from it.
        workers: Processes at a time, with one thread of torch each. A file is opened
            again in each, the matrices of a module are sent to them.
        resume: Folder that keeps finished matrices, by their bytes and the settings:
            a scan that was killed goes on where it was.
        ray: Address of a Ray cluster to run on; ``local`` for one on this machine.
        memory: Ceiling in bytes of what measuring takes at a time, in all processes,
            beside the interpreters and a model in memory. A matrix that alone takes
            more is a row that says so.
        device: Where to measure, such as ``cuda``: matrices of one shape together.
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
        null=null,
        num_null=num_null,
        compat=compat,
    )
    resources = Resources(workers, resume, ray, memory, device)
    check_types(select, views)
    check_callback(progress)
    started = time.perf_counter()
    provenance = environment()
    # Descriptions only; the tensors come one by one.
    wiring = _wiring(source, example_input)
    options: dict[str, Any] = {
        "select": select,
        "views": views,
        "example_input": example_input,
    }
    weights = list(iter_weights(source, **options))
    check_patterns(weights, select, views, what="a scan")
    info = describe(source)
    digest = InputHash(info.files)
    reading = _reading(source, options, resources)
    found, told = run_all(
        weights, settings, resources, reading=reading, progress=progress
    )
    measured = _told(weights, found, told)
    device_name = str(device) if device is not None else _device(source)
    provenance |= {
        **described(info, digest.result(), device_name),
        **_defined(settings),
        **wiring,
        "seed": seed,
        "settings": {
            **settings.as_dict(),
            "select": [select] if isinstance(select, str) else select,
            "views": dict(views) if isinstance(views, Mapping) else views,
        },
        "num_parameters_measured": sum(w.num_entries for w in measured),
        "seconds": round(time.perf_counter() - started, 3),
    }
    rows = chain.from_iterable(found)
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that `scan` would refuse, before anything is read.

    Args:
        options: By name, without the source and the progress.

    Raises:
        ArgumentTypeError: An option is of another type, or is none of a scan.
        DomainError: An option is out of range.
    """  # noqa: DOC502
    names = [[f.name for f in fields(kind)] for kind in (Settings, Resources)]
    known = [*names[0], *names[1], "select", "views", "example_input"]
    check_known(options, known, what="a scan")
    settings, resources = ({k: options[k] for k in x if k in options} for x in names)
    Settings.of(settings.pop("metrics", None), **settings)
    Resources(**resources)
    check_types(options.get("select"), options.get("views"))


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


def _defined(settings: Settings) -> dict[str, Any]:
    """Formulas of all that was asked for, so that a table explains itself."""
    found = defined(settings.requests)
    if settings.null is not None:
        source = "spectrank.scanning.null_rows"
        found["definitions"] |= {
            name: {"formula": formula, "source": source}
            for name, formula in NULL_METRICS.items()
        }
    if settings.compat is not None:
        # Its names are ours for other things: they are told apart by the variant.
        found["compat_definitions"] = dict(WEIGHTWATCHER_COLUMNS)
    return found


def _reading(
    source: Source, options: Mapping[str, Any], resources: Resources
) -> Reading | None:
    """How other processes open the source; None where they are sent its matrices."""
    if isinstance(source, str | Path):
        # A cluster's processes start in folders of their own.
        path = Path(source) if resources.ray is None else Path(source).absolute()
        return Reading(str(path), options)
    if resources.remote and (where := _device(source)) != "cpu":
        raise DomainError(
            f"workers measure on the host, the tensors are on {where}; move the model "
            "with .cpu(), or leave workers and ray out"
        )
    return None


def _told(
    weights: Sequence[WeightMatrix | Skip], found: Sequence[Rows], told: Iterable[str]
) -> list[WeightMatrix]:
    """Warn of what went wrong, and return the matrices that were measured."""
    for text in told:
        warnings.warn(text, SpectrankWarning, stacklevel=3)
    matrices = [
        (weight, rows[0]["kind"] == "skip")
        for weight, rows in zip(weights, found, strict=True)
        if isinstance(weight, WeightMatrix)
    ]
    if lost := [weight.key for weight, skipped in matrices if skipped]:
        warnings.warn(
            f"{len(lost)} of the tensors could not be read or measured, first "
            f"{lost[0]}; their rows of kind 'skip' say why",
            SpectrankWarning,
            stacklevel=3,
        )
    return [weight for weight, skipped in matrices if not skipped]
