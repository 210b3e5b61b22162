"""Minima against closed forms, another library and plain autograd."""

import copy
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from spectrank.collapse.forecasting import minimise
from spectrank.errors import DomainError, ShapeError, UnknownNameError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def tanh_net(seed: int = 0, *, width: int = 8, bias: bool = True) -> nn.Sequential:
    net = nn.Sequential(
        nn.Linear(5, width, bias=bias),
        nn.Tanh(),
        nn.Linear(width, width, bias=bias),
        nn.Tanh(),
        nn.Linear(width, 3, bias=bias),
    ).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(draw(*p.shape, seed=100 * seed + i) / math.sqrt(p.shape[-1]))
    return net


def mixture(num: int = 30, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(num) % 3
    return 2 * draw(3, 5, seed=9)[labels] + 0.3 * draw(num, 5, seed=seed), labels


def gradient_of(net: nn.Module, scalar: torch.Tensor) -> float:
    parts = torch.autograd.grad(scalar, list(net.parameters()))
    return math.sqrt(sum(float(p.square().sum()) for p in parts))


@pytest.mark.parametrize("decay_biases", [False, True])
def test_one_linear_layer_is_ridge_regression(decay_biases):
    x, y, w = draw(20, 4), draw(20, 2, seed=1), 0.3
    found = minimise(
        nn.Linear(4, 2), x, y, loss="mse", weight_decay=w, decay_biases=decay_biases
    )
    # mean over N d_out: gradient 2/(N d_out) X^T (X W^T - Y) + w W = 0.
    ones = torch.cat([x, torch.ones(20, 1, dtype=x.dtype)], 1)
    penalty = w * torch.eye(5, dtype=x.dtype)
    penalty[4, 4] *= decay_biases
    solved = torch.linalg.solve(ones.mT @ ones / 20 + penalty, ones.mT @ y / 20)
    assert found.status == "ok"
    assert torch.allclose(found.model.weight, solved[:4].mT, atol=1e-9)
    assert torch.allclose(found.model.bias, solved[4], atol=1e-9)
    rest = (ones @ solved - y).square().mean()
    # Only the objective is flat at its minimum.
    assert found.loss == pytest.approx(float(rest), rel=1e-8)
    decayed = solved if decay_biases else solved[:4]
    value = float(rest + 0.5 * w * decayed.square().sum())
    assert found.objective == pytest.approx(value, rel=1e-12)


def test_softmax_regression_is_that_of_scikit_learn():
    x, labels = mixture()
    w = 0.05
    found = minimise(nn.Linear(5, 3), x, labels, weight_decay=w)
    # Their objective is C * sum of losses + half the square.
    peer = LogisticRegression(C=1 / (len(x) * w), tol=1e-12, max_iter=10000)
    peer.fit(x.numpy(), labels.numpy())
    assert torch.allclose(found.model.weight, torch.from_numpy(peer.coef_), atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "decay_biases"),
    [("cross_entropy", False), ("cross_entropy", True), ("mse", False)],
)
def test_the_end_is_a_stationary_point_of_the_trained_objective(loss, decay_biases):
    x, labels = mixture()
    targets = F.one_hot(labels, 3).double() if loss == "mse" else labels
    found = minimise(
        tanh_net(), x, targets, loss=loss, weight_decay=0.03, decay_biases=decay_biases
    )
    function = F.mse_loss if loss == "mse" else F.cross_entropy
    decayed = [
        p for n, p in found.model.named_parameters() if decay_biases or "weight" in n
    ]
    value = function(found.model(x), targets) + 0.015 * sum(
        p.square().sum() for p in decayed
    )
    assert found.objective == pytest.approx(float(value.detach()), rel=1e-13)
    norm = gradient_of(found.model, value)
    assert found.status == "ok"
    assert norm <= 1e-9
    assert found.gradient_norm == pytest.approx(norm, rel=1e-2, abs=1e-14)
    assert found.objective < 0.9 * float(function(tanh_net()(x), targets).detach())


def test_newton_steps_go_below_what_differences_of_the_objective_show():
    x, labels = mixture()
    for seed in (1, 2, 3):
        found = minimise(tanh_net(seed), x, labels, weight_decay=0.01, tolerance=1e-13)
        assert found.gradient_norm <= 1e-13


def test_a_minimum_of_a_net_with_symmetries_is_reached_too():
    # Linear layers: the Hessian is singular along rotations between them.
    net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(draw(*p.shape, seed=i))
    x, labels = mixture()
    found = minimise(net, x, labels, weight_decay=0.01)
    assert found.status == "ok"
    assert found.gradient_norm <= 1e-9


