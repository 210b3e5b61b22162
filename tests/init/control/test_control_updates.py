"""`spectral_updates` on models, against autograd and dense SVDs."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from update_layers import data, mlp, oracle, ranks, rows_of

from spectrank.init.control import SpectralUpdateMonitor, spectral_updates

# Lanczos enclosures of the spectral norm of activations, twice in its square.
ENCLOSURE = 2e-4


def test_one_batch_equals_autograd_and_dense_svds():
    model, (x, y) = mlp(), data()
    table = spectral_updates(model, (x, y), loss="cross_entropy")
    for index, (name, (G, A)) in enumerate(oracle(model, x, y).items(), start=1):
        nuclear, stable = ranks(G, A)
        rows = rows_of(table, name)
        got = rows["gradient_nuclear_rank_squared", None]
        assert got["value"] == pytest.approx(nuclear, rel=ENCLOSURE)
        got = rows["activation_stable_rank", None]
        assert got["value"] == pytest.approx(stable, rel=ENCLOSURE)
        assert got["index"] == index
        assert got["num_rows"] == 24
        assert got["num_samples"] == 1
        ratio = rows["spectral_update_ratio", None]
        assert ratio["value"] == pytest.approx(nuclear / stable, rel=ENCLOSURE)
        assert ratio["lower"] <= nuclear / stable <= ratio["upper"]
        favoured = "spectral" if nuclear >= stable else "euclidean"
        assert ratio["favoured"] == favoured
        assert ratio["share_favoured"] == float(nuclear >= stable)
        top = float(torch.linalg.svdvals(A)[0])
        # Of the mean: N ||G||^2 / (2 ||A||^2) with G of the mean.
        want = 24 * float(G.square().sum()) / (2 * top**2)
        got = rows["guaranteed_decrease", "euclidean"]
        assert got["value"] == pytest.approx(want, rel=ENCLOSURE)
        total = float(torch.linalg.svdvals(G).sum())
        want = 24 * total**2 / (2 * float(A.square().sum()))
        got = rows["guaranteed_decrease", "spectral"]
        assert got["value"] == pytest.approx(want, rel=ENCLOSURE)


@pytest.mark.parametrize(
    ("loss", "beta"),
    [
        (nn.MSELoss(), 2.0),
        (nn.MSELoss(reduction="sum"), 2.0),
        (nn.CrossEntropyLoss(), 0.5),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_last_layer_decreases_by_what_is_guaranteed(loss, beta, seed):
    # End to end: the loss as trained, its reduction and its smoothness.
    model, (x, y) = mlp(seed), data(seed=10 + seed)
    if isinstance(loss, nn.MSELoss):
        y = nn.functional.one_hot(y, 3).double() * 3
    table = spectral_updates(model, (x, y), loss=loss, smoothness=beta)
    A, W = model[:4](x).detach(), model[4].weight
    (G,) = torch.autograd.grad(loss(model(x), y), W)
    start = float(loss(model(x), y).detach())
    # Of the summed loss, the steps of the derivation.
    factor = {"sum": 1, "mean": 24 if beta == 0.5 else 72}[loss.reduction]
    u, s, vh = torch.linalg.svd(factor * G, full_matrices=False)
    steps = {
        "euclidean": factor * G / (beta * torch.linalg.svdvals(A)[0] ** 2),
        "spectral": s.sum() / (beta * A.square().sum()) * (u @ vh),
    }
    rows = rows_of(table, "4.weight")
    for variant, step in steps.items():
        bias = model[4].bias
        after = float(loss(A @ (W - step).T + bias, y).detach())
        promised = rows["guaranteed_decrease", variant]["value"]
        assert promised > 0
        assert promised <= (start - after) * (1 + 1e-9)
        # A promise that is not empty: a factor N or beta amiss would show.
        assert promised > 0.05 * (start - after)


def test_convolutions_are_read_as_patches():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, stride=2, padding=1, dilation=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 16, 3),
    ).double()
    x, y = torch.randn(7, 2, 8, 8).double(), torch.randint(0, 3, (7,))
    table = spectral_updates(model, (x, y), loss="cross_entropy")
    nn.functional.cross_entropy(model(x), y).backward()
    A = nn.functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2).flatten(0, 1)
    nuclear, stable = ranks(model[0].weight.grad.flatten(1), A)
    rows = rows_of(table, "0.weight")
    assert rows["gradient_nuclear_rank_squared", None]["value"] == pytest.approx(
        nuclear, rel=ENCLOSURE
    )
    got = rows["activation_stable_rank", None]
    assert got["value"] == pytest.approx(stable, rel=ENCLOSURE)
    assert (got["num_rows"], got["m"], got["n"]) == (7 * 16, 5, 18)
    assert got["view"] == "conv-unfolded"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()

    def forward(self, x):
        return self.last(self.layer(torch.relu(self.layer(x))))


def test_all_uses_of_a_layer_are_one_matrix_of_rows():
    model, (x, y) = Twice(), data()
    table = spectral_updates(model, (x, y), loss="cross_entropy")
    nn.functional.cross_entropy(model(x), y).backward()
    A = torch.cat([x, torch.relu(model.layer(x)).detach()])
    nuclear, stable = ranks(model.layer.weight.grad, A)
    rows = rows_of(table, "layer.weight")
    got = rows["gradient_nuclear_rank_squared", None]["value"]
    assert got == pytest.approx(nuclear, rel=ENCLOSURE)
    got = rows["activation_stable_rank", None]
    assert got["value"] == pytest.approx(stable, rel=ENCLOSURE)
    assert got["num_rows"] == 48


def test_several_batches_give_means_with_their_standard_errors():
    model = mlp()
    batches = [data(24, seed=k) for k in range(5)]
    table = spectral_updates(model, batches, loss="cross_entropy")
    single = [
        rows_of(spectral_updates(model, b, loss="cross_entropy"), "2.weight")
        for b in batches
    ]
    for key, row in rows_of(table, "2.weight").items():
        values = [one[key]["value"] for one in single]
        error = np.std(values, ddof=1) / math.sqrt(5)
        assert row["value"] == pytest.approx(np.mean(values), rel=1e-12)
        assert row["standard_error"] == pytest.approx(error, rel=1e-9)
        assert row["upper"] == pytest.approx(row["value"] + 4 * error, rel=1e-9)
        assert row["lower"] == pytest.approx(row["value"] - 4 * error, rel=1e-9)
        assert (row["num_samples"], row["error_kind"]) == (5, "stderr")
    row = rows_of(table, "2.weight")["spectral_update_ratio", None]
    ratios = [one["spectral_update_ratio", None]["value"] for one in single]
    assert row["share_favoured"] == np.mean([r >= 1 for r in ratios])
    first = spectral_updates(model, batches, loss="cross_entropy", max_batches=1)
    got = rows_of(first, "2.weight")["spectral_update_ratio", None]
    assert got["value"] == ratios[0]


def test_a_word_is_said_only_where_the_ends_agree():
    from spectrank.init.control.condition import _favoured
    from spectrank.linalg import Value

    for values, word in (
        ([2.0, 2.1, 1.9], "spectral"),
        ([0.5, 0.6, 0.4], "euclidean"),
        ([0.5, 1.6, 1.2], "undecided"),
    ):
        mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(3)
        row = {"lower": mean - 4 * error, "upper": mean + 4 * error}
        assert _favoured(row, [Value.exact(v) for v in values])["favoured"] == word


def test_select_and_batches_of_other_forms():
    model, (x, y) = mlp(), data()
    table = spectral_updates(model, [x, y], loss="cross_entropy", select="2.*")
    assert set(table.frame["subject"]) == {"2.weight"}
    assert table.frame["index"].to_list()[0] == 1
    alone = nn.Linear(6, 3).double()
    table = spectral_updates(alone, (x, y), loss="cross_entropy")
    assert set(table.where(kind="measurement").frame["subject"]) == {"weight"}


class Conv1D(nn.Module):
    """A linear layer that stores (inputs, outputs), as transformers has it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf).double())

    def forward(self, x):
        return x @ self.weight


def test_a_weight_stored_transposed_is_read_by_its_view():
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(Conv1D(5, 6), nn.ReLU(), Conv1D(3, 5)), data()
    table = spectral_updates(model, (x, y), loss="cross_entropy")
    nn.functional.cross_entropy(model(x), y).backward()
    nuclear, stable = ranks(model[0].weight.grad, x)
    rows = rows_of(table, "0.weight")
    got = rows["gradient_nuclear_rank_squared", None]
    assert got["value"] == pytest.approx(nuclear, rel=ENCLOSURE)
    assert (got["m"], got["n"], got["view"]) == (5, 6, "linear-transposed")
    got = rows["activation_stable_rank", None]["value"]
    assert got == pytest.approx(stable, rel=ENCLOSURE)
    # And the same while it trains.
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = SpectralUpdateMonitor(model, every=1)
    with monitor.attach(optimizer):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    rows = rows_of(monitor.table(), "0.weight")
    got = rows["spectral_update_ratio", None]["value"]
    assert got == pytest.approx(nuclear / stable, rel=ENCLOSURE)
