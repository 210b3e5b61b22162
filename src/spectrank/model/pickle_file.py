"""A torch checkpoint (.pt, .pth, .bin, .ckpt): tensors only, nothing is executed.

Always ``torch.load(weights_only=True)``. Files in the zip format are mapped; a legacy
file cannot be and is held in memory while its tensors are read.
"""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Hashable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.flatten import Named, flatten_checkpoint
from spectrank.model.sniff import content_hint
from spectrank.model.weights import Entry, known_shape, storage_key, tensor_refusal
from spectrank.model.window import Unchanged, Window

_FORBIDDEN = re.compile(r"GLOBAL (\S+)")


class PickleFile:
    """One file written by ``torch.save``."""

    def __init__(self, path: Path, window: Window) -> None:
        self.path = path
        self._records = _stored_records(path)
        self.mapped = self._records is not None
        self.beside: tuple[Path, ...] = ()
        self._window = window
        self._unchanged = Unchanged(path)

    def open(self) -> _PickleHandle:
        """A fresh handle; CheckpointError for more than tensors or a damaged file.

        Returns:
            Handle whose tensors are mapped from the file where it allows that.
        """
        self._unchanged.check()
        return _PickleHandle(self._load())

    def entries(self) -> list[Entry]:
        """Every tensor of the file, in its own order.

        Returns:
            Entries; values of a mapped file are not read.
        """
        return [self._entry(item) for item in self._load()]

    def _entry(self, item: Named) -> Entry:
        tensor = item.tensor
        shape = known_shape(tensor)
        num_bytes = math.prod(shape) * tensor.dtype.itemsize
        return Entry(
            name=item.name,
            shape=shape,
            dtype=tensor.dtype,
            load=partial(self._window.read, self, item.name, num_bytes),
            tie=self._tie(tensor),
            reason=item.reason,
            refusal=tensor_refusal(tensor) or self._mismatch(tensor, num_bytes),
            role="weight" if item.reason is None else "beside",
        )

    def _mismatch(self, tensor: Tensor, num_bytes: int) -> str | None:
        held = tensor.untyped_storage().nbytes()
        if num_bytes > held:
            # Stride 0 turns a few bytes into terabytes once anything copies them.
            return f"claims {num_bytes} bytes but its storage holds {held}"
        if self._records is not None and held and held not in self._records:
            # Mapping does not compare: it would read on into the next record.
            return f"claims a storage of {held} bytes, the file has none of that size"
        return None

    def _tie(self, tensor: Tensor) -> Hashable:
        # Addresses are compared while all tensors of this file are loaded; another
        # file may be mapped to the same address later.
        return (str(self.path), storage_key(tensor))

    def _load(self) -> list[Named]:
        try:
            with warnings.catch_warnings():
                # Of TypedStorage, quantised tensors and the like: nothing to act on.
                warnings.simplefilter("ignore")
                loaded = torch.load(
                    str(self.path),
                    map_location="cpu",
                    weights_only=True,
                    mmap=self.mapped,
                )
        except Exception as error:
            raise _translated(self.path, error) from error
        try:
            return flatten_checkpoint(loaded)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error


class _PickleHandle:
    def __init__(self, tensors: list[Named]) -> None:
        self._tensors = {item.name: item.tensor for item in tensors}

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


def _stored_records(path: Path) -> frozenset[int] | None:
    """Sizes of the records of a zip archive without compression; None for others.

    Mapping needs the bytes as they are in memory; a repacked (deflated) archive has to
    be read through the decompressor.

    Args:
        path: Any file.

    Returns:
        Sizes in bytes, or None where the file cannot be mapped.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        return None
    return frozenset(record.file_size for record in records)


def _translated(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if "TorchScript" in text:
        return CheckpointError(
            f"a checkpoint must hold tensors only, {path} is a TorchScript program and "
            "was not run; save model.state_dict() instead"
        )
    if ".tar format" in text:
        return CheckpointError(
            f"a checkpoint must be in torch's zip or pickle format, {path} is in the "
            "legacy .tar format, which cannot be read safely; load it where you trust "
            "it and save it again"
        )
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None:
        return CheckpointError(
            f"a checkpoint must hold tensors only, {path} asks for {forbidden[1]} and "
            "was not executed; save the weights alone, with safetensors or as "
            "model.state_dict()"
        )
    # The unpickler's own words come last, after torch's advice to trust the file.
    detail = text.rsplit("WeightsUnpickler error:", 1)[-1].strip()
    detail = detail.split("\n", 1)[0].split(". ", 1)[0]
    return CheckpointError(
        f"a checkpoint must be a file that torch.save wrote, {path} cannot be read "
        f"({detail[:160] or type(error).__name__}); {content_hint(path)}"
    )
