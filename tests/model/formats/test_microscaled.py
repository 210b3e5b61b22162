"""Floats of four bits against transformers, and against their table written out."""

import math

import pytest
import torch
from safetensors.torch import save_file

from spectrank.model import WeightMatrix, iter_weights
from spectrank.model.formats import microscaled

MX = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def mx_value(code, power):
    sign = -1 if code & 8 else 1
    return math.nan if power == 255 else sign * MX[code & 7] * 2.0 ** (power - 127)


def test_microscaling_blocks_are_powers_of_two_times_a_table():
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(
        0, 256, (2, 3, 2, 16), generator=generator, dtype=torch.uint8
    )
    scales = torch.tensor([[[0, 1], [127, 100], [130, 200]]] * 2, dtype=torch.uint8)
    scales[1, 0, 0] = 252
    scales[1, 2, 1] = 255
    packed = {"moe.experts.w_blocks": blocks, "moe.experts.w_scales": scales}
    rows = [r for r in iter_weights(packed) if isinstance(r, WeightMatrix)]
    assert [r.view for r in rows] == ["expert.0", "expert.1"]
    assert {r.name for r in rows} == {"moe.experts.w"}
    for e, row in enumerate(rows):
        # The packing has the outputs first, so the matrix has, whatever it is named.
        W = row.tensor().double()
        assert tuple(W.shape) == (3, 64)
        for o in range(3):
            for k in range(64):
                byte = int(blocks[e, o, k // 32, k % 32 // 2])
                code = byte >> 4 if k % 2 else byte & 15
                truth = mx_value(code, int(scales[e, o, k // 32]))
                value = float(W[o, k])
                assert value == truth or (math.isnan(value) and math.isnan(truth))


def test_an_expert_is_decoded_without_the_others(monkeypatch):
    blocks = torch.arange(256, dtype=torch.uint8).reshape(4, 2, 2, 16)
    scales = torch.full((4, 2, 2), 127, dtype=torch.uint8)
    scales[:, 0] += torch.arange(4, dtype=torch.uint8)[:, None]
    packed = {"moe.experts.w_blocks": blocks, "moe.experts.w_scales": scales}
    rows = [r for r in iter_weights(packed) if isinstance(r, WeightMatrix)]
    whole = rows[0].load()
    assert whole.shape == (4, 64, 2)
    decoded = []
    scaled = microscaled._scaled
    monkeypatch.setattr(
        microscaled, "_scaled", lambda raw, by: decoded.append(raw) or scaled(raw, by)
    )
    assert torch.equal(rows[2].tensor(), whole[2].T)
    assert [raw.shape for raw in decoded] == [(2, 32)]
    # The pair of a byte, by hand: 0b1011 0b1010 of byte 0xBA are -1.5 and -1.
    assert [int(b) for b in blocks[2, 1, 1, -6:-4]] == [0xBA, 0xBB]
    assert whole[2, 52:54, 1].tolist() == [-1.0, -1.5]


def test_experts_of_gpt_oss_are_those_that_transformers_unpacks(tmp_path):
    transformers = pytest.importorskip("transformers")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    config = transformers.GptOssConfig(
        hidden_size=64, intermediate_size=32, num_local_experts=2, num_hidden_layers=1
    )
    generator = torch.Generator().manual_seed(1)
    packed, truth = {}, {}
    for name, outputs, blocks in (("gate_up_proj", 64, 2), ("down_proj", 64, 1)):
        key = f"model.layers.0.mlp.experts.{name}"
        codes = torch.randint(0, 256, (2, outputs, blocks, 16), generator=generator)
        powers = torch.randint(118, 130, (2, outputs, blocks), generator=generator)
        packed[f"{key}_blocks"] = codes.to(torch.uint8)
        packed[f"{key}_scales"] = powers.to(torch.uint8)
        packed[f"{key}_bias"] = torch.zeros(2, outputs)
        truth[key] = mxfp4.convert_moe_packed_tensors(
            packed[f"{key}_blocks"], packed[f"{key}_scales"]
        )
    save_file(packed, tmp_path / "model.safetensors")
    config.save_pretrained(tmp_path)
    rows = [r for r in iter_weights(tmp_path) if isinstance(r, WeightMatrix)]
    found = {(r.name.rpartition(".")[2], r.view): r.tensor() for r in rows}
    gate_up = truth["model.layers.0.mlp.experts.gate_up_proj"]
    down = truth["model.layers.0.mlp.experts.down_proj"]
    assert set(found) == {
        *(("gate_up_proj", f"expert.{e}.{p}") for e in (0, 1) for p in ("gate", "up")),
        *(("down_proj", f"expert.{e}") for e in (0, 1)),
    }
    for e in (0, 1):
        # x @ W of the layer, whose columns are gate, up, gate, up, ...
        gate, up = gate_up[e][:, ::2].T, gate_up[e][:, 1::2].T
        assert torch.equal(found["gate_up_proj", f"expert.{e}.gate"], gate)
        assert torch.equal(found["gate_up_proj", f"expert.{e}.up"], up)
        assert torch.equal(found["down_proj", f"expert.{e}"], down[e].T)


@pytest.mark.parametrize("name", ["gate_up_proj", "down_proj"])
def test_experts_of_one_shard_alone_have_their_outputs_first(name):
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 256, (2, 40, 2, 16), generator=generator)
    packed = {
        f"mlp.experts.{name}_blocks": codes.to(torch.uint8),
        f"mlp.experts.{name}_scales": torch.full((2, 40, 2), 127, dtype=torch.uint8),
    }
    rows = [r for r in iter_weights(packed) if isinstance(r, WeightMatrix)]
    assert [(row.view, row.shape) for row in rows] == [
        ("expert.0", (40, 64)),
        ("expert.1", (40, 64)),
    ]
