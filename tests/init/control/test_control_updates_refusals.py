"""`spectral_updates`: what it leaves out, leaves alone and refuses."""

import math

import pytest
import torch
from torch import nn
from update_layers import data, mlp, rows_of

from spectrank.errors import ArgumentTypeError, DomainError, SpectrankWarning
from spectrank.init.control import spectral_updates


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, 6)
        self.gates = nn.LSTM(6, 6, batch_first=True)
        self.grouped = nn.Conv1d(6, 6, 1, groups=2)
        self.up = nn.ConvTranspose1d(6, 6, 1)
        self.head = nn.Linear(6, 6, bias=False)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.head.weight
        self.idle = nn.Linear(6, 2)
        self.made = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        h, _ = self.gates(self.words(x))
        h = self.up(self.grouped(h.transpose(1, 2))).transpose(1, 2)
        return self.last(self.made(torch.relu(self.tied(self.head(h))))).mean(1)


def test_what_is_not_one_matrix_leaves_a_row_that_says_why():
    model = Zoo()
    batch = (torch.randint(0, 10, (8, 4)), torch.randint(0, 3, (8,)))
    with pytest.warns(SpectrankWarning, match="idle"):
        table = spectral_updates(model, batch, loss="cross_entropy")
    skips = {
        row["subject"]: row["reason"]
        for row in table.where(kind="skip").frame.to_dicts()
    }
    assert "multiplies them" in skips["words.weight"]
    assert "gate" in skips["gates.weight_ih_l0"]
    assert "2 groups" in skips["grouped.weight"]
    assert "transposed" in skips["up.weight"]
    assert "tied to tied.weight" in skips["head.weight"]
    assert "tied to head.weight" in skips["tied.weight"]
    assert "was not called" in skips["idle.weight"]
    measured = set(table.where(kind="measurement").frame["subject"])
    assert measured == {"made.weight", "last.weight"}
    # Positions count as rows.
    got = rows_of(table, "last.weight")["activation_stable_rank", None]
    assert got["num_rows"] == 32


def test_the_model_is_left_as_it_was():
    model, batch = mlp().train(), data()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    random_state = torch.get_rng_state()
    spectral_updates(model, batch, loss="cross_entropy")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    assert all(m.training and not m._forward_hooks for m in model.modules())
    assert all(not m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[2].weight.grad is None


def test_a_dead_layer_is_degenerate():
    model, batch = mlp(), data()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    table = spectral_updates(model, [batch, batch], loss="cross_entropy")
    row = rows_of(table, "0.weight")["gradient_nuclear_rank_squared", None]
    assert row["status"] == "degenerate"
    assert "2 of 2 minibatches" in row["reason"]
    assert math.isnan(row["value"])
    ratio = rows_of(table, "0.weight")["spectral_update_ratio", None]
    assert ratio["favoured"] == "undecided"
    assert ratio["share_favoured"] is None


def test_bad_requests_are_refused():
    model, batch = mlp(), data()
    with pytest.raises(ArgumentTypeError, match=r"torch\.nn\.Module"):
        spectral_updates(model.state_dict(), batch, loss="mse")
    with pytest.raises(DomainError, match="matches none"):
        spectral_updates(model, batch, loss="cross_entropy", select="x.*")
    with pytest.raises(DomainError, match="at least one batch"):
        spectral_updates(model, [], loss="cross_entropy")
    with pytest.raises(DomainError, match="smoothness"):
        spectral_updates(model, batch, loss="cross_entropy", smoothness=0.0)
    with pytest.raises(DomainError, match="linear or convolution"):
        spectral_updates(nn.Embedding(4, 4), batch, loss="cross_entropy")


@pytest.mark.parametrize(
    ("batch", "options", "error", "words"),
    [
        (0, {"smoothness": 0}, DomainError, "finite, got 0; 1 is that of half"),
        (0, {"loss": None}, DomainError, "of a loss, got None; pass loss='cross_"),
        (0, {"select": []}, DomainError, "at least one pattern"),
        ([5], {}, ArgumentTypeError, r"got int; pass unpack=, a function"),
        (torch.zeros(4, 6).double(), {}, DomainError, r"target; pass unpack=$"),
        (1, {}, DomainError, r"got torch.int64 .*Target 5 is out"),
        (2, {}, DomainError, "batches with samples, got an empty one"),
    ],
)
def test_errors_name_the_arguments_of_the_function(batch, options, error, words):
    x, y = data()
    batches = [(x, y), (x, torch.full_like(y, 5)), (x[:0], y[:0])]
    batch = batches[batch] if isinstance(batch, int) else batch
    with pytest.raises(error, match=words):
        spectral_updates(mlp(), batch, **({"loss": "cross_entropy"} | options))
