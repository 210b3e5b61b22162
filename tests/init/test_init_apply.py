"""apply_ on an MLP, a CNN, a transformer, recurrent nets; targets and achieved."""

import math

import polars as pl
import pytest
import torch
from init_models import Net, changed, generator, mlp, rows, stable_rank, state
from torch import nn

from spectrank.init import apply_, stable_rank_


@pytest.mark.parametrize("spectrum", ["mp-spike", "flat", "slice", "temper", "exp"])
def test_an_mlp_has_the_share_asked_for_in_every_layer(spectrum):
    model = mlp()
    before = state(model)
    table = apply_(model, fraction=0.125, spectrum=spectrum, generator=generator())
    assert changed(model, before) == {"0.weight", "2.weight"}
    for name, r, a1 in (("0.weight", 2.5, 64.0), ("2.weight", 2.0, 32.0)):
        W = model.state_dict()[name]
        assert stable_rank(W) == pytest.approx(r, rel=1e-10)
        # relu follows the first; the second too, before the output of one unit.
        assert float(W.square().sum()) == pytest.approx(a1, rel=1e-10)
        row = table.frame.filter(
            (pl.col("subject") == name) & (pl.col("metric") == "stable_rank")
        ).to_dicts()[0]
        assert row["target"] == pytest.approx(r)
        assert row["value"] == pytest.approx(r, rel=1e-10)
        assert (row["status"], row["reason"], row["tolerance"]) == ("ok", None, 1e-10)
    (last,) = rows(table, "stable_rank_init", "4.weight")
    assert last["kind"] == "skip"
    assert "always has stable rank 1; left at the standard scheme" in last["reason"]


def test_a_whole_model_is_filled_as_each_weight_by_itself():
    # Some of these draws can be refused and are held back, which must not matter.
    model = mlp(widths=(100, 120, 16, 20))
    apply_(model, stable_rank=2.7, generator=generator(3))
    g = generator(3)
    gains = ("relu", "relu", "linear")
    for layer, gain in zip(model[::2], gains, strict=True):
        W = torch.empty_like(layer.weight)
        assert torch.equal(stable_rank_(W, 2.7, gain=gain, generator=g), layer.weight)


def test_numbers_are_those_of_the_stored_weights():
    model = mlp(torch.float32)
    table = apply_(model, fraction=0.1, spectrum="slice", generator=generator())
    for name in ("0.weight", "2.weight"):
        s = torch.linalg.svdvals(model.state_dict()[name].double())
        t = s.square()
        truth = {
            "stable_rank": float(t.sum() / t[0]),
            "participation_ratio": float(t.sum() ** 2 / t.square().sum()),
            "spectral_norm": float(s[0]),
            "frobenius_norm": float(s.norm()),
        }
        for metric, value in truth.items():
            assert table.value(name, metric) == pytest.approx(value, rel=1e-9)


def test_targets_are_those_of_the_law():
    model = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 10)).double()
    table = apply_(model, stable_rank=4, spectrum="spike", generator=generator())
    for metric in (
        "stable_rank",
        "participation_ratio",
        "spectral_norm",
        "frobenius_norm",
    ):
        for row in rows(table, metric):
            assert row["value"] == pytest.approx(row["target"], rel=1e-10)
    (first, last) = rows(table, "frobenius_norm")
    assert first["target"] == pytest.approx(5 / 3 * math.sqrt(20))
    assert last["target"] == pytest.approx(math.sqrt(10))
    (rho, _) = rows(table, "participation_ratio")
    assert rho["target"] == pytest.approx(16 / (1 + 9 / 19))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_shows_its_tolerance(dtype):
    model = mlp(dtype)
    table = apply_(model, fraction=0.5, spectrum="flat", generator=generator())
    for row in rows(table, "stable_rank"):
        assert row["tolerance"] == 2e-2
        assert row["dtype"] == str(dtype).removeprefix("torch.")
        W = model.state_dict()[row["subject"]]
        assert row["value"] == pytest.approx(stable_rank(W), rel=1e-6)
        # Rounded entries miss the target, by less than the tolerance.
        assert 1e-7 < abs(row["value"] / row["target"] - 1) < 2e-2
        assert row["reason"] is None


