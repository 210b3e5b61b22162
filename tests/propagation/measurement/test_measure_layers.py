"""Layers of many kinds: attention, padding, embeddings, what cannot be read."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from propagation_rows import by_key, perceptron, randn, randomised, skips, squares
from torch import Tensor, nn

from spectrank.errors import SpectrankWarning
from spectrank.model.capture.unpack import ModelCall
from spectrank.propagation import measure


def test_a_transformer_layer_is_measured_through_its_attention() -> None:
    torch_layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    net, x = randomised(torch_layer), randn(6, 5, 8, seed=6)
    for norm in (net.norm1, net.norm2):
        nn.init.ones_(norm.weight)
    v = randn(5, 8, seed=7)
    table = measure(net, x, cotangents=v)
    found = by_key(table)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, gave: Any, took: Any) -> None:
            seen[name] = gave[0]

        return hook

    net.eval()
    handles = [
        getattr(net, name).register_full_backward_hook(keep(name))
        for name in ("linear1", "linear2")
    ]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        moving = x.clone().requires_grad_()
        (net(moving) * v / v.norm()).sum().backward()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        for handle in handles:
            handle.remove()
    for name in ("linear1", "linear2"):
        row = found[f"{name}.weight", "gradient_gain", None]
        assert row["value"] == pytest.approx(
            float(squares(seen[name]).mean()), rel=1e-9
        )
        gain = found[f"{name}.weight", "jacobian_gain", None]
        assert gain["value"] > 0
    with torch.no_grad():
        y = net.norm1(x + net.self_attn(x, x, x, need_weights=False)[0])
        h = net.linear1(y)
    for site, value in (("pre", h), ("post", h.relu())):
        plain = float((squares(value) / squares(x)).mean())
        row = found["linear1.weight", "signal_gain", site]
        assert row["value"] == pytest.approx(plain, rel=1e-9)
    assert ("self_attn.out_proj.weight", "signal_gain", "pre") in found
    told = skips(table)
    key = ("self_attn.out_proj.weight", "jacobian_gain", None)
    assert "the module is not called" in told[key]
    # Padding carries no norm: it is left out, not zero by accident.
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 3:] = True
    batch = {"src": x, "src_key_padding_mask": mask}
    padded = by_key(measure(net, batch, quantities=["signal"]))
    with torch.no_grad():
        y = net.norm1(
            x + net.self_attn(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        )
    plain = squares(net.linear1(y)[:, :3]) / squares(x[:, :3])
    row = padded["linear1.weight", "signal_gain", "pre"]
    assert row["value"] == pytest.approx(float(plain.mean()), rel=1e-9)


def test_what_cannot_be_read_is_a_row_with_its_reason() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 6)
            self.memory = nn.LSTM(6, 5, batch_first=True)
            self.shared = nn.Linear(5, 5)
            self.idle = nn.Linear(2, 2)

        def forward(self, ids: Tensor) -> Tensor:
            h, _ = self.memory(self.table(ids))
            return self.shared(torch.relu(self.shared(h)))

    ids = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(1))
    with pytest.warns(match="never ran"):
        table = measure(randomised(Words()), ids)
    told = skips(table)
    assert "relative to the outputs of table" in told["network", "signal_gain", "input"]
    assert "ran 2 times" in told["shared.weight", "signal_gain", None]
    assert "never ran" in told["idle.weight", "signal_gain", None]
    assert "Embedding" in told["table.weight", "gradient_gain", None]
    assert "no floating-point" in told["network", "jacobian_gain", None]
    row = by_key(table)["table.weight", "signal_gain", "pre"]
    assert row["value"] == pytest.approx(1.0)


def test_a_call_of_ones_own_is_measured() -> None:
    net, x = perceptron(), randn(6, 6)
    own = measure(
        net,
        [{"pixels": x}],
        unpack=lambda raw: ModelCall(args=(raw["pixels"],)),
        quantities=["signal"],
    )
    plain = measure(net, x, quantities=["signal"])
    assert own.frame.equals(plain.frame)


@pytest.mark.parametrize("cotangents", ["random", "logits"])
def test_an_output_without_a_tensor_costs_the_gradients_alone(cotangents: Any) -> None:
    class Named(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"features": self.net(x)}

    net, x = perceptron(), randn(6, 6)
    batches = (part for part in x.split(2))
    table = measure(Named(net), batches, cotangents=cotangents)
    reason = skips(table)["network", "gradient_gain", None]
    assert "the model gave dict; wrap it" in reason
    plain = by_key(measure(net, list(x.split(2)), quantities=["signal", "angles"]))
    found = by_key(table)
    for (subject, metric, variant), row in plain.items():
        own = subject if subject == "input" else f"net.{subject}"
        value = found[own, metric, variant]["value"]
        assert value == pytest.approx(row["value"], rel=1e-12)
    assert ("net.4.weight", "jacobian_gain", None) in found


def test_models_of_transformers_without_logits_are_measured() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small["intermediate_size"] = 20
    ids = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(1))
    pixels = randn(4, 3, 8, 8).float()
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=50, **small))
    config = transformers.ViTConfig(image_size=8, patch_size=4, **small)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 1, "num_heads": 2}
    t5 = transformers.T5Model(transformers.T5Config(vocab_size=50, **sizes))
    for model, batch in (
        (bert, {"input_ids": ids}),
        (transformers.ViTModel(config), {"pixel_values": pixels}),
        (t5, {"input_ids": ids, "decoder_input_ids": ids}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SpectrankWarning)
            table = measure(model, batch)
        reason = skips(table)["network", "gradient_gain", None]
        assert "the model gave" in reason
        gains = [r for r in by_key(table).values() if r["metric"] == "signal_gain"]
        assert len(gains) > 5
        assert all(r["status"] == "ok" and r["value"] > 0.0 for r in gains)
