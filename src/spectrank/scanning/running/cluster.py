"""Jobs as tasks of a Ray cluster; the numbers are those of worker processes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spectrank.errors import DomainError
from spectrank.extras import need
from spectrank.model.weights import nothing_to_load
from spectrank.scanning.measure import Settings
from spectrank.scanning.running.child import Failure, Reading, answer
from spectrank.scanning.running.jobs import Job, Outcome, read
from spectrank.scanning.running.memory import fits
from spectrank.scanning.running.packing import Packed, pack, unpack
from spectrank.scanning.running.store import Store

# Tasks that wait for each processor, so that none idles while results come in.
_AHEAD = 2
# Seconds until an address that says nothing counts as no cluster.
_PATIENCE = 10.0


def run_on_ray(
    jobs: Sequence[Job],
    settings: Settings,
    *,
    address: str,
    reading: Reading | None,
    folder: Path | None,
    memory: int | None,
    started: Callable[[Job], None],
) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs as tasks, one processor each; Ray repeats a task whose node is lost.

    Files and the folder of finished matrices must have the same paths on every node.

    Args:
        jobs: What to run.
        settings: How to measure.
        address: As `ray.init` takes it; ``local`` for a cluster on this machine.
        reading: How tasks open the source; None to send them the matrices.
        folder: Of finished matrices.
        memory: Ceiling in bytes of the working memory of all tasks at once.
        started: Told of each job as it is handed over.

    Yields:
        Jobs with their outcomes, as they end.

    Raises:
        MissingExtraError: If Ray is not installed.
        DomainError: If no cluster answers at the address.
    """  # noqa: DOC502
    ray = need("ray", "a scan on a cluster")
    own = not ray.is_initialized()
    if own:
        _join(ray, address)
    try:
        task = ray.remote(num_cpus=1)(_task)
        most = _AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        pending = sorted(jobs, key=lambda job: -job.num_entries)
        running: dict[Any, Job] = {}
        while pending or running:
            while len(running) < most:
                among = running.values()
                job = next(
                    (j for j in pending if fits(j, among, settings, memory)), None
                )
                if job is None:
                    break
                pending.remove(job)
                started(job)
                packed = _packed(job, reading)
                running[task.remote(packed, settings, reading, folder)] = job
            (done,), _ = ray.wait(list(running))
            outcome: Outcome | Failure = ray.get(done)
            if isinstance(outcome, Failure):
                raise outcome.error
            yield running.pop(done), outcome
    finally:
        if own:
            ray.shutdown()


def _join(ray: Any, address: str) -> None:
    """Join a cluster, or say at once that there is none: Ray asks for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdecimal():
            where = (host.strip("[]"), int(port))
            socket.create_connection(where, timeout=_PATIENCE).close()
        ray.init(address=address, log_to_driver=False, include_dashboard=None)
    except (OSError, RuntimeError, ValueError) as error:
        raise DomainError(
            f"ray is the address of a cluster that answers, got {address!r} ({error}); "
            "start one with `ray start --head`, or pass 'local' for this machine"
        ) from error


def _packed(job: Job, reading: Reading | None) -> Packed:
    light = tuple(replace(w, load=nothing_to_load, take=None) for w in job.weights)
    values = None if reading else read(job)
    return pack((replace(job, weights=light), values))


def _task(
    packed: Packed, settings: Settings, reading: Reading | None, folder: Path | None
) -> Outcome | Failure:
    torch.set_num_threads(1)
    job, values = unpack(packed)
    store = None if folder is None else Store(folder, settings)
    weights = None if reading is None else reading.weights()
    return answer(job, values, weights, settings, store)
