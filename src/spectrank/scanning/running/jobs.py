"""Jobs: what is measured in one go, and how one is run, wherever that is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.linalg.batched import spectra
from spectrank.linalg.implicit import Operand
from spectrank.model import Skip, WeightMatrix
from spectrank.scanning.measure import (
    Rows,
    Settings,
    operand_rows,
    spectrum_rows,
)
from spectrank.scanning.rows import lost_row, unread_row
from spectrank.scanning.running.store import Store

# Below this order and size one call of LAPACK costs less than what is around it.
_SMALL_SIDE, _SMALL_ENTRIES = 128, 1 << 16
# Matrices of a batch, and its entries: 32 MiB in float64, 512 MiB where a device
# was named.
_JOB_MATRICES, _JOB_ENTRIES, _DEVICE_ENTRIES = 256, 1 << 22, 1 << 26


@final
@dataclass(frozen=True)
class Job:
    """One matrix, or small ones of one shape that are measured as a batch.

    Attributes:
        positions: Of the matrices among the tensors of the source.
        weights: The matrices.
    """

    positions: tuple[int, ...]
    weights: tuple[WeightMatrix, ...]

    @property
    def num_entries(self) -> int:
        """Stored entries of all of them."""
        return sum(w.num_entries for w in self.weights)


@final
@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        rows: Rows of each matrix, in the job's order.
        warnings: What is to be told, once, in the process of the caller.
    """

    rows: tuple[Rows, ...]
    warnings: tuple[str, ...] = ()


def plan_jobs(
    weights: Sequence[WeightMatrix | Skip],
    settings: Settings,
    device: torch.device | None = None,
    memory: int | None = None,
) -> list[Job]:
    """Return the jobs of a source; how many run at once changes none of them.

    Args:
        weights: Tensors of the source.
        settings: How they are measured.
        device: Where, if it was asked for.
        memory: Ceiling in bytes that a batch leaves room under; None for none.

    Returns:
        Jobs, each at the place of its first matrix.
    """
    groups: dict[Any, list[tuple[int, WeightMatrix]]] = {}
    for position, weight in enumerate(weights):
        if isinstance(weight, Skip):
            continue
        # What is never formed has a route of its own, and no shape in common.
        batched = weight.stored is None and _batched(weight.shape, settings, device)
        key = weight.shape if batched else position
        groups.setdefault(key, []).append((position, weight))
    most = _JOB_ENTRIES if device is None else _DEVICE_ENTRIES
    if memory is not None:
        most = min(most, memory // 64)
    jobs = [job for group in groups.values() for job in _cut(group, most)]
    return sorted(jobs, key=lambda job: job.positions)


def _batched(
    shape: tuple[int, int], settings: Settings, device: torch.device | None
) -> bool:
    """Whether matrices of a shape are measured together."""
    # Small ones are; where a device was named and all values are wanted, all but huge
    # ones. Norms alone come faster by products with one matrix at a time.
    m, n = shape
    if settings.certify == "deterministic" or m * n == 0:
        return False
    if min(m, n) <= _SMALL_SIDE and m * n <= _SMALL_ENTRIES:
        return True
    whole = bool(settings.needs & {"sigma", "small_end"})
    return device is not None and whole and m * n <= _DEVICE_ENTRIES


def _cut(group: Sequence[tuple[int, WeightMatrix]], most: int) -> Iterable[Job]:
    entries = max(group[0][1].shape[0] * group[0][1].shape[1], 1)
    size = max(min(_JOB_MATRICES, most // entries), 1)
    for start in range(0, len(group), size):
        part = group[start : start + size]
        yield Job(tuple(p for p, _ in part), tuple(w for _, w in part))


def read(job: Job) -> list[Operand | CheckpointError]:
    """Return the matrices of a job, or why they could not be read.

    Args:
        job: What to read.

    Returns:
        A matrix or an error for each.
    """
    found: list[Operand | CheckpointError] = []
    for weight in job.weights:
        try:
            found.append(weight.operand())
        except CheckpointError as error:
            found.append(error)
    return found


def run(
    job: Job,
    operands: Sequence[Operand | CheckpointError],
    settings: Settings,
    *,
    store: Store | None = None,
    device: torch.device | None = None,
) -> Outcome:
    """Measure a job, or give what the store has of it.

    Args:
        job: What it is.
        operands: What `read` gave.
        settings: How to measure.
        store: Of finished jobs; None to measure anew and keep nothing.
        device: Where to measure; None for where the matrices are.

    Returns:
        Rows of each matrix; one that could not be read has one that says so.
    """
    read_well = [
        (weight, operand)
        for weight, operand in zip(job.weights, operands, strict=True)
        if not isinstance(operand, CheckpointError)
    ]
    measured: list[Rows] = []
    told: tuple[str, ...] = ()
    if read_well:
        weights, values = zip(*read_well, strict=True)
        views = [weight.view for weight in weights]
        key = store.key(values, views) if store else None
        part = store.get(key, weights) if store and key else None
        if part is None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    measured = _measure(weights, values, settings, device)
                except (MemoryError, RuntimeError) as error:
                    # The other matrices need less; next time there may be more.
                    store, measured = None, _out_of_memory(weights, error)
            told = tuple(dict.fromkeys(str(w.message) for w in caught))
            if store and key:
                store.put(key, measured, told)
        else:
            measured, told = part
    rest = iter(measured)
    rows = tuple(
        [unread_row(weight, operand)]
        if isinstance(operand, CheckpointError)
        else next(rest)
        for weight, operand in zip(job.weights, operands, strict=True)
    )
    return Outcome(rows, told)


def _out_of_memory(weights: Sequence[WeightMatrix], error: Exception) -> list[Rows]:
    """Rows of matrices that memory was too small for; any other error is one."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    if not isinstance(error, kinds) and "allocate" not in str(error):
        raise error
    first = next(iter(str(error).splitlines()), type(error).__name__)
    reason = f"could not be measured: memory ran out ({first}); give it more"
    return [[lost_row(weight, reason)] for weight in weights]


def _measure(
    weights: Sequence[WeightMatrix],
    operands: Sequence[Operand],
    settings: Settings,
    device: torch.device | None,
) -> list[Rows]:
    moved = [x if device is None else _to(x, device) for x in operands]
    tensors = [x for x in moved if isinstance(x, Tensor)]
    batched = len(tensors) == len(moved) and _batched(
        weights[0].shape, settings, device
    )
    if not batched:
        pairs = zip(weights, moved, strict=True)
        return [operand_rows(weight, x, settings) for weight, x in pairs]
    found = spectra(tensors, settings.needs)
    return [
        spectrum_rows(weight, x, s, settings)
        for weight, x, s in zip(weights, tensors, found, strict=True)
    ]


def _to(operand: Operand, device: torch.device) -> Operand:
    if isinstance(operand, Tensor):
        return operand.to(device)
    names = [field.name for field in fields(operand)]  # type: ignore[arg-type]
    tensors = {
        name: value.to(device)
        for name in names
        if isinstance(value := getattr(operand, name), Tensor)
    }
    return replace(operand, **tensors)  # type: ignore[type-var]
