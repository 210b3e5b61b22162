"""A TensorFlow.js ``model.json`` with its shards, read without the library.

``weightsManifest`` is a list of groups, each with the ``paths`` of its shards and its
``weights`` in the order of their bytes; a weight may cross the end of a shard. Codes of
8 or 16 bits are scale * code + min, halves are widened. Source (stated): tensorflowjs
4.22.0, ``read_weights`` and ``quantization``; the tests hold its own output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.formats.tfjs_roles import (
    Role,
    layers_of,
    readers_of,
    role_in_graph,
    role_in_layers,
)
from spectrank.model.inside import is_inside
from spectrank.model.sniff import content_hint
from spectrank.model.weights import Entry, nothing_to_load
from spectrank.model.window import Unchanged, Window, first_line

_MOST_BYTES = 100_000_000
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
    "complex64": torch.complex64,
    # Read as the bits of int16: torch has little arithmetic on the type.
    "uint16": torch.int16,
}
_CODES = frozenset({"uint8", "uint16"})
# What reading damaged JSON may raise; a number may be too large for a float.
_DAMAGE = (OSError, ValueError, TypeError, ArithmeticError, RecursionError)


def is_tfjs(path: Path) -> bool:
    """Whether a JSON file names shards of weights as TensorFlow.js does.

    Args:
        path: Any file.

    Returns:
        True where it has a ``weightsManifest``.
    """
    try:
        return "weightsManifest" in _parsed(path)
    except _DAMAGE:
        return False


def shards_of(path: Path) -> frozenset[str]:
    """Names of the shards of a model, as written.

    Args:
        path: A file for which ``is_tfjs`` holds.

    Returns:
        File names relative to its folder.
    """
    groups = _parsed(path)["weightsManifest"]
    groups = groups if isinstance(groups, list) else []
    return frozenset(str(p) for g in groups if isinstance(g, dict) for p in _paths(g))


def _parsed(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise TypeError("it is no JSON object")
    return loaded


def _paths(group: dict[str, Any]) -> list[Any]:
    paths = group.get("paths")
    return paths if isinstance(paths, list) else []


@final
@dataclass(frozen=True)
class _Weight:
    """Where a weight lies and how its values are stored.

    Attributes:
        name: As in the manifest.
        shape: As stored.
        kind: Type of what is stored.
        wanted: Type of the values.
        pieces: File, first byte and number of bytes, in order.
        scale: Of codes.
        least: Added to scaled codes.
        refusal: Why its place is not known.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    wanted: str
    pieces: tuple[tuple[Path, int, int], ...] = field(repr=False)
    scale: float = 1.0
    least: float = 0.0
    refusal: str | None = None

    @property
    def num_bytes(self) -> int:
        return sum(size for _, _, size in self.pieces)


class TFJSFile:
    """One model; slashes of its names become dots."""

    mapped = False
    beside: tuple[Path, ...] = ()

    def __init__(self, path: Path, window: Window) -> None:
        self.path = path
        self._window = window
        try:
            parsed = _parsed(path)
            self._topology = parsed.get("modelTopology")
            weights = list(_index(path, parsed.get("weightsManifest")))
        except _DAMAGE as error:
            raise CheckpointError(
                "a TensorFlow.js model must have a valid weightsManifest and complete "
                f"shards, {path} has not ({first_line(error)}); {content_hint(path)}"
            ) from error
        self._weights = {weight.name.replace("/", "."): weight for weight in weights}
        if len(self._weights) < len(weights):
            raise CheckpointError(
                f"a weightsManifest must name each weight once, {path} repeats one; "
                "convert the model again"
            )
        files = {file for weight in weights for file, _, _ in weight.pieces}
        self.beside = tuple(sorted(files))
        self._unchanged = [Unchanged(file) for file in (path, *self.beside)]

    def open(self) -> _Handle:
        """A fresh handle; CheckpointError if a file is another one by now.

        Returns:
            Handle that reads a weight at a time.
        """
        for file in self._unchanged:
            file.check()
        return _Handle(self._weights)

    def entries(self) -> list[Entry]:
        """Every weight, kernels in torch's order.

        Returns:
            Entries in the order of the manifest.
        """
        layers, readers = layers_of(self._topology), readers_of(self._topology)
        found = []
        for name, weight in self._weights.items():
            if readers:
                role = role_in_graph(weight.name, weight.shape, readers)
            else:
                role = role_in_layers(weight.name, weight.shape, layers)
            found.append(self._entry(name, weight, role))
        return found

    def _entry(self, name: str, weight: _Weight, role: Role) -> Entry:
        entry = Entry(
            name=name,
            shape=role.shape(weight.shape),
            dtype=_DTYPES.get(weight.wanted),
            load=partial(self._load, name, weight.num_bytes, role),
            view=role.view,
            reason=role.reason.replace("NAME", repr(name)) if role.reason else None,
        )
        if weight.refusal is not None or entry.dtype is None:
            kind = f"type {weight.wanted} is not read"
            return replace(
                entry, load=nothing_to_load, refusal=weight.refusal or kind, dtype=None
            )
        if not entry.dtype.is_floating_point:
            return replace(entry, view=None, reason=None)
        turned = None if role.kernel is None else "kernel turned to torch's order"
        decoded = weight.kind != weight.wanted
        told = f"decoded from {weight.kind}" if decoded else None
        note = "; ".join(text for text in (told, turned) if text)
        return replace(entry, note=note or None)

    def _load(self, name: str, num_bytes: int, role: Role) -> Tensor:
        return role.turn(self._window.read(self, name, num_bytes))


