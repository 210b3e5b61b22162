"""Files and folders as entries: names, shapes and dtypes now, values on request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from spectrank.errors import CheckpointError
from spectrank.model.beside import quantization_beside
from spectrank.model.formats.ctranslate2_file import CTranslate2File, is_ctranslate2
from spectrank.model.formats.quantised import decode_quantised
from spectrank.model.formats.tfjs_file import TFJSFile
from spectrank.model.paths import Plan, plan_path
from spectrank.model.pickle_file import PickleFile
from spectrank.model.safetensors_file import SafetensorsFile
from spectrank.model.weights import Entry, Kind, nothing_to_load
from spectrank.model.window import WeightFile, Window


@dataclass(frozen=True)
class Checkpoint:
    """What a path holds.

    Attributes:
        kind: As in SourceInfo.
        files: The files that hold the tensors.
        entries: Every tensor, and every weight-like file that is not read.
    """

    kind: Kind
    files: tuple[Path, ...]
    entries: tuple[Entry, ...]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read the headers of a checkpoint and check that it is whole.

    Args:
        path: A ``.safetensors``, ``.pt``, ``.pth``, ``.bin``, ``.ckpt``, ``.onnx``,
            ``.gguf`` or ``.index.json`` file, a ``model.json`` of TensorFlow.js, or a
            folder that holds such files.

    Returns:
        Its entries; their values are read one by one, when asked for.

    Raises:
        CheckpointError: There is nothing to read, or what is there is damaged,
            incomplete, contradicts itself or holds more than tensors.
    """
    if not str(path):
        # Path("") is the current folder: nobody means that.
        raise CheckpointError(
            "a path must not be empty, got ''; give a weights file or its folder"
        )
    plan = plan_path(Path(path))
    window = Window()
    by_file, unread, beside = _read_all(plan, window)
    entries = _merge(plan, by_file)
    if not any(entry.role != "file" for entry in entries):
        raise CheckpointError(
            f"a checkpoint must hold tensors, {path} holds none; give another file"
        )
    window.fit(max(_num_bytes(entry) for entry in entries))
    left = [_unread_file(name, reason) for name, reason in (*unread, *plan.left)]
    decoded = decode_quantised(entries, quantization_beside(path))
    return Checkpoint(plan.kind, (*by_file, *beside), (*decoded, *left))


def _read_all(
    plan: Plan, window: Window
) -> tuple[dict[Path, list[Entry]], list[tuple[str, str]], list[Path]]:
    """Entries by file, the files that cannot be read, and what lies outside both."""
    by_file: dict[Path, list[Entry]] = {}
    unread = []
    beside: list[Path] = []
    errors = []
    for file in plan.files:
        try:
            reader = _reader(file, window)
            entries = reader.entries()
        except CheckpointError as error:
            if not plan.lenient:
                raise
            errors.append(error)
            unread.append((file.name, f"file not read: {error}"))
            continue
        if file.suffix == ".safetensors":
            # torch.save keeps the order of the modules, safetensors does not.
            entries = sorted(entries, key=lambda entry: _natural(entry.name))
        by_file[file] = entries
        beside += reader.beside
    if errors and not by_file:
        raise errors[0]
    return by_file, unread, beside


def _reader(file: Path, window: Window) -> WeightFile:
    if file.suffix == ".safetensors":
        return SafetensorsFile(file, window)
    if file.suffix == ".json":
        return TFJSFile(file, window)
    # Their packages take a second to import: only for those who need them.
    if file.suffix == ".gguf":
        from spectrank.model.formats.gguf_file import GGUFFile

        return GGUFFile(file, window)
    if file.suffix == ".onnx":
        from spectrank.model.formats.onnx_file import ONNXFile

        return ONNXFile(file, window)
    if is_ctranslate2(file):
        return CTranslate2File(file, window)
    return PickleFile(file, window)


def _natural(name: str) -> list[str | int]:
    # layer.2 before layer.10. Text and numbers alternate, so keys are comparable.
    parts = re.split(r"([0-9]{1,18})", name)
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)]


def _merge(plan: Plan, by_file: dict[Path, list[Entry]]) -> list[Entry]:
    home: dict[str, Path] = {}
    merged = []
    for file, entries in by_file.items():
        for entry in entries:
            if entry.name in home:
                raise CheckpointError(
                    f"a tensor must be in one file, {entry.name!r:.120} is in "
                    f"{home[entry.name].name} and in {file.name} of {file.parent}; "
                    "give one of the files"
                )
            home[entry.name] = file
            merged.append(_listed(plan, entry, file))
    _check_complete(plan, home)
    if plan.weight_map is not None:
        merged.sort(key=lambda entry: _natural(entry.name))
    return merged


def _listed(plan: Plan, entry: Entry, file: Path) -> Entry:
    if plan.weight_map is None or entry.name in plan.weight_map:
        return entry
    return replace(entry, refusal=f"in {file.name} but not in the index of the shards")


def _check_complete(plan: Plan, home: dict[str, Path]) -> None:
    wanted = plan.weight_map or {}
    astray = [name for name, file in wanted.items() if home.get(name) != file]
    if astray:
        name = astray[0]
        raise CheckpointError(
            f"an index must name tensors that its files hold, {plan.index} puts "
            f"{len(astray)} of {len(wanted)} where they are not, first {name!r:.120} "
            f"in {wanted[name].name}; fetch index and files again"
        )


def _num_bytes(entry: Entry) -> int:
    if entry.shape is None or entry.dtype is None:
        return 0
    return math.prod(entry.shape) * entry.dtype.itemsize


def _unread_file(name: str, reason: str) -> Entry:
    return Entry(
        name=name,
        shape=(),
        dtype=None,
        load=nothing_to_load,
        refusal=reason,
        role="file",
    )
