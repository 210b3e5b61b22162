"""apply_: MLP, CNN, transformer, LSTM; requests by name; ties; the Table it returns."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.init import apply_, stable_rank_
from spectrank.linalg.ensembles.mp_spike import largest_reliable


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stable_rank(W):
    s = torch.linalg.svdvals(W.detach().double().flatten(1))
    return float((s / s[0]).square().sum())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before):
    return {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}


def mlp(dtype=torch.float64, widths=(20, 32, 16, 1)):
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def rows(table, metric, subject=None):
    frame = table.frame.filter(pl.col("metric") == metric)
    if subject is not None:
        frame = frame.filter(pl.col("subject") == subject)
    return frame.to_dicts()


# Models.


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


class Net(nn.Module):
    """A small CNN: a grouped, a depthwise and a transposed convolution, a residual."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.stem(x), 0.2)
        x = x + self.depthwise(nn.functional.gelu(self.norm(self.grouped(x))))
        return self.head(self.up(x).mean((2, 3)))


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


# Scales.


def test_the_typical_scale_follows_the_graph():
    layers = [nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 24), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(24, 10)).double()
    table = apply_(
        model, stable_rank=4, spectrum="flat", gain="typical", generator=generator()
    )
    g = generator()
    for layer, gain in zip(
        model[::2], ("typical", "tanh", "typical-linear"), strict=True
    ):
        W = torch.empty_like(layer.weight)
        stable_rank_(W, 4, spectrum="flat", gain=gain, generator=g)
        assert torch.equal(W, layer.weight)
    reasons = [row["reason"] for row in rows(table, "gain")]
    assert reasons[0] == "relu follows"
    assert reasons[1] == "tanh follows; typical is known for relu and linear only"
    linear = {"gain": "typical-linear", "spectrum": "flat", "stable_rank": 4}
    apply_(model, **linear, generator=generator())
    W = torch.empty_like(model[0].weight)
    stable_rank_(W, 4, spectrum="flat", gain="typical-linear", generator=generator())
    assert torch.equal(W, model[0].weight)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "fan_out"},
        {"mode": "fan_avg"},
        {"norm": "spectral"},
        {"norm": "spectral", "mode": "fan_out"},
        {"norm": "spectral", "sigma": "depth-critical"},
        {"norm": "spectral", "sigma": 0.3, "gain": "auto"},
    ],
)
def test_a_convolution_has_the_scale_of_stable_rank_(options):
    conv = nn.Conv2d(6, 8, 3, groups=2)
    model = nn.Sequential(conv, nn.Tanh()).double()
    request = {"spectrum": "flat", "stable_rank": 2.5}
    apply_(model, **request, **options, generator=generator())
    alone = {k: v for k, v in options.items() if k != "gain"}
    gain = {} if "gain" in options else {"gain": "tanh"}
    W = torch.empty_like(conv.weight)
    stable_rank_(W, groups=2, **request, **alone, **gain, generator=generator())
    assert torch.equal(W, conv.weight)


# Requests by name.


def test_names_go_before_globs_and_the_rest_is_left():
    model = mlp(widths=(20, 32, 16, 8, 4))
    before = state(model)
    table = apply_(
        model,
        stable_rank={"[24].weight": 3, "2.weight": 5.5},
        spectrum="flat",
        generator=generator(),
    )
    assert changed(model, before) == {"2.weight", "4.weight"}
    assert stable_rank(model[2].weight) == pytest.approx(5.5, rel=1e-10)
    assert stable_rank(model[4].weight) == pytest.approx(3.0, rel=1e-10)
    (left,) = rows(table, "stable_rank_init", "0.weight")
    assert left["reason"] == "not named in stable_rank; left"


def test_a_shared_number_gives_way_and_the_row_says_so():
    model = mlp(widths=(40, 64, 64, 4))
    table = apply_(model, stable_rank=9, generator=generator())
    found = {row["subject"]: row for row in rows(table, "stable_rank")}
    reached = largest_reliable(4, 64)
    assert found["0.weight"]["target"] == 9.0
    assert found["4.weight"]["target"] == reached
    assert stable_rank(model[4].weight) == pytest.approx(reached, rel=1e-10)
    assert found["4.weight"]["reason"].startswith("lowered from 9: mp-spike reliably")
    flat = apply_(model, stable_rank=9, spectrum="flat", generator=generator())
    (last,) = rows(flat, "stable_rank", "4.weight")
    assert (last["target"], last["reason"]) == (4.0, "lowered from 9: min(m, n) is 4")


