"""Margins and KKT residuals against autograd, closed forms and exact KKT points."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.errors import DomainError, UnknownNameError
from spectrank.invariance.margins import (
    growth_exponent,
    margins,
    predicted_norm_squared,
)


def _net(*sizes, seed=0, bias=False, relu=True):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for n, m in pairwise(sizes):
        layer = nn.Linear(n, m, bias=bias).double()
        for p in layer.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        layers += [layer, nn.ReLU() if relu else nn.Identity()]
    return nn.Sequential(*layers[:-1])


def _data(n, d, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def _flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def _fitted(net, x):
    """Targets that the network meets, so that every margin is positive."""
    with torch.no_grad():
        return torch.where(net(x)[:, 0] > 0, 1.0, -1.0)


def _of(table, metric, variant=None):
    return table.value("model", metric, variant=variant)


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_the_kkt_cosine_is_that_of_the_gradient_of_the_loss(loss):
    net, x = _net(4, 6, 5, 1), _data(20, 4)
    y = _fitted(net, x)
    q = y * net(x)[:, 0]
    risk = (F.softplus(-q) if loss == "logistic" else (-q).exp()).mean()
    g = _flat(torch.autograd.grad(risk, list(net.parameters())))
    w = _flat(net.parameters()).detach()
    table = margins(net, [(x, y)], loss=loss)
    assert _of(table, "kkt_cosine") == pytest.approx(
        float(-(w @ g) / (w.norm() * g.norm())), rel=1e-12
    )
    assert _of(table, "log_loss") == pytest.approx(
        float(risk.detach().log()), rel=1e-12
    )
    assert _of(table, "homogeneity") == 3.0
    assert _of(table, "homogeneity", "residual") < 1e-13
    norm = float(w.norm()) ** 3
    assert _of(table, "normalised_margin") == pytest.approx(
        float(q.detach().min()) / norm
    )


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_residuals_are_those_of_the_rescaled_point(loss):
    """Written out at w' = w / q_min^(1/L), with lambda from the definition."""
    net, x = _net(3, 5, 1, seed=4), _data(7, 3, seed=5)
    y = _fitted(net, x)
    table = margins(net, [(x, y)], loss=loss)
    q = (y * net(x)[:, 0]).detach()
    c = torch.sigmoid(-q) if loss == "logistic" else (-q).exp()
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for p in moved.parameters():
            p /= float(q.min()) ** 0.5
    scaled = y * moved(x)[:, 0]
    rows = [
        _flat(torch.autograd.grad(value, list(moved.parameters()), retain_graph=True))
        for value in scaled
    ]
    g, w = torch.stack(rows), _flat(moved.parameters()).detach()
    multipliers = w.norm() * c / (c @ g).norm()
    assert float(scaled.detach().min()) == pytest.approx(1.0, rel=1e-12)
    assert _of(table, "kkt_stationarity") == pytest.approx(
        float((w - multipliers @ g).norm()), rel=1e-10
    )
    assert _of(table, "kkt_complementarity") == pytest.approx(
        float(multipliers @ (scaled.detach() - 1.0)), rel=1e-10
    )


def test_classes_are_pairs_of_logits():
    net, x = _net(4, 6, 3), _data(12, 4)
    classes = net(x).argmax(1)
    table = margins(net, [(x, classes)], loss="cross_entropy")
    risk = F.cross_entropy(net(x), classes)
    g = _flat(torch.autograd.grad(risk, list(net.parameters())))
    w = _flat(net.parameters()).detach()
    cosine = float(-(w @ g) / (w.norm() * g.norm()))
    assert _of(table, "kkt_cosine") == pytest.approx(cosine, rel=1e-12)
    assert _of(table, "log_loss") == pytest.approx(
        float(risk.detach().log()), rel=1e-12
    )
    top = net(x).topk(2, dim=1).values
    smallest = float((top[:, 0] - top[:, 1]).detach().min())
    assert _of(table, "margin") == pytest.approx(smallest, rel=1e-12)


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
@pytest.mark.parametrize("margin", [1.0, 200.0, 1e4])
def test_an_exact_kkt_point_has_no_residual_at_any_loss(loss, margin):
    """f = u v x with u = v: at loss e^-10000 no loss, gradient or square exists."""
    net = _net(1, 1, 1, relu=False)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(math.sqrt(margin))
    x, y = torch.ones(1, 1).double(), torch.ones(1)
    table = margins(net, [(x, y)], loss=loss, svm_margin=1.0)
    assert _of(table, "kkt_cosine") == 1.0
    assert _of(table, "kkt_stationarity") < 1e-15
    assert _of(table, "kkt_complementarity") == 0.0
    assert _of(table, "normalised_margin") == pytest.approx(0.5, rel=1e-14)
    assert _of(table, "normalised_margin", "attainable") == pytest.approx(0.5)
    assert _of(table, "smoothed_margin") == pytest.approx(0.5, rel=1e-13)
    if loss == "exponential":
        assert _of(table, "log_loss") == pytest.approx(-margin, rel=1e-15)
        assert _of(table, "norm_squared", "predicted") == pytest.approx(2.0 * margin)


def test_two_equal_margins_keep_their_cosine_from_loss_one_to_e_minus_3000():
    """Samples (1, 1) and (1, -1) of f = w.x at w = (t, 0): -grad R is along w."""
    x, y = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), torch.ones(2)
    net = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    for t in (0.1, 50.0, 3000.0):
        net[0].weight.data = torch.tensor([[t, 0.0]]).double()
        assert _of(margins(net, [(x, y)]), "kkt_cosine") == 1.0
    # Off that line the second sample, of the smaller margin, decides alone.
    net[0].weight.data = torch.tensor([[3000.0, 1000.0]]).double()
    w, g = torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0])
    expected = float(w @ g / (w.norm() * g.norm()))
    found = _of(margins(net, [(x, y)]), "kkt_cosine")
    assert found == pytest.approx(expected, rel=1e-6)