def test_a_cnn_block_by_block():
    model = Net().double()
    before = state(model)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    table = apply_(
        model, stable_rank=3, spectrum="flat", example_input=x, generator=generator()
    )
    assert changed(model, before) == {"stem.weight", "grouped.weight", "head.weight"}
    assert stable_rank(model.stem.weight) == pytest.approx(3, rel=1e-10)
    for part in model.grouped.weight.reshape(2, 4, 4, 3, 3):
        assert stable_rank(part) == pytest.approx(3, rel=1e-10)
    parts = [row["part"] for row in rows(table, "stable_rank", "grouped.weight")]
    assert parts == ["group.0", "group.1"]
    assert [row["index"] for row in rows(table, "stable_rank", "grouped.weight")] == [
        0,
        1,
    ]
    gains = {row["subject"]: row for row in rows(table, "gain")}
    assert gains["stem.weight"]["value"] == pytest.approx(math.sqrt(2 / 1.04))
    assert "leaky_relu follows" in gains["stem.weight"]["reason"]
    assert gains["grouped.weight"]["value"] == pytest.approx(1.5335, abs=1e-4)
    assert gains["grouped.weight"]["reason"] == "gelu follows after batch_norm"
    assert gains["head.weight"]["value"] == 1.0
    skipped = {row["subject"]: row["reason"] for row in rows(table, "stable_rank_init")}
    assert "transposed convolution" in skipped["up.weight"]
    assert "a vector always has stable rank 1" in skipped["depthwise.weight"]
    assert "normalisation" in skipped["norm.weight"]
    assert "bias" in skipped["stem.bias"]
    assert "buffer" in skipped["norm.running_mean"]
    # Every tensor of the model is a row.
    assert {row["subject"] for row in table.frame.to_dicts()} == set(before)


def test_a_transformer_query_key_and_value_apart():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    model = layer.double()
    before = state(model)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    table = apply_(
        model, fraction=0.25, spectrum="spike", example_input=x, generator=generator()
    )
    assert changed(model, before) == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }
    packed = model.self_attn.in_proj_weight
    for part in packed.chunk(3):
        assert stable_rank(part) == pytest.approx(4.0, rel=1e-10)
        assert float(part.detach().square().sum()) == pytest.approx(16.0, rel=1e-10)
    assert abs(stable_rank(packed) - 4.0) > 0.5
    found = rows(table, "stable_rank", "self_attn.in_proj_weight")
    assert [row["part"] for row in found] == ["query", "key", "value"]
    gains = {row["subject"]: row for row in rows(table, "gain")}
    assert gains["linear1.weight"]["value"] == pytest.approx(math.sqrt(2))
    assert gains["linear2.weight"]["reason"].startswith("enters a sum of branches")
    assert "attention" in gains["self_attn.in_proj_weight"]["reason"]


@pytest.mark.parametrize(
    ("kind", "gates"), [(nn.LSTM, "ifgo"), (nn.GRU, "rzn"), (nn.RNN, "")]
)
def test_gates_of_a_recurrent_layer_apart(kind, gates):
    model = kind(8, 6, num_layers=2, bidirectional=True, batch_first=True).double()
    before = state(model)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    table = apply_(
        model, fraction=0.5, spectrum="flat", example_input=x, generator=generator()
    )
    weights = {name for name in before if name.startswith("weight")}
    assert changed(model, before) == weights
    assert len(weights) == 8
    for name in weights:
        for part in model.state_dict()[name].chunk(len(gates) or 1):
            assert stable_rank(part) == pytest.approx(3.0, rel=1e-10)
        parts = [row["part"] for row in rows(table, "stable_rank", name)]
        assert parts == ([f"gate.{g}" for g in gates] or [None])
    assert all("no single activation" in r["reason"] for r in rows(table, "gain"))


