"""A .safetensors file: header first, tensors one by one on request."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.sniff import content_hint
from spectrank.model.weights import Entry, nothing_to_load
from spectrank.model.window import Unchanged, Window, first_line

_DTYPES = {
    code: dtype
    for code, name in {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2": "float8_e5m2",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
        "C64": "complex64",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
    }.items()
    if (dtype := getattr(torch, name, None)) is not None
}


class SafetensorsFile:
    """One file; parsing and its checks (sizes, offsets, overlaps) are safetensors'."""

    mapped = True
    beside: tuple[Path, ...] = ()

    def __init__(self, path: Path, window: Window) -> None:
        self.path = path
        self._window = window
        self._unchanged = Unchanged(path)

    def open(self) -> _SafetensorsHandle:
        """A fresh handle.

        Returns:
            Handle that maps the file.

        Raises:
            CheckpointError: The file is not, or no longer, a safetensors file.
        """
        self._unchanged.check()
        try:
            return _SafetensorsHandle(
                safe_open(self.path, framework="pt", device="cpu")
            )
        except Exception as error:
            raise CheckpointError(
                "a .safetensors file must start with a valid header and be complete, "
                f"{self.path} is not ({first_line(error)}); {content_hint(self.path)}"
            ) from error

    def entries(self) -> list[Entry]:
        """Every tensor of the file, from the header alone.

        Returns:
            Entries in the order of the header's names.
        """
        handle = self.open()
        return [self._entry(handle, name) for name in handle.names()]

    def _entry(self, handle: _SafetensorsHandle, name: str) -> Entry:
        shape, code = handle.describe(name)
        dtype = _DTYPES.get(code)
        if dtype is None:
            return Entry(
                name=name,
                shape=shape,
                dtype=None,
                load=nothing_to_load,
                refusal=f"dtype {code} has no counterpart in torch",
            )
        num_bytes = math.prod(shape) * dtype.itemsize
        return Entry(
            name=name,
            shape=shape,
            dtype=dtype,
            load=partial(self._window.read, self, name, num_bytes),
        )


class _SafetensorsHandle:
    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def names(self) -> list[str]:
        return list(self._opened.keys())

    def describe(self, name: str) -> tuple[tuple[int, ...], str]:
        header = self._opened.get_slice(name)
        return tuple(header.get_shape()), str(header.get_dtype())

    def read(self, name: str) -> Tensor:
        tensor = self._opened.get_tensor(name)
        assert isinstance(tensor, Tensor)
        return tensor
