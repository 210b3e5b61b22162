"""Files and folders that are in order: every route gives the same named matrices."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model import (
    Skip,
    WeightMatrix,
    describe,
    iter_matrices,
    iter_weights,
    weight_names,
)

State = dict[str, Tensor]


def state(num_layers: int = 12) -> State:
    generator = torch.Generator().manual_seed(0)
    tensors: State = {}
    for i in range(num_layers):
        tensors[f"layer.{i}.weight"] = torch.randn(4, 3, generator=generator)
        tensors[f"layer.{i}.bias"] = torch.randn(4, generator=generator)
    tensors["position_ids"] = torch.arange(6).reshape(1, 6)
    return tensors


def save_sharded(folder: Path, tensors: State, suffix: str) -> Path:
    """Two shards and their index, layers dealt out alternately."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    shards: list[State] = [{}, {}]
    weight_map = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        shards[i // 2 % 2][name] = tensor
        weight_map[name] = f"{stem}-0000{i // 2 % 2 + 1}-of-00002{suffix}"
    for i, shard in enumerate(shards):
        file = folder / f"{stem}-0000{i + 1}-of-00002{suffix}"
        if suffix == ".safetensors":
            save_file(shard, file)
        else:
            torch.save(shard, file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def save_deflated(path: Path, tensors: State) -> None:
    """Repack a file of torch.save with compression, which cannot be mapped."""
    stored = path.with_suffix(".zip")
    torch.save(tensors, stored)
    with (
        zipfile.ZipFile(stored) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for record in old.infolist():
            new.writestr(record.filename, old.read(record.filename))
    stored.unlink()


def save_loose(folder: Path, tensors: State, suffixes: tuple[str, str]) -> None:
    """Two files without an index."""
    names = list(tensors)
    for stem, suffix, part in zip("ab", suffixes, (names[:9], names[9:]), strict=True):
        file = folder / f"{stem}{suffix}"
        chosen = {name: tensors[name] for name in part}
        if suffix == ".safetensors":
            save_file(chosen, file)
        else:
            torch.save(chosen, file)


def save(tmp_path: Path, route: str) -> Path:
    tensors = state()
    path = tmp_path / "w.pt"
    match route:
        case "safetensors":
            path = tmp_path / "w.safetensors"
            save_file(tensors, path)
        case "pt" | "pth" | "bin" | "ckpt":
            path = tmp_path / f"w.{route}"
            torch.save(tensors, path)
        case "legacy":
            torch.save(tensors, path, _use_new_zipfile_serialization=False)
        case "deflated":
            save_deflated(path, tensors)
        case "sharded" | "sharded-bin":
            suffix = ".safetensors" if route == "sharded" else ".bin"
            path = save_sharded(tmp_path, tensors, suffix).parent
        case "index":
            path = save_sharded(tmp_path, tensors, ".safetensors")
        case "hub-folder":
            save_file(tensors, tmp_path / "model.safetensors")
            (tmp_path / "config.json").write_text("{}")
            path = tmp_path
        case "loose":
            save_loose(tmp_path, tensors, (".safetensors", ".safetensors"))
            path = tmp_path
        case "loose-pt":
            save_loose(tmp_path, tensors, (".pt", ".pth"))
            path = tmp_path
    return path


KINDS = {
    "safetensors": "safetensors",
    "pt": "pickle",
    "pth": "pickle",
    "bin": "pickle",
    "ckpt": "pickle",
    "legacy": "pickle",
    "deflated": "pickle",
    "sharded": "sharded",
    "sharded-bin": "sharded",
    "index": "sharded",
    "hub-folder": "folder",
    "loose": "folder",
    "loose-pt": "folder",
}


@pytest.mark.parametrize("route", KINDS)
def test_every_route_gives_the_same_rows(tmp_path: Path, route: str) -> None:
    path, tensors = save(tmp_path, route), state()
    rows = {row.name: row for row in iter_weights(path)}
    assert set(rows) == set(tensors)
    for name, stored in tensors.items():
        row = rows[name]
        assert row.dtype == stored.dtype
        assert row.layer_type is None
        if name.startswith("layer") and name.endswith("weight"):
            assert isinstance(row, WeightMatrix)
            assert (row.view, row.shape, row.inferred) == ("linear", (4, 3), True)
            assert torch.equal(row.tensor(), stored)
        else:
            assert isinstance(row, Skip)
            assert row.shape == tuple(stored.shape)
    info = describe(path)
    assert info.kind == KINDS[route]
    assert info.label == str(path)
    assert all(file.is_file() for file in info.files)
    assert info.num_parameters == 12 * 16
    assert info.num_tensors == len(tensors)


@pytest.mark.parametrize("route", ["safetensors", "sharded", "pt"])
def test_layer_two_comes_before_layer_ten(tmp_path: Path, route: str) -> None:
    path = save(tmp_path, route)
    assert [row.name for row in iter_matrices(path)] == [
        f"layer.{i}.weight" for i in range(12)
    ]


@pytest.mark.parametrize("route", ["safetensors", "sharded", "pt", "legacy"])
def test_rows_can_be_kept_and_read_later_in_any_order(
    tmp_path: Path, route: str
) -> None:
    path, tensors = save(tmp_path, route), state()
    rows = list(iter_matrices(path))
    values = [(row.name, row.tensor()) for row in [*rows[::-1], *rows]]
    for name, value in values:
        assert torch.equal(value, tensors[name])


def test_a_string_and_a_path_are_the_same(tmp_path: Path) -> None:
    path = save(tmp_path, "safetensors")
    assert weight_names(str(path)) == weight_names(path)


def test_folder_prefers_model_safetensors_and_names_the_rest(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    save_file({"b.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    torch.save({"c.weight": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "vocab.txt").write_text("no weights")
    rows = list(iter_weights(tmp_path))
    assert [row.name for row in rows] == [
        "a.weight",
        "model.onnx",
        "other.safetensors",
        "pytorch_model.bin",
    ]
    for row in rows[1:]:
        assert isinstance(row, Skip)
        assert row.reason == (
            "file not read: the weights of the folder are in model.safetensors"
        )
    assert describe(tmp_path).files == (tmp_path / "model.safetensors",)
    assert describe(tmp_path).num_tensors == 1


def test_folder_takes_the_index_before_pickles(tmp_path: Path) -> None:
    save_sharded(tmp_path, state(), ".safetensors")
    torch.save({"c.weight": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    assert describe(tmp_path).kind == "sharded"
    assert "c.weight" not in weight_names(tmp_path)


def test_folder_takes_any_single_safetensors_index(tmp_path: Path) -> None:
    index = save_sharded(tmp_path, state(), ".safetensors")
    index.rename(tmp_path / "diffusion_pytorch_model.safetensors.index.json")
    assert describe(tmp_path).kind == "sharded"
    assert set(state()) == set(weight_names(tmp_path))


def test_folder_of_pickles_leaves_out_what_holds_more_than_tensors(
    tmp_path: Path,
) -> None:
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    torch.save({"args": Path("x")}, tmp_path / "training_args.bin")
    rows = {row.name: row for row in iter_weights(tmp_path)}
    assert isinstance(rows["a.weight"], WeightMatrix)
    left = rows["training_args.bin"]
    assert isinstance(left, Skip)
    assert left.reason.startswith("file not read: a checkpoint must hold tensors only")
    assert describe(tmp_path).files == (tmp_path / "a.pt",)


def test_tied_tensors_of_a_pickle_are_measured_once(tmp_path: Path) -> None:
    weight = torch.randn(7, 3)
    torch.save({"wte.weight": weight, "head.weight": weight}, tmp_path / "w.pt")
    first, second = iter_weights(tmp_path / "w.pt")
    assert isinstance(first, WeightMatrix)
    assert first.tied_to == ("head.weight",)
    assert isinstance(second, Skip)
    assert second.reason == "tied to wte.weight"
    assert describe(tmp_path / "w.pt").num_parameters == 21


def test_equal_values_stored_twice_are_not_tied(tmp_path: Path) -> None:
    weight = torch.randn(7, 3)
    torch.save({"a": weight, "b": weight.clone()}, tmp_path / "w.pt")
    assert [row.tied_to for row in iter_matrices(tmp_path / "w.pt")] == [(), ()]


def test_a_nested_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    checkpoint = {
        "state_dict": {"net.weight": torch.ones(2, 3)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2, 3)}}, "lr": 0.1},
        "epoch": 7,
    }
    torch.save(checkpoint, tmp_path / "w.ckpt")
    first, second = iter_weights(tmp_path / "w.ckpt")
    assert isinstance(first, WeightMatrix)
    assert torch.equal(first.tensor(), torch.ones(2, 3))
    assert (second.name, type(second)) == ("optimizer.state.0.exp_avg", Skip)


def test_a_strided_tensor_of_a_pickle_keeps_its_values(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"t": whole.mT, "part": whole[1:, 1:3]}, tmp_path / "w.pt")
    rows = {row.name: row.tensor() for row in iter_matrices(tmp_path / "w.pt")}
    assert torch.equal(rows["t"], whole.mT)
    assert torch.equal(rows["part"], whole[1:, 1:3])


def test_a_tensor_in_a_shard_but_not_in_the_index_is_a_skip(tmp_path: Path) -> None:
    index = save_sharded(tmp_path, state(), ".safetensors")
    loaded = json.loads(index.read_text())
    del loaded["weight_map"]["layer.3.weight"]
    index.write_text(json.dumps(loaded))
    rows = {row.name: row for row in iter_weights(tmp_path)}
    row = rows["layer.3.weight"]
    assert isinstance(row, Skip)
    assert row.reason == (
        "in model-00002-of-00002.safetensors but not in the index of the shards"
    )


def test_a_hub_cache_with_its_links_is_read(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--me--net" / "snapshots" / "abc"
    blobs = tmp_path / "models--me--net" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_sharded(snapshot, state(), ".safetensors")
    for file in list(snapshot.iterdir()):
        blob = blobs / f"hash-{file.name}".replace(".", "")
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / blob.name)
    rows = list(iter_matrices(snapshot))
    assert len(rows) == 12
    assert torch.equal(rows[3].tensor(), state()["layer.3.weight"])


def test_names_with_globs_and_dots_survive(tmp_path: Path) -> None:
    odd = {"a[0].weight": torch.ones(2, 3), "é ..\n.weight": torch.ones(2, 3)}
    save_file(odd, tmp_path / "w.safetensors")
    assert set(weight_names(tmp_path / "w.safetensors")) == set(odd)


def test_long_numbers_in_names_are_ordered_without_failing(tmp_path: Path) -> None:
    names = [f"x.{'9' * 5000}.w", "x.2.w", "x.10.w", "3", "²"]
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "w.safetensors")
    order = list(weight_names(tmp_path / "w.safetensors"))
    assert order == ["3", "x.2.w", "x.10.w", names[0], "²"]


def test_a_tensor_with_a_zero_side_is_still_a_matrix(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(0, 4)}, tmp_path / "w.safetensors")
    torch.save({"a.weight": torch.zeros(4, 0, 3)}, tmp_path / "w.pt")
    empty = next(iter_matrices(tmp_path / "w.safetensors"))
    kernel = next(iter_matrices(tmp_path / "w.pt"))
    assert empty.shape == tuple(empty.tensor().shape) == (0, 4)
    assert kernel.shape == tuple(kernel.tensor().shape) == (4, 0)


def test_writing_into_a_loaded_matrix_does_not_reach_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, "safetensors")
    before = path.read_bytes()
    next(iter_matrices(path)).tensor().zero_()
    assert path.read_bytes() == before


def test_two_files_with_one_name_are_an_error(tmp_path: Path) -> None:
    for file in ("epoch1", "epoch2"):
        save_file({"a.weight": torch.ones(2, 2)}, tmp_path / f"{file}.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"'a\.weight' is in epoch1\.safetensors and in epoch2\.safetensors",
    ):
        iter_weights(tmp_path)
