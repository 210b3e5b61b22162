"""Files that are damaged, lie or attack: one clear error, nothing executed."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from spectrank.errors import CheckpointError
from spectrank.model import Skip, WeightMatrix, describe, iter_matrices, iter_weights

TENSORS = {f"layer.{i}.weight": torch.arange(20.0).reshape(4, 5) + i for i in range(3)}
LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def f32(start: int, stop: int, shape: tuple[int, ...] = (2, 2)) -> dict[str, object]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}


def pickled(loaded: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(loaded, buffer)
    return buffer.getvalue()


def refused(path: Path, match: str) -> None:
    """Both entry points refuse at once, with one line that names the file."""
    for function in (iter_weights, describe):
        with pytest.raises(CheckpointError, match=match) as caught:
            function(path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 1000


SAFETENSORS = save(TENSORS)

BROKEN_SAFETENSORS = {
    "empty": (b"", "it is empty: fetch it again"),
    "three bytes": (b"abc", "header too small"),
    "truncated data": (SAFETENSORS[:-1], "file not fully covered"),
    "truncated header": (SAFETENSORS[:40], r"invalid header|header"),
    "bytes after the end": (SAFETENSORS + b"x", "file not fully covered"),
    "text": (b"this is no tensor file at all\n" * 9, "it looks like plain text"),
    "git-lfs pointer": (LFS, r"git-lfs pointer.*git lfs pull"),
    "web page": (b"<!DOCTYPE html><html>not found</html>", "it is a web page"),
    "zip": (pickled(TENSORS), "it looks like a zip archive.*name it .pt"),
    "huge header": ((1 << 60).to_bytes(8, "little") + b"{}", "header too large"),
    "no JSON": (raw(b"{not json}"), "invalid JSON in header"),
    "no UTF-8": (raw(b"\xff\xfe{}"), "invalid UTF-8 in header"),
    "a list": (raw([]), "invalid JSON in header"),
    "unknown dtype": (raw({"a": {**f32(0, 16), "dtype": "Q7"}}, b"\0" * 16), "Q7"),
    "outside the file": (raw({"a": f32(0, 1600)}, b"\0" * 16), "invalid shape, data"),
    "shape against size": (raw({"a": f32(0, 16, (2, 3))}, b"\0" * 16), "invalid shape"),
    "overlapping": (
        raw({"a": f32(0, 16), "b": f32(8, 24)}, b"\0" * 24),
        "invalid offset for tensor `b`",
    ),
    "hole": (raw({"a": f32(0, 16), "b": f32(20, 36)}, b"\0" * 36), "invalid offset"),
    "overflowing shape": (raw({"a": f32(0, 16, (1 << 62, 8))}, b"\0" * 16), "overflow"),
}


@pytest.mark.parametrize("case", BROKEN_SAFETENSORS)
def test_a_broken_safetensors_file_is_one_clear_error(
    tmp_path: Path, case: str
) -> None:
    content, match = BROKEN_SAFETENSORS[case]
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    refused(path, match)


def test_a_file_without_tensors_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(raw({}))
    refused(tmp_path / "w.safetensors", "must hold tensors, .* holds none")
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "must hold tensors, .* holds none")


class Payload:
    """Unpickling this creates the file; `marker` is where."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.marker),))


def attack_plain(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(marker)))


def attack_zip(path: Path, marker: Path) -> None:
    torch.save({**TENSORS, "x": Payload(marker)}, path)


def attack_legacy(path: Path, marker: Path) -> None:
    loaded = {**TENSORS, "x": Payload(marker)}
    torch.save(loaded, path, _use_new_zipfile_serialization=False)


def attack_tar(path: Path, marker: Path) -> None:
    content = pickle.dumps(Payload(marker))
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


