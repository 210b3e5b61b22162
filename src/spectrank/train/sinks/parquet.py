"""A sink on disk: Parquet parts, each whole or not there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO, final

from spectrank.errors import SpectrankWarning, TableError
from spectrank.table import Table
from spectrank.train.sinks.base import MANY_BATCHES, Sink, check_count
from spectrank.train.sinks.folder import (
    last_part,
    lock_folder,
    read_parts,
    synchronise,
    unlock_folder,
)


@final
class ParquetSink(Sink):
    """Writes numbered Parquet parts into a folder, each whole or not at all.

    A part is written beside its place, synchronised and moved there, and carries
    schema and provenance; a kill loses at most the open part, the rows since the last
    one. One writer a folder: a second one is refused for as long as the first lives.

    A disk that fails while a run goes on does not end the run: the first failure
    warns, the rows stay in memory up to ``max_rows_held`` and each later part tries
    again; above that the oldest rows are dropped and counted. ``close`` raises where
    rows could not be written after all.

    Args:
        folder: Made where it does not exist.
        rows_per_part: A part is written when it has this many rows.
        steps_per_part: Also when it spans this many values of ``step``.
        resume: Go on after the parts that are there; else a folder with parts is
            refused.
        max_rows_held: Most rows kept while the disk fails.

    Raises:
        TableError: If the folder cannot be written, has another writer, or has parts
            and ``resume`` is not set.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rows_per_part: int = 10_000,
        steps_per_part: int | None = None,
        resume: bool = False,
        max_rows_held: int = 1_000_000,
    ) -> None:
        check_count("rows_per_part", rows_per_part)
        check_count("max_rows_held", max_rows_held)
        if steps_per_part is not None:
            check_count("steps_per_part", steps_per_part)
        self._folder = Path(folder)
        self._rows_per_part = rows_per_part
        self._steps_per_part = steps_per_part
        self._max_rows_held = max_rows_held
        self._open: list[Table] = []
        self._num_open = self._since_try = self._dropped = 0
        self._steps: list[int] = []
        self._failed = self._closed = False
        self._lock: IO[bytes] | None = lock_folder(self._folder)
        try:
            self._number, self._session = last_part(self._folder, resume)
        except TableError:
            self._unlock()
            raise

    def append(self, rows: Table) -> None:
        """Take a batch of rows; a batch is never split over two parts.

        Args:
            rows: Written with the next part.

        Raises:
            TableError: If the sink is closed.
        """
        if self._closed:
            raise TableError(
                f"rows are appended to an open sink, that of {self._folder} is "
                "closed; make a new one with resume=True"
            )
        self._open.append(rows)
        self._num_open += len(rows)
        self._since_try += len(rows)
        self._steps = _range([*self._steps, *_steps(rows)])
        if len(self._open) > MANY_BATCHES:
            self._open = [Table.concat(self._open)]
        if self._is_full():
            self._write()

    def flush(self) -> None:
        """Write the open part now, however short; warns where the disk fails."""
        # A closed sink has given its lock back: the next part may be another writer's.
        if self._num_open and not self._closed:
            self._write()

    def close(self) -> None:
        """Write the open part and let other writers in.

        Raises:
            TableError: If rows are left that could not be written.
        """
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._unlock()
        if self._num_open or self._dropped:
            raise TableError(
                f"every row is written before a sink closes, {self._num_open} rows of "
                f"{self._folder} could not be and {self._dropped} were dropped; make "
                "room on the disk: what is held is still in .unwritten()"
            )

    def unwritten(self) -> Table:
        """Return the rows of the open part, not on disk yet."""
        return Table.concat(self._open) if self._open else Table.from_rows([])

    def table(self) -> Table:
        """Write the open part and read all parts back."""
        self.flush()
        table = self.read(self._folder)
        return Table.concat([table, *self._open]) if self._open else table

    @staticmethod
    def read(folder: str | Path) -> Table:
        """Read all whole parts of a folder, in order.

        Leftovers of a killed writer are named in a warning and not read. Where a
        resumed session repeats steps of the same ``run``, its rows replace those of
        the sessions before it from its first step on: a warning tells, and the
        provenance counts them as ``num_rows_replaced``. The parts keep all rows.

        Args:
            folder: Where a ParquetSink wrote; a writer may still be at work.

        Returns:
            One table; the provenance of sessions that differ is under ``sources``.

        Raises:
            TableError: If there is no part, one is missing from the sequence, or one
                is damaged.
        """  # noqa: DOC502 - raised by the function called
        return read_parts(Path(folder))

    def _is_full(self) -> bool:
        # Of the rows since the last try: a failing disk is not tried at every batch.
        if self._since_try >= self._rows_per_part:
            return True
        if self._steps_per_part is None or not self._steps or self._failed:
            return False
        return self._steps[-1] - self._steps[0] + 1 >= self._steps_per_part

    def _write(self) -> None:
        self._since_try = 0
        part = Table.concat(self._open)
        note = {**part.provenance, "session": self._session}
        if self._dropped:
            note["num_rows_dropped"] = self._dropped
        path = self._folder / f"part-{self._number + 1:06d}.parquet"
        try:
            Table(part.frame, note).write(path)
        except TableError as error:
            self._keep(part, error)
            return
        synchronise(self._folder)
        self._number += 1
        self._open, self._num_open, self._steps = [], 0, []
        self._dropped, self._failed = 0, False

    def _keep(self, part: Table, error: TableError) -> None:
        if not self._failed:
            warnings.warn(
                f"{error}; the run goes on: up to {self._max_rows_held} rows stay in "
                "memory and writing is tried again",
                SpectrankWarning,
                stacklevel=4,
            )
        self._failed = True
        over = max(len(part) - self._max_rows_held, 0)
        self._dropped += over
        self._open = [Table(part.frame.slice(over), part.provenance)]
        self._num_open = len(self._open[0])

    def _unlock(self) -> None:
        if self._lock is not None:
            unlock_folder(self._lock)
            self._lock = None


def _steps(rows: Table) -> list[int]:
    """Return the least and the largest step; nothing where no row has one."""
    ends = [rows.frame["step"].min(), rows.frame["step"].max()]
    return [end for end in ends if isinstance(end, int)]


def _range(steps: list[int]) -> list[int]:
    return [min(steps), max(steps)] if steps else []
