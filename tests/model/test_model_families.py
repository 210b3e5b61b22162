"""Fused weights of transformers' families: each part does in the layer what it says.

The oracle is the layer itself. A query at one token changes the output of that token
alone; a key or value changes later tokens; the output is linear in the values and not
in the keys. Gate and up projections are told apart by linearity in the up projection.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectrank.model import WeightMatrix, iter_matrices
from spectrank.model.families import fused_layout, stacked_experts

transformers = pytest.importorskip(
    "transformers", reason="transformers, an extra, is not installed"
)

TINY = {"vocab_size": 23, "attn_implementation": "eager"}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
FALCON = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "alibi": False,
}
GPT = {"n_embd": 16, "n_layer": 1, "n_head": 4, "n_positions": 9}

# model class, configuration class, options, name of the fused weight, output
# projection, number of key heads.
ATTENTIONS: dict[str, tuple[str, str, dict[str, Any], str, str, int]] = {
    "gpt2": ("GPT2Model", "GPT2Config", GPT, "h.0.attn.c_attn", "h.0.attn.c_proj", 4),
    "gpt_neox": (
        "GPTNeoXModel",
        "GPTNeoXConfig",
        LLAMA,
        "layers.0.attention.query_key_value",
        "layers.0.attention.dense",
        4,
    ),
    "bloom": (
        "BloomModel",
        "BloomConfig",
        {"hidden_size": 16, "n_layer": 1, "n_head": 4},
        "h.0.self_attention.query_key_value",
        "h.0.self_attention.dense",
        4,
    ),
    "falcon-7b": (
        "FalconModel",
        "FalconConfig",
        {**FALCON, "multi_query": True, "new_decoder_architecture": False},
        "h.0.self_attention.query_key_value",
        "h.0.self_attention.dense",
        1,
    ),
    "falcon-40b": (
        "FalconModel",
        "FalconConfig",
        {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
        "h.0.self_attention.query_key_value",
        "h.0.self_attention.dense",
        2,
    ),
    "falcon-rw": (
        "FalconModel",
        "FalconConfig",
        {**FALCON, "multi_query": False, "new_decoder_architecture": False},
        "h.0.self_attention.query_key_value",
        "h.0.self_attention.dense",
        4,
    ),
    "gpt_bigcode": (
        "GPTBigCodeModel",
        "GPTBigCodeConfig",
        {**GPT, "multi_query": True},
        "h.0.attn.c_attn",
        "h.0.attn.c_proj",
        1,
    ),
    "gpt_bigcode-heads": (
        "GPTBigCodeModel",
        "GPTBigCodeConfig",
        {**GPT, "multi_query": False},
        "h.0.attn.c_attn",
        "h.0.attn.c_proj",
        4,
    ),
    "phi3": (
        "Phi3Model",
        "Phi3Config",
        {**LLAMA, "num_key_value_heads": 2},
        "layers.0.self_attn.qkv_proj",
        "layers.0.self_attn.o_proj",
        2,
    ),
    "mpt": (
        "MptModel",
        "MptConfig",
        {"d_model": 16, "n_heads": 4, "n_layers": 1, "max_seq_len": 9},
        "blocks.0.attn.Wqkv",
        "blocks.0.attn.out_proj",
        4,
    ),
    "persimmon": (
        "PersimmonModel",
        "PersimmonConfig",
        # A norm of the query would take out what the test adds.
        {**LLAMA, "qk_layernorm": False},
        "layers.0.self_attn.query_key_value",
        "layers.0.self_attn.dense",
        4,
    ),
    "modernbert": (
        "ModernBertModel",
        "ModernBertConfig",
        {**LLAMA, "cls_token_id": 1, "sep_token_id": 2},
        "layers.0.attn.Wqkv",
        "layers.0.attn.Wo",
        4,
    ),
}


def build(name: str) -> nn.Module:
    model_class, config_class, options, *_ = ATTENTIONS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**TINY, **options})
    model: nn.Module = getattr(transformers, model_class)(config)
    # Wide enough for a change to show through the softmax.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.4)
    return model.eval()


@contextmanager
def changed(
    model: nn.Module, name: str, rows: list[int], by: float, token: int
) -> Iterator[None]:
    """Add a number to some outputs of a layer at one token."""

    def add(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[0, token, rows] += by
        return output

    handle = model.get_submodule(name).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def heads_of(model: nn.Module, projection: str) -> Tensor:
    """What the output projection of an attention layer takes, (tokens, width)."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach().reshape(5, -1).double())

    handle = model.get_submodule(projection).register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([[3, 4, 5, 6, 7]]))
    finally:
        handle.remove()
    return seen[0]


