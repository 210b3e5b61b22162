"""The linearised model: its law, its training and what it refuses."""

import copy
import math

import pytest
import torch
from ntk_models import MODELS, brute_force, jacobian, make
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.ntk.dynamics import gradient_flow, linearize

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(model, seed=0):
    """Parameters drawn by a generator of the test's own."""
    g = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            fan = p[0].numel() if p.ndim > 1 else 1
            p.copy_(torch.randn(p.shape, dtype=F64, generator=g) / math.sqrt(fan))
    return model


def mlp(width=6, seed=0):
    layers = nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.ReLU()
    return filled(nn.Sequential(*layers, nn.Linear(width, 2)).double(), seed)


def points(num, seed=5):
    return torch.randn(num, 3, dtype=F64, generator=generator(seed))


def moved(linear, seed=3, size=0.3):
    g = generator(seed)
    with torch.no_grad():
        for p in linear.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn(p.shape, dtype=F64, generator=g))
    return linear


def test_it_is_the_model_where_nothing_has_moved():
    model, x = mlp(), points(5)
    linear = linearize(model)
    assert torch.equal(linear(x), model(x))
    linear(x).square().sum().backward()
    model(x).square().sum().backward()
    for p, q in zip(linear.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


def test_it_is_the_first_order_of_a_dense_jacobian():
    model, x = mlp(), points(5)
    linear = moved(linearize(model))
    step = [
        (p - q).flatten()
        for p, q in zip(linear.model.parameters(), model.parameters(), strict=True)
    ]
    names = [name for name, _ in model.named_parameters()]
    want = model(x) + jacobian(model, x, names) @ torch.cat(step)
    torch.testing.assert_close(linear(x), want, rtol=1e-12, atol=1e-13)
    # And no more than that: the model itself has moved elsewhere.
    assert float((linear.model(x) - want).detach().abs().max()) > 1e-2


def test_its_kernel_is_that_of_the_model_wherever_it_is():
    model, x = mlp(), points(4)
    linear = moved(linearize(model))
    rows = []
    for f in linear(x).flatten():
        grads = torch.autograd.grad(f, list(linear.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    J = torch.stack(rows).reshape(4, 2, -1)
    got = torch.einsum("aip,bjp->abij", J, J)
    torch.testing.assert_close(got, brute_force(model, x), rtol=1e-11, atol=1e-12)


LOSSES = {"mse": nn.MSELoss(), "cross_entropy": nn.CrossEntropyLoss()}


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("params", [None, "*.weight", ["4.*", "0.bias"]])
def test_its_training_by_gradient_descent_is_kernel_gradient_descent(loss, params):
    model, x, x_test = mlp(), points(6), points(3, seed=8)
    linear = linearize(model, params)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    target = labels if loss == "cross_entropy" else torch.eye(2).double()[labels]
    names = linear.trained
    flow = gradient_flow(
        brute_force(model, x, params=names),
        labels,
        [0, 1, 50, 200],
        loss=loss,
        initial=model(x),
        K_test=brute_force(model, x_test, x, params=names),
        initial_test=model(x_test),
        learning_rate=0.05,
    )
    optimizer = torch.optim.SGD(
        [p for p in linear.parameters() if p.requires_grad], 0.05
    )
    seen = 0
    for k in range(201):
        outputs = linear(x)
        value = LOSSES[loss](outputs, target)
        if k in (0, 1, 50, 200):
            for got, want in (
                (outputs, flow.outputs[seen]),
                (linear(x_test), flow.test_outputs[seen]),
                (value, flow.losses[seen]),
            ):
                torch.testing.assert_close(got.detach(), want, rtol=1e-8, atol=1e-8)
            seen += 1
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert seen == 4
    # The curve is none of standing still.
    assert float(flow.losses[-1]) < 0.9 * float(flow.losses[0])


def test_small_steps_approach_the_continuous_flow_like_the_step():
    model, x, labels = mlp(), points(6), torch.tensor([0, 1, 1, 0, 1, 0])
    K, f = brute_force(model, x), model(x)
    truth = gradient_flow(K, labels, [2.0], initial=f).outputs[0]
    gaps = []
    for steps in (200, 400):
        flow = gradient_flow(K, labels, [steps], initial=f, learning_rate=2.0 / steps)
        gaps.append(float((flow.outputs[0] - truth).abs().max()))
    assert gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("name", ["Adam", "LBFGS"])
def test_any_optimizer_trains_it_to_the_minimum_of_a_convex_problem(name):
    model, x = mlp(width=8), points(4)
    linear, target = linearize(model), points(4, seed=9)[:, :2]
    options = {"Adam": {"lr": 0.05}, "LBFGS": {"max_iter": 20}}[name]
    optimizer = getattr(torch.optim, name)(linear.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(linear(x), target)
        loss.backward()
        return loss

    for _ in range(400 if name == "Adam" else 20):
        loss = optimizer.step(closure)
    assert float(loss.detach()) < 1e-6


def test_the_users_model_is_left_as_it_was():
    model, x = mlp(), points(5)
    model[0].weight.requires_grad_(False)
    model(x).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad for p in model.parameters()]
    state = torch.random.get_rng_state()
    linear = linearize(model)
    moved(linear)
    linear(x).sum().backward()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    now = [p.grad for p in model.parameters()]
    assert all(a is b for a, b in zip(grads, now, strict=True))
    # A frozen parameter stays where it is and out of the kernel.
    assert "0.weight" not in linear.trained
    assert not linear.model[0].weight.requires_grad
    assert torch.equal(linear.model[0].weight, model[0].weight)


def test_a_state_dict_restores_a_trained_one():
    model, x = mlp(), points(5)
    trained = moved(linearize(model))
    other = linearize(mlp(seed=1))
    assert not torch.allclose(other(x), trained(x))
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other(x), trained(x))


@pytest.mark.parametrize("name", list(MODELS))
def test_every_kind_of_model_is_linearised(name):
    model, x, _ = make(name)
    model.eval()
    linear = moved(linearize(model), size=0.1)
    named = dict(linear.model.named_parameters())
    params = dict(model.named_parameters())
    step = [(named[k] - params[k]).flatten() for k in linear.trained]
    assert linear.trained == tuple(k for k, p in params.items() if p.requires_grad)
    J = jacobian(model, x, linear.trained)
    want = (model(x) + J @ torch.cat(step)).detach()
    torch.testing.assert_close(linear(x).detach(), want, rtol=1e-10, atol=1e-11)
    # Fast paths of torch have no forward mode, and open where no graph is recorded.
    with torch.no_grad():
        torch.testing.assert_close(linear(x), want, rtol=1e-10, atol=1e-11)


def norm_net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def test_what_cannot_be_linearised_is_refused():
    with pytest.raises(DomainError, match=r"1 \(BatchNorm1d\) normalises by the batch"):
        linearize(norm_net())
    with pytest.raises(DomainError, match="drops at random in train mode"):
        linearize(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)))
    with pytest.raises(ArgumentTypeError, match="Module, got function"):
        linearize(points)
    with pytest.raises(UnknownNameError, match=r"'9\.\*' matches none"):
        linearize(mlp(), "9.*")
