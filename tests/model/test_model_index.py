"""The index of a sharded folder: it may lie about files, folders and tensors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectrank.errors import CheckpointError
from spectrank.model import describe, iter_matrices, iter_weights

TENSORS = {f"layer.{i}.weight": torch.arange(20.0).reshape(4, 5) + i for i in range(3)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def refused(index: Path, match: str) -> None:
    """Both entry points refuse at once, with one line that names the index."""
    for function in (iter_weights, describe):
        with pytest.raises(CheckpointError, match=match) as caught:
            function(index)
        message = str(caught.value)
        assert str(index) in message
        assert "\n" not in message
        assert len(message) < 1000


def sharded(folder: Path, index: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(TENSORS, folder / "shard.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())
    return path


def mapped(file: object, name: str = "layer.0.weight") -> dict[str, object]:
    return {"weight_map": {name: file}}


BROKEN_INDEXES = {
    "no JSON": (b"{", "an index must be a JSON file"),
    "text": (b"hello there, this is text", "it looks like plain text"),
    "empty": (b"", "it is empty"),
    "no UTF-8": (b"\xff\xfe", "an index must be a JSON file"),
    "endless nesting": (b"[" * 200_000, "an index must be a JSON file"),
    "git-lfs pointer": (LFS, "git lfs pull"),
    "a list": ([], "must have a 'weight_map'"),
    "no weight_map": ({"metadata": {}}, "must have a 'weight_map'"),
    "empty weight_map": ({"weight_map": {}}, "must have a 'weight_map'"),
    "weight_map a list": ({"weight_map": ["a"]}, "must have a 'weight_map'"),
    "file no string": (mapped(3), "must give a file name for each tensor"),
    "parent": (mapped("../secret.safetensors"), "inside its own folder"),
    "parent inside": (mapped("x/../../secret.safetensors"), "inside its own folder"),
    "absolute": (mapped("/etc/secret.safetensors"), "inside its own folder"),
    "drive": (mapped("C:\\secret.safetensors"), "inside its own folder"),
    "backslashes": (mapped("..\\secret.safetensors"), "inside its own folder"),
    "nul": (mapped("a\0.safetensors"), "inside its own folder"),
    "no name": (mapped(""), "inside its own folder"),
    "missing file": (mapped("gone.safetensors"), "must name files that exist"),
    "other format": (mapped("config.json"), "must name .safetensors or torch files"),
    "missing tensor": (
        mapped("shard.safetensors", "layer.9.weight"),
        "must name tensors that its files hold, .* puts 1 of 1 .* 'layer.9.weight'",
    ),
}


@pytest.mark.parametrize("case", BROKEN_INDEXES)
def test_a_broken_index_is_one_clear_error(tmp_path: Path, case: str) -> None:
    content, match = BROKEN_INDEXES[case]
    save_file(TENSORS, tmp_path / "secret.safetensors")
    index = sharded(tmp_path / "model", content)
    refused(index, match)
    with pytest.raises(CheckpointError, match=match):
        iter_weights(index.parent)


def test_a_link_out_of_the_folder_is_an_error(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "secret.safetensors")
    index = sharded(tmp_path / "model", mapped("link.safetensors"))
    (index.parent / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    refused(index, "inside its own folder")


def test_a_linked_folder_inside_the_folder_is_an_error_too(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    save_file(TENSORS, outside / "w.safetensors")
    index = sharded(tmp_path / "model", mapped("sub/w.safetensors"))
    (index.parent / "sub").symlink_to(outside)
    refused(index, "inside its own folder")


def test_only_the_blobs_of_the_same_cached_model_may_be_linked(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--me--net" / "snapshots" / "abc"
    other = tmp_path / "models--you--net" / "blobs"
    for folder in (snapshot, other):
        folder.mkdir(parents=True)
    save_file(TENSORS, other / "hash")
    index = sharded(snapshot, mapped("w.safetensors"))
    (snapshot / "w.safetensors").symlink_to(other / "hash")
    refused(index, "inside its own folder")


def test_a_folder_named_blobs_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    save_file(TENSORS, tmp_path / "blobs" / "hash")
    (tmp_path / "x").mkdir()
    index = sharded(tmp_path / "x" / "y", mapped("w.safetensors"))
    (index.parent / "w.safetensors").symlink_to(tmp_path / "blobs" / "hash")
    refused(index, "inside its own folder")


def test_a_link_inside_the_folder_is_fine(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model", mapped("link.safetensors"))
    (index.parent / "link.safetensors").symlink_to(index.parent / "shard.safetensors")
    assert len(list(iter_matrices(index))) == 1


def test_a_tensor_in_two_shards_is_an_error(tmp_path: Path) -> None:
    names = list(TENSORS)
    index = sharded(
        tmp_path,
        {"weight_map": {names[0]: "shard.safetensors", "b": "two.safetensors"}},
    )
    save_file(
        {"b": torch.ones(2, 2), names[0]: torch.ones(2, 2)},
        tmp_path / "two.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"'layer\.0\.weight' is in shard.safet"):
        iter_weights(index)


def test_a_truncated_shard_is_an_error_before_the_first_row(tmp_path: Path) -> None:
    index = sharded(tmp_path, mapped("shard.safetensors"))
    shard = tmp_path / "shard.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"shard\.safetensors is not .*covered"):
        iter_weights(index)
