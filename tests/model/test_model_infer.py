"""Inference from names, shapes and dtypes: one case per convention and per trap."""

import pytest
import torch

from spectrank.model.infer import infer_view

Shape = tuple[int, ...]


def infer(
    name: str,
    shape: Shape,
    dtype: torch.dtype | None = torch.float32,
    beside: dict[str, Shape] | None = None,
) -> str:
    verdict = infer_view(name, shape, dtype, {name: shape, **(beside or {})})
    assert (verdict.view is None) != (verdict.reason is None)
    return verdict.view or f"skip: {verdict.reason}"


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("fc.weight", (4, 3), "linear"),
        ("head.queries", (48, 64), "linear"),
        ("lm_head.weight", (50, 8), "linear"),
        ("core.in_proj.weight", (8, 7), "linear"),
        ("lora_A.weight", (2, 8), "linear"),
        ("a.weight_v", (4, 3), "linear"),
        ("time_embedding.linear_1.weight", (4, 3), "linear"),
        ("token_mixing.fc1.weight", (4, 3), "linear"),
        ("embeddings_project.weight", (4, 3), "linear"),
        ("mlp.shared_expert_gate.weight", (1, 3), "linear"),
        ("moe.experts.0.w1.weight", (4, 3), "linear"),
        ("embeddings.word_embeddings.weight", (50, 8), "embedding"),
        ("embeddings.token_type_embeddings.weight", (2, 8), "embedding"),
        ("model.embed_tokens.weight", (50, 8), "embedding"),
        ("tok_embeddings.weight", (50, 8), "embedding"),
        ("transformer.wte.weight", (50, 8), "embedding"),
        ("wpe.weight", (50, 8), "embedding"),
        ("shared.weight", (50, 8), "embedding"),
        ("decoder.positional_embedding", (50, 8), "embedding"),
        ("attn.relative_attention_bias.weight", (32, 8), "embedding"),
        ("vit.pos_embed", (1, 197, 8), "embedding"),
        ("vit.cls_token", (1, 1, 8), "embedding"),
        ("conv1.weight", (8, 3, 3), "conv-unfolded"),
        ("conv1.weight", (8, 3, 3, 3), "conv-unfolded"),
        ("conv1.weight", (8, 3, 3, 3, 3), "conv-unfolded"),
        ("dw_weight", (8, 1, 3), "conv-unfolded"),
        ("stem.embed.weight", (8, 3, 3), "conv-unfolded"),
        ("stem.embed.weight", (8, 3, 4, 4), "conv-unfolded"),
        ("embeddings.patch_embedding.weight", (8, 3, 4, 4), "conv-unfolded"),
        ("patch_embed.proj.weight", (8, 3, 4, 4), "conv-unfolded"),
        ("zero.weight", (0, 3), "linear"),
    ],
)
def test_names_and_shapes_give_the_view(name: str, shape: Shape, expected: str) -> None:
    assert infer(name, shape) == expected


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "reason"),
    [
        ("temperature", (), torch.float32, "scalar"),
        ("norm.weight", (8,), torch.float32, "bias or scale vector, not a matrix"),
        ("h.0.attn.bias", (1, 1, 9, 9), torch.float32, "named as one"),
        ("h.0.attn.masked_bias", (1, 1), torch.float32, "named as one"),
        ("experts.gate_up_proj_bias", (4, 8), torch.float32, "named as one"),
        ("attn.bias_k", (1, 1, 8), torch.float32, "named as one"),
        ("attn.bias_v", (1, 1, 8), torch.float32, "named as one"),
        ("blocks.1.attn_mask", (64, 49, 49), torch.float32, "mask, not a weight"),
        ("position_ids", (1, 512), torch.int64, "integer tensor, not a weight"),
        ("fc.weight", (4, 3), torch.int8, "quantised weights are not decoded"),
        ("fc.weight", (4, 3), torch.uint8, "quantised weights are not decoded"),
        ("fc.qweight", (4, 3), torch.int32, "quantised weights are not decoded"),
        ("codes", (4,), torch.int8, "integer tensor, not a weight"),
        ("used", (4, 3), torch.bool, "boolean tensor"),
        ("freqs_cis", (4, 3), torch.complex64, "complex tensor"),
        ("fc.weight", (4, 3), None, "no counterpart in torch"),
        ("fc.scales", (4, 3), torch.float8_e8m0fnu, "powers of two that scale"),
        ("fc.weight", (4, 3), torch.float4_e2m1fn_x2, "packed 4-bit values"),
        ("fc.weight_scale", (4, 1), torch.float32, "scales of a quantised weight"),
        ("fc.weight.scale", (4, 1), torch.float32, "scales of a quantised weight"),
        ("fc.weight_scale_inv", (4, 1), torch.float32, "scales of a quantised"),
        ("rnn.weight_ih_l0", (8, 3), torch.float32, "recurrent gates stacked"),
        ("rnn.weight_hh_l1_reverse", (8, 3), torch.float32, "recurrent gates"),
        ("cell.weight_hh", (8, 3), torch.float32, "recurrent gates stacked"),
        ("attn.in_proj_weight", (8, 3), torch.float32, "query, key and value stacked"),
        (
            "fc.parametrizations.weight.original1",
            (4, 3),
            torch.float32,
            "factor of the parametrised weight fc.weight",
        ),
        (
            "parametrizations.weight.original",
            (4, 3),
            torch.float32,
            "factor of the parametrised weight weight",
        ),
        (
            "fc.weight_orig",
            (4, 3),
            torch.float32,
            "factor of the parametrised weight fc.weight",
        ),
    ],
)
def test_what_is_no_matrix_says_why(
    name: str, shape: Shape, dtype: torch.dtype | None, reason: str
) -> None:
    outcome = infer(name, shape, dtype)
    assert outcome.startswith("skip: ")
    assert reason in outcome


