"""What a sink is, and the one that keeps rows in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self, final

from spectrank.errors import ArgumentTypeError, DomainError, TableError
from spectrank.table import Table

# Batches that are joined into one Table before they are too many.
MANY_BATCHES = 256


class Sink(ABC):
    """Takes the rows of a run, batch by batch, in the order of the steps.

    Subclasses write ``append``; ``flush`` and ``close`` where they hold anything back.
    A sink is a context manager that closes at the end.
    """

    @abstractmethod
    def append(self, rows: Table) -> None:
        """Take a batch of rows.

        Args:
            rows: With their columns and provenance; iterate it for mappings.
        """

    def flush(self) -> None:
        """Make everything taken so far safe; nothing to do where append does that."""
        return

    def close(self) -> None:
        """Flush and give back what is held; twice does no harm."""
        self.flush()

    def table(self) -> Table:
        """Return all rows taken, where the sink can give them back.

        Raises:
            TableError: If it cannot.
        """
        raise TableError(
            f"a table is read from a MemorySink or a ParquetSink, "
            f"{type(self).__name__} does not give rows back; use one of these"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@final
class MemorySink(Sink):
    """Keeps rows in memory, all of them or the last ones.

    Args:
        max_rows: Oldest batches are dropped above this number, which the provenance
            then tells as ``num_rows_dropped``; None keeps all.

    Example:
        >>> row = {"kind": "measurement", "subject": "fc", "metric": "stable_rank"}
        >>> sink = MemorySink()
        >>> sink.append(Table.from_rows([row]))
        >>> len(sink.table())
        1
    """

    def __init__(self, *, max_rows: int | None = None) -> None:
        if max_rows is not None:
            check_count("max_rows", max_rows)
        self._max_rows = max_rows
        self._batches: list[Table] = []
        self._num_rows = self._dropped = 0

    def append(self, rows: Table) -> None:
        """Take a batch of rows.

        Args:
            rows: Kept as it is.
        """
        self._batches.append(rows)
        self._num_rows += len(rows)
        if len(self._batches) > MANY_BATCHES and self._max_rows is None:
            self._batches = [Table.concat(self._batches)]
        while (
            self._max_rows is not None
            and len(self._batches) > 1
            and self._num_rows > self._max_rows
        ):
            oldest = len(self._batches.pop(0))
            self._num_rows -= oldest
            self._dropped += oldest

    def table(self) -> Table:
        """Return the rows kept; an empty table where there are none."""
        if not self._batches:
            return Table.from_rows([])
        table = Table.concat(self._batches)
        if not self._dropped:
            return table
        note = {**table.provenance, "num_rows_dropped": self._dropped}
        return Table(table.frame, note)


def check_count(name: str, value: object) -> None:
    """Refuse what is no positive whole number.

    Args:
        name: Of the argument, for the message.
        value: What was given.

    Raises:
        ArgumentTypeError: If it is no whole number.
        DomainError: If it is below one.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentTypeError(
            f"{name} is a whole number, got {value!r}; leave it out for the default"
        )
    if value < 1:
        raise DomainError(
            f"{name} must be at least 1, got {value}; leave it out for the default"
        )
