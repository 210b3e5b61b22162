"""Jobs in worker processes: largest first, within a ceiling of memory.

A worker that dies is replaced and its job run once more; a job that two workers died
of is given up, with rows that say so, and the rest goes on.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from spectrank.errors import SpectrankError
from spectrank.model.weights import nothing_to_load
from spectrank.scanning.measure import Settings
from spectrank.scanning.rows import lost_row
from spectrank.scanning.running.child import Failure, Reading, serve
from spectrank.scanning.running.jobs import Job, Outcome, read
from spectrank.scanning.running.memory import fits
from spectrank.scanning.running.packing import send

_TRIES = 2


class WorkerError(SpectrankError, RuntimeError):
    """Worker processes cannot be started."""


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    ready: bool = False


class Processes:
    """Workers and the jobs they have; a context manager that leaves none behind."""

    def __init__(
        self,
        settings: Settings,
        *,
        reading: Reading | None,
        folder: Path | None,
        memory: int | None,
        context: str = "spawn",
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            settings: How to measure.
            reading: How workers open the source; None to send them the matrices.
            folder: Of finished matrices.
            memory: Ceiling in bytes of the working memory of all jobs at once.
            context: How processes start. A forked one inherits threads' locks and may
                hang, so only what knows that it has no threads asks for it.
        """
        self._settings = settings
        self._reading = reading
        self._folder = folder
        self._memory = memory
        self._context = multiprocessing.get_context(context)
        self._workers: list[_Worker] = []
        self._tries: dict[tuple[int, ...], int] = {}

    def run(
        self, jobs: Sequence[Job], workers: int, started: Callable[[Job], None]
    ) -> Iterator[tuple[Job, Outcome]]:
        """Run all jobs.

        Args:
            jobs: What to run; each fits under the ceiling alone.
            workers: Processes at a time.
            started: Told of each job as it begins.

        Yields:
            Jobs with their outcomes, as they end.

        Raises:
            WorkerError: If workers cannot be started.
        """  # noqa: DOC502
        # The largest first: else the last one runs alone.
        pending = sorted(jobs, key=lambda job: -job.num_entries)
        try:
            self._workers = [self._start() for _ in range(min(workers, len(jobs)))]
            while pending or self._running:
                self._give(pending, started)
                ends = [w.connection for w in self._workers]
                for end in wait(ends):
                    worker = next(w for w in self._workers if w.connection is end)
                    done = self._hear(worker, pending)
                    if done is not None:
                        yield done
        finally:
            self._stop()

    @property
    def _running(self) -> list[Job]:
        return [w.job for w in self._workers if w.job is not None]

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        arguments = (there, self._settings, self._reading, self._folder)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=serve, args=arguments, daemon=True
        )
        with _deaf_to_interrupts():
            process.start()
        # Else the end of the worker would never be seen.
        there.close()
        return _Worker(process, here)

    def _give(self, pending: list[Job], started: Callable[[Job], None]) -> None:
        """Give idle workers the first jobs that fit under the ceiling."""
        for worker in [w for w in self._workers if w.ready and w.job is None]:
            job = next(filter(self._fits, pending), None)
            if job is None:
                return
            pending.remove(job)
            worker.job = job
            if job.positions not in self._tries:
                started(job)
            self._tries[job.positions] = self._tries.get(job.positions, 0) + 1
            light = tuple(
                replace(w, load=nothing_to_load, take=None) for w in job.weights
            )
            values = None if self._reading else read(job)
            try:
                send(worker.connection, (replace(job, weights=light), values))
            except OSError:
                # It died; `wait` will find its end closed.
                continue

    def _fits(self, job: Job) -> bool:
        return fits(job, self._running, self._settings, self._memory)

    def _hear(self, worker: _Worker, pending: list[Job]) -> tuple[Job, Outcome] | None:
        """Take what a worker says, or see to it that it is dead."""
        try:
            answer: Outcome | Failure | None = worker.connection.recv()
        except (EOFError, OSError):
            return self._bury(worker, pending)
        if isinstance(answer, Failure):
            raise answer.error
        if answer is None:
            worker.ready = True
            return None
        job, worker.job = worker.job, None
        assert job is not None
        return job, answer

    def _bury(self, worker: _Worker, pending: list[Job]) -> tuple[Job, Outcome] | None:
        worker.process.join()
        how = _how(worker.process.exitcode)
        if not worker.ready:
            raise WorkerError(
                f"workers must start, one {how} before it was ready; call scan under "
                "`if __name__ == '__main__':` in a script, or leave workers at 1"
            )
        self._workers[self._workers.index(worker)] = self._start()
        worker.connection.close()
        job = worker.job
        if job is None:
            return None
        if self._tries[job.positions] < _TRIES:
            pending.insert(0, job)
            return None
        reason = (
            f"could not be measured: {_TRIES} processes that tried {how}; give it more "
            "memory, or fewer workers"
        )
        rows = tuple([lost_row(w, reason)] for w in job.weights)
        return job, Outcome(rows)

    def _stop(self) -> None:
        for worker in self._workers:
            # What is still at work is not wanted any more.
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
            worker.process.close()
        self._workers = []


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C reaches the whole group: who starts in here leaves it to the parent.

    Until a worker ignores it of itself, it would die with a traceback of its imports.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It unblocks the signal when it starts, so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        # What came meanwhile comes now.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return f"was killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"was killed by signal {-exitcode}"
    return f"ended with exit code {exitcode}"