def test_batches_make_no_difference_even_if_the_hardest_sample_comes_last():
    net, x = _net(4, 5, 1), _data(9, 4) * 5.0
    y = _fitted(net, x)
    order = (y * net(x)[:, 0]).argsort(descending=True)
    x, y = x[order], y[order]
    whole = margins(net, [(x, y)])
    parts = margins(net, [(x[:4], y[:4]), (x[4:5], y[4:5]), (x[5:], y[5:])])
    for metric in ("kkt_cosine", "kkt_complementarity", "log_loss", "margin"):
        assert _of(parts, metric) == pytest.approx(_of(whole, metric), rel=1e-11)


def test_biases_beyond_the_first_layer_void_margins():
    net, x = _net(3, 4, 1, bias=True), _data(5, 3)
    table = margins(net, [(x, _fitted(net, x))])
    assert _of(table, "homogeneity", "residual") > 0.01
    row = table.where(metric="kkt_cosine").frame.row(0, named=True)
    assert row["status"] == "degenerate"
    assert "not homogeneous" in row["reason"]
    # The constant input is a feature: a bias of the first layer alone does not.
    net[2].bias = None
    table = margins(net, [(x, _fitted(net, x))])
    assert _of(table, "homogeneity") == 2.0
    assert _of(table, "homogeneity", "residual") < 1e-13


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_outputs_that_are_not_finite_are_degenerate(value):
    net, x = _net(3, 4, 1), _data(5, 3)
    net[2].weight.data[0, 0] = value
    table = margins(net, [(x.abs(), torch.ones(5))])
    for metric in ("homogeneity", "kkt_cosine", "normalised_margin", "norm_squared"):
        frame = table.where(metric=metric).frame
        assert set(frame["status"]) == {"degenerate"}


def test_a_wrong_sample_leaves_margins_but_no_kkt_point():
    net, x = _net(3, 4, 1), _data(5, 3)
    table = margins(net, [(x, -_fitted(net, x))])
    assert _of(table, "normalised_margin") < 0.0
    row = table.where(metric="kkt_stationarity").frame.row(0, named=True)
    assert "no positive margin" in row["reason"]


def test_the_smoothed_margin_is_below_the_margin_and_rises_to_it():
    net, x = _net(3, 4, 1), _data(6, 3)
    y, gaps = _fitted(net, x), []
    for factor in (1.0, 4.0, 16.0):
        moved = copy.deepcopy(net)
        for p in moved.parameters():
            p.data *= factor
        table = margins(moved, [(x, y)])
        gaps.append(_of(table, "normalised_margin") - _of(table, "smoothed_margin"))
    assert gaps[0] > gaps[1] > gaps[2] > 0.0


def test_the_norm_of_balanced_layers_in_the_best_direction_is_predicted():
    """||w||^2 = L s^2 and margin s^L gamma, loss exp(-margin): exact."""
    for degree, s, gamma in ((3, 5.0, 0.7), (5, 3.0, 0.2)):
        log_risk = -(s**degree) * gamma
        found = predicted_norm_squared(log_risk, gamma, degree)
        assert found == pytest.approx(degree * s**2, rel=1e-12)
    assert math.isnan(predicted_norm_squared(0.1, 1.0, 3))
    # At depth 3 no random linear net reaches gamma 3^(-3/2), gamma = 1 for one point.
    x, y = torch.ones(1, 1).double(), torch.ones(1)
    for seed in range(20):
        net = _net(1, 3, 2, 1, seed=seed, relu=False)
        net[-1].weight.data *= float(net(x).detach().sign())
        table = margins(net, [(x, y)], svm_margin=1.0)
        best = _of(table, "normalised_margin", "attainable")
        assert best == pytest.approx(3.0**-1.5, rel=1e-12)
        assert 0.0 < _of(table, "normalised_margin") < best
    log_risks = [-(10.0**k) for k in range(1, 5)]
    norms = [predicted_norm_squared(r, 0.3, 3) for r in log_risks]
    assert growth_exponent(norms, log_risks) == pytest.approx(2 / 3, rel=1e-12)


def test_the_model_its_gradients_and_random_state_are_left_alone():
    net, x = _net(3, 4, 1), _data(5, 3)
    before = copy.deepcopy(net.state_dict())
    net[0].weight.grad = torch.ones_like(net[0].weight)
    state = torch.get_rng_state()
    margins(net, [(x, _fitted(net, x))])
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert net[2].weight.grad is None
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_has_no_margin_is_refused():
    net, x = _net(3, 4, 1), _data(5, 3)
    with pytest.raises(UnknownNameError, match="got 'mse'"):
        margins(net, [(x, torch.ones(5))], loss="mse")
    with pytest.raises(DomainError, match="target of -1 or 1"):
        margins(net, [(x, torch.zeros(5))])
    with pytest.raises(DomainError, match="got none"):
        margins(net, [])
    with pytest.raises(DomainError, match="class numbers"):
        margins(net, [(x, torch.ones(5))], loss="cross_entropy")
    with pytest.raises(DomainError, match="without one"):
        margins(nn.ReLU(), [(x, torch.ones(5))])
    with pytest.raises(DomainError, match="two or more moments"):
        growth_exponent([1.0], [-1.0])
