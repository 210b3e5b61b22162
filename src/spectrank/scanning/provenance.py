"""What made a table: versions, input, settings, time."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("spectrank", "torch", "numpy", "scipy", "safetensors", "polars")


def environment() -> dict[str, Any]:
    """Return versions, device and thread count of this process."""
    return {
        "spectrank_version": version("spectrank"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES[1:]},
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "num_threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class InputHash:
    """SHA-256 of the input files, computed beside the scan in a thread.

    Hashing releases the interpreter lock, so it costs little while matrices are
    measured.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        files = sorted(files)
        self._future: Future[str] | None = None
        if files:
            pool = ThreadPoolExecutor(1)
            self._future = pool.submit(_hash_files, files)
            pool.shutdown(wait=False)

    def result(self) -> str | None:
        """Return ``sha256:...``, or None for an object in memory.

        Several files are hashed one after the other, in the order of their names.
        """
        return None if self._future is None else self._future.result()


def _hash_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def command_line() -> str | None:
    """Return the command as typed, when this process is the command line tool."""
    name = Path(sys.argv[0]).name
    return " ".join(["spectrank", *sys.argv[1:]]) if name == "spectrank" else None
