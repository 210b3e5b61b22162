"""Codes of 8 bits with scales: the products written out, and a real pair of files."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import spectrank as sr
from spectrank.model import Skip, WeightMatrix, iter_weights


def matrices(tensors):
    rows = list(iter_weights(tensors))
    return {r.name: r for r in rows if isinstance(r, WeightMatrix)}


@pytest.fixture
def weights():
    return torch.randn(300, 200, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_blocks_of_fp8_are_multiplied_by_their_scales(weights, dtype):
    blocks = torch.rand(3, 2, generator=torch.Generator().manual_seed(1)) + 0.5
    codes = weights.to(dtype)
    row = matrices({"a.weight": codes, "a.weight_scale_inv": blocks})["a.weight"]
    truth = codes.float()
    for i in range(3):
        for j in range(2):
            rows, columns = slice(128 * i, 128 * (i + 1)), slice(128 * j, 128 * (j + 1))
            truth[rows, columns] *= blocks[i, j]
    assert torch.equal(row.tensor(), truth)
    assert row.dtype == torch.float32
    assert "scales (3x2)" in row.note


@pytest.mark.parametrize("shape", [(), (1,), (300,), (300, 1), (1, 200)])
def test_one_scale_or_one_a_row_or_column_is_multiplied_in(weights, shape):
    scale = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    codes = (weights * 20).to(torch.int8)
    row = matrices({"a.weight": codes, "a.weight_scale": scale})["a.weight"]
    factor = scale[:, None] if shape == (300,) else scale
    assert torch.equal(row.tensor(), codes.float() * factor)


def test_zero_points_are_subtracted_first(weights):
    codes = (weights * 20).to(torch.int8)
    scale, zero = torch.full((300, 1), 0.1), torch.full((300, 1), 7, dtype=torch.int8)
    tensors = {
        "a.weight": codes,
        "a.weight_scale": scale,
        "a.weight_zero_point": zero,
    }
    row = matrices(tensors)["a.weight"]
    assert torch.equal(row.tensor(), (codes.float() - 7) * scale)


def test_scales_that_fit_nowhere_leave_a_reason(weights):
    codes = weights.to(torch.float8_e4m3fn)
    rows = list(iter_weights({"a.weight": codes, "a.weight_scale": torch.ones(5, 4)}))
    (row,) = [r for r in rows if r.name == "a.weight"]
    assert isinstance(row, Skip)
    assert "not decoded" in row.reason


def test_the_singular_values_of_a_file_are_those_of_the_product(weights, tmp_path):
    blocks = torch.tensor([[4.0, 0.1], [0.2, 3.0], [1.0, 1.0]])
    codes = weights.to(torch.float8_e4m3fn)
    path = tmp_path / "m.safetensors"
    save_file({"a.weight": codes, "a.weight_scale_inv": blocks}, path)
    table = sr.scan(path, metrics="stable_rank")
    spread = blocks.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :200]
    truth = sr.metrics.stable_rank(codes.float() * spread)
    assert table.value("a.weight", "stable_rank") == pytest.approx(
        truth.value, rel=1e-9
    )
    without = sr.metrics.stable_rank(codes.float())
    assert abs(without.value / truth.value - 1) > 0.1


def test_a_real_quantised_file_is_close_to_its_original():
    spec = importlib.util.find_spec("fracast")
    if spec is None:
        pytest.skip("package fracast with real weights is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "weights"
    original = load_file(folder / "model.safetensors")
    found = matrices(folder / "model.int8.safetensors")
    decoded = {k: r for k, r in found.items() if r.note}
    assert len(decoded) == 19
    for name, row in decoded.items():
        W = original[name.removesuffix(".qweight")].flatten(1)
        step = W.abs().amax(dim=1, keepdim=True) / 127
        assert ((row.tensor() - W).abs() <= 0.5001 * step + 1e-9).all(), name


def test_blocks_of_fp8_have_the_size_that_the_configuration_tells(tmp_path):
    codes = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    packed = {
        "a.weight": codes.to(torch.float8_e4m3fn),
        "a.weight_scale_inv": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    }
    save_file(packed, tmp_path / "model.safetensors")
    config = {"quantization_config": {"weight_block_size": [3, 4]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    W = matrices(tmp_path)["a.weight"].tensor()
    truth = packed["a.weight"].float()
    truth[:3, 4:] *= 2
    truth[3:, :4] *= 3
    truth[3:, 4:] *= 4
    assert torch.equal(W, truth)