def test_a_share_below_one_singular_value_is_raised():
    model = mlp(widths=(40, 64, 64, 4))
    table = apply_(model, fraction=1 / 32, spectrum="flat", generator=generator())
    found = {row["subject"]: row for row in rows(table, "stable_rank")}
    assert found["2.weight"]["target"] == 2.0
    assert found["4.weight"]["target"] == 1.0
    assert found["4.weight"]["reason"].startswith("raised from 0.125 to 1")


def test_a_vector_is_filled_if_it_is_named():
    model = mlp()
    apply_(model, stable_rank={"4.weight": 1}, spectrum="flat", generator=generator())
    assert float(model[4].weight.detach().square().sum()) == pytest.approx(1.0)


def test_select_leaves_the_rest_out_of_the_table():
    model = mlp()
    before = state(model)
    table = apply_(
        model, fraction=0.25, spectrum="flat", select="2.*", generator=generator()
    )
    assert changed(model, before) == {"2.weight"}
    assert set(table.frame["subject"]) == {"2.weight", "2.bias"}


@pytest.mark.parametrize("spectrum", ["orthogonal", "gaussian"])
def test_spectra_with_a_stable_rank_of_their_own(spectrum):
    model = mlp(widths=(20, 32, 16, 4))
    table = apply_(model, spectrum=spectrum, generator=generator())
    if spectrum == "orthogonal":
        Q = model[0].weight.detach()
        assert torch.allclose(Q.T @ Q, 3.2 * torch.eye(20, dtype=Q.dtype))
        assert rows(table, "stable_rank")[0]["target"] == 20.0
    else:
        assert rows(table, "stable_rank")[0]["target"] is None
        (first, *_) = rows(table, "frobenius_norm")
        assert first["target"] == pytest.approx(8.0)
        assert first["value"] == pytest.approx(8.0, rel=0.2)


# Ties.


class Tied(nn.Module):
    """Two layers with one weight, and a head tied to an embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.a = nn.Linear(8, 8, bias=False)
        self.b = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 11, bias=False)
        self.b.weight = self.a.weight
        self.head.weight = self.embed.weight

    def forward(self, x):
        h = torch.relu(self.a(self.embed(x)))
        return self.head(torch.relu(self.b(h)))


def test_tied_weights_are_filled_once_and_embeddings_never():
    model = Tied().double()
    before = state(model)
    x = torch.zeros(2, 3, dtype=torch.int64)
    g = generator()
    table = apply_(model, stable_rank=3, spectrum="flat", example_input=x, generator=g)
    assert changed(model, before) == {"a.weight", "b.weight"}
    assert model.a.weight is model.b.weight
    assert stable_rank(model.a.weight) == pytest.approx(3.0, rel=1e-10)
    (row,) = rows(table, "stable_rank")
    assert (row["subject"], row["tied_to"]) == ("a.weight", "b.weight")
    # One draw was made, not two.
    once = generator()
    stable_rank_(
        torch.empty(8, 8, dtype=torch.float64), 3, spectrum="flat", generator=once
    )
    assert torch.equal(g.get_state(), once.get_state())
    skipped = {row["subject"]: row["reason"] for row in rows(table, "stable_rank_init")}
    assert "embedding" in skipped["embed.weight"]
    assert "tied to a.weight" in skipped["b.weight"]


def test_tied_weights_asked_for_two_values_are_refused():
    model = Tied().double()
    before = state(model)
    asked = {"a.weight": 2, "b.weight": 3}
    with pytest.raises(DomainError, match=r"a\.weight: 2, b\.weight: 3; ask for one"):
        apply_(model, stable_rank=asked, spectrum="flat", gain="relu")
    assert changed(model, before) == set()
    same = {"b.*": 2, "a.*": 2}
    apply_(model, stable_rank=same, spectrum="flat", gain=1.0, generator=generator())
    assert stable_rank(model.a.weight) == pytest.approx(2.0, rel=1e-10)


def test_weights_that_share_a_part_of_their_memory_are_refused():
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.detach().T)
    with pytest.raises(DomainError, match=r"1\.weight and 0\.weight, which share"):
        apply_(model, stable_rank=2, spectrum="flat")


# What is left, and what is refused.


def test_parametrised_weights_are_left_with_a_reason():
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Linear(6, 6)
    )
    before = state(model)
    table = apply_(
        model, stable_rank=2, spectrum="flat", gain=1.0, generator=generator()
    )
    assert changed(model, before) == {"1.weight"}
    (row,) = rows(table, "stable_rank_init", "0.weight")
    assert "computed by a parametrisation" in row["reason"]
    with pytest.raises(DomainError, match=r"0\.weight \(computed by a parametr"):
        apply_(model, stable_rank={"0.weight": 2}, spectrum="flat", gain=1.0)


class Own(nn.Module):
    """A matrix that is a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(6, 5))

    def forward(self, x):
        return torch.tanh(x @ self.mix.T)


