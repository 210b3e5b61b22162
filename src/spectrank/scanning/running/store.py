"""Finished matrices in a folder, so that a killed scan goes on where it was.

A part is a file named after a hash of what was measured: the bytes of the matrices,
their views and the settings, not their names. It is a checksum and one line of JSON,
written beside its place and then renamed: a kill leaves a whole part or none. One that
does not fit its checksum, or that says that it is another one, is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, final

import torch

from spectrank.errors import DomainError
from spectrank.linalg.implicit import Operand
from spectrank.model import WeightMatrix
from spectrank.scanning.measure import Rows, Settings
from spectrank.scanning.provenance import defined, installed
from spectrank.scanning.rows import matrix_key
from spectrank.scanning.running.packing import digest
from spectrank.table import as_path, write_whole

# Raised when rows change for the same settings.
_FORMAT = 3
# A temporary file this old belongs to no process that still runs.
_STALE_SECONDS = 86_400.0

Part = tuple[list[Rows], tuple[str, ...]]


@final
class Store:
    """Parts of a folder. Several processes may use one folder at a time."""

    def __init__(
        self,
        folder: str | Path,
        settings: Settings,
        device: torch.device | None = None,
    ) -> None:
        """Open a folder, made where there is none.

        Args:
            folder: For parts alone; its parent exists.
            settings: How matrices are measured.
            device: Where, if it was asked for.

        Raises:
            ArgumentTypeError: It is no path.
            DomainError: It is no folder and cannot be made one, or takes no file.
        """  # noqa: DOC502
        self.folder = as_path(folder, name="resume", example="finished")
        if not str(folder):
            # Path("") is the current folder, and a shell writes an empty variable so.
            raise DomainError(
                "resume names a folder for finished matrices, got the empty path; "
                "leave it out for none, or write '.' for the current folder"
            )
        try:
            self.folder.mkdir(exist_ok=True)
            # Before anything is measured: permissions do not tell all.
            with NamedTemporaryFile(dir=self.folder, prefix=".", suffix=".tmp"):
                pass
        except OSError as error:
            raise DomainError(
                "resume names a writable folder for finished matrices, got "
                f"{folder} ({error.strerror or error}); choose one that can be "
                "written, or whose parent exists"
            ) from error
        _sweep(self.folder)
        context = {
            "format": _FORMAT,
            "versions": [installed("spectrank"), installed("torch")],
            "settings": settings.as_dict(),
            # A plug-in may change while its name stays.
            **defined(settings.requests),
            "device": str(device) if device else None,
        }
        self._context = json.dumps(context, sort_keys=True)

    def key(self, operands: Sequence[Operand], views: Sequence[str]) -> str:
        """Return the name of the part of these matrices under the settings.

        Args:
            operands: Matrices of a job.
            views: Of each: a row may depend on how its matrix came about.

        Returns:
            Hash of their bytes and of all that shapes the rows.
        """
        text = self._context + json.dumps(list(views)) + digest(operands)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str, weights: Sequence[WeightMatrix]) -> Part | None:
        """Return the rows of a part under the names of these matrices.

        Args:
            key: Of the part.
            weights: Whose rows they become.

        Returns:
            Rows of each matrix and warnings; None where there is no sound part.
        """
        try:
            checksum, body = self._path(key).read_bytes().split(b"\n", 1)
            if hashlib.sha256(body).hexdigest().encode() != checksum:
                return None
            note = json.loads(body)
            counts = note["counts"]
            if note["part"] != key or len(counts) != len(weights):
                return None
            rows = iter(note["rows"])
            parts = [
                [{**next(rows), **matrix_key(weight)} for _ in range(count)]
                for weight, count in zip(weights, counts, strict=True)
            ]
            return parts, tuple(note["warnings"])
        except (OSError, ValueError, LookupError, TypeError, StopIteration):
            return None

    def put(self, key: str, measured: Sequence[Rows], warnings: Sequence[str]) -> None:
        """Keep the rows of a job.

        Args:
            key: Of the part.
            measured: Rows of each matrix.
            warnings: What was told of them.

        Raises:
            DomainError: If the folder cannot be written any more.
        """
        note: dict[str, Any] = {
            "part": key,
            "counts": [len(rows) for rows in measured],
            "warnings": list(warnings),
            "rows": [row for rows in measured for row in rows],
        }
        # Numbers of NumPy, as a plug-in may give them, become plain ones.
        body = json.dumps(note, default=lambda x: x.item()).encode()
        checksum = hashlib.sha256(body).hexdigest().encode()
        try:
            # Not forced to the disk: what a failing machine leaves of it has another
            # checksum, and one flush costs as much as measuring a small matrix.
            write_whole({self._path(key): checksum + b"\n" + body}, sync=False)
        except OSError as error:
            way = "free space in it" if self.folder.is_dir() else "leave it where it is"
            raise DomainError(
                "finished matrices are kept in a folder that can be written, got "
                f"{self.folder} ({error.strerror or error}); {way} and scan again: "
                "what is there already is not measured twice"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.part"


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written; others may write right now."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
