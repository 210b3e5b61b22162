"""A source measured: by which processes, within which limits, with what kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import final

import torch

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import Skip, WeightMatrix
from spectrank.scanning.measure import Rows, Settings
from spectrank.scanning.rows import skip_row
from spectrank.scanning.running.child import Reading
from spectrank.scanning.running.cluster import run_on_ray
from spectrank.scanning.running.jobs import Job, Outcome, plan_jobs, read, run
from spectrank.scanning.running.memory import admitted
from spectrank.scanning.running.processes import Processes
from spectrank.scanning.running.store import Store
from spectrank.table import as_path


@final
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


@final
@dataclass(frozen=True)
class Resources:
    """What a scan may use; none of it changes a number by more than rounding.

    Attributes:
        workers: Processes at a time; 1 for this one alone.
        resume: Folder of finished matrices.
        ray: Address of a Ray cluster.
        memory: Ceiling of the working memory of all matrices at once, in bytes.
        device: Where matrices are measured; None for where they are.
    """

    workers: int = 1
    resume: str | Path | None = None
    ray: str | None = None
    memory: int | None = None
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        self._check_types()
        for name, least in (("workers", 1), ("memory", 1)):
            x = getattr(self, name)
            if x is None:
                continue
            if not isinstance(x, int) or isinstance(x, bool):
                raise ArgumentTypeError(
                    f"{name} is a whole number, got {x!r}; leave it out for the default"
                )
            if x < least:
                raise DomainError(
                    f"{name} is at least {least}, got {x}; leave it out for the default"
                )
        if self.device is not None and (self.workers > 1 or self.ray is not None):
            raise DomainError(
                "workers and ray measure on the host, a device is used by one process, "
                f"got device={str(self.device)!r} with "
                + (f"workers={self.workers}" if self.workers > 1 else f"ray={self.ray}")
                + "; leave one of them out"
            )
        if self.ray is not None and self.workers > 1:
            raise DomainError(
                f"a cluster has its own workers, got workers={self.workers} with "
                f"ray={self.ray!r}; leave workers out"
            )
        _find_device(self.device)

    def _check_types(self) -> None:
        for name, kinds, example in (
            ("ray", str, "local"),
            ("device", str | torch.device, "cuda"),
        ):
            x = getattr(self, name)
            if x is not None and not isinstance(x, kinds):
                raise ArgumentTypeError(
                    f"{name} is text, got {x!r:.80} of type {type(x).__name__}; "
                    f"e.g. {name}={example!r}"
                )
        if self.resume is not None:
            as_path(self.resume, name="resume", example="finished")

    @property
    def remote(self) -> bool:
        """Whether other processes measure."""
        return self.workers > 1 or self.ray is not None

    @property
    def torch_device(self) -> torch.device | None:
        """The device, looked up."""
        return _find_device(self.device)


def _find_device(name: str | torch.device | None) -> torch.device | None:
    if name is None:
        return None
    try:
        device = torch.device(name)
        # Looks at it, and at whether it holds numbers: "meta" knows shapes alone.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise DomainError(
            f"device names one that torch can use here, got {str(name)!r} "
            f"({str(error).splitlines()[0]}); e.g. device='cpu'"
        ) from error
    return device


def run_all(
    weights: Sequence[WeightMatrix | Skip],
    settings: Settings,
    resources: Resources,
    *,
    reading: Reading | None,
    progress: Callable[[Progress], None] | None,
) -> tuple[list[Rows], list[str]]:
    """Measure every matrix of a source.

    Args:
        weights: Its tensors.
        settings: How to measure.
        resources: With what.
        reading: How other processes open it; None to send them the matrices.
        progress: Told before each job and at the end.

    Returns:
        Rows of each tensor in the order of the source, and warnings.
    """
    device = resources.torch_device
    store = (
        None if resources.resume is None else Store(resources.resume, settings, device)
    )
    jobs, refused = admitted(
        plan_jobs(weights, settings, device, resources.memory),
        settings,
        resources.memory,
    )
    tally = _Tally(weights, progress)
    found: dict[int, Rows] = {
        position: [skip_row(weight)]
        for position, weight in enumerate(weights)
        if isinstance(weight, Skip)
    }
    told: list[str] = []
    ends = _ends(jobs, settings, resources, reading, store, device, tally.started)
    # Closed whatever happens here, Ctrl-C included: no worker outlives the scan.
    with closing(ends):
        for job, outcome in chain(refused, ends):
            found |= zip(job.positions, outcome.rows, strict=True)
            told += outcome.warnings
            tally.ended(job)
    tally.finish()
    return [found[position] for position in range(len(weights))], told


def _ends(
    jobs: Sequence[Job],
    settings: Settings,
    resources: Resources,
    reading: Reading | None,
    store: Store | None,
    device: torch.device | None,
    started: Callable[[Job], None],
) -> Generator[tuple[Job, Outcome]]:
    """Jobs with their outcomes as they end, by the route that is asked for."""
    folder = None if store is None else store.folder
    memory = resources.memory
    if resources.ray is not None:
        yield from run_on_ray(
            jobs,
            settings,
            address=resources.ray,
            reading=reading,
            folder=folder,
            memory=memory,
            started=started,
        )
    elif resources.workers > 1:
        pool = Processes(settings, reading=reading, folder=folder, memory=memory)
        yield from pool.run(jobs, resources.workers, started)
    else:
        for job in jobs:
            started(job)
            yield job, run(job, read(job), settings, store=store, device=device)


class _Tally:
    """Counts matrices and entries for whoever watches."""

    def __init__(
        self,
        weights: Sequence[WeightMatrix | Skip],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        matrices = [w for w in weights if isinstance(w, WeightMatrix)]
        self._progress = progress
        self._all = len(matrices), sum(w.num_entries for w in matrices)
        self._done = self._entries = 0

    def started(self, job: Job) -> None:
        self._tell(job.weights[0].key)

    def ended(self, job: Job) -> None:
        self._done += len(job.weights)
        self._entries += job.num_entries

    def finish(self) -> None:
        self._tell(None)

    def _tell(self, name: str | None) -> None:
        if self._progress:
            count, entries = self._all
            self._progress(Progress(name, self._done, count, self._entries, entries))
