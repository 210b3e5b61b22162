"""What made a table: versions, input, settings, time."""

from __future__ import annotations

import functools
import hashlib
import platform
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from spectrank.model import SourceInfo
from spectrank.scanning.requests import MetricRequest

# Looked up once: a mail parser reads each package's description for it.
installed = functools.cache(version)

_PACKAGES = ("spectrank", "torch", "numpy", "scipy", "safetensors", "polars")


def environment() -> dict[str, Any]:
    """Return versions, device and thread count of this process."""
    return {
        "spectrank_version": installed("spectrank"),
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in _PACKAGES[1:]},
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "num_threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def described(info: SourceInfo, input_hash: str | None, device: str) -> dict[str, Any]:
    """Return what was read.

    Args:
        info: The source.
        input_hash: Of its files; None for an object in memory.
        device: Where its tensors were.

    Returns:
        Provenance entries.
    """
    return {
        "input": info.label,
        "input_kind": info.kind,
        "input_hash": input_hash,
        "device": device,
        "num_tensors": info.num_tensors,
        "num_parameters": info.num_parameters,
    }


def defined(requests: Iterable[MetricRequest]) -> dict[str, Any]:
    """Return formula and source of each metric, so that a table explains itself.

    Args:
        requests: What was computed.

    Returns:
        Provenance entries.
    """
    definitions = {
        request.metric.name: {
            "formula": request.metric.formula,
            "source": request.metric.source,
        }
        for request in requests
    }
    return {"definitions": definitions}


class InputHash:
    """SHA-256 of the input files, computed beside the scan in a thread.

    Hashing releases the interpreter lock, so it costs little while matrices are
    measured. The thread does not outlive the process.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = sorted(files)
        self._digest: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> str | None:
        """Return ``sha256:...``; None for an object in memory or an unreadable file.

        Several files are hashed one after the other, in the order of their names.
        """
        self._thread.join()
        return self._digest

    def _run(self) -> None:
        digest = hashlib.sha256()
        try:
            for path in self._files:
                with path.open("rb") as stream:
                    while piece := stream.read(1 << 22):
                        digest.update(piece)
        except OSError:
            # The tensors of that file are rows that say so.
            return
        if self._files:
            self._digest = f"sha256:{digest.hexdigest()}"
