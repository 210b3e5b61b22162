"""`compare`: what changed between two checkpoints, matrix by matrix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import polars as pl
from torch import Tensor

from spectrank.errors import ArgumentTypeError, CheckpointError, DomainError
from spectrank.linalg import (
    DEFAULT_FAILURE_PROBABILITY,
    DEFAULT_RTOL,
    Certify,
    FactorProduct,
    spectrum,
    spectrum_and_subspaces,
)
from spectrank.metrics import Metric
from spectrank.model import Source, Views, describe, iter_weights
from spectrank.scanning.measure import Settings
from spectrank.scanning.movement import Measure, moved_rows
from spectrank.scanning.pairs import Pair, match
from spectrank.scanning.patterns import check_callback, check_patterns, check_types
from spectrank.scanning.provenance import InputHash, defined, described, environment
from spectrank.scanning.rows import COLUMNS, matrix_key, skip_row
from spectrank.table import Table

DEFAULT_METRICS = ("stable_rank", "effective_rank", "spectral_norm", "frobenius_norm")
"""What is compared when nothing is asked for."""


def compare(
    before: Source,
    after: Source,
    *,
    metrics: str | Metric | Iterable[str | Metric] | None = None,
    select: str | Sequence[str] | None = None,
    views: Views = None,
    rename: Mapping[str, str] | None = None,
    top: int = 8,
    rtol: float = DEFAULT_RTOL,
    certify: Certify = "probabilistic",
    failure_probability: float = DEFAULT_FAILURE_PROBABILITY,
    seed: int = 0,
    spectra: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Table:
    r"""Compare two checkpoints: fine-tuned with base, compressed with whole.

    One pair is in memory at a time. The column ``run`` tells ``before``, ``after``,
    ``change`` (after minus before) and ``difference`` (a number of the matrix
    :math:`D = W_{after} - W_{before}`). Beside the metrics each matrix has
    ``relative_change`` :math:`\|D\|_F/\|W_{before}\|_F` (``place`` is its place
    among all, 1 moved most), ``cosine`` of the two as vectors, ``subspace_overlap``
    (mean squared cosine of the leading ``top`` directions, ``left`` and ``right``,
    in [0, 1]; the ``random`` run is what two random subspaces have on average) with the
    ``largest_angle`` in radians, and two checks:
    ``singular_value_displacement`` against :math:`\|D\|_2` (Weyl) and ``largest_sine``
    against Wedin's bound.

    Args:
        before: Module, mapping of names to tensors, or path.
        after: The same, later.
        metrics: As for `scan`; `DEFAULT_METRICS` by default.
        select: Glob pattern(s) on the names of ``before``.
        views: Glob pattern -> view, where the view is not to be inferred; or one view,
            such as ``conv-operator:32x32``, for every tensor that it fits.
        rename: Name or prefix in ``after`` -> the same in ``before``. Prefixes of
            common wrappers (``module.``, ``_orig_mod.``, ...) need no entry.
        top: Number of leading directions; fewer where a matrix has fewer.
        rtol: Largest relative width of the enclosure of a spectral norm.
        certify: ``probabilistic`` or ``deterministic`` upper ends.
        failure_probability: Of each probabilistic upper end.
        seed: Of the random starts.
        spectra: Whether full spectra, where computed, become rows.
        progress: Called with name, pairs done and pairs in all.

    Returns:
        Table with rows of kind ``measurement``, ``check``, ``spectrum`` and ``skip``;
        a matrix without a partner, or with another shape, is a skip with its reason.

    Raises:
        ArgumentTypeError: If ``rename`` is no mapping.
        DomainError: If ``top`` is not a whole number from 1, a pattern matches
            nothing, or the sources have nothing in common.

    Example:
        >>> import torch, spectrank as sr
        >>> W = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> table = sr.compare({"w": W}, {"w": 2 * W}, metrics="spectral_norm")
        >>> table.where(metric="relative_change").frame["value"].item()
        1.0
    """  # noqa: DOC502 - raised by the functions called
    asked = Settings.of(
        DEFAULT_METRICS if metrics is None else metrics,
        rtol=rtol,
        certify=certify,
        failure_probability=failure_probability,
        seed=seed,
        spectra=spectra,
    )
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise DomainError(f"top is a whole number from 1, got {top!r}; e.g. top=8")
    _check_rename(rename)
    check_types(select, views)
    check_callback(progress)
    started = time.perf_counter()
    old = list(iter_weights(before, select=select, views=views))
    check_patterns(old, select, views, what="a comparison")
    matching = match(old, list(iter_weights(after, views=views)), rename, select)
    settings: dict[str, Any] = {
        "needs": asked.needs | {"sigma", "frobenius", "sigma_max"},
        **asked.of_spectra,
    }
    measure = Measure(
        requests=asked.requests,
        spectrum=partial(spectrum, **settings),
        leading=partial(spectrum_and_subspaces, k=top, **settings),
        spectra=spectra,
    )
    digests = [InputHash(describe(source).files) for source in (before, after)]
    rows = []
    for done, pair in enumerate(matching.pairs):
        if progress:
            progress(pair.before.name, done, len(matching.pairs))
        rows += _pair_rows(pair, measure)
    _rank(rows)
    rows += [{**skip_row(skip), "metric": "compare"} for skip in matching.alone]
    provenance = {
        **environment(),
        **described(describe(after), digests[1].result(), "cpu"),
        "before": described(describe(before), digests[0].result(), "cpu"),
        **defined(asked.requests),
        "comparison": True,
        "prefix": matching.prefix,
        "seed": seed,
        "settings": {
            "metrics": [request.text for request in asked.requests],
            "select": [select] if isinstance(select, str) else select,
            "views": dict(views) if isinstance(views, Mapping) else views,
            "rename": dict(rename) if rename else None,
            "top": top,
            "rtol": rtol,
            "certify": certify,
            "failure_probability": failure_probability,
        },
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Table.from_rows(rows, provenance=provenance, columns=_COLUMNS)


def _check_rename(rename: object) -> None:
    wrong: list[object] = [] if rename is None else [rename]
    if isinstance(rename, Mapping):
        names = chain.from_iterable(rename.items())
        wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ArgumentTypeError(
            "rename maps names of the second source to the first, got "
            f"{wrong[0]!r:.80} of type {type(wrong[0]).__name__}; "
            "e.g. rename={'encoder.': 'model.'}"
        )


_COLUMNS: Mapping[str, Any] = {**COLUMNS, "partner": pl.String, "place": pl.Int64}


def _pair_rows(pair: Pair, measure: Measure) -> list[dict[str, Any]]:
    key = {**matrix_key(pair.before), "partner": _partner(pair)}
    try:
        first = pair.before.tensor()
        second, update = _second(pair, first)
    except CheckpointError as error:
        return [
            {
                **key,
                "kind": "skip",
                "metric": "compare",
                "status": "skipped",
                "reason": f"could not be read: {error}",
            }
        ]
    return moved_rows(key, first, second, measure, update)


def _second(pair: Pair, first: Tensor) -> tuple[Tensor, FactorProduct | None]:
    """The matrix after, and the product that was added, where one was."""
    weight, *others = pair.after
    if others:
        outer, inner = (w.tensor().double() for w in (weight, *others))
        return outer @ inner, None
    product = weight.operand() if pair.adds else None
    if not isinstance(product, FactorProduct):
        after = weight.tensor()
        return (first.double() + after.double() if pair.adds else after), None
    # A sum in half precision would round most of a small update away.
    factors = tuple(x.detach().double() for x in product.factors)
    update = replace(product, left=factors[0], right=factors[1])
    return first.double() + update.dense(), update


def _partner(pair: Pair) -> str | None:
    names = [weight.name for weight in pair.after]
    if pair.adds:
        return f"{pair.before.name} + {names[0]}"
    return None if names == [pair.before.name] else " @ ".join(names)


def _rank(rows: list[dict[str, Any]]) -> None:
    """Give each relative change its place; what has no number stands last."""
    changes = [row for row in rows if row["metric"] == "relative_change"]
    # NaN compares with nothing: it would leave the order to chance.
    moved = [row for row in changes if row["value"] == row["value"]]
    moved.sort(key=lambda row: -row["value"])
    for place, row in enumerate(moved, 1):
        row["place"] = place
