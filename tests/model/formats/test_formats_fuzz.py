"""Damage at random in every format: rows or a CheckpointError, nothing else."""

import base64
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damaged import read_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed_cases import CASES, case_of
from safetensors.torch import save, save_file

HERE = Path(__file__).parent
LAYERS = json.loads((HERE / "tfjs_layers_golden.json").read_text())
NASTY = [None, True, -1, 0, 7, 2**70, 1e308, float("nan"), "", "x", "../x", [], {}]
FEW = settings(
    derandomize=True,
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow],
)


def packed(case: str) -> dict[str, torch.Tensor]:
    return dict(case_of(case)[0])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def onnx_bytes() -> bytes:
    onnx = pytest.importorskip("onnx", reason="extra 'onnx'")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    shapes = {"w": (2, 16, 3), "r": (2, 16, 4), "b": (2, 32), "m": (8, 3)}
    tensors = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    codes = rng.integers(0, 256, (6, 3, 8), np.uint8)
    scales = rng.uniform(1, 2, 18).astype(np.float32)
    tensors += [
        numpy_helper.from_array(codes, "q"),
        numpy_helper.from_array(scales, "s"),
    ]
    nodes = [
        helper.make_node(
            "LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=4, direction="reverse"
        ),
        helper.make_node("MatMul", ["y", "m"], ["z"]),
        helper.make_node(
            "MatMulNBits", ["z", "q", "s"], ["p"], K=40, N=6, bits=4, block_size=16
        ),
    ]
    value = helper.make_tensor_value_info
    ends = [[value(n, onnx.TensorProto.FLOAT, None)] for n in "xz"]
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    return bytes(helper.make_model(graph).SerializeToString())


def gguf_bytes(folder: Path) -> bytes:
    gguf = pytest.importorskip("gguf", reason="extra 'gguf'")
    path = folder / "whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    codes = gguf.quantize(rows, gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("a.weight", rows)
    writer.add_tensor("b.weight", codes, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(scratch: Path) -> dict[str, bytes]:
    """A good file of each format that is one file."""
    return {
        "onnx": onnx_bytes(),
        "gguf": gguf_bytes(scratch),
        **{f"{case}.safetensors": save(packed(case)) for case in CASES},
    }


def test_the_good_files_are_read(scratch: Path, whole: dict[str, bytes]) -> None:
    counts = {}
    for kind, content in whole.items():
        path = scratch / f"good.{kind}"
        path.write_bytes(content)
        counts[kind] = read_all(path)
    assert counts.pop("onnx") == 18
    assert counts.pop("gguf") == 2
    assert set(counts.values()) == {1}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@FEW
@given(
    kind=st.sampled_from(["onnx", "gguf", *(f"{case}.safetensors" for case in CASES)]),
    place=st.floats(0, 1, exclude_max=True),
    in_head=st.booleans(),
    bit=st.integers(0, 7),
    kept=st.one_of(st.none(), st.floats(0, 1)),
)
def test_one_flipped_bit_or_a_cut_never_gives_another_error(
    scratch: Path,
    whole: dict[str, bytes],
    kind: str,
    place: float,
    in_head: bool,
    bit: int,
    kept: float | None,
) -> None:
    content = bytearray(whole[kind])
    span = min(400, len(content)) if in_head else len(content)
    content[int(place * span)] ^= 1 << bit
    path = scratch / f"flipped.{kind}"
    path.unlink(missing_ok=True)
    path.write_bytes(content if kept is None else content[: int(kept * len(content))])
    read_all(path)


def paths_of(value: Any, path: tuple = ()) -> list[tuple]:
    inside: list[tuple] = []
    if isinstance(value, dict):
        inside = [p for k, v in value.items() for p in paths_of(v, (*path, k))]
    elif isinstance(value, list):
        inside = [p for i, v in enumerate(value) for p in paths_of(v, (*path, i))]
    return [path, *inside] if path else inside


def with_change(value: Any, path: tuple, new: Any) -> Any:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return changed


@FEW
@given(data=st.data(), name=st.sampled_from(sorted(LAYERS)), new=st.sampled_from(NASTY))
def test_a_wrong_value_anywhere_in_a_browser_model(
    scratch: Path, data: st.DataObject, name: str, new: Any
) -> None:
    saved = LAYERS[name]
    manifest = [{"paths": ["w.bin"], "weights": saved["weights"]}]
    model = {"modelTopology": saved["modelTopology"], "weightsManifest": manifest}
    # Half of the changes go to the part that places the bytes.
    inner = data.draw(st.booleans())
    paths = [p for p in paths_of(model) if not inner or p[0] == "weightsManifest"]
    changed = with_change(model, data.draw(st.sampled_from(paths)), new)
    folder = scratch / "tfjs"
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(base64.b64decode(saved["data"]))
    (folder / "model.json").write_text(json.dumps(changed))
    read_all(folder)


CONFIG = {
    "model_type": "gpt2",
    "n_head": 2,
    "quantization_config": {
        "bits": 4,
        "checkpoint_format": "gptq",
        "version": "gemm",
        "weight_block_size": [128, 128],
    },
}


@FEW
@given(data=st.data(), case=st.sampled_from(CASES), new=st.sampled_from(NASTY))
def test_a_wrong_value_in_a_configuration(
    scratch: Path, data: st.DataObject, case: str, new: Any
) -> None:
    folder = scratch / "config"
    folder.mkdir(exist_ok=True)
    save_file(packed(case), folder / "model.safetensors")
    path = data.draw(st.sampled_from(paths_of(CONFIG)))
    (folder / "config.json").write_text(json.dumps(with_change(CONFIG, path, new)))
    read_all(folder)


STATES = [case for case in CASES if case.startswith("bitsandbytes-") and "4" in case]


@FEW
@given(data=st.data(), case=st.sampled_from(STATES), new=st.sampled_from(NASTY))
def test_a_wrong_value_in_the_state_of_bitsandbytes(
    data: st.DataObject, case: str, new: Any
) -> None:
    tensors = packed(case)
    (name,) = [name for name in tensors if "quant_state" in name]
    state = json.loads(bytes(tensors[name].tolist()))
    path = data.draw(st.sampled_from(paths_of(state)))
    text = json.dumps(with_change(state, path, new)).encode()
    tensors[name] = torch.tensor(list(text), dtype=torch.uint8)
    read_all(tensors)


DTYPES = [torch.int32, torch.uint8, torch.float16, torch.float32, torch.int64]
SIDES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 12, 16, 32, 64]), max_size=4)


@FEW
@given(data=st.data(), case=st.sampled_from([*CASES, "experts"]))
def test_parts_of_any_shape_and_type(data: st.DataObject, case: str) -> None:
    if case == "experts":
        blocks = torch.zeros(2, 3, 2, 16, dtype=torch.uint8)
        tensors = {"a_blocks": blocks, "a_scales": blocks[..., 0].clone()}
    else:
        tensors = packed(case)
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=2)):
        dtype = data.draw(st.sampled_from([tensors[name].dtype, *DTYPES]))
        shape = data.draw(st.one_of(st.just(list(tensors[name].shape)), SIDES))
        values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0))
        tensors[name] = values.to(dtype)
    read_all(tensors)
