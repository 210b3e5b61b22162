"""Golden graphs of transformers: encoder layer, GPT-2 and BERT, by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectrank.model.graph import MatrixView, graph

MOVES = ("reshape", "permute", "flatten", "select", "slice", "expand")


def close(got: list[Tensor], expected: Any) -> None:
    outputs = expected if isinstance(expected, tuple | list) else [expected]
    assert len(got) == len(outputs)
    for a, b in zip(got, outputs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_transformer_encoder_layer(
    norm_first: bool, training: bool, named_links: Any, rerun: Any
) -> None:
    model = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True, norm_first=norm_first, activation="gelu"
    ).train(training)
    x = torch.randn(3, 5, 8)
    found = graph(model, x)
    assert found.unknowns == ()
    sdpa = "scaled_dot_product_attention"
    drop = ("dropout",) if training else ()
    attention = [
        ("self_attn.in_proj", "self_attn.out_proj", (f"{sdpa}:{role}",))
        for role in ("query", "key", "value")
    ]
    mlp = ("linear1", "linear2", ("gelu", *drop))
    out = "self_attn.out_proj"
    if norm_first:
        expected = {
            ("src", "self_attn.in_proj", ("layer_norm",)),
            *attention,
            ("src", "linear1", ("sum:identity", "layer_norm")),
            (out, "linear1", (*drop, "sum", "layer_norm")),
            mlp,
            ("linear2", "output", (*drop, "sum")),
            (out, "output", (*drop, "sum", "sum:identity")),
            ("src", "output", ("sum:identity", "sum:identity")),
        }
    else:
        keep = ("sum:identity", "layer_norm")
        expected = {
            ("src", "self_attn.in_proj", ()),
            *attention,
            ("src", "linear1", keep),
            (out, "linear1", (*drop, "sum", "layer_norm")),
            mlp,
            ("linear2", "output", (*drop, "sum", "layer_norm")),
            (out, "output", (*drop, "sum", "layer_norm", *keep)),
            ("src", "output", (*keep, *keep)),
        }
    assert set(named_links(found, without=MOVES)) == expected
    assert len(found.links) == len(expected)
    packed = found.find("self_attn.in_proj")[0]
    weight = "self_attn.in_proj_weight"
    assert packed.matrices == (
        MatrixView(weight, "linear", (24, 8)),
        MatrixView(weight, "linear", (8, 8), (0, 8), "query"),
        MatrixView(weight, "linear", (8, 8), (8, 16), "key"),
        MatrixView(weight, "linear", (8, 8), (16, 24), "value"),
    )
    # Column j of out_proj reads row 16 + j of the packed projection.
    [value] = [link for link in found.out_of(packed) if f"{sdpa}:value" in link.through]
    assert found.columns(value) == tuple(range(16, 24))
    if not training:
        close(rerun(found, model, [x]), model(x))


def test_the_fused_path_of_the_encoder_does_not_hide_its_layers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)
    with torch.no_grad():
        found = graph(model, torch.randn(3, 5, 8))
    assert len(found.layers) == 8
    assert found.unknowns == ()


def test_gpt2(named_links: Any, rerun: Any, check_direct: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="an extra")
    config = transformers.GPT2Config(
        vocab_size=23,
        n_positions=9,
        n_embd=8,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.randint(0, 23, (2, 5))
    found = graph(model, {"input_ids": tokens})
    sdpa, top = "scaled_dot_product_attention", "transformer"
    stream = [f"{top}.wte", f"{top}.wpe"]
    expected = {("input_ids", f"{top}.wte", ()), (f"{top}", f"{top}.wpe", ())}

    def reads(target: str) -> set[tuple[str, str, tuple[str, ...]]]:
        # A write enters by its own sum and stays by one identity skip per later sum.
        sums = len(stream) - 2
        return {
            (
                source,
                target,
                ("sum", *("sum:identity",) * (sums - max(0, i - 1)), "layer_norm"),
            )
            for i, source in enumerate(stream)
        }

    for block in (f"{top}.h.0", f"{top}.h.1"):
        expected |= reads(f"{block}.attn.c_attn")
        expected |= {
            (f"{block}.attn.c_attn", f"{block}.attn.c_proj", (f"{sdpa}:{role}",))
            for role in ("query", "key", "value")
        }
        stream.append(f"{block}.attn.c_proj")
        expected |= reads(f"{block}.mlp.c_fc")
        expected |= {(f"{block}.mlp.c_fc", f"{block}.mlp.c_proj", ("gelu",))}
        stream.append(f"{block}.mlp.c_proj")
    expected |= reads("lm_head") | {("lm_head", "logits", ())}
    assert set(named_links(found, without=MOVES)) == expected
    assert len(found.links) == len(expected) == 31
    assert found.unknowns == ()
    assert found.dropped == ("past_key_values",)
    weight = f"{top}.h.0.attn.c_attn.weight"
    assert found.find(f"{top}.h.0.attn.c_attn")[0].matrices == (
        MatrixView(weight, "linear-transposed", (24, 8)),
        MatrixView(weight, "linear-transposed", (8, 8), (0, 8), "query"),
        MatrixView(weight, "linear-transposed", (8, 8), (8, 16), "key"),
        MatrixView(weight, "linear-transposed", (8, 8), (16, 24), "value"),
    )
    words, head = found.layers[0], found.layers[-1]
    assert found.reused == {f"{top}.wte.weight": (words.id, head.id)}
    assert head.matrices == (MatrixView(f"{top}.wte.weight", "linear", (23, 8)),)
    positions = torch.arange(5)[None]
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    close(rerun(found, model, [tokens], [positions, mask]), model(tokens).logits)
    check_direct(found, model, input_ids=tokens)


def test_bert(named_links: Any, check_direct: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="an extra")
    config = transformers.BertConfig(
        vocab_size=23,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=9,
    )
    model = transformers.BertForMaskedLM(config).eval()
    tokens = torch.randint(0, 23, (2, 5))
    mask = torch.ones(2, 5, dtype=torch.int64)
    given = {"input_ids": tokens, "attention_mask": mask}
    found = graph(model, given)
    assert found.unknowns == ()
    embed = "bert.embeddings"
    written = {
        f"{embed}.word_embeddings": ("sum", "sum", "layer_norm"),
        f"{embed}.token_type_embeddings": ("sum", "sum", "layer_norm"),
        f"{embed}.position_embeddings": ("sum", "layer_norm"),
    }
    layers = [link for link in named_links(found, without=MOVES) if link[0] in written]
    keep = ("sum:identity", "layer_norm")
    expected = set()
    readers = [
        *[(f"bert.encoder.layer.0.attention.self.{r}", 0) for r in ("query", "key")],
        ("bert.encoder.layer.0.attention.self.value", 0),
        ("bert.encoder.layer.0.intermediate.dense", 1),
        *[(f"bert.encoder.layer.1.attention.self.{r}", 2) for r in ("query", "key")],
        ("bert.encoder.layer.1.attention.self.value", 2),
        ("bert.encoder.layer.1.intermediate.dense", 3),
        ("cls.predictions.transform.dense", 4),
    ]
    for target, times in readers:
        expected |= {(s, target, w + keep * times) for s, w in written.items()}
    assert set(layers) == expected
    assert len(layers) == len(expected)
    last = [link for link in named_links(found) if link[1] == "cls.predictions.decoder"]
    assert last == [
        (
            "cls.predictions.transform.dense",
            "cls.predictions.decoder",
            ("gelu", "layer_norm"),
        )
    ]
    decoder = found.find("cls.predictions.decoder")[0]
    assert decoder.parameters["weight"] == f"{embed}.word_embeddings.weight"
    check_direct(found, model, **given)