def rows_of(row: WeightMatrix) -> list[int]:
    """Which outputs of the layer a part is, from a weight that counts them."""
    stored = row.load()
    transposed = row.layer_type == "Conv1D"
    count = torch.arange(stored.shape[1 if transposed else 0])
    labels = (count[None] if transposed else count[:, None]).expand(stored.shape)
    found = row.of(labels.double())
    assert isinstance(found, Tensor)
    return [int(x) for x in found[:, 0]]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_query_key_and_value_do_what_they_are_called(name: str) -> None:
    *_, fused, projection, _ = ATTENTIONS[name]
    model = build(name)
    parts = {r.view: r for r in iter_matrices(model, select=f"{fused}.weight")}
    assert list(parts) == ["qkv.q", "qkv.k", "qkv.v"]
    rows = {view: rows_of(part) for view, part in parts.items()}
    total = sorted(row for part in rows.values() for row in part)
    assert total == list(range(len(total)))
    plain = heads_of(model, projection)
    moved: dict[str, list[Tensor]] = {}
    for view in parts:
        for by in (0.5, 1.0):
            with changed(model, fused, rows[view], by, token=1):
                difference = heads_of(model, projection) - plain
            moved.setdefault(view, []).append(difference)
    assert [bool(t.abs().max() > 1e-4) for t in moved["qkv.q"][1]] == [
        False,
        True,
        False,
        False,
        False,
    ]
    for view in ("qkv.k", "qkv.v"):
        assert moved[view][1][4].abs().max() > 1e-4
    half, whole = moved["qkv.v"]
    assert torch.allclose(2.0 * half, whole, atol=1e-5)
    half, whole = moved["qkv.k"]
    assert not torch.allclose(2.0 * half, whole, atol=1e-3)
    # Every value moves: rows of another part among them would not.
    assert (moved["qkv.v"][1][1].abs() > 1e-6).all()