def test_a_skip_that_an_override_can_lift_says_how() -> None:
    hint = "pass views={'rnn.weight_ih_l0': 'linear'}"
    assert hint in infer("rnn.weight_ih_l0", (8, 3))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
    ],
)
def test_every_real_floating_dtype_is_a_weight(dtype: torch.dtype) -> None:
    assert infer("fc.weight", (4, 3), dtype) == "linear"


@pytest.mark.parametrize("weight", ["fc.weight", "weight", "rnn.weight_hh_l0"])
def test_weight_norm_is_known_by_its_pair(weight: str) -> None:
    pair = {f"{weight}_g": (4, 1), f"{weight}_v": (4, 3)}
    for name, shape in pair.items():
        outcome = infer(name, shape, beside=pair)
        assert outcome == f"skip: factor of the parametrised weight {weight}"


def test_float8_codes_with_block_scales_are_not_taken_for_the_weight() -> None:
    blocks = {"fc.weight_scale_inv": (2, 2)}
    outcome = infer("fc.weight", (256, 256), torch.float8_e4m3fn, blocks)
    assert outcome == "skip: codes to be multiplied by fc.weight_scale_inv: not decoded"
    single = {"fc.weight_scale": (1,)}
    assert infer("fc.weight", (256, 256), torch.float8_e4m3fn, single) == "linear"


GPT2 = {
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.attn.c_proj.weight": (8, 8),
    "h.0.mlp.c_fc.weight": (8, 32),
    "h.0.mlp.c_proj.weight": (32, 8),
}


@pytest.mark.parametrize("name", GPT2)
@pytest.mark.parametrize("prefix", ["", "transformer.", "module.transformer."])
def test_gpt2_is_stored_inputs_by_outputs(prefix: str, name: str) -> None:
    beside = {prefix + key: shape for key, shape in GPT2.items()}
    assert infer(prefix + name, GPT2[name], beside=beside) == "linear-transposed"


@pytest.mark.parametrize("name", GPT2)
def test_the_same_names_on_torch_linear_are_not_transposed(name: str) -> None:
    stored = {key: shape[::-1] for key, shape in GPT2.items()}
    assert infer(name, stored[name], beside=stored) == "linear"


def test_a_square_weight_named_as_in_gpt2_alone_is_taken_as_gpt2() -> None:
    assert infer("h.0.attn.c_proj.weight", (8, 8)) == "linear-transposed"


def test_a_c_proj_outside_numbered_blocks_is_plain() -> None:
    assert infer("mlp.c_proj.weight", (32, 8)) == "linear"
    assert infer("oh.0.mlp.c_proj.weight", (32, 8)) == "linear"
