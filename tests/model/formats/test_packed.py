"""Packed weights against the libraries that pack them, and against plain loops."""

import json

import pytest
import torch
from packed_cases import CASES, TOLD, case_of, matrix_of, reasons_of
from safetensors.torch import save_file

from spectrank.errors import CheckpointError
from spectrank.model import WeightMatrix, describe, iter_weights


def stream(values, bits, word=32):
    """Integers as one row of bits, lowest first, cut into signed words."""
    number = sum(int(v) << (i * bits) for i, v in enumerate(values))
    count = -(-len(values) * bits // word)
    words = [(number >> (word * i)) & (2**word - 1) for i in range(count)]
    return [w - 2**word if w >= 2 ** (word - 1) else w for w in words]


def source_of(case, folder):
    """The case in memory, or a folder where only a configuration tells its format."""
    packed, truth = case_of(case)
    if case not in TOLD:
        return packed, packed, truth
    save_file(packed, folder / "model.safetensors")
    config = {"quantization_config": TOLD[case]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, packed, truth


@pytest.mark.parametrize("case", CASES)
def test_a_packed_weight_is_what_its_own_library_unpacks(case, tmp_path):
    source, packed, truth = source_of(case, tmp_path)
    row = matrix_of(source)
    assert (row.name, row.view, row.shape) == ("a.weight", "linear", tuple(truth.shape))
    assert row.dtype == (torch.bfloat16 if case == "mxfp4" else torch.float32)
    assert row.note.startswith("decoded from")
    if case == "bitsandbytes-int8":
        # Its library multiplies by a rounded 1/127 last.
        assert torch.allclose(row.tensor(), truth, rtol=3e-7, atol=0)
    else:
        assert torch.equal(row.tensor(), truth)
    assert set(reasons_of(source)) == set(packed) - {"a.weight"}


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_decoded_as_the_tensors_in_memory(case, tmp_path):
    packed, truth = case_of(case)
    path = tmp_path / "m.safetensors"
    save_file(packed, path)
    assert torch.equal(matrix_of(path).tensor(), matrix_of(packed).tensor())
    # Parameters are those of the weight, not its bytes.
    assert describe(path).num_parameters == truth.numel()
    assert describe(path).num_tensors == len(packed)


def gptq(codes, zeros, scales, bits, plus, order=None):
    """GPTQ tensors of codes (out, in) and zeros, scales (groups, out), bit by bit."""
    packed = {
        "a.qweight": torch.tensor([stream(row, bits) for row in codes.tolist()]).T,
        "a.qzeros": torch.tensor(
            [
                stream([(z - plus) % 2**bits for z in row], bits)
                for row in zeros.tolist()
            ]
        ),
        "a.scales": scales,
    }
    found = {k: v.int().contiguous() if "q" in k else v for k, v in packed.items()}
    return found | ({} if order is None else {"a.g_idx": order.int()})


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
def test_zero_points_follow_the_version_of_the_format(bits, form, tmp_path):
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (32, 64), generator=generator)
    zeros = torch.randint(0, 2**bits, (4, 32), generator=generator)
    # The smallest and the largest: one wraps around in the first version.
    zeros[0, 0], zeros[0, 1] = 0, 2**bits - 1
    scales = torch.rand(4, 32, generator=generator).half()
    packed = gptq(codes, zeros, scales, bits, 1 if form == "gptq" else 0)
    save_file(packed, tmp_path / "model.safetensors")
    quantization = {"quant_method": "gptq", "bits": bits, "checkpoint_format": form}
    config = {"quantization_config": quantization}
    (tmp_path / "config.json").write_text(json.dumps(config))
    row = matrix_of(tmp_path)
    told = "plus one" if form == "gptq" else "as stored"
    assert f"{bits} bits" in row.note
    assert told in row.note
    W = row.tensor()
    for o, i in [(0, 0), (1, 3), (0, 15), (31, 63), (17, 31), (5, 10), (9, 21)]:
        group = i // 16
        expected = scales[group, o].float() * (codes[o, i] - zeros[group, o])
        assert W[o, i] == expected, (o, i)


def test_a_quantisation_file_of_its_own_is_read_too(tmp_path):
    packed, truth = case_of("gptq-4")
    save_file(packed, tmp_path / "model.safetensors")
    own = {"bits": 4, "checkpoint_format": "gptq_v2"}
    (tmp_path / "quantize_config.json").write_text(json.dumps(own))
    # The same tensors read as the second version: every zero point is one less.
    scale = packed["a.scales"].float().T[:, packed["a.g_idx"].long()]
    stored = packed["a.qzeros"]
    wraps = ((stored[..., None] >> torch.arange(0, 32, 4)) & 15 == 15).flatten(1)
    assert not wraps.any()
    difference = matrix_of(tmp_path).tensor() - truth
    assert torch.allclose(difference, scale, rtol=1e-5)


def test_bits_that_the_shapes_leave_open_are_taken_from_the_configuration(tmp_path):
    codes = torch.arange(32).reshape(1, 32) % 4
    packed = gptq(codes, torch.ones(1, 1).int(), torch.ones(1, 1).half(), 2, 1)
    # Two words of zeros or one: one output fits any width.
    assert "shapes of no known packing" in reasons_of(packed)["a.qweight"]
    save_file(packed, tmp_path / "model.safetensors")
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 2}))
    assert torch.equal(matrix_of(tmp_path).tensor(), codes.float() - 1)


