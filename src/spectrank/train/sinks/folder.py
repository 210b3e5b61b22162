"""A folder of numbered parts: its lock, its names, its parts put together."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from pathlib import Path
from typing import IO

import polars as pl

from spectrank.errors import SpectrankWarning, TableError
from spectrank.table import Table

with contextlib.suppress(ImportError):
    # Absent on Windows, where one writer is a promise.
    import fcntl

_PART = re.compile(r"part-(\d{6,})\.parquet")
_LEFTOVER = re.compile(r"\.part-\d{6,}\.parquet\.[0-9a-f]+\.tmp")
_LOCK = "writer.lock"


def lock_folder(folder: Path) -> IO[bytes]:
    """Make the folder and hold its lock, which dies with the process.

    Args:
        folder: Where parts will be written.

    Returns:
        The open lock file; ``unlock_folder`` gives it back.

    Raises:
        TableError: If the folder cannot be written or another writer holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / _LOCK).open("ab")
    except OSError as error:
        raise TableError(
            f"parts are written into a writable folder, got {folder} "
            f"({error.strerror or error}); choose another folder"
        ) from error
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise TableError(
            f"a folder of parts has one writer at a time, {folder} has one at work; "
            "close that sink or choose another folder"
        ) from error
    except (OSError, NameError):
        # Some network file systems have no locks: then one writer is a promise.
        pass
    return stream


def unlock_folder(stream: IO[bytes]) -> None:
    """Give a lock back, also where forked processes hold the file open.

    Args:
        stream: What ``lock_folder`` returned.
    """
    with contextlib.suppress(OSError, NameError):
        fcntl.flock(stream.fileno(), fcntl.LOCK_UN)
    stream.close()


def last_part(folder: Path, resume: bool) -> tuple[int, int]:
    """Return where a new session begins.

    Args:
        folder: Of the parts.
        resume: Whether parts may be there already.

    Returns:
        Number of the last part, 0 where there is none, and of the new session.

    Raises:
        TableError: If there are parts and ``resume`` is not set.
    """
    parts = parts_of(folder)
    if not parts:
        return 0, 1
    if not resume:
        raise TableError(
            f"a new run starts in a folder without parts, {folder} has {len(parts)}; "
            "pass resume=True to go on after them, or choose another folder"
        )
    number = max(parts)
    return number, int(Table.read(parts[number]).provenance.get("session", 1)) + 1


def parts_of(folder: Path) -> dict[int, Path]:
    """Return the whole parts of a folder by number."""
    return {
        int(name.split(".")[0][5:]): folder / name for name in _names(folder, _PART)
    }


def _names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise TableError(
            f"parts are read from a folder, got {folder} "
            f"({error.strerror or error}); check the path"
        ) from error
    return sorted(name for name in names if pattern.fullmatch(name))


def read_parts(folder: Path) -> Table:
    """Read all whole parts of a folder into one table, as `ParquetSink.read` says.

    Args:
        folder: Of the parts.

    Returns:
        All rows but those that a later session replaced.

    Raises:
        TableError: If there is no part, or one is missing or damaged.
    """
    parts = parts_of(folder)
    if not parts:
        raise TableError(
            f"a folder of parts has part-000001.parquet, {folder} has no part; "
            "check the path, or flush the sink that writes there"
        )
    missing = sorted(set(range(1, max(parts) + 1)) - set(parts))
    if missing:
        raise TableError(
            f"parts are numbered without a gap, part {missing[0]} of {folder} is "
            "missing; restore it, or read the others one by one with Table.read"
        )
    if leftovers := _names(folder, _LEFTOVER):
        _warn(
            f"{folder} has {len(leftovers)} unfinished part(s), first {leftovers[0]}: "
            "left by a killed writer or being written; not read"
        )
    table, num_replaced = _stacked([Table.read(parts[n]) for n in sorted(parts)])
    if not num_replaced:
        return table
    _warn(
        f"{num_replaced} rows of {folder} are replaced by those of a later session "
        "that repeats their steps; Table.read of each part has all"
    )
    return Table(table.frame, {**table.provenance, "num_rows_replaced": num_replaced})


def _warn(message: str) -> None:
    # At the caller of ParquetSink.read.
    warnings.warn(message, SpectrankWarning, stacklevel=4)


def synchronise(folder: Path) -> None:
    """Make the name of a new part survive a loss of power, where that can be asked."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _stacked(parts: list[Table]) -> tuple[Table, int]:
    """Stack parts; a later session's rows replace earlier ones from its first step."""
    kept: list[Table] = []
    # Of the sessions after the one at hand, and of that one itself.
    later: dict[str | None, int] = {}
    own: dict[str | None, int] = {}
    session, num_replaced = None, 0
    for part in reversed(parts):
        if part.provenance.get("session") != session:
            session = part.provenance.get("session")
            later, own = _earliest(later, own), {}
        own = _earliest(own, _first_steps(part))
        keep = pl.lit(True)
        for run, step in later.items():
            same = pl.col("run").eq_missing(pl.lit(run, dtype=pl.String))
            keep &= ~(same & (pl.col("step") >= step).fill_null(False))
        frame = part.frame.filter(keep)
        num_replaced += len(part) - frame.height
        kept.append(Table(frame, part.provenance))
    return Table.concat(kept[::-1]), num_replaced


def _first_steps(part: Table) -> dict[str | None, int]:
    """Return the first step of each run of a part."""
    first = part.frame.drop_nulls("step").group_by("run").agg(pl.col("step").min())
    return dict(first.iter_rows())


def _earliest(
    a: dict[str | None, int], b: dict[str | None, int]
) -> dict[str | None, int]:
    return {
        run: min(x for x in (a.get(run), b.get(run)) if x is not None)
        for run in {**a, **b}
    }
