"""apply_: scales, requests by name, what gives way, tied weights."""

import pytest
import torch
from init_models import changed, generator, mlp, rows, stable_rank, state
from torch import nn

from spectrank.errors import DomainError
from spectrank.init import apply_, stable_rank_
from spectrank.linalg.ensembles.mp_spike import largest_reliable


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
