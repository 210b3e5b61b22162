"""Bounded reading: one file open at a time, and reopened before too much is mapped.

The pages of a mapped file count towards the resident memory of the process until the
mapping goes. A checkpoint that is read through one handle would therefore grow to its
full size in memory although each tensor is dropped after use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.weights import Entry

_LEAST = 8 << 20
_MOST = 64 << 20


class Handle(Protocol):
    """An open file that gives tensors by name."""

    def read(self, name: str) -> Tensor:
        """Tensor of that name, as stored."""


class WeightFile(Protocol):
    """A file that can be opened again and again."""

    path: Path
    # Whether tensors are mapped; where they are not, reopening would read all again.
    mapped: bool
    # Files that it names and that hold its values.
    beside: tuple[Path, ...]

    def open(self) -> Handle:
        """A fresh handle; CheckpointError if the file cannot be read."""

    def entries(self) -> list[Entry]:
        """Every tensor of the file; CheckpointError where it holds none."""


class Window:
    """The one open handle of a checkpoint, shared by all of its files.

    Resident at any time, beyond what the caller holds: ``max(bound, largest tensor)``
    bytes of mapped pages.
    """

    def __init__(self) -> None:
        self.bound = _MOST
        self._file: WeightFile | None = None
        self._handle: Handle | None = None
        self._bytes = 0

    def fit(self, largest: int) -> None:
        """Set the bound to the largest tensor, between 8 and 64 MiB.

        Args:
            largest: Bytes of the largest tensor of the checkpoint.
        """
        self.bound = min(max(largest, _LEAST), _MOST)

    def read(self, file: WeightFile, name: str, num_bytes: int) -> Tensor:
        """One tensor, through the open handle or a fresh one.

        Args:
            file: Where the tensor is.
            name: Its name in the file.
            num_bytes: Its size.

        Returns:
            The tensor as stored.

        Raises:
            CheckpointError: The file cannot give it.
        """
        full = file.mapped and self._bytes > 0 and self._bytes + num_bytes > self.bound
        if self._handle is None or self._file is not file or full:
            self.close()
            self._handle = file.open()
            self._file = file
        self._bytes += num_bytes
        try:
            return self._handle.read(name)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"every tensor of a checkpoint must be readable, {name} of "
                f"{file.path} is not ({first_line(error)}); fetch the file again"
            ) from error

    def close(self) -> None:
        """Drop the handle; tensors already given keep their own mapping."""
        self._handle = None
        self._file = None
        self._bytes = 0


class Unchanged:
    """Raises when a file is no longer the one that was listed.

    Reading past the end of a mapped file that has been cut short kills the process
    (SIGBUS), so size, time and inode are compared before every opening.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._now()

    def check(self) -> None:
        """Compare with the state at construction.

        Raises:
            CheckpointError: The file is gone or another one.
        """
        if self._now() != self._stamp:
            raise CheckpointError(
                f"a checkpoint must not change while it is read, {self._path} did; "
                "scan it again once it is complete"
            )

    def _now(self) -> tuple[int, int, int]:
        try:
            state = self._path.stat()
        except OSError as error:
            raise CheckpointError(
                f"a checkpoint must stay in place while it is read, {self._path} "
                f"cannot be found any more ({first_line(error)}); scan it again"
            ) from error
        return state.st_size, state.st_mtime_ns, state.st_ino


def first_line(error: BaseException, limit: int = 160) -> str:
    """First line of an error's message.

    Args:
        error: Any exception.
        limit: Longest result, in characters.

    Returns:
        The line, cut to ``limit``; the type's name where there is no message.
    """
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