@pytest.mark.parametrize("name", ["gpt_neox", "falcon-40b", "phi3", "gpt2"])
def test_a_head_of_the_query_moves_its_own_outputs_alone(name: str) -> None:
    *_, fused, projection, kv_heads = ATTENTIONS[name]
    model = build(name)
    layouts = {
        "gpt_neox": "qkv-interleaved:heads=4",
        "falcon-40b": "qkv-grouped-interleaved:heads=4:kv_heads=2",
        "phi3": "qkv-grouped:heads=4:kv_heads=2",
        "gpt2": "qkv-transposed:heads=4",
    }
    views = {f"{fused}.weight": f"{layouts[name]}:each=head"}
    parts = {r.view: r for r in iter_matrices(model, select=fused + "*", views=views)}
    assert len(parts) == 4 + 2 * kv_heads
    plain = heads_of(model, projection)
    for view, part in parts.items():
        with changed(model, fused, rows_of(part), 1.0, token=1):
            difference = (heads_of(model, projection) - plain).abs().amax(0)
        moved = [bool(x.max() > 1e-5) for x in difference.chunk(4)]
        head = int(view.rsplit(".", 1)[1])
        shared = 1 if ".q." in view else 4 // kv_heads
        expected = [i // shared == head for i in range(4)]
        assert moved == expected, view


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_folder_with_its_configuration_is_cut_as_the_module(
    name: str, tmp_path: Path
) -> None:
    model: Any = build(name)
    model.save_pretrained(tmp_path)
    own = {row.key: row for row in iter_matrices(model)}
    read = {row.key: row for row in iter_matrices(tmp_path)}
    assert own.keys() == read.keys()
    for key, row in own.items():
        assert (row.view, row.shape) == (read[key].view, read[key].shape)
        assert torch.equal(row.tensor(), read[key].tensor())
    fused = next(key for key in own if key.endswith("[qkv.q]"))
    # The configuration of a module is its own; beside a file it may be another's.
    assert (own[fused].inferred, read[fused].inferred) == (False, True)
    (tmp_path / "config.json").unlink()
    alone = {row.name: row for row in iter_matrices(tmp_path)}
    row = alone[own[fused].name]
    if name == "gpt2":
        assert row.view.startswith("qkv.")
    else:
        assert row.view == "linear"


def test_an_order_that_the_name_does_not_tell_is_said(tmp_path: Path) -> None:
    state = {"h.0.attn.query_key_value.weight": torch.ones(12, 4)}
    (row,) = iter_matrices(state)
    assert row.view == "linear"
    assert row.note is not None
    assert "order that the name does not tell" in row.note
    assert "'h.0.attn.query_key_value.weight': 'qkv'" in row.note


@pytest.mark.parametrize(
    ("name", "shape", "view", "layout"),
    [
        ("visual.blocks.0.attn.qkv.weight", (12, 4), "linear", "qkv"),
        ("visual.blocks.0.attn.qkv.weight", (13, 4), "linear", None),
        ("mlp.gate_up_proj.weight", (8, 4), "linear", "gate-up"),
        ("h.0.attn.c_attn.weight", (4, 12), "linear-transposed", "qkv-transposed"),
        ("h.0.attn.c_attn.weight", (12, 4), "linear", None),
        ("h.0.crossattention.c_attn.weight", (4, 8), "linear-transposed", None),
        ("mixer.in_proj.weight", (12, 4), "linear", None),
        ("self_attn.qkv_proj.weight", (12, 4), "linear", None),
        ("fc.weight", (12, 4), "linear", None),
        ("attn.qkv.weight", (12, 4), "embedding", None),
    ],
)
def test_names_and_shapes_prove_what_they_prove(
    name: str, shape: tuple[int, int], view: str, layout: str | None
) -> None:
    assert fused_layout(name, shape, view, {name: shape}, None).view == layout


def test_cross_attention_of_gpt2_is_key_and_value_beside_its_query() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**TINY, **GPT}, add_cross_attention=True)
    model = transformers.GPT2Model(config)
    name = "h.0.crossattention.c_attn.weight"
    parts = {row.view: row.tensor() for row in iter_matrices(model, select=name)}
    assert list(parts) == ["kv.k", "kv.v"]
    stored = dict(model.named_parameters())[name]
    assert torch.equal(parts["kv.v"], stored[:, 16:].T)


def test_a_configuration_whose_heads_do_not_fit_is_not_used() -> None:
    config = {"model_type": "bloom", "n_head": 4, "hidden_size": 16}
    fits = fused_layout("a.query_key_value.weight", (48, 16), "linear", {}, config)
    assert fits.view == "qkv-interleaved:heads=4"
    part = {"model_type": "x", "text_config": config}
    inner = fused_layout("a.query_key_value.weight", (48, 16), "linear", {}, part)
    assert inner.view == "qkv-interleaved:heads=4"
    other = fused_layout("a.query_key_value.weight", (40, 16), "linear", {}, config)
    assert other.view is None


