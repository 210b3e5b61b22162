"""transformers models of tiny random shape: module route and file route agree."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spectrank.model import Skip, WeightMatrix, iter_matrices, iter_weights

transformers = pytest.importorskip(
    "transformers", reason="transformers, an extra, is not installed"
)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=9, n_embd=8, n_layer=2, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=23,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=9,
    )
    return transformers.BertForMaskedLM(config)


BUILDERS: dict[str, Callable[[], nn.Module]] = {"gpt2": gpt2, "bert": bert}


@pytest.fixture(params=BUILDERS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return BUILDERS[request.param]()


@pytest.mark.parametrize("shard_size", ["5GB", "2KB"])
def test_module_and_folder_give_the_same_matrices(
    model: Any, tmp_path: Path, shard_size: str
) -> None:
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "2KB")
    by_module = {row.key: row for row in iter_matrices(model)}
    by_file = {row.key: row for row in iter_matrices(tmp_path)}
    assert by_module.keys() == by_file.keys()
    for name, row in by_module.items():
        other = by_file[name]
        assert (other.view, other.shape) == (row.view, row.shape), name
        assert torch.equal(other.tensor(), row.tensor())
        assert (row.inferred, other.inferred) == (False, True)
        assert row.layer_type is not None


def test_module_and_state_dict_give_the_same_matrices_and_ties(model: Any) -> None:
    by_module = {row.key: row for row in iter_matrices(model)}
    by_dict = {row.key: row for row in iter_matrices(model.state_dict())}
    assert by_module.keys() == by_dict.keys()
    for name, row in by_module.items():
        other = by_dict[name]
        assert (other.view, other.tied_to) == (row.view, row.tied_to)
        assert torch.equal(other.tensor(), row.tensor())


def test_every_tensor_of_the_module_is_accounted_for(model: Any) -> None:
    names = list(dict.fromkeys(row.name for row in iter_weights(model)))
    expected = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    expected += [n for n, _ in model.named_buffers(remove_duplicate=False)]
    assert sorted(names) == sorted(expected)


def test_gpt2_ties_its_head_and_stores_its_layers_transposed() -> None:
    torch.manual_seed(0)
    model: Any = gpt2()
    rows = {row.name: row for row in iter_weights(model, split=False)}
    words = rows["transformer.wte.weight"]
    assert isinstance(words, WeightMatrix)
    assert (words.view, words.tied_to) == ("embedding", ("lm_head.weight",))
    head = rows["lm_head.weight"]
    assert isinstance(head, Skip)
    assert head.reason == "tied to transformer.wte.weight"
    shapes = {
        "attn.c_attn": (24, 8),
        "attn.c_proj": (8, 8),
        "mlp.c_fc": (32, 8),
        "mlp.c_proj": (8, 32),
    }
    for layer, shape in shapes.items():
        row = rows[f"transformer.h.1.{layer}.weight"]
        assert isinstance(row, WeightMatrix)
        assert (row.view, row.layer_type) == ("linear-transposed", "Conv1D")
        assert row.shape == shape


def test_the_matrix_of_a_conv1d_is_the_map_it_applies() -> None:
    torch.manual_seed(0)
    model: Any = gpt2()
    layer = model.transformer.h[0].mlp.c_fc
    row = next(iter_matrices(model, select="transformer.h.0.mlp.c_fc.weight"))
    x = torch.randn(8)
    expected = layer(x[None])[0] - layer.bias
    assert torch.allclose(row.tensor() @ x, expected, rtol=1e-5, atol=1e-6)


def test_bert_ties_its_decoder_to_its_words() -> None:
    model: Any = bert()
    name = "bert.embeddings.word_embeddings.weight"
    row = next(iter_matrices(model, select=name))
    assert row.tied_to == ("cls.predictions.decoder.weight",)