def test_curvature_is_positive_where_it_ends():
    x, labels = mixture()
    found = minimise(tanh_net(), x, labels, weight_decay=0.01)
    names, values = zip(*found.model.named_parameters(), strict=True)

    def value(*p: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(
            found.model, dict(zip(names, p, strict=True)), (x,)
        )
        squares = sum(
            q.square().sum() for n, q in zip(names, p, strict=True) if "weight" in n
        )
        return F.cross_entropy(out, labels) + 0.005 * squares

    blocks = torch.autograd.functional.hessian(value, values)
    size = [p.numel() for p in values]
    hessian = torch.cat(
        [
            torch.cat([b.reshape(m, n) for b, n in zip(row, size, strict=True)], 1)
            for row, m in zip(blocks, size, strict=True)
        ]
    )
    assert float(torch.linalg.eigvalsh(hessian)[0]) > -1e-9


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=2),
    ],
    ids=["mean", "sum", "weighted", "smoothed", "ignoring"],
)
def test_a_weight_counts_as_so_many_copies(loss):
    x, labels = mixture(6)
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0, 1.0])
    copies = torch.repeat_interleave(torch.arange(6), weights.long())
    # Convex, so both sides have the one minimum.
    net = nn.Linear(5, 3)
    one = minimise(net, x, labels, loss=loss, weight_decay=0.1, sample_weights=weights)
    many = minimise(net, x[copies], labels[copies], loss=loss, weight_decay=0.1)
    assert one.status == many.status == "ok"
    assert one.objective == pytest.approx(many.objective, rel=1e-12)
    outputs = many.model(x[copies]).detach()
    trained = copy.deepcopy(loss).double()(outputs, labels[copies])
    assert one.loss == pytest.approx(float(trained), rel=1e-8)


def test_everything_of_the_user_is_left_as_it_was():
    x, labels = mixture()
    net = tanh_net().float().train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    found = minimise(net, x.float(), labels, weight_decay=0.1)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert torch.equal(torch.get_rng_state(), random)
    assert found.model is not net
    assert found.model[0].weight.dtype == torch.float64
    assert all(p.grad is None for p in found.model.parameters())
    assert found.model.training


def test_two_runs_agree_to_the_last_bit():
    x, labels = mixture()
    a, b = (minimise(tanh_net(), x, labels, weight_decay=0.01) for _ in range(2))
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameters_without_gradients_stay_and_are_not_decayed():
    x, labels = mixture()
    net = tanh_net()
    net[0].weight.requires_grad_(False)
    found = minimise(net, x, labels, weight_decay=0.1)
    assert torch.equal(found.model[0].weight, net[0].weight)
    squares = sum(found.model[i].weight.square().sum() for i in (2, 4))
    assert found.objective - found.loss == pytest.approx(
        0.05 * float(squares.detach()), rel=1e-12
    )


def test_a_tied_weight_is_decayed_once():
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Tanh(), nn.Linear(5, 5))
    net[2].weight = net[0].weight
    with torch.no_grad():
        net[0].weight.copy_(draw(5, 5))
    x, labels = mixture()
    found = minimise(net, x, labels, weight_decay=0.02)
    weight = found.model[0].weight.detach()
    assert found.model[2].weight is found.model[0].weight
    assert float(weight.square().sum()) > 1
    assert found.objective - found.loss == pytest.approx(
        0.01 * float(weight.square().sum()), rel=1e-12
    )


def test_an_end_that_is_none_says_so():
    x, labels = mixture()
    short = minimise(tanh_net(), x, labels, weight_decay=0.01, max_iterations=1)
    assert short.status == "not_converged"
    assert short.gradient_norm > 1e-9
    assert "above the tolerance" in short.reason
    x[0, 0] = math.nan
    lost = minimise(tanh_net(), x, labels, weight_decay=0.01)
    assert lost.status == "nonfinite"


def test_a_softmax_layer_loses_a_rank():
    x, labels = mixture()
    found = minimise(tanh_net(), x, labels, weight_decay=0.01)
    # Stationarity: the sensitivities of a softmax sum to zero over its outputs.
    assert float(found.model[4].weight.detach().sum(0).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_decay": -1.0}, DomainError, "weight_decay must be"),
        ({"weight_decay": math.nan}, DomainError, "weight_decay must be"),
        ({"tolerance": 0.0}, DomainError, "tolerance must be"),
        ({"max_iterations": 0}, DomainError, "max_iterations must be"),
        ({"sample_weights": torch.ones(3)}, ShapeError, "one weight for each of 30"),
        ({"sample_weights": torch.zeros(30)}, DomainError, "positive and finite"),
        ({"loss": "hinge"}, UnknownNameError, "a loss must be one of"),
        ({"loss": nn.MSELoss(reduction="none")}, DomainError, "reduction='none'"),
        ({"loss": lambda o, t: o.sum()}, DomainError, "sum of a loss must be known"),
    ],
)
def test_requests_out_of_range_are_refused(options, error, message):
    x, labels = mixture()
    with pytest.raises(error, match=message):
        minimise(tanh_net(), x, labels, **{"weight_decay": 0.1, **options})


def test_random_objectives_and_fixed_models_are_refused():
    x, labels = mixture()
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))
    with pytest.raises(DomainError, match="active Dropout"):
        minimise(net, x, labels, weight_decay=0.1)
    assert minimise(net.eval(), x, labels, weight_decay=0.1).status == "ok"
    with pytest.raises(DomainError, match="requires_grad"):
        minimise(net.requires_grad_(False), x, labels, weight_decay=0.1)