def test_a_parameter_of_its_own_is_filled_only_where_its_use_is_known():
    model = Own()
    table = apply_(
        model, stable_rank=2, spectrum="flat", gain=1.0, generator=generator()
    )
    (row,) = rows(table, "stable_rank_init", "mix")
    assert "use is not known" in row["reason"]
    assert not bool(model.mix.any())
    x = torch.randn(3, 5)
    apply_(
        model, stable_rank=2, spectrum="flat", example_input=x, generator=generator()
    )
    assert stable_rank(model.mix) == pytest.approx(2.0, rel=1e-5)
    assert float(model.mix.detach().norm()) == pytest.approx(5 / 3 * math.sqrt(6))


REQUESTS = [
    ({"stable_rank": 40}, DomainError, r"0\.weight: .*lie in \[1, 20\].*got 40"),
    ({"stable_rank": 0.5}, DomainError, "got 0.5"),
    ({"stable_rank": math.nan}, DomainError, "got nan"),
    ({"stable_rank": True}, ArgumentTypeError, "got True"),
    ({"stable_rank": None}, DomainError, "stated once"),
    ({"fraction": 0.5}, DomainError, "stated once"),
    ({"stable_rank": None, "fraction": 1.5}, DomainError, "got 1.5"),
    ({"stable_rank": {}}, DomainError, "empty mapping"),
    ({"stable_rank": {"2.weight": 17}}, DomainError, r"2\.weight: .*got 17"),
    ({"stable_rank": {"2.weight": "3"}}, ArgumentTypeError, r"2\.weight: .*got '3'"),
    ({"stable_rank": {"3.weight": 2}}, DomainError, "'3.weight' matches none"),
    ({"stable_rank": {"2.b*": 2}}, DomainError, r"matches none but 2\.bias \(bias"),
    ({"spectrum": "flta"}, UnknownNameError, "mean 'flat'"),
    ({"spectrum": "gaussian"}, DomainError, "rank of its own, got stable_rank=2"),
    ({"gain": "swoosh"}, UnknownNameError, "one of auto, linear"),
    ({"gain": -1.0}, DomainError, "gain must be positive"),
    ({"norm": "nuclear"}, UnknownNameError, "got 'nuclear'"),
    ({"sigma": 2.0}, DomainError, "norm='frobenius'"),
    ({"sigma": 2.0, "norm": "spectral", "gain": 1.0}, DomainError, "gain=1.0"),
    ({"sigma": 1e-400 + 1e-320, "norm": "spectral"}, DomainError, "0.weight: a spec"),
    ({"select": "5.*"}, DomainError, "'5.*' matches none"),
    ({"select": 3}, ArgumentTypeError, "select is a pattern"),
    ({"generator": 3}, ArgumentTypeError, "got int"),
    ({"gain": "typical", "spectrum": "slice"}, DomainError, r"0\.weight: .*leading"),
]


