"""An ONNX file, parsed by the ``onnx`` package (extra ``onnx``); the graph is not run.

Weights are initialisers and constants, also those of inner graphs, under their own
names. The parsed file is held while its tensors are read (the format allows 2 GB);
external data are read a tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.extras import need
from spectrank.model.formats.onnx_blocks import Blocks, decode_blocks
from spectrank.model.formats.onnx_graph import (
    Codes,
    Reading,
    graphs_of,
    read_graph,
)
from spectrank.model.inside import is_inside
from spectrank.model.sniff import content_hint
from spectrank.model.weights import Entry, Verdict, nothing_to_load
from spectrank.model.window import Unchanged, Window, first_line

# TensorProto.DataType -> what torch holds the values in; None where it holds the bits.
_DTYPES: Mapping[str, torch.dtype] = {
    "FLOAT": torch.float32,
    "DOUBLE": torch.float64,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "FLOAT8E4M3FN": torch.float8_e4m3fn,
    "FLOAT8E5M2": torch.float8_e5m2,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    # Four bits: the package unpacks them into bytes.
    "INT4": torch.int8,
    "UINT4": torch.uint8,
}
_CODES = frozenset({"INT8", "UINT8", "INT16", "UINT16", "INT32", "INT4", "UINT4"})


class ONNXFile:
    """One model; its external data lie in the same folder."""

    mapped = False
    beside: tuple[Path, ...] = ()

    def __init__(self, path: Path, window: Window) -> None:
        self.path = path
        self._window = window
        self._unchanged = Unchanged(path)
        self._onnx = need("onnx", f"reading {path.name}")

    def open(self) -> _Handle:
        """A fresh handle that holds the parsed file.

        Returns:
            Handle that gives a tensor at a time.

        Raises:
            CheckpointError: The file is no ONNX model.
        """
        self._unchanged.check()
        if self.path.stat().st_size == 0:
            # Which the package takes for a model without a graph.
            raise CheckpointError(
                f"an .onnx file must be a model, {self.path} is not; "
                f"{content_hint(self.path)}"
            )
        try:
            model = self._onnx.load(self.path, load_external_data=False)
            handle = _Handle(self._onnx, model, self.path.parent)
            _check_names(handle.tensors)
        except Exception as error:
            raise CheckpointError(
                f"an .onnx file must be a model, {self.path} is not "
                f"({first_line(error)}); {content_hint(self.path)}"
            ) from error
        return handle

    def entries(self) -> list[Entry]:
        """Every initialiser and constant with at least one value.

        Returns:
            Entries in the order of the graph, those of inner graphs last.

        Raises:
            CheckpointError: There are none.
        """
        handle = self.open()
        tensors = handle.tensors
        if not tensors:
            raise CheckpointError(
                f"a checkpoint must hold tensors, {self.path} holds none; give the "
                "model with its weights"
            )
        self.beside = handle.external
        ranks = {name: len(tensor.dims) for name, tensor in tensors.items()}
        readings = read_graph(handle.graph, ranks, frozenset(tensors))
        return [self._entry(tensors, name, readings[name]) for name in tensors]

    def _entry(self, tensors: Mapping[str, Any], name: str, reading: Reading) -> Entry:
        tensor = tensors[name]
        shape = tuple(int(side) for side in tensor.dims)
        kind = self._kind(tensor)
        dtype = _DTYPES.get(kind)
        if dtype is None:
            return Entry(
                name=name,
                shape=shape,
                dtype=None,
                load=nothing_to_load,
                refusal=f"type {kind} has no counterpart in torch",
            )
        view = next(iter(reading.views)) if len(reading.views) == 1 else None
        reason = next(iter(sorted(reading.reasons)), None)
        reason = reason.replace("NAME", repr(name)) if reason else None
        entry = Entry(
            name=name,
            shape=shape,
            dtype=dtype,
            load=partial(self._window.read, self, name, 0),
            view=view,
            whole=Verdict(reason=reason) if view and reason else None,
            reason=None if view else reason,
        )
        if reading.blocks is not None and kind == "UINT8":
            return self._packed(entry, reading.blocks, tensors)
        if reading.codes is None or kind not in _CODES or len(shape) < 2:
            return entry
        return self._decoding(entry, kind, reading.codes, tensors)

    def _decoding(
        self, entry: Entry, kind: str, codes: Codes, tensors: Mapping[str, Any]
    ) -> Entry:
        if codes.scale not in tensors:
            return replace(
                entry, refusal=f"codes whose scales {codes.scale} are computed"
            )
        scales = tuple(int(side) for side in tensors[codes.scale].dims)
        blocks = f" in blocks of {codes.block_size}" if codes.block_size else ""
        return replace(
            entry,
            dtype=torch.float32,
            load=partial(self._decoded, entry.name, codes),
            note=f"decoded from {kind.lower()} and scales of shape {scales}{blocks}",
        )

    def _packed(
        self, entry: Entry, blocks: Blocks, tensors: Mapping[str, Any]
    ) -> Entry:
        named = [x for x in (blocks.scale, blocks.zero_point) if x is not None]
        fits = blocks.fits(entry.shape or ()) and all(x in tensors for x in named)
        if fits and blocks.bits == 8 and blocks.zero_point is not None:
            # The runtime has no kernel for codes of 8 bits with numbers to subtract.
            fits = self._kind(tensors[blocks.zero_point]) == "UINT8"
        if not fits:
            # Left to be skipped as the integers that it holds.
            return entry
        return replace(
            entry,
            shape=(blocks.outputs, blocks.inputs),
            dtype=torch.float32,
            view="linear",
            load=partial(self._unpacked, entry.name, blocks),
            note=f"decoded from MatMulNBits, {blocks.bits} bits, "
            f"blocks of {blocks.block}",
        )

    def _unpacked(self, name: str, blocks: Blocks) -> Tensor:
        zero = None
        if blocks.zero_point is not None:
            zero = self._window.read(self, blocks.zero_point, 0)
        return decode_blocks(
            self._window.read(self, name, 0),
            self._window.read(self, blocks.scale, 0),
            zero,
            blocks,
            name,
        )

    def _decoded(self, name: str, codes: Codes) -> Tensor:
        values = self._window.read(self, name, 0).to(torch.float32)
        scale = self._window.read(self, codes.scale, 0).to(torch.float32)
        zero = None
        if codes.zero_point is not None:
            zero = self._window.read(self, codes.zero_point, 0).to(torch.float32)
        scale = _spread(scale, values, codes)
        if zero is not None:
            values = values - _spread(zero, values, codes)
        return values * scale

    def _kind(self, tensor: Any) -> str:
        return str(self._onnx.TensorProto.DataType.Name(tensor.data_type))


def _check_names(names: Iterable[Any]) -> None:
    # protobuf gives names that are no UTF-8 as bytes.
    if not all(isinstance(name, str) for name in names):
        raise ValueError("the name of a tensor is no text")


def _spread(factor: Tensor, values: Tensor, codes: Codes) -> Tensor:
    """Scales or zero points in a shape that broadcasts over the values."""
    if factor.numel() == 1:
        return factor.reshape([1] * values.ndim)
    axis = codes.axis % values.ndim
    if codes.block_size:
        whole = factor.repeat_interleave(codes.block_size, dim=axis)
        return whole.narrow(axis, 0, values.shape[axis])
    shape = [1] * values.ndim
    shape[axis] = -1
    return factor.reshape(shape)


class _Handle:
    def __init__(self, package: Any, model: Any, folder: Path) -> None:
        self._onnx = package
        self._folder = folder
        self.graph = model.graph
        self.tensors = dict(_tensors(model.graph))

    @property
    def external(self) -> tuple[Path, ...]:
        """Files with external data; names that lead outside are refused when read."""
        named = {
            entry.value
            for tensor in self.tensors.values()
            for entry in tensor.external_data
            if entry.key == "location"
            and isinstance(entry.value, str)
            and is_inside(self._folder, entry.value)
        }
        files = (self._folder / name for name in sorted(named))
        return tuple(file for file in files if file.is_file())

    def read(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        helper = self._onnx.numpy_helper
        # A copy, so that external data do not stay with the parsed model.
        if self._onnx.external_data_helper.uses_external_data(tensor):
            copy = type(tensor)()
            copy.CopyFrom(tensor)
            tensor = copy
        array = helper.to_array(tensor, str(self._folder))
        kind = str(self._onnx.TensorProto.DataType.Name(tensor.data_type))
        dtype = _DTYPES[kind]
        if kind in {"INT4", "UINT4"}:
            array = array.astype(np.int8 if kind == "INT4" else np.uint8)
        raw = np.ascontiguousarray(array)
        if dtype in {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}:
            bits = torch.from_numpy(raw.view(np.uint8).copy())
            return bits.reshape(-1).view(dtype).reshape(array.shape)
        return torch.from_numpy(raw.copy())


def _tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for inner in graphs_of(graph):
        constants = (
            (node.output[0], attribute.t)
            for node in inner.node
            if node.op_type == "Constant" and node.output
            for attribute in node.attribute
            if attribute.name == "value" and attribute.HasField("t")
        )
        initialisers = ((tensor.name, tensor) for tensor in inner.initializer)
        for name, tensor in (*initialisers, *constants):
            # Names of inner graphs may repeat those of another branch.
            unique = name
            number = 1
            while unique in seen:
                number += 1
                unique = f"{name}#{number}"
            seen.add(unique)
            yield unique, tensor
