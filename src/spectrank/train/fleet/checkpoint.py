"""A fleet's state as one safetensors file, written whole or not at all.

The header carries a checksum of every tensor and a fingerprint of what is trained, on
what and how, so that a damaged or a foreign file is an error and never a wrong result.
Nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.table import write_whole

FORMAT = "spectrank-fleet-1"


def digest(
    tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> str:
    """Checksum of tensors with their names, dtypes and shapes.

    Args:
        tensors: On any device.
        notes: Texts that belong to them.

    Returns:
        Hexadecimal SHA-256.
    """
    state = hashlib.sha256(json.dumps(sorted((notes or {}).items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    fingerprint: Mapping[str, str],
    step: int,
) -> None:
    """Replace a checkpoint by a newer one.

    Args:
        path: Target in an existing folder.
        tensors: The state.
        fingerprint: What it belongs to.
        step: Number of updates done.

    Raises:
        CheckpointError: The file cannot be written.
    """
    # Copies: safetensors refuses tensors that share storage.
    copies = {name: t.detach().cpu().clone() for name, t in tensors.items()}
    header = {
        "format": FORMAT,
        "fingerprint": json.dumps(dict(fingerprint)),
        "step": str(step),
    }
    header["digest"] = digest(copies, header)
    raw = safetensors.torch.save(copies, metadata=header)
    try:
        write_whole({path: raw})
    except OSError as error:
        raise CheckpointError(
            f"a checkpoint is written into an existing, writable folder, got {path} "
            f"({error.strerror or error}); create the folder or choose another path"
        ) from error


def read_checkpoint(
    path: Path, fingerprint: Mapping[str, str]
) -> tuple[dict[str, Tensor], int] | None:
    """Read the state of a fleet.

    Args:
        path: What ``write_checkpoint`` wrote.
        fingerprint: What the caller is about to train.

    Returns:
        Tensors on the CPU and the number of updates done; None if there is no file.

    Raises:
        CheckpointError: The file is damaged, or of another fleet.
    """
    if not path.exists():
        return None
    tensors, header = _load(path)
    theirs = json.loads(header["fingerprint"])
    odd = [name for name, value in fingerprint.items() if theirs.get(name) != value]
    if odd:
        raise CheckpointError(
            f"a fleet resumes from its own checkpoint, {path} is of a run with other "
            f"{', '.join(odd)}; give the same arguments as then, or another path"
        )
    return tensors, int(header["step"])


def _load(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            # Copies: the file may be replaced while its pages are mapped.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(
            f"a fleet's checkpoint is a whole safetensors file, {path} is not "
            f"({error}); delete it to start again"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"a fleet's checkpoint has the format {FORMAT}, {path} has "
            f"{header.get('format')!r:.60}; give another path"
        )
    notes = {name: note for name, note in header.items() if name != "digest"}
    if header.get("digest") != digest(tensors, notes):
        raise CheckpointError(
            f"the checksum of a checkpoint must match its content, that of {path} "
            "does not; the file was damaged: delete it to start again"
        )
    return tensors, header
