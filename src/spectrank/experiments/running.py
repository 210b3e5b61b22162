"""Running the claims of a paper, part by part, with a cache that resumes."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, final

from spectrank.errors import SpectrankWarning, TableError
from spectrank.experiments.claims import COLUMNS
from spectrank.experiments.data import DataError
from spectrank.experiments.papers import Mode, Paper, Part, check_mode, get_paper
from spectrank.experiments.verdicts import not_applicable
from spectrank.extras import MissingExtraError
from spectrank.scanning.provenance import environment
from spectrank.table import Table

# Raised when an algorithm here changes a number that settings do not show.
_REVISION = 3


@final
@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        part: The part being run; empty at the end.
        num_done: Steps done.
        num_steps: Steps in all.
    """

    part: str
    num_done: int
    num_steps: int


def reproduce(
    key: str,
    mode: Mode = "quick",
    *,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Table:
    """Put the claims of a paper to the test.

    A part whose data is not there gives rows ``not_applicable`` with the reason and a
    warning; if no part could run, the first reason is raised.

    Args:
        key: Of the paper, as `list_papers` has it.
        mode: ``quick`` (bundled data, a few minutes) or ``full``.
        seed: Base seed; every point and replicate derives its own from it.
        cache: Folder that keeps the result of each part, so that a run that was cut
            resumes after the last whole part; made if it does not exist.
        progress: Called after each step.

    Returns:
        Rows of kind ``claim`` and the rows of their figures.

    Raises:
        UnknownNameError: There is no such paper.
        DomainError: There is no such mode.
        TableError: The cache cannot be written.
        DataError: No data is there.
        MissingExtraError: An optional library is missing.

    Example:
        >>> from spectrank.experiments import get_paper
        >>> paper = get_paper("georgiev2021stable")
        >>> paper.claims("quick")[0].relation_text
        'within 0.1 of 1'
    """  # noqa: DOC502
    paper, mode = get_paper(key), check_mode(mode)
    parts = paper.parts(mode)
    folder = _folder(cache)
    origin = environment()
    started = time.perf_counter()
    num_steps = sum(part.num_steps for part in parts)
    tables: list[Table] = []
    skipped: list[DataError | MissingExtraError] = []
    done = 0
    for part in parts:
        counter = _Counter(part.name, done, num_steps, progress)
        counter.show()
        try:
            tables.append(_run(paper, part, mode, seed, folder, counter.tick))
        except (DataError, MissingExtraError) as error:
            skipped.append(error)
            tables.append(_skipped(part, error))
        done += part.num_steps
    if len(skipped) == len(parts):
        raise skipped[0]
    for reason in dict.fromkeys(map(str, skipped)):
        warnings.warn(f"claims are left out: {reason}", SpectrankWarning, stacklevel=2)
    if progress is not None:
        progress(Progress("", num_steps, num_steps))
    seconds = time.perf_counter() - started
    return _joined(paper, tables, origin, mode=mode, seed=seed, seconds=seconds)


@final
class _Counter:
    """Counts the steps of one part for the caller's progress."""

    def __init__(
        self,
        part: str,
        done: int,
        num_steps: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._part, self._done, self._num_steps = part, done, num_steps
        self._progress = progress

    def tick(self) -> None:
        self._done += 1
        self.show()

    def show(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self._part, self._done, self._num_steps))


def _run(
    paper: Paper,
    part: Part,
    mode: Mode,
    seed: int,
    folder: Path | None,
    tick: Callable[[], None],
) -> Table:
    path = None
    if folder is not None:
        path = folder / f"{part.name}-{_fingerprint(paper, part, mode, seed)}.parquet"
        if (kept := _kept(path)) is not None:
            return kept
    # A cached part may come from another machine and day.
    origin = environment()
    made = {name: origin[name] for name in ("started", "platform", "num_threads")}
    started = time.perf_counter()
    result = part.run(seed, tick)
    answered = {row["subject"] for row in result.rows if row["kind"] == "claim"}
    assert answered == {claim.key for claim in part.claims}, part.name
    table = Table.from_rows(
        result.rows,
        columns=COLUMNS,
        provenance={
            "figures": _plain(result.figures),
            "data": _plain(result.data),
            "parts": [
                {
                    "name": part.name,
                    "seconds": round(time.perf_counter() - started, 3),
                    "settings": dict(part.settings),
                    **made,
                }
            ],
        },
    )
    if path is not None:
        table.write(path)
    return table


def _skipped(part: Part, error: Exception) -> Table:
    rows = [not_applicable(claim, str(error)) for claim in part.claims]
    note = {"parts": [{"name": part.name, "settings": dict(part.settings)}]}
    return Table.from_rows(rows, columns=COLUMNS, provenance=note)


def _folder(cache: str | Path | None) -> Path | None:
    if cache is None:
        return None
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(
            f"the cache is a folder that can be made and written, got {folder} "
            f"({error.strerror or error}); choose another"
        ) from error
    return folder


def _fingerprint(paper: Paper, part: Part, mode: Mode, seed: int) -> str:
    """Return what tells a part's result from that of any other run."""
    identity = {
        "paper": paper.key,
        "part": part.name,
        "mode": mode,
        "seed": seed,
        "settings": part.settings,
        "claims": [asdict(claim) for claim in part.claims],
        "versions": [version(name) for name in ("spectrank", "torch", "numpy")],
        "revision": _REVISION,
    }
    text = json.dumps(identity, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kept(path: Path) -> Table | None:
    if not path.is_file():
        return None
    try:
        table = Table.read(path)
    except TableError as error:
        warnings.warn(
            f"a cached part is run again because it cannot be read: {error}",
            SpectrankWarning,
            stacklevel=4,
        )
        return None
    parts = [{**entry, "cached": True} for entry in table.provenance["parts"]]
    return Table(table.frame, {**table.provenance, "parts": parts})


def _joined(
    paper: Paper,
    tables: list[Table],
    origin: Mapping[str, Any],
    *,
    mode: Mode,
    seed: int,
    seconds: float,
) -> Table:
    """Return one Table of all parts with the provenance of the run."""
    notes = [table.provenance for table in tables]
    provenance = {
        **origin,
        "versions": {**origin["versions"], **_optional_versions()},
        "paper": {
            "key": paper.key,
            "title": paper.title,
            "authors": paper.authors,
            "identifier": paper.identifier,
        },
        "mode": mode,
        "seed": seed,
        "seconds": round(seconds, 3),
        "figures": {k: v for note in notes for k, v in note.get("figures", {}).items()},
        "data": {k: v for note in notes for k, v in note.get("data", {}).items()},
        "parts": [entry for note in notes for entry in note["parts"]],
    }
    rows = [row for table in tables for row in table]
    return Table.from_rows(rows, columns=COLUMNS, provenance=provenance)


def _optional_versions() -> dict[str, str]:
    found = {}
    for name in ("scikit-learn", "optuna", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(mapping: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {key: dict(value) for key, value in mapping.items()}