def test_cells_projections_and_separate_attention_weights():
    cell = nn.LSTMCell(5, 4).double()
    apply_(cell, stable_rank=2, spectrum="flat", gain=1.0, generator=generator())
    parts = [p for w in (cell.weight_ih, cell.weight_hh) for p in w.chunk(4)]
    assert [stable_rank(p) for p in parts] == pytest.approx([2.0] * 8, rel=1e-10)
    lstm = nn.LSTM(5, 6, proj_size=3).double()
    apply_(lstm, stable_rank=2, spectrum="flat", gain=1.0, generator=generator())
    assert stable_rank(lstm.weight_hr_l0) == pytest.approx(2.0, rel=1e-10)
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=5).double()
    apply_(attention, stable_rank=2, spectrum="flat", gain=1.0, generator=generator())
    for W in (attention.q_proj_weight, attention.k_proj_weight):
        assert stable_rank(W) == pytest.approx(2.0, rel=1e-10)


class Packed(nn.Module):
    """One linear layer for query, key and value, as many vision models have it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_a_packed_projection_is_parted_where_the_graph_shows_it():
    model = Packed().double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    table = apply_(
        model, stable_rank=2, spectrum="flat", example_input=x, generator=generator()
    )
    assert [stable_rank(p) for p in model.qkv.weight.chunk(3)] == pytest.approx([2] * 3)
    parts = [row["part"] for row in rows(table, "stable_rank", "qkv.weight")]
    assert parts == ["query", "key", "value"]
    table = apply_(
        model, stable_rank=2, spectrum="flat", gain=1.0, generator=generator()
    )
    assert stable_rank(model.qkv.weight) == pytest.approx(2.0)
    assert [r["part"] for r in rows(table, "stable_rank", "qkv.weight")] == [None]


class Conv1D(nn.Module):
    """A linear layer that stores (inputs, outputs), as transformers has it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.zeros(nx, nf))

    def forward(self, x):
        return x @ self.weight


def test_a_weight_stored_as_inputs_by_outputs_keeps_its_scale():
    model = nn.Sequential(Conv1D(5, 12)).double()
    apply_(model, stable_rank=2, spectrum="flat", gain=1.0, generator=generator())
    W = model[0].weight
    assert stable_rank(W) == pytest.approx(2.0, rel=1e-10)
    # ||W||_F^2 is the number of outputs, 5, and not that of inputs.
    assert float(W.detach().square().sum()) == pytest.approx(5.0, rel=1e-10)


def test_the_table_shows_what_was_asked_for_beside_what_was_reached():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    table = apply_(model, stable_rank=8, spectrum="flat", generator=generator())
    wide = table.wide(["stable_rank", "stable_rank_target", "stable_rank_asked"])
    assert wide.select(pl.col("^stable_rank.*$").round(9)).rows() == [
        (8.0, 8.0, 8.0),
        (4.0, 4.0, 8.0),
    ]
    (_, lowered) = rows(table, "stable_rank_asked")
    assert lowered["reason"] == "lowered from 8: min(m, n) is 4"
    metrics = table.frame["metric"].unique(maintain_order=True).to_list()
    assert metrics[:3] == ["stable_rank", "stable_rank_target", "stable_rank_asked"]
    # Nothing to say where every matrix has what was asked for, or a law its own.
    same = apply_(model, stable_rank=2, spectrum="flat", generator=generator())
    assert rows(same, "stable_rank_asked") == []
    assert [row["value"] for row in rows(same, "stable_rank_target")] == [2.0, 2.0]
    own = apply_(model, spectrum="gaussian", generator=generator())
    assert rows(own, "stable_rank_target") == []