class _Handle:
    def __init__(self, weights: dict[str, _Weight]) -> None:
        self._weights = weights

    def read(self, name: str) -> Tensor:
        weight = self._weights[name]
        raw = torch.empty(weight.num_bytes, dtype=torch.uint8)
        start = 0
        for path, offset, size in weight.pieces:
            buffer: Any = raw[start : start + size].numpy()
            with path.open("rb") as file:
                file.seek(offset)
                if file.readinto(buffer) != size:
                    raise EOFError(f"{path.name} ends early")
            start += size
        stored = raw.view(_DTYPES[weight.kind]).reshape(weight.shape)
        wanted = _DTYPES[weight.wanted]
        if weight.kind not in _CODES or weight.wanted not in {"float32", "float16"}:
            return stored.to(wanted)
        codes = stored.to(torch.float64)
        if weight.kind == "uint16":
            codes = torch.where(codes < 0, codes + 2**16, codes)
        return (codes * weight.scale + weight.least).to(wanted)


def _index(path: Path, groups: Any) -> Iterator[_Weight]:
    """The weights of a manifest with their places; ValueError where it is wrong."""
    if not isinstance(groups, list):
        raise TypeError("its weightsManifest is no list")
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("weights"), list):
            raise TypeError("a group has no list of weights")
        files = [_shard(path.parent, name) for name in _paths(group)]
        sizes = [file.stat().st_size for file in files]
        total = sum(sizes)
        start, lost = 0, False
        for weight in group["weights"]:
            read = _weight(weight)
            size = math.prod(read.shape) * _DTYPES[read.kind].itemsize
            if lost or read.refusal is not None:
                lost = True
                reason = read.refusal or "it lies behind strings of unknown length"
                yield replace(read, refusal=reason)
                continue
            if start + size > total:
                raise ValueError(
                    f"{read.name!r:.80} ends at byte {start + size}, the shards have "
                    f"{total}"
                )
            yield replace(read, pieces=tuple(_pieces(files, sizes, start, size)))
            start += size
        if start != total and not lost:
            raise ValueError(f"the weights have {start} bytes, the shards {total}")


def _shard(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or not is_inside(folder, name):
        raise ValueError(f"it names {name!r:.80}, not a file inside its folder")
    return folder / name


def _pieces(
    files: list[Path], sizes: list[int], start: int, size: int
) -> Iterator[tuple[Path, int, int]]:
    for file, length in zip(files, sizes, strict=True):
        taken = min(size, length - start)
        if start < length and taken > 0:
            yield file, start, taken
            size -= taken
        start = max(0, start - length)


def _weight(item: Any) -> _Weight:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise TypeError("a weight has no name")
    name, shape, wanted = item["name"], item.get("shape"), item.get("dtype")
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_side, shape)):
        raise ValueError(f"the shape of {name!r:.80} is {shape!r:.80}")
    sides = tuple(shape)
    if wanted == "string":
        return _Weight(name, sides, "uint8", "string", (), refusal="strings")
    coding = item.get("quantization")
    coding = coding if isinstance(coding, dict) else {}
    kind = coding.get("dtype", wanted)
    if kind not in _DTYPES or wanted not in _DTYPES:
        raise ValueError(f"the type of {name!r:.80} is {kind!r:.80}")
    scale, least = coding.get("scale", 1.0), coding.get("min", 0.0)
    if not all(_is_number(value) for value in (scale, least)):
        raise ValueError(f"the scale of {name!r:.80} is no number")
    return _Weight(name, sides, kind, wanted, (), float(scale), float(least))


def _is_side(side: Any) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
