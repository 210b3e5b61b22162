"""`scan_features`: the rank of what the layers of a model compute on data.

N  rows (samples, or positions of samples)    d  features
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import polars as pl
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.linalg.covariance import spectrum_of_rows
from spectrank.linalg.moments import Moments
from spectrank.metrics import Metric
from spectrank.model import LayerBatch, capture
from spectrank.model.capture import Batch
from spectrank.model.capture.choose import Choices
from spectrank.scanning.patterns import check_known
from spectrank.scanning.provenance import defined, environment
from spectrank.scanning.requests import MetricRequest, parse_metrics
from spectrank.scanning.rows import measured_rows
from spectrank.table import Table

Rows = Literal["positions", "samples", "means"]
At = Literal["outputs", "inputs"]

DEFAULT_METRICS = (
    "rankme",
    "stable_rank",
    "participation_ratio",
    "effective_rank:variant=squared",
    "numerical_rank",
    "alpha_req",
)
"""What is measured of features when nothing is asked for."""

# What `capture` is asked for here: no gradients, so no loss.
_CAPTURING = (
    *("mode", "autocast", "device", "dtype"),
    *("unpack", "forward", "batch_axis"),
)
_OWN = ("layers", "at", "rows", "centred", "metrics", "memory", "spectra")

_COLUMNS: Mapping[str, Any] = {
    "m": pl.Int64,
    "n": pl.Int64,
    "layer_type": pl.String,
    "num_resolved": pl.Int64,
}


def scan_features(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Choices = None,
    at: At = "outputs",
    rows: Rows = "positions",
    centred: bool | None = None,
    metrics: str | Metric | Iterable[str | Metric] | None = None,
    memory: float = 4 * 2.0**30,
    spectra: bool = True,
    **capturing: Any,
) -> Table:
    r"""Measure the spectrum of the features of every layer, in one pass over data.

    Only mean and scatter of the rows are kept, d x d in float64 for each layer, so the
    data may be of any length. The matrix is :math:`X/\sqrt N` (N x d), with the column
    means taken off or not, as the view says: ``outputs-centred`` or ``outputs-raw``.
    Squares of its singular values are eigenvalues of the covariance (with 1/N): the
    stable rank is tr C / lambda_1, the participation ratio (tr C)^2 / tr C^2, the
    squared effective rank exp(entropy of lambda / tr C). What needs the smallest
    singular values to relative accuracy is skipped: a scatter does not tell them.

    The enclosures are those of the computation. They say nothing of other data: ranks
    grow with N until N is several times d.

    Args:
        model: Any module; left as it was.
        loader: Any iterable of batches.
        layers: Names, glob patterns or module classes; None for every leaf module with
            a weight that is no normalisation.
        at: ``outputs`` or ``inputs`` of the layers.
        rows: What a row is: ``positions`` (a token, a pixel of a feature map: channel
            vectors), ``samples`` (all positions of a sample in one row) or ``means``
            (the mean over the positions of a sample).
        centred: Whether means are taken off; None for each metric as its paper does:
            RankMe on raw features, everything else centred.
        metrics: As for `scan`; `DEFAULT_METRICS` by default.
        memory: Bytes that the scatters of all layers may take.
        spectra: Whether the singular values become rows.
        **capturing: ``mode``, ``autocast``, ``device``, ``dtype``, ``unpack``,
            ``forward``, ``batch_axis`` of `capture`.

    Returns:
        Table with rows of kind ``measurement``, ``spectrum`` and ``skip``; m is N and
        n is d.

    Raises:
        ArgumentTypeError: If an argument is of another type, or an option of another
            function.
        DomainError: If the scatters do not fit into ``memory``, the samples of a
            layer's tensors cannot be told, or its rows differ in length.
        UnknownNameError: If ``at`` or ``rows`` is none of the words above.

    Example:
        >>> import torch, spectrank as sr
        >>> model = torch.nn.Linear(3, 5)
        >>> loader = [torch.eye(3), -torch.eye(3)]
        >>> table = sr.scan_features(model, loader, metrics="numerical_rank")
        >>> table.where(kind="measurement").frame["value"].to_list()
        [3.0]
    """  # noqa: DOC502 - raised by the functions called
    for name, word, known in (("at", at, At), ("rows", rows, Rows)):
        if word not in get_args(known):
            raise UnknownNameError(
                f"{name} is one of {', '.join(get_args(known))}, got {word!r}; "
                f"leave it out for {get_args(known)[0]!r}"
            )
    _check_options(centred, memory, spectra)
    check_known(
        capturing,
        [*_OWN, *_CAPTURING],
        what="scan_features",
        instead={"select": "layers"},
    )
    requests = parse_metrics(DEFAULT_METRICS if metrics is None else metrics)
    started = time.perf_counter()
    found: dict[str, Moments] = {}
    dims: dict[str, int] = {}
    num_batches = 0
    with capture(model, layers, **capturing) as taps:
        for batch in taps.over(loader):
            for name, x in _rows_of(batch, at, rows):
                if name not in found:
                    dims[name] = x.shape[1]
                    _check_memory(dims, memory)
                    found[name] = Moments(x.shape[1], device=x.device)
                _check_width(name, x.shape[1], dims[name], rows)
                found[name].update(x)
            num_batches += 1
    modules = dict(model.named_modules())
    table_rows: list[dict[str, Any]] = []
    for name, moments in found.items():
        key = {"subject": name, "layer_type": type(modules[name]).__name__}
        table_rows += _layer_rows(key, moments, at, centred, requests, spectra)
    table_rows += [_unseen(name) for name in taps.layers if name not in found]
    provenance = {
        **environment(),
        "input": type(model).__name__,
        "input_kind": "features",
        **defined(requests),
        "num_batches": num_batches,
        "settings": {
            "metrics": [request.text for request in requests],
            "at": at,
            "rows": rows,
            "centred": centred,
        },
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Table.from_rows(table_rows, provenance=provenance, columns=_COLUMNS)


def _check_options(centred: object, memory: object, spectra: object) -> None:
    for name, x, missing in (("centred", centred, None), ("spectra", spectra, True)):
        if x is not missing and not isinstance(x, bool):
            raise ArgumentTypeError(
                f"{name} is True or False, got {x!r:.80}; leave it out for the default"
            )
    if not isinstance(memory, int | float) or isinstance(memory, bool):
        raise ArgumentTypeError(
            f"memory is a number of bytes, got {memory!r:.80}; e.g. memory=2**30"
        )


def _rows_of(batch: Batch, at: At, rows: Rows) -> Iterator[tuple[str, Tensor]]:
    for name in batch.layers:
        for record in batch.calls(name):
            x = record.outputs if at == "outputs" else record.inputs
            if x is None or not x.is_floating_point():
                continue
            yield name, _as_rows(record, batch, at, rows)


def _as_rows(record: LayerBatch, batch: Batch, at: At, rows: Rows) -> Tensor:
    outputs = at == "outputs"
    if rows == "positions":
        # Labels do not matter here: an unlabelled token has features too.
        if outputs:
            return record.output_rows(select="unmasked")
        return record.input_rows(select="unmasked")
    tensor = record.outputs if outputs else record.inputs
    assert tensor is not None
    read = record.output_rows if outputs else record.input_rows
    every = read(select="all")
    num = batch.num_samples
    if num is None or batch.mask is not None or len(every) % num or len(tensor) != num:
        raise DomainError(
            f"rows={rows!r} needs samples of equal length along axis 0 and no mask, "
            f"{record.name} has {tuple(tensor.shape)} of {num} samples"
            f"{' and a mask' if batch.mask is not None else ''}; use rows='positions'"
        )
    if rows == "samples":
        return tensor.reshape(num, -1)
    return every.reshape(num, -1, every.shape[1]).double().mean(dim=1)


def _check_memory(dims: Mapping[str, int], memory: float) -> None:
    needed = sum(8.0 * d * d for d in dims.values())
    if needed > memory:
        largest = max(dims, key=lambda name: dims[name])
        raise DomainError(
            f"the scatters of the layers must fit into memory={memory:.3g} bytes, they "
            f"take {needed:.3g} and more; the largest is {largest} with "
            f"{dims[largest]} features: choose layers=, rows='means' or another memory="
        )


def _check_width(name: str, width: int, known: int, rows: Rows) -> None:
    if width != known:
        way = "; use rows='positions'" if rows == "samples" else "; leave the layer out"
        raise DomainError(
            f"rows of one layer have one length, those of {name} have {known} features "
            f"in one batch and {width} in another{way}"
        )


def _layer_rows(
    key: dict[str, Any],
    moments: Moments,
    at: At,
    centred: bool | None,
    requests: tuple[MetricRequest, ...],
    spectra: bool,
) -> list[dict[str, Any]]:
    summary = moments.compute()
    rows: list[dict[str, Any]] = []
    for off in (True, False):
        chosen = [
            request for request in requests if _is_centred(request, centred) == off
        ]
        if not chosen:
            continue
        s = spectrum_of_rows(summary, centred=off)
        view = f"{at}-{'centred' if off else 'raw'}"
        where = {**key, "view": view, "m": s.shape[0], "n": s.shape[1]}
        rows += measured_rows(where, s, chosen, spectra)
    if summary.num_nonfinite:
        # Rows left out would pass for a smaller sample.
        rows = [{**row, "reason": row.get("reason") or summary.reason} for row in rows]
    return rows


def _is_centred(request: MetricRequest, centred: bool | None) -> bool:
    return request.metric.name != "rankme" if centred is None else centred


def _unseen(name: str) -> dict[str, Any]:
    return {
        "kind": "skip",
        "subject": name,
        "metric": "scan_features",
        "status": "skipped",
        "reason": "no floating-point tensor went through it",
    }