@pytest.mark.parametrize(
    "order",
    [
        torch.arange(64) // 16,
        torch.arange(64) % 4,
        3 - torch.arange(64) // 16,
        # A group that is never used: equal shares are not neighbours.
        torch.arange(64) // 32,
    ],
    ids=["neighbours", "alternating", "backwards", "unequal"],
)
def test_each_input_is_scaled_by_its_own_group(order):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (32, 64), generator=generator)
    zeros = torch.randint(1, 16, (4, 32), generator=generator)
    scales = torch.rand(4, 32, generator=generator).half()
    W = matrix_of(gptq(codes, zeros, scales, 4, 1, order)).tensor()
    for i in range(64):
        g = int(order[i])
        truth = scales[g].float() * (codes[:, i] - zeros[g])
        assert torch.equal(W[:, i], truth), i


def test_groups_out_of_range_are_an_error():
    packed, _ = case_of("gptq-4")
    packed["a.g_idx"][3] = 4
    with pytest.raises(CheckpointError, match=r"g_idx must lie in \[0, 3\]"):
        matrix_of(packed).tensor()


def test_activation_order_of_compressed_tensors_is_followed():
    packed, truth = case_of("compressed-4")
    order = torch.tensor([2] * 20 + [0] * 20 + [1] * 20, dtype=torch.int32)
    codes = truth.clone()
    scale, plain = packed["a.weight_scale"], torch.arange(60) // 20
    del packed["a.weight_zero_point"]
    symmetric = matrix_of(packed).tensor()
    codes = symmetric / scale[:, plain]
    packed["a.weight_g_idx"] = order
    ordered = matrix_of(packed).tensor()
    assert torch.allclose(ordered, codes * scale[:, order.long()], rtol=1e-6)
    # As the library leaves it where no order was computed.
    packed["a.weight_g_idx"] = torch.full((60,), -1, dtype=torch.int32)
    assert torch.equal(matrix_of(packed).tensor(), symmetric)


