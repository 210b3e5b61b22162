"""A GGUF file, read and decoded by the ``gguf`` package (extra ``gguf``).

Shapes are stored with the fastest axis first; entries have torch's order. Names are the
file's own (``blk.0.attn_q.weight``). Quantised blocks become float32.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.extras import need
from spectrank.model.sniff import content_hint
from spectrank.model.weights import Entry, nothing_to_load
from spectrank.model.window import Unchanged, Window, first_line

_PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}


class GGUFFile:
    """One file; a split model has several, each with tensors of its own."""

    mapped = True
    beside: tuple[Path, ...] = ()

    def __init__(self, path: Path, window: Window) -> None:
        self.path = path
        self._window = window
        self._unchanged = Unchanged(path)
        self._gguf = need("gguf", f"reading {path.name}")

    def open(self) -> _Handle:
        """A fresh handle that maps the file.

        Returns:
            Handle that decodes a tensor at a time.

        Raises:
            CheckpointError: The file is no GGUF file.
        """
        self._unchanged.check()
        try:
            reader = self._gguf.GGUFReader(self.path)
        except Exception as error:
            raise CheckpointError(
                f"a .gguf file must have a valid header and be complete, {self.path} "
                f"is not ({first_line(error)}); {content_hint(self.path)}"
            ) from error
        return _Handle(self._gguf, reader)

    def entries(self) -> list[Entry]:
        """Every tensor of the file, from its header.

        Returns:
            Entries in the order of the file.
        """
        return [self._entry(tensor) for tensor in self.open().tensors.values()]

    def _entry(self, tensor: Any) -> Entry:
        kind = str(tensor.tensor_type.name)
        shape = tuple(int(side) for side in reversed(tensor.shape))
        load = partial(self._window.read, self, str(tensor.name), int(tensor.n_bytes))
        plain = _PLAIN.get(kind)
        if plain is not None:
            return Entry(name=str(tensor.name), shape=shape, dtype=plain, load=load)
        try:
            # A block of zeros tells whether the package can decode the type.
            _, num_bytes = self._gguf.GGML_QUANT_SIZES[tensor.tensor_type]
            block = np.zeros(num_bytes, dtype=np.uint8)
            with np.errstate(all="ignore"):
                self._gguf.dequantize(block, tensor.tensor_type)
        except Exception:
            return Entry(
                name=str(tensor.name),
                shape=shape,
                dtype=None,
                load=nothing_to_load,
                refusal=f"the installed gguf package cannot decode {kind}; update it",
            )
        return Entry(
            name=str(tensor.name),
            shape=shape,
            dtype=torch.float32,
            load=load,
            note=f"decoded from {kind}",
        )


class _Handle:
    def __init__(self, package: Any, reader: Any) -> None:
        self._gguf = package
        self.tensors = {str(tensor.name): tensor for tensor in reader.tensors}

    def read(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        kind = str(tensor.tensor_type.name)
        shape = [int(side) for side in reversed(tensor.shape)]
        data = np.asarray(tensor.data)
        plain = _PLAIN.get(kind)
        if plain is None:
            values = self._gguf.dequantize(data, tensor.tensor_type)
            return torch.from_numpy(np.ascontiguousarray(values)).reshape(shape)
        # The package gives bfloat16 as bytes, and a mapped array may not be written.
        raw = torch.from_numpy(data.copy())
        return raw.view(torch.uint8).view(plain).reshape(shape)
