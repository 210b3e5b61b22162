"""GGUF files: the package's own writer and dequantiser as oracle."""

import numpy as np
import pytest
import torch

from spectrank.errors import CheckpointError
from spectrank.model import Skip, WeightMatrix, describe, iter_weights

gguf = pytest.importorskip("gguf", reason="extra 'gguf'")

QUANTISED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]


def write(path, tensors):
    """A file of arrays, each with the name of a type or None for its own."""
    writer = gguf.GGUFWriter(path, "llama")
    stored = {}
    for name, (x, kind) in tensors.items():
        if kind is None:
            writer.add_tensor(name, x)
            continue
        q = gguf.GGMLQuantizationType[kind]
        stored[name] = gguf.quantize(x, q)
        writer.add_tensor(name, stored[name], raw_dtype=q)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


@pytest.fixture
def weights():
    return np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)


@pytest.mark.parametrize("kind", QUANTISED)
def test_blocks_are_decoded_as_the_package_decodes_them(tmp_path, weights, kind):
    path = tmp_path / "m.gguf"
    stored = write(path, {"blk.0.attn_q.weight": (weights, kind)})
    (row,) = iter_weights(path)
    assert isinstance(row, WeightMatrix)
    assert row.shape == (6, 512)
    assert row.note == f"decoded from {kind}"
    truth = gguf.dequantize(
        stored["blk.0.attn_q.weight"], gguf.GGMLQuantizationType[kind]
    )
    assert np.array_equal(row.tensor().numpy(), truth.reshape(6, 512))
    # Close to what was written, so that rows and columns are where they were.
    assert np.corrcoef(row.tensor().numpy().ravel(), weights.ravel())[0, 1] > 0.6


def test_plain_types_keep_dtype_shape_and_values(tmp_path, weights):
    path = tmp_path / "m.gguf"
    write(
        path,
        {
            "a.weight": (weights, None),
            "b.weight": (weights.astype(np.float16), None),
            "c.weight": (weights, "BF16"),
            "d.bias": (weights[0], None),
            "e.weight": (weights.reshape(3, 2, 512), None),
        },
    )
    rows = {row.name: row for row in iter_weights(path)}
    assert np.array_equal(rows["a.weight"].tensor().numpy(), weights)
    assert rows["b.weight"].dtype == torch.float16
    assert rows["c.weight"].dtype == torch.bfloat16
    rounded = torch.from_numpy(weights).to(torch.bfloat16)
    assert torch.equal(rows["c.weight"].tensor(), rounded)
    assert isinstance(rows["d.bias"], Skip)
    assert rows["e.weight"].load().shape == (3, 2, 512)
    assert describe(path).kind == "gguf"
    assert describe(tmp_path).kind == "folder"


def test_parts_of_a_split_model_are_one_source(tmp_path, weights):
    write(tmp_path / "m-00001-of-00002.gguf", {"a.weight": (weights, None)})
    write(tmp_path / "m-00002-of-00002.gguf", {"b.weight": (weights, "Q8_0")})
    assert [row.name for row in iter_weights(tmp_path)] == ["a.weight", "b.weight"]


def test_two_models_in_a_folder_are_not_mixed(tmp_path, weights):
    write(tmp_path / "a.gguf", {"a.weight": (weights, None)})
    write(tmp_path / "b.gguf", {"a.weight": (weights, "Q8_0")})
    with pytest.raises(CheckpointError, match=r"a\.gguf, b\.gguf; give one of these"):
        list(iter_weights(tmp_path))


@pytest.mark.parametrize("keep", [0, 3, 20, 200])
def test_a_file_cut_short_is_a_clear_error(tmp_path, weights, keep):
    path = tmp_path / "m.gguf"
    write(path, {"a.weight": (weights, None)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"\.gguf file must"):
        list(iter_weights(path))
