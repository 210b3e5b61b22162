"""A worker process: measures the jobs it is sent until there are no more."""

from __future__ import annotations

import contextlib
import pickle
import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final

import torch

from spectrank.errors import CheckpointError
from spectrank.linalg.implicit import Operand
from spectrank.model import Skip, WeightMatrix, iter_weights
from spectrank.scanning.measure import Settings
from spectrank.scanning.running.jobs import Job, Outcome, read, run
from spectrank.scanning.running.packing import receive
from spectrank.scanning.running.store import Store

Values = list[Operand | CheckpointError]


@final
@dataclass(frozen=True)
class Reading:
    """A source that every process can open for itself.

    Attributes:
        path: File or folder.
        options: How `iter_weights` was called on it.
    """

    path: str
    options: Mapping[str, Any]

    def weights(self) -> list[WeightMatrix | Skip]:
        """Return its tensors, in the order of every other process."""
        return list(iter_weights(self.path, **self.options))


@final
@dataclass(frozen=True)
class Failure:
    """An exception that a job raised in a worker.

    Attributes:
        error: The exception, or one with its text where it cannot be sent.
    """

    error: Exception


def serve(
    connection: Connection,
    settings: Settings,
    reading: Reading | None,
    folder: Path | None,
) -> None:
    """Measure jobs until the other end closes or sends None.

    Args:
        connection: Gives (job, its matrices or None to read them here).
        settings: How to measure.
        reading: What jobs without matrices are read from.
        folder: Of finished matrices.
    """
    # Ctrl-C reaches the whole group; the parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        try:
            store = None if folder is None else Store(folder, settings)
            weights = None if reading is None else _weights(reading)
        except Exception as error:
            connection.send(Failure(portable(error)))
            return
        connection.send(None)
        while (message := receive(connection)) is not None:
            job, values = message
            connection.send(answer(job, values, weights, settings, store))


def answer(
    job: Job,
    values: Values | None,
    weights: list[WeightMatrix | Skip] | CheckpointError | None,
    settings: Settings,
    store: Store | None,
) -> Outcome | Failure:
    """Run a job, whatever becomes of it.

    A source that changed since the parent opened it has rows that say so, as in one
    process.

    Args:
        job: What to measure.
        values: Its matrices; None to read them here.
        weights: Tensors of the source, where they are read here; or why they cannot.
        settings: How to measure.
        store: Of finished matrices.

    Returns:
        Its rows, or the exception that it raised.
    """
    try:
        if values is None:
            values = _read_here(job, weights or [])
        return run(job, values, settings, store=store)
    except Exception as error:
        return Failure(portable(error))


def _weights(reading: Reading) -> list[WeightMatrix | Skip] | CheckpointError:
    try:
        return reading.weights()
    except CheckpointError as error:
        return error


def _read_here(
    job: Job, weights: list[WeightMatrix | Skip] | CheckpointError
) -> Values:
    try:
        if isinstance(weights, CheckpointError):
            raise weights
        return read(Job(job.positions, _found(job, weights)))
    except CheckpointError as error:
        return [error for _ in job.weights]


def _found(job: Job, weights: list[WeightMatrix | Skip]) -> tuple[WeightMatrix, ...]:
    """Return the matrices of a job as this process reads them."""
    found = []
    for position, wanted in zip(job.positions, job.weights, strict=True):
        here = weights[position] if position < len(weights) else None
        if not isinstance(here, WeightMatrix) or (here.name, here.view, here.shape) != (
            wanted.name,
            wanted.view,
            wanted.shape,
        ):
            raise CheckpointError(
                "a checkpoint must not change while it is read, "
                f"{wanted.name} is not where it was; scan it again"
            )
        found.append(here)
    return tuple(found)


def portable(error: Exception) -> Exception:
    """Return an exception that survives the way to the parent, with its traceback.

    Args:
        error: As raised.

    Returns:
        The same, or a RuntimeError with its text.
    """
    text = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker process:\n{text}")
    return error
