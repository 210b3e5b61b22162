"""Which files of a path hold the weights, and which are left unread and why."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from spectrank.errors import CheckpointError
from spectrank.model.formats.ctranslate2_file import is_ctranslate2
from spectrank.model.formats.tfjs_file import is_tfjs, shards_of
from spectrank.model.inside import is_inside
from spectrank.model.sniff import content_hint
from spectrank.model.weights import FileKind
from spectrank.model.window import first_line

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt"})
# Read by a package of their own, one file at a time.
FORMAT_SUFFIXES = frozenset({".gguf", ".onnx"})
_FOREIGN_SUFFIXES = frozenset(
    {".gguf", ".h5", ".keras", ".msgpack", ".npz", ".onnx", ".pb", ".tflite"}
)
_INDEX = ".index.json"
# One of several files of one model, as gguf-split names them.
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# 100,000 tensors take about 10 MB.
_MAX_INDEX_BYTES = 100_000_000


@dataclass(frozen=True)
class Plan:
    """What to read.

    Attributes:
        kind: As in SourceInfo.
        files: Files to read, in order.
        left: Name and reason of weight-like files of the folder that are not read.
        weight_map: Tensor name to file where an index prescribes it, else None.
        index: That index.
        lenient: A file that cannot be read becomes a skip while others can be read.
    """

    kind: FileKind
    files: tuple[Path, ...]
    left: tuple[tuple[str, str], ...] = ()
    weight_map: Mapping[str, Path] | None = None
    index: Path | None = None
    lenient: bool = False


def plan_path(path: Path) -> Plan:
    """Decide what to read for a path; reads an index but no weights.

    Args:
        path: File or folder.

    Returns:
        The plan.

    Raises:
        CheckpointError: Nothing is there, or nothing that is read.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        there = is_folder or is_file or path.exists() or path.is_symlink()
    except OSError as error:
        raise CheckpointError(
            f"a path must be readable, {path} is not ({first_line(error)}); "
            "check its name and permissions"
        ) from error
    if not there:
        raise CheckpointError(
            f"a path must exist, {path} does not; give a weights file or its folder"
        )
    if is_folder:
        return _plan_folder(path)
    if not is_file:
        raise CheckpointError(
            f"a path must be a file or folder, {path} is neither (a broken link, pipe "
            "or device); give a weights file or its folder"
        )
    return _plan_file(path)


def _plan_file(path: Path) -> Plan:
    if path.name.endswith(_INDEX):
        return _plan_index(path)
    if path.suffix == ".safetensors":
        return Plan("safetensors", (path,))
    if path.suffix in PICKLE_SUFFIXES:
        return Plan("ctranslate2" if is_ctranslate2(path) else "pickle", (path,))
    if path.suffix in FORMAT_SUFFIXES:
        return Plan("gguf" if path.suffix == ".gguf" else "onnx", (path,))
    if path.suffix == ".json" and is_tfjs(path):
        return Plan("tfjs", (path,))
    raise CheckpointError(
        "a weights file must end in .safetensors, .pt, .pth, .bin, .ckpt, .onnx, .gguf "
        f"or {_INDEX}, or be a model.json of TensorFlow.js, got {path}; "
        f"{content_hint(path)}"
    )