@pytest.mark.parametrize(
    ("case", "name", "change", "reason"),
    [
        ("gptq-4", "a.scales", None, "no scales and zero points"),
        ("gptq-4", "a.qzeros", lambda t: t[:, :2], "shapes of no known packing"),
        ("gptq-4", "a.qweight", lambda t: t[:0], "shapes of no known packing"),
        ("awq", "a.qweight", lambda t: t[:, :0], "shapes of no known packing"),
        ("compressed-4", "a.weight_scale", lambda t: t[:, :0], "equal groups"),
        ("awq", "a.qzeros", lambda t: t[:1], "shapes of no known packing"),
        ("compressed-4", "a.weight_shape", None, "no scales and shape"),
        ("compressed-4", "a.weight_shape", lambda t: -t, "shapes of no known"),
        ("compressed-4", "a.weight_shape", lambda t: t * 2, "shapes of no known"),
        ("compressed-4", "a.weight_scale", lambda t: t[:, :1][:9], "equal groups"),
        ("compressed-4", "a.weight_zero_point", lambda t: t[:1], "zero points of"),
        ("nvfp4", "a.weight_global_scale", None, "no known type or shape"),
        ("nvfp4", "a.weight_global_scale", lambda t: t.repeat(2), "more than one"),
        ("nvfp4", "a.weight_scale", lambda t: t[:, :2], "no known type or shape"),
        ("mxfp4", "a.weight_scale", lambda t: t.float(), "no known type or shape"),
        ("mxfp4", "a.weight_scale", None, "no scales"),
        ("bitsandbytes-nf4", "a.weight", lambda t: t[:-1], "quant_state does not"),
        ("bitsandbytes-nf4", "a.weight.absmax", lambda t: t[:-1], "quant_state"),
        ("bitsandbytes-nf4", "a.weight.absmax", None, "quant_state does not fit"),
        ("bitsandbytes-fp4-nested", "a.weight.nested_quant_map", None, "quant_state"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_a_way_out(
    case, name, change, reason
):
    packed, _ = case_of(case)
    if change is None:
        del packed[name]
    else:
        packed[name] = change(packed[name])
    rows = list(iter_weights(packed))
    assert not any(isinstance(row, WeightMatrix) for row in rows)
    codes = [row for row in rows if "packed codes, not decoded" in row.reason]
    assert any(reason in row.reason for row in codes)
    assert all("save the model dequantised" in row.reason for row in codes)


@pytest.mark.parametrize(
    "quantization",
    [
        {"version": "gemv"},
        {"checkpoint_format": "marlin"},
        {"quant_method": "auto-round", "packing_format": "auto_round:exllama"},
    ],
)
def test_formats_that_only_look_alike_are_refused(quantization, tmp_path):
    packed, _ = case_of("awq" if "version" in quantization else "gptq-4")
    save_file(packed, tmp_path / "model.safetensors")
    config = {"quantization_config": quantization}
    (tmp_path / "config.json").write_text(json.dumps(config))
    *_, value = quantization.values()
    assert value in reasons_of(tmp_path)["a.qweight"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nested_blocksize", 2**70),
        ("blocksize", 2**70),
        ("blocksize", True),
        ("nested_offset", "0.1"),
        ("shape", [30, -50]),
        ("shape", [2**40, 2**40]),
    ],
)
def test_a_state_with_numbers_out_of_range_is_refused(key, value):
    packed, _ = case_of("bitsandbytes-nf4-nested")
    name = "a.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(packed[name].tolist())) | {key: value}
    packed[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    assert "quant_state does not fit" in reasons_of(packed)["a.weight"]


def test_codes_stored_as_another_type_are_the_same_bytes():
    packed, truth = case_of("bitsandbytes-nf4")
    # As sharded training stores them: 750 bytes are 375 numbers of two.
    packed["a.weight"] = packed["a.weight"].flatten().view(torch.bfloat16)[:, None]
    assert torch.equal(matrix_of(packed).tensor(), truth)


def test_tiles_of_a_device_are_not_taken_for_rows():
    packed, _ = case_of("bitsandbytes-int8")
    for form, decoded in ((0, True), (1, False)):
        packed["a.weight_format"] = torch.tensor(form, dtype=torch.uint8)
        assert ("a.weight" not in reasons_of(packed)) == decoded


def test_a_weight_beside_its_codes_is_left_alone():
    packed, _ = case_of("gptq-4")
    weight = torch.eye(3)
    row = matrix_of(packed | {"a.weight": weight})
    assert torch.equal(row.tensor(), weight)
