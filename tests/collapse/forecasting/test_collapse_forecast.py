"""Forecasts against the trained network itself, and the trust against autograd."""

import copy
import math

import polars as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.collapse.forecasting import (
    centroid_minima,
    centroids,
    forecast,
    minimise,
    rank_curve,
)
from spectrank.collapse.forecasting.starts import starts
from spectrank.errors import DomainError
from spectrank.experiments.data.mixtures import gaussian_mixture

NAMES = ("0.weight", "2.weight", "4.weight")


def net(inputs: int = 8, classes: int = 3, seed: int = 0, *, bias: bool = True):
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(
        nn.Linear(inputs, 10, bias=bias),
        nn.Tanh(),
        nn.Linear(10, 10, bias=bias),
        nn.Tanh(),
        nn.Linear(10, classes, bias=bias),
    ).double()
    with torch.no_grad():
        for p in made.parameters():
            bound = 1 / math.sqrt(p.shape[-1])
            p.uniform_(-bound, bound, generator=generator)
    return made


def mixture(noise: float, *, seed: int = 3, classes: int = 3, unequal: bool = False):
    """Samples, labels and a loader of uneven batches."""
    data = gaussian_mixture(
        20 * classes,
        num_classes=classes,
        clusters_per_class=1,
        dimension=8,
        centre_norm=2.0,
        noise=noise,
        seed=seed,
    )
    x, labels = data.inputs.double(), data.labels
    if unequal:
        kept = (labels > 0) | (torch.arange(len(labels)) < 12)
        x, labels = x[kept], labels[kept]
    return x, labels, [(x[:13], labels[:13]), (x[13:], labels[13:])]


def spectra(model: nn.Module) -> list[torch.Tensor]:
    return [torch.linalg.svdvals(p.detach()) for p in model.parameters() if p.ndim == 2]


def forecast_spectra(table, weight_decay=None) -> list[torch.Tensor]:
    rows = table.where(metric="singular_values", variant="forecast").frame
    if weight_decay is not None:
        rows = rows.filter(pl.col("weight_decay") == weight_decay)
    return [torch.tensor(v, dtype=torch.float64) for v in rows["values"].to_list()]


def distance(found: list[torch.Tensor], truth: list[torch.Tensor]) -> float:
    return max(
        float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)
    )


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5])),
    ],
    ids=["mean", "sum", "weighted"],
)
def test_the_forecast_of_collapsed_data_is_the_trained_network(loss):
    # Classes of 4, 20 and 20 samples: a centroid must weigh what its class does.
    x, labels, loader = mixture(0.0, unequal=True)
    assert torch.bincount(labels).tolist() == [4, 20, 20]
    decay = 0.3 if loss.reduction == "sum" else 0.01
    table = forecast(net(), loader, loss=loss, weight_decay=decay, seeds=1)
    full = minimise(net(), x, labels, loss=loss, weight_decay=decay)
    assert full.status == "ok"
    assert distance(forecast_spectra(table), spectra(full.model)) < 1e-6
    assert table.value("model", "objective") == pytest.approx(full.objective, rel=1e-12)
    for row in table.where(metric="forecast_trust"):
        assert row["value"] < 1e-6
        # A single start says nothing of other basins.
        assert row["verdict"] == "not_applicable"
        assert (
            row["reason"] == "one start says nothing of other minima; ask for seeds=3"
        )


@pytest.mark.parametrize(("noise", "limit"), [(0.02, 1e-3), (0.1, 1.5e-2)])
def test_the_error_shrinks_with_the_noise_in_one_basin(noise, limit):
    # The theory's ranges are 1e-4..3e-4 and 2e-3..9e-3, for other centres.
    x, labels, loader = mixture(noise)
    cells = centroids(net(), loader)
    [start] = centroid_minima(net(), cells, weight_decay=0.01, seeds=1)
    full = minimise(start.minimum.model, x, labels, weight_decay=0.01)
    error = distance(spectra(start.minimum.model), spectra(full.model))
    assert 0.005 * limit < error < limit


def test_ranks_are_k_less_one_with_softmax_or_biases_and_k_without():
    x, labels, loader = mixture(0.02)
    rows = F.one_hot(labels, 3).double()
    one_hot = [(x, rows)]
    cases = [
        (loader, "cross_entropy", True, 2),
        (one_hot, "mse", True, 2),
        (one_hot, "mse", False, 3),
    ]
    for data, loss, bias, rank in cases:
        table = forecast(net(bias=bias), data, loss=loss, weight_decay=0.02, seeds=1)
        assert [table.value(name, "numerical_rank") for name in NAMES] == [rank] * 3