@pytest.mark.parametrize("family", ["Phi3", "Glm"])
def test_the_output_is_linear_in_the_up_projection_alone(family: str) -> None:
    torch.manual_seed(0)
    options = {**TINY, **LLAMA, "num_key_value_heads": 2}
    config = getattr(transformers, f"{family}Config")(**options)
    model = getattr(transformers, f"{family}Model")(config)
    name = "layers.0.mlp.gate_up_proj"
    found = {r.view: r.tensor() for r in iter_matrices(model, select=f"{name}.weight")}
    assert list(found) == ["gate-up.gate", "gate-up.up"]
    mlp, x = model.layers[0].mlp, torch.randn(3, 16)
    gate, up = found["gate-up.gate"], found["gate-up.up"]
    by_hand = (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ mlp.down_proj.weight.T
    assert torch.allclose(mlp(x), by_hand, atol=1e-6)


def swiglu(gate: Tensor, up: Tensor, x: Tensor) -> Tensor:
    return nn.functional.silu(gate @ x) * (up @ x)


def gpt_oss(gate: Tensor, up: Tensor, x: Tensor) -> Tensor:
    g = gate @ x
    return g * torch.sigmoid(1.702 * g) * (up @ x + 1)


EXPERTS: dict[str, tuple[str, str, dict[str, Any], Callable[..., Tensor]]] = {
    "mixtral": (
        "MixtralModel",
        "MixtralConfig",
        {**LLAMA, "num_local_experts": 3, "num_key_value_heads": 2},
        swiglu,
    ),
    "qwen2_moe": (
        "Qwen2MoeModel",
        "Qwen2MoeConfig",
        {
            **LLAMA,
            "num_experts": 3,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 12,
            "shared_expert_intermediate_size": 8,
            "num_key_value_heads": 2,
        },
        swiglu,
    ),
    "gpt_oss": (
        "GptOssModel",
        "GptOssConfig",
        {**LLAMA, "num_local_experts": 3, "num_key_value_heads": 2, "head_dim": 4},
        gpt_oss,
    ),
}


@pytest.mark.parametrize("family", EXPERTS)
def test_parts_of_stacked_experts_rebuild_the_layer(family: str) -> None:
    model_class, config_class, options, act = EXPERTS[family]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**TINY, **options})
    model = getattr(transformers, model_class)(config).eval()
    path = next(p for p, _ in model.named_modules() if p.endswith("mlp.experts"))
    experts = model.get_submodule(path)
    with torch.no_grad():
        for local, parameter in experts.named_parameters():
            parameter.normal_(std=0.2)
            if local.endswith("bias"):
                parameter.zero_()
    found = {r.key: r.tensor() for r in iter_matrices(model, select=f"{path}.*")}
    gate_up = f"{path}.gate_up_proj"
    assert f"{gate_up}[expert.2.up]" in found
    x = torch.randn(16)
    for e in range(3):
        with torch.no_grad():
            out = experts(x[None], torch.tensor([[e]]), torch.ones(1, 1))
        inner = act(
            found[f"{gate_up}[expert.{e}.gate]"],
            found[f"{gate_up}[expert.{e}.up]"],
            x,
        )
        down = found[f"{path}.down_proj[expert.{e}]"]
        assert torch.allclose(down @ inner, out.reshape(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("gate_up", "down", "bias", "config", "layout"),
    [
        ((2, 12, 8), (2, 8, 6), False, None, "experts-gate-up"),
        ((2, 8, 12), (2, 6, 8), False, None, "experts-gate-up-transposed"),
        ((2, 8, 12), (2, 6, 8), True, None, "experts-transposed"),
        (
            (2, 8, 12),
            (2, 6, 8),
            True,
            {"model_type": "gpt_oss"},
            "experts-gate-up-interleaved-transposed",
        ),
        (
            (2, 8, 12),
            (2, 6, 8),
            True,
            {"model_type": "openai_privacy_filter"},
            "experts-gate-up-transposed",
        ),
        ((2, 12, 8), (2, 8, 5), False, None, "experts"),
    ],
)
def test_what_lies_beside_tells_how_experts_are_stored(
    gate_up: tuple[int, ...],
    down: tuple[int, ...],
    bias: bool,
    config: dict[str, Any] | None,
    layout: str,
) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "mlp.experts.gate_up_proj": gate_up,
        "mlp.experts.down_proj": down,
    }
    if bias:
        shapes["mlp.experts.gate_up_proj_bias"] = (2, 12)
    name = "mlp.experts.gate_up_proj"
    assert stacked_experts(name, gate_up, shapes, config) == layout
    stored = stacked_experts("mlp.experts.down_proj", down, shapes, config)
    assert stored == ("experts-transposed" if gate_up[1] == down[2] else "experts")
    assert stacked_experts("mlp.fc", (2, 3, 4), shapes, config) is None