def _plan_folder(folder: Path) -> Plan:
    files = _listing(folder)
    by_name = {file.name: file for file in files}
    tensors = [f for f in files if f.suffix == ".safetensors"]
    pickles = [f for f in files if f.suffix in PICKLE_SUFFIXES]
    ggufs, onnx = ([f for f in files if f.suffix == x] for x in (".gguf", ".onnx"))
    indexes = [f for f in files if f.name.endswith(".safetensors.index.json")]
    if "model.safetensors" in by_name:
        plan = Plan("folder", (by_name["model.safetensors"],))
    elif indexes:
        plan = _plan_index(_one_index(folder, indexes))
    elif "pytorch_model.bin" in by_name:
        plan = Plan("folder", (by_name["pytorch_model.bin"],))
    elif "pytorch_model.bin.index.json" in by_name:
        plan = _plan_index(by_name["pytorch_model.bin.index.json"])
    elif tensors:
        plan = Plan("folder", tuple(tensors), lenient=True)
    elif "model.json" in by_name and is_tfjs(by_name["model.json"]):
        # Its shards end in .bin too, or in nothing.
        plan = Plan("folder", (by_name["model.json"],))
        files = [f for f in files if f.name not in shards_of(by_name["model.json"])]
    elif pickles:
        plan = Plan("folder", tuple(pickles), lenient=True)
    elif ggufs and (
        len(ggufs) == 1 or all(map(_SPLIT.search, (f.name for f in ggufs)))
    ):
        plan = Plan("folder", tuple(ggufs))
    elif len(onnx) == 1:
        plan = Plan("folder", tuple(onnx))
    else:
        raise _no_weights(folder, files)
    chosen = {file.name for file in plan.files}
    using = plan.files[0].name if len(plan.files) == 1 else f"{len(plan.files)} files"
    left = tuple(
        (file.name, f"file not read: the weights of the folder are in {using}")
        for file in files
        if file.name not in chosen
        and file.suffix in {".safetensors", *PICKLE_SUFFIXES, *_FOREIGN_SUFFIXES}
    )
    return replace(plan, left=left)


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise CheckpointError(
            f"a folder must be readable, {folder} is not ({first_line(error)}); "
            "check its permissions"
        ) from error


def _one_index(folder: Path, indexes: list[Path]) -> Path:
    preferred = [f for f in indexes if f.name == "model.safetensors.index.json"]
    if len(indexes) > 1 and not preferred:
        raise CheckpointError(
            f"a folder must hold one index, {folder} holds "
            f"{', '.join(f.name for f in indexes)}; give one of these files"
        )
    return (preferred or indexes)[0]


def _no_weights(folder: Path, files: list[Path]) -> CheckpointError:
    foreign = sorted(f for f in files if f.suffix in _FOREIGN_SUFFIXES)
    also = f" but {', '.join(f.name for f in foreign[:5])}" if foreign else ""
    inside = sorted(
        file.parent.name
        for suffix in (".safetensors", *sorted(PICKLE_SUFFIXES))
        for file in folder.glob(f"*/*{suffix}")
    )
    hint = f"try its folder {inside[0]!r}" if inside else "give the folder that does"
    if any(f.suffix in FORMAT_SUFFIXES for f in foreign):
        hint = "give one of these files"
    return CheckpointError(
        "a folder must hold .safetensors, .pt, .pth, .bin or .ckpt files, or one model "
        f"in .gguf, .onnx or TensorFlow.js, {folder} holds none{also}; {hint}"
    )


def _plan_index(index: Path) -> Plan:
    folder = index.parent
    weight_map = {
        name: _shard(index, folder, file) for name, file in _weight_map(index).items()
    }
    files = tuple(sorted(set(weight_map.values())))
    return Plan("sharded", files, weight_map=weight_map, index=index)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"it is larger than {_MAX_INDEX_BYTES} bytes")
        loaded = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"an index must be a JSON file, {index} is not ({first_line(error)}); "
            f"{content_hint(index)}"
        ) from error
    weight_map = loaded.get("weight_map") if isinstance(loaded, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            "an index must have a 'weight_map' of tensor names to file names, "
            f"{index} has none; fetch it again"
        )
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(
                f"a weight_map must give a file name for each tensor, {index} gives "
                f"{file!r:.80} for {name!r:.80}; fetch it again"
            )
    return weight_map


def _shard(index: Path, folder: Path, file: str) -> Path:
    # Checked in this order, so that nothing outside the folder is even looked at.
    path = folder / file
    if not is_inside(folder, file):
        raise CheckpointError(
            f"an index must name files inside its own folder, {index} names "
            f"{file!r:.120}; do not trust it, or put the file into the folder"
        )
    if path.suffix != ".safetensors" and path.suffix not in PICKLE_SUFFIXES:
        raise CheckpointError(
            "an index must name .safetensors or torch files, "
            f"{index} names {file!r:.120}; fetch it again"
        )
    if not path.is_file():
        raise CheckpointError(
            f"an index must name files that exist, {index} names {file!r:.120}, which "
            "does not; fetch the missing file"
        )
    return path