def test_the_rank_falls_to_zero_as_the_decay_grows():
    _, _, loader = mixture(0.1)
    table = rank_curve(net(), loader, weight_decays=(1e-2, 1e-1, 1.0), seeds=2)
    ranks = {
        decay: table.where(metric="numerical_rank", weight_decay=decay).frame["value"]
        for decay in (1e-2, 1e-1, 1.0)
    }
    assert ranks[1e-2].to_list() == [2.0, 2.0, 2.0]
    assert (ranks[1e-1] <= 2).all()
    assert ranks[1.0].to_list() == [0.0, 0.0, 0.0]
    # Without a layer there is no share to judge it by.
    trust = table.where(metric="forecast_trust", weight_decay=1.0).frame
    assert trust["verdict"].to_list() == ["not_applicable"] * 3
    spread = table.where(metric="forecast_spread", weight_decay=1.0).frame
    assert spread["value"].to_list() == [0.0] * 3
    single = forecast(net(), loader, weight_decay=1e-1, seeds=2)
    assert distance(forecast_spectra(table, 1e-1), forecast_spectra(single)) == 0.0


def test_the_share_is_the_gradient_of_all_the_data_over_the_decay():
    x, labels, loader = mixture(0.3)
    table = forecast(net(), loader, weight_decay=0.02, seeds=1)
    [start] = centroid_minima(
        net(), centroids(net(), loader), weight_decay=0.02, seeds=1
    )
    model = start.minimum.model
    weights = [p for p in model.parameters() if p.ndim == 2]
    value = F.cross_entropy(model(x), labels) + 0.01 * sum(
        p.square().sum() for p in weights
    )
    gradients = torch.autograd.grad(value, weights)
    for name, p, g in zip(NAMES, weights, gradients, strict=True):
        share = float(g.norm() / (0.02 * p.detach().norm()))
        assert share > 0.01
        check = table.where(metric="forecast_trust", subject=name).frame
        assert check["value"].item() == pytest.approx(share, rel=1e-9)


def test_the_range_is_that_of_the_starts():
    _, _, loader = mixture(0.1)
    table = forecast(net(), loader, weight_decay=1e-2, seeds=(4, 9))
    starts = table.where(metric="singular_values", variant="start").frame
    assert starts.filter(pl.col("subject") == NAMES[0])["seed"].to_list() == [
        None,
        4,
        9,
    ]
    for row in table.where(metric="singular_values", variant="forecast"):
        every = torch.tensor(
            starts.filter(pl.col("subject") == row["subject"])["values"].to_list(),
            dtype=torch.float64,
        )
        assert row["values"] == every[0].tolist()
        assert row["lower_values"] == every.amin(0).tolist()
        assert row["upper_values"] == every.amax(0).tolist()
        spread = float(((every - every[0]).norm(dim=1) / every[0].norm()).max())
        found = table.value(row["subject"], "forecast_spread")
        assert found == pytest.approx(spread, rel=1e-12)
        assert spread > 1e-6, "redraws must differ"


def test_the_same_request_gives_the_same_table_and_leaves_all_as_it_was():
    x, labels, loader = mixture(0.1)
    model = net()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    one = forecast(model, loader, weight_decay=1e-2, seeds=2)
    torch.manual_seed(123)
    two = forecast(model, loader, weight_decay=1e-2, seeds=2)
    torch.set_rng_state(state)
    assert one.frame.equals(two.frame)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    rest = forecast(model, [(x, labels)], weight_decay=1e-2, seeds=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert distance(forecast_spectra(one), forecast_spectra(rest)) < 1e-6


def test_initialise_decides_where_redraws_start():
    _, _, loader = mixture(0.0)
    seen = []

    def fill(model: nn.Module, seed: int) -> None:
        seen.append(seed)
        model.load_state_dict(net(seed=7).state_dict())

    cells = centroids(net(), loader)
    own, other = centroid_minima(
        net(seed=7), cells, weight_decay=1e-2, seeds=(5,), initialise=fill
    )
    assert seen == [5]
    assert own.minimum.objective == other.minimum.objective


def test_a_bare_parameter_is_redrawn_by_another_order():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(24.0).reshape(3, 8) / 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.mT

    own, drawn = starts(Bare(), 2)
    assert "shuffled" in drawn.how
    assert not torch.equal(own.model.weight, drawn.model.weight)
    assert torch.equal(
        own.model.weight.flatten().sort().values,
        drawn.model.weight.flatten().sort().values,
    )


def test_convolutions_are_forecast_too():
    x, labels, _ = mixture(0.0)
    images = x.reshape(-1, 2, 2, 2)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(i)
            p.copy_(0.5 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
    table = forecast(model, [(images, labels)], weight_decay=1e-2, seeds=1)
    full = minimise(model, images, labels, weight_decay=1e-2)
    truth = [
        torch.linalg.svdvals(full.model[i].weight.detach().flatten(1)) for i in (0, 3)
    ]
    assert distance(forecast_spectra(table), truth) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": 0.0}, "positive finite weight decay"),
        ({"weight_decay": math.nan}, "positive finite weight decay"),
        ({"weight_decay": 0.1, "rtol": 1.0}, "rtol must lie"),
        ({"weight_decay": 0.1, "seeds": 0}, "own start"),
    ],
)
def test_requests_out_of_range_are_refused(options, message):
    _, _, loader = mixture(0.1)
    with pytest.raises(DomainError, match=message):
        forecast(net(), loader, **options)
    with pytest.raises(DomainError, match="at least one coefficient"):
        rank_curve(net(), loader, weight_decays=())