ATTACKS = {
    "plain": (attack_plain, "cannot be read|asks for"),
    "zip": (attack_zip, r"asks for \w+\.mkdir and was not executed"),
    "legacy": (attack_legacy, r"asks for \w+\.mkdir and was not executed"),
    "tar": (attack_tar, r"legacy \.tar format, which cannot be read safely"),
}


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_payload_never_runs(tmp_path: Path, attack: str, suffix: str) -> None:
    write, match = ATTACKS[attack]
    path, marker = tmp_path / f"w.{suffix}", tmp_path / "pwned"
    write(path, marker)
    refused(path, match)
    with pytest.raises(CheckpointError):
        iter_weights(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("attack", ["zip", "legacy", "plain"])
def test_the_payloads_are_real(tmp_path: Path, attack: str) -> None:
    # Without this the test above would pass on payloads that cannot run at all.
    path, marker = tmp_path / "w.pt", tmp_path / "pwned"
    ATTACKS[attack][0](path, marker)
    if attack == "plain":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_the_environment_cannot_switch_the_guard_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    attack_zip(tmp_path / "w.pt", tmp_path / "pwned")
    refused(tmp_path / "w.pt", "was not executed")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_program_is_not_run(tmp_path: Path) -> None:
    program = tmp_path / "w.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), program)
    refused(program, "TorchScript program and was not run")


PICKLED = pickled(TENSORS)

BROKEN_PICKLES = {
    "empty": (b"", "it is empty: fetch it again"),
    "truncated": (PICKLED[: len(PICKLED) // 2], "cut short, damaged"),
    "text": (b"hello, this is text\n", "it looks like plain text"),
    "git-lfs pointer": (LFS, r"git-lfs pointer.*git lfs pull"),
    "web page": (b"<html>not found</html>", "it is a web page"),
    "safetensors": (SAFETENSORS, "it looks like a safetensors file"),
    "random bytes": (bytes(range(255, 0, -1)) * 9, "cut short, damaged"),
}


@pytest.mark.parametrize("case", BROKEN_PICKLES)
def test_a_broken_pickle_is_one_clear_error(tmp_path: Path, case: str) -> None:
    content, match = BROKEN_PICKLES[case]
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    refused(path, match)


def test_a_record_shorter_than_its_tensor_is_a_skip(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with (
        zipfile.ZipFile(io.BytesIO(PICKLED)) as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for record in old.infolist():
            content = old.read(record.filename)
            cut = "/data/" in record.filename
            new.writestr(record.filename, content[:8] if cut else content)
    for row in iter_weights(path):
        assert isinstance(row, Skip)
        assert row.reason == (
            "claims a storage of 80 bytes, the file has none of that size"
        )


def test_a_tensor_larger_than_its_storage_is_a_skip(tmp_path: Path) -> None:
    bomb = torch.zeros(1).expand(1_000_000, 1_000_000)
    torch.save({"bomb": bomb, "good": torch.ones(2, 2)}, tmp_path / "w.pt")
    first, second = iter_weights(tmp_path / "w.pt")
    assert isinstance(first, Skip)
    assert first.reason == "claims 4000000000000 bytes but its storage holds 4"
    assert isinstance(second, WeightMatrix)


def test_nested_checkpoints_without_end_name_the_file(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"a": torch.ones(2, 2)}
    loop["self"] = loop
    torch.save(loop, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "nest at most 64 deep")


def test_paths_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    refused(tmp_path / "no.safetensors", "a path must exist, .* does not")
    refused(tmp_path / "no" / "such.pt", "a path must exist, .* does not")
    refused(tmp_path / ("x" * 300), r"a path must (be readable|exist)")
    refused(tmp_path, "must hold .safetensors, .pt, .pth, .bin or .ckpt files")
    with pytest.raises(CheckpointError, match="a path must not be empty"):
        iter_weights("")
    with pytest.raises(CheckpointError, match="a path must"):
        iter_weights("a\0b.pt")


def test_a_broken_link_a_pipe_and_another_format_are_errors(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "link.pt", "is neither")
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "is neither")
    (tmp_path / "w.h5").write_bytes(b"\x89HDF\r\n" + b"\0" * 99)
    refused(tmp_path / "w.h5", "must end in .safetensors.*HDF5, which is not read")
    with pytest.raises(CheckpointError, match=r"holds none but w\.h5; give the folder"):
        iter_weights(tmp_path)


def test_a_folder_of_folders_points_to_the_one_with_weights(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    save_file(TENSORS, tmp_path / "inner" / "model.safetensors")
    refused(tmp_path, "try its folder 'inner'")


def test_one_unreadable_file_of_a_folder_leaves_the_others_unharmed(
    tmp_path: Path,
) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(SAFETENSORS[:-1])
    rows = {row.name: row for row in iter_weights(tmp_path)}
    left = rows.pop("b.safetensors")
    assert isinstance(left, Skip)
    assert "file not fully covered" in left.reason
    assert len(rows) == 3
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match="file not fully covered"):
        iter_weights(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("harm", ["truncated", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_fails_at_its_tensors_only(
    tmp_path: Path, suffix: str, harm: str
) -> None:
    # Two files: the harmed one fails row by row, the other is read to the end.
    save_file({"other.weight": torch.ones(2, 2)}, tmp_path / "z.safetensors")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(SAFETENSORS if suffix == "safetensors" else PICKLED)
    folder = tmp_path if suffix == "safetensors" else path
    rows = list(iter_matrices(folder))
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif harm == "replaced":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        path.unlink()
    for row in rows[:3]:
        with pytest.raises(CheckpointError, match=r"must (not change|stay in place)"):
            row.tensor()
    for row in rows[3:]:
        assert torch.equal(row.tensor(), torch.ones(2, 2))