@pytest.mark.parametrize(("options", "kind", "message"), REQUESTS)
def test_a_bad_request_changes_nothing(options, kind, message):
    model = mlp()
    before = state(model)
    g = generator(3)
    numbers = g.get_state()
    request = {"stable_rank": 2, "spectrum": "flat", "generator": g} | options
    with pytest.raises(kind, match=message):
        apply_(model, **request)
    assert changed(model, before) == set()
    assert torch.equal(g.get_state(), numbers)


def test_the_last_weight_is_checked_before_the_first_is_written():
    model = mlp(widths=(20, 32, 16, 4))
    before = state(model)
    asked = {"0.weight": 2, "2.weight": 2, "4.weight": 4.5}
    with pytest.raises(DomainError, match=r"4\.weight: .*got 4.5"):
        apply_(model, stable_rank=asked, spectrum="flat", generator=generator())
    assert changed(model, before) == set()


def test_a_refused_draw_leaves_every_weight_as_it_was():
    # 12 x 12 at its limit: every fifth draw is refused, so of ten some one is.
    model = nn.Sequential(*[nn.Linear(12, 12) for _ in range(10)])
    before = state(model)
    asked = {f"{i}.weight": 2 if i == 0 else 4 for i in range(10)}
    with pytest.raises(DomainError, match="bulk below its spike"):
        apply_(model, stable_rank=asked, generator=generator())
    assert changed(model, before) == set()


@pytest.mark.parametrize("model", [torch.zeros(3, 3), {"w": torch.zeros(3, 3)}])
def test_only_a_module_is_taken(model):
    with pytest.raises(ArgumentTypeError, match=r"torch\.nn\.Module, got"):
        apply_(model, stable_rank=2)


def test_a_model_without_a_known_graph_needs_an_input_or_a_gain():
    with pytest.raises(DomainError, match=r"example_input.*needs no graph"):
        apply_(Net(), stable_rank=2, spectrum="flat")
    model = Net().double()
    apply_(model, stable_rank=2, spectrum="flat", gain="relu", generator=generator())
    sigma = {"norm": "spectral", "sigma": 0.5}
    table = apply_(
        model, stable_rank=2, spectrum="flat", generator=generator(), **sigma
    )
    top = float(torch.linalg.matrix_norm(model.head.weight.detach(), 2))
    assert top == pytest.approx(0.5, rel=1e-10)
    assert rows(table, "gain") == []


# How it runs.


def test_the_same_state_gives_the_same_model():
    a, b, c = mlp(), mlp(), mlp()
    before = torch.get_rng_state()
    for model, seed in ((a, 1), (b, 1), (c, 2)):
        apply_(model, fraction=0.2, generator=generator(seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a[0].weight, b[0].weight)
    assert torch.equal(a[2].weight, b[2].weight)
    assert not torch.allclose(a[0].weight, c[0].weight)


def test_the_model_is_left_otherwise_as_it_was():
    model = Net().double().train()
    model.head.eval()
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    ids = {name: id(p) for name, p in model.named_parameters()}
    apply_(
        model, stable_rank=2, spectrum="flat", example_input=x, generator=generator()
    )
    assert model.training
    assert not model.head.training
    assert bool((model.stem.weight.grad == 1.0).all())
    assert {name: id(p) for name, p in model.named_parameters()} == ids
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    assert len(model._forward_hooks) == 1


def test_the_request_stands_in_the_provenance():
    table = apply_(
        mlp(),
        stable_rank={"0.*": np.int64(2)},
        spectrum="flat",
        generator=generator(),
    )
    settings = table.provenance["settings"]
    assert settings["stable_rank"] == {"0.*": 2}
    assert (settings["spectrum"], settings["gain"]) == ("flat", "auto")
    assert set(table.provenance["columns"]) >= {"part", "target", "tolerance"}
    assert "stable_rank" in str(table.provenance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_cuda_is_filled_there():
    model = mlp(torch.bfloat16, widths=(64, 96, 32, 8)).to("cuda")
    table = apply_(model, fraction=0.25, spectrum="flat", generator=generator())
    for row in rows(table, "stable_rank"):
        assert row["value"] == pytest.approx(row["target"], rel=2e-2)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
