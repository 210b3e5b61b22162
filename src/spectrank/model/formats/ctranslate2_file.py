"""A CTranslate2 ``model.bin``: little-endian records, read without the library.

u32 version, name of the specification, u32 revision, u32 number of variables; for each
its name, u8 rank, u32 sides, u8 type, u32 bytes, values; then the aliases. A name is a
u16 length with the closing zero counted. Rows quantised to int8 are codes divided by
their scale, tensors in int16 by one scale.
Source (stated): ``ctranslate2.specs.model_spec`` of the package, version 4.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, final

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.sniff import content_hint
from spectrank.model.weights import Entry
from spectrank.model.window import Unchanged, Window

_DTYPES = (
    torch.float32,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.bfloat16,
)
_MAX_VARIABLES = 1_000_000
_MAX_RANK = 8


def is_ctranslate2(path: Path) -> bool:
    """Whether a file starts as CTranslate2 writes them.

    Args:
        path: Any file.

    Returns:
        True for a version of 2 to 9 and a printable name that ends in a zero.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
            if len(start) < 6:
                return False
            version, length = struct.unpack("<IH", start)
            if not (2 <= version <= 9 and 2 <= length <= 256):
                return False
            name = file.read(length)
    except OSError:
        return False
    return name[-1:] == b"\0" and name[:-1].isascii() and name[:-1].isalnum()


@final
@dataclass(frozen=True)
class _Variable:
    """Where a tensor lies in the file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class CTranslate2File:
    """One ``model.bin``; slashes of its names become dots."""

    mapped = False
    beside: tuple[Path, ...] = ()

    def __init__(self, path: Path, window: Window) -> None:
        self.path = path
        self._window = window
        self._unchanged = Unchanged(path)
        self._variables, self._aliases = _index(path)

    def open(self) -> _Handle:
        """A fresh handle; CheckpointError if the file is another one by now.

        Returns:
            Handle that reads a variable at a time.
        """
        self._unchanged.check()
        return _Handle(self.path, self._variables)

    def entries(self) -> list[Entry]:
        """Every variable, and every alias tied to its variable.

        Returns:
            Entries in the order of the file.
        """
        found = [self._entry(name) for name in self._variables]
        for alias, name in self._aliases.items():
            found.append(replace(self._entry(name), name=alias))
        return found

    def _entry(self, name: str) -> Entry:
        variable = self._variables[name]
        scale = self._variables.get(f"{name}_scale")
        entry = Entry(
            name=name,
            shape=variable.shape,
            dtype=variable.dtype,
            load=partial(self._window.read, self, name, variable.num_bytes),
            tie=(str(self.path), name),
            view=self._fused(name, variable.shape),
        )
        if scale is None or variable.dtype not in {torch.int8, torch.int16}:
            return entry
        if scale.shape not in {(), variable.shape[:1]}:
            return replace(
                entry,
                refusal=f"codes of shape {variable.shape} with scales of {scale.shape}",
            )
        kind = str(variable.dtype).removeprefix("torch.")
        return replace(
            entry,
            dtype=torch.float32,
            load=partial(self._decoded, name, variable.num_bytes),
            note=f"decoded from {kind} and its scales",
        )

    def _fused(self, name: str, shape: tuple[int, ...]) -> str | None:
        """Layout of what `MultiHeadAttentionSpec` stacks; None for the others."""
        # Self-attention has query, key and value in linear_0, cross-attention key and
        # value in linear_1, with the output behind them in linear_2.
        if len(shape) != 2:
            return None
        if name.endswith("self_attention.linear_0.weight"):
            return "qkv" if shape[0] == 3 * shape[1] else None
        head, found, _ = name.rpartition("attention.linear_1.weight")
        output = self._variables.get(f"{head}attention.linear_2.weight")
        if found and output is not None and shape[0] == 2 * output.shape[-1]:
            return "kv"
        return None

    def _decoded(self, name: str, num_bytes: int) -> Tensor:
        codes = self._window.read(self, name, num_bytes)
        scale = self._window.read(self, f"{name}_scale", 0).to(torch.float32)
        # The product with 1/scale would round twice.
        return codes.to(torch.float32) / scale.reshape(-1, *[1] * (codes.ndim - 1))


class _Handle:
    def __init__(self, path: Path, variables: dict[str, _Variable]) -> None:
        self._path = path
        self._variables = variables

    def read(self, name: str) -> Tensor:
        variable = self._variables[name]
        values = torch.empty(variable.shape, dtype=variable.dtype)
        if values.numel():
            raw: Any = values.view(-1).view(torch.uint8).numpy()
            with self._path.open("rb") as file:
                file.seek(variable.offset)
                read = file.readinto(raw)
            if read != variable.num_bytes:
                raise EOFError("the file ends early")
        return values


def _index(path: Path) -> tuple[dict[str, _Variable], dict[str, str]]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Reader(file, size).index()
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"a CTranslate2 model.bin must be complete, {path} is not ({error}); "
            f"{content_hint(path)}"
        ) from error


class _Reader:
    """Reads headers and skips values, never beyond the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def index(self) -> tuple[dict[str, _Variable], dict[str, str]]:
        self._number("<I")
        self._text()
        self._number("<I")
        variables: dict[str, _Variable] = {}
        for _ in range(self._count()):
            name = self._text()
            if name in variables:
                raise ValueError(f"two variables are named {name!r:.80}")
            variables[name] = self._variable(name)
        aliases: dict[str, str] = {}
        if self._file.tell() < self._size:
            for _ in range(self._count()):
                alias, name = self._text(), self._text()
                if name not in variables or alias in variables or alias in aliases:
                    raise ValueError(f"alias {alias!r:.80} of {name!r:.80}")
                aliases[alias] = name
        return variables, aliases

    def _variable(self, name: str) -> _Variable:
        rank = self._number("<B")
        if rank > _MAX_RANK:
            raise ValueError(f"{name!r:.80} has {rank} dimensions")
        shape = tuple(self._number("<I") for _ in range(rank))
        code, num_bytes = self._number("<B"), self._number("<I")
        if code >= len(_DTYPES):
            raise ValueError(f"{name!r:.80} has the unknown type {code}")
        dtype = _DTYPES[code]
        # Sizes are stored in 32 bits: those of a large tensor have wrapped.
        wanted = math.prod(shape) * dtype.itemsize
        offset = self._file.tell()
        if wanted % 2**32 != num_bytes or offset + wanted > self._size:
            raise ValueError(f"{name!r:.80} claims {wanted} bytes")
        self._file.seek(offset + wanted)
        return _Variable(shape, dtype, offset)

    def _count(self) -> int:
        count = self._number("<I")
        if count > _MAX_VARIABLES:
            raise ValueError(f"{count} names")
        return count

    def _number(self, code: str) -> int:
        raw = self._file.read(struct.calcsize(code))
        (number,) = struct.unpack(code, raw)
        return int(number)

    def _text(self) -> str:
        length = self._number("<H")
        raw = self._file.read(length)
        if len(raw) != length or raw[-1:] != b"\0":
            raise ValueError("a name does not end")
        return raw[:-1].decode().replace("/", ".")
