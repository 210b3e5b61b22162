"""The kernel's formulas: printed numbers, autograd, and the library's own kernel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank import ntk
from spectrank.experiments.georgiev2021stable.kernel import descent, means, rate
from spectrank.experiments.georgiev2021stable.kernel.nets import Net, hidden_net
from spectrank.experiments.georgiev2021stable.kernel.observables import (
    kernel_matrices,
    kernel_terms,
    outputs,
)
from spectrank.experiments.georgiev2021stable.protocol import Inputs


def he(widths, spectrum, ranks):
    num = len(widths) - 1
    return Net("test", widths, (spectrum,) * num, ranks)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------- printed numbers


@pytest.mark.parametrize(
    ("widths", "spectrum", "ranks", "mean", "second"),
    [
        ((10, 16, 16, 16, 1), "flat", (4, 4, 4, 1), 5.8, 71.06395061728404),
        ((10, 16, 16, 16, 1), "spike", (3, 3, 3, 1), 5.8, 56.82091438344348),
        ((8, 12, 10, 3), "spike", (3, 3, 3), 11.25, 178.000302),
        ((5, 9, 14, 7, 4), "flat", (4, 4, 4, 4), 28.0, 1524.025171),
    ],
)
def test_moments_are_the_printed_ones(widths, spectrum, ranks, mean, second):
    law = he(widths, spectrum, tuple(map(float, ranks))).law
    assert law.mean == pytest.approx(mean, rel=FLOAT64)
    assert law.second_moment == pytest.approx(second, rel=1e-9)


@pytest.mark.parametrize(
    ("depth", "width", "spectrum", "rank", "printed"),
    [
        (5, 64, "flat", 4.0, 1.51),
        (5, 1024, "spike", 32.0, 0.0119),
        (20, 256, "flat", 64.0, 0.574),
        (20, 64, "spike", 4.0, 7.49),
        (20, 64, None, None, 1.96),
    ],
)
def test_relative_variances_are_the_printed_ones(depth, width, spectrum, rank, printed):
    # Square, readout of fixed norm; all hidden weights of one law.
    num = depth - 1
    net = Net(
        "test",
        (*[width] * depth, 1),
        (*[spectrum or "gaussian"] * num, "flat"),
        (*[rank] * num, 1.0),
    )
    assert net.law.relative_variance == pytest.approx(printed, rel=6e-3)


# ------------------------------------------------------ against other code paths


def points():
    inputs = Inputs("digits", 8)
    return [
        he((10, 16, 12, 3), "mp-spike", (3.0, 3.0, 1.5)),
        he((4, 3, 1, 5, 2), "flat", (2.5, 1.0, 1.0, 1.5)),
        hidden_net("test", 9, 20, 5, "spike", 4.0),
        means._net(inputs, (1.5, 4.0, 6.0)),
        *rate.networks(descent.Halves("digits", 8)),
    ]


@pytest.mark.parametrize("i", range(10))
def test_laws_agree_with_the_moments_of_the_library(i):
    net = points()[i]
    table = ntk.moments(net.random())
    mean = table.value("network", "kernel_mean")
    assert net.law.mean == pytest.approx(mean, rel=1e-9)
    second = table.value("network", "kernel_second_moment")
    assert net.law.second_moment == pytest.approx(second, rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_terms_are_squares_of_gradients(seed):
    net = he((5, 9, 7, 3), "spike", (3.0, 3.0, 2.0))
    weights = net.random().sample_weights(generator(seed), num=2)
    x = torch.randn(3, 5, dtype=torch.float64, generator=generator(seed))
    found = kernel_terms(weights, x)
    for k in range(2):
        own = [W[k].clone().requires_grad_() for W in weights]
        for a in range(3):
            f = own[2] @ torch.relu(own[1] @ torch.relu(own[0] @ x[a]))
            expected = torch.zeros(3, dtype=torch.float64)
            for out in f:
                g = torch.autograd.grad(out, own, retain_graph=True)
                expected += torch.stack([each.square().sum() for each in g])
            assert torch.allclose(found[k, :, a], expected, rtol=FLOAT64)


def test_kernels_are_the_empirical_ones_of_the_library():
    scalar = he((6, 11, 8, 1), "flat", (4.0, 3.0, 1.0))
    several = he((6, 11, 8, 3), "flat", (4.0, 3.0, 2.0))
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator())
    for net in (scalar, several):
        weights = net.random().sample_weights(generator(1), num=1)
        model = net.random().sample(generator(1))
        for parameter, W in zip(model.parameters(), weights, strict=True):
            parameter.data = W[0]
        K = ntk.empirical(model, x, outputs="trace", method="jacobian")
        terms = kernel_terms(weights, x)[0].sum(0)
        assert torch.allclose(terms, K.diagonal().detach(), rtol=1e-10)
        assert torch.allclose(outputs(weights, x)[0], model(x), rtol=1e-10)
        if net is scalar:
            assert torch.allclose(kernel_matrices(weights, x)[0], K, rtol=1e-10)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_moments_of_drawn_networks_are_those_of_the_law(seed):
    net = hidden_net("test", 6, 12, 4, "spike", 5.0)
    num = 8000
    weights = net.random().sample_weights(generator(seed), num=num)
    x = torch.nn.functional.normalize(torch.ones(1, 6, dtype=torch.float64))
    K = kernel_terms(weights, x)
    for values, truth in (
        *zip(K[..., 0].T, net.law.mean_terms, strict=True),
        (K.sum(1)[:, 0].square(), net.law.second_moment),
    ):
        error = float(values.std()) / num**0.5
        assert abs(float(values.mean()) - truth) <= STANDARD_ERRORS * error


# ------------------------------------------------------------------- the descent


@pytest.fixture(scope="module")
def halves():
    return descent.Halves("digits", 12)


@pytest.fixture(scope="module")
def wide(halves):
    net = hidden_net("test", 64, 48, 3, "spike", 12.0)
    return descent.start(net, halves, 2, generator(7))


def test_predicted_losses_are_the_kernel_flow_of_the_library(halves, wide):
    rates = torch.tensor([0.002, 0.003], dtype=torch.float64)
    found = descent.predicted_losses(wide, halves, rates, 9)
    V, lam = wide.eigenvectors, wide.eigenvalues
    for k in range(2):
        flow = ntk.gradient_flow(
            V[k] @ torch.diag(lam[k]) @ V[k].T,
            halves.targets,
            list(range(9)),
            learning_rate=float(rates[k]),
        )
        assert found[k] == pytest.approx(np.asarray(flow.losses), rel=1e-8)


def test_descent_is_plain_gradient_descent_from_residuals_of_one(halves, wide):
    rates = torch.tensor([0.002, 0.003], dtype=torch.float64)
    found = descent.descend(wide, halves, rates, 4)
    for k in range(2):
        own = [W[k].clone().requires_grad_() for W in wide.weights]
        x = halves.inputs.double()
        target = wide.outputs[k] + halves.targets
        for step in range(4):
            f = (own[2] @ torch.relu(own[1] @ torch.relu(own[0] @ x.T)))[0]
            loss = (f - target).square().mean()
            assert found[k, step] == pytest.approx(loss.item(), rel=1e-4)
            grads = torch.autograd.grad(loss, own)
            own = [
                (W - rates[k] * g).detach().requires_grad_()
                for W, g in zip(own, grads, strict=True)
            ]
    assert found[:, 0] == pytest.approx(1.0, rel=1e-5)


def test_descent_stops_below_its_level_and_the_steps_are_found(halves, wide):
    rates = torch.tensor([0.002, 0.003], dtype=torch.float64)
    whole = descent.descend(wide, halves, rates, 60)
    cut = descent.descend(wide, halves, rates, 60, until=0.5)
    assert descent.log_steps(cut, 0.5) == pytest.approx(
        descent.log_steps(whole, 0.5), rel=1e-6
    )
    assert np.isnan(cut).any()


def test_steps_of_an_exponential_are_its_half_life():
    t = np.arange(30.0)
    losses = np.stack([3.0 * 0.5 ** (t / 7.3), np.ones(30)])
    found = descent.log_steps(losses, 0.5)
    assert np.exp(found[0]) == pytest.approx(7.3, rel=FLOAT64)
    assert np.isnan(found[1])


def test_the_scale_of_a_weight_enters_all_terms_but_its_own():
    net = he((6, 10, 8, 3), "flat", (3.0, 3.0, 2.0))
    layers = list(net.law.layers)
    x = layers[1]
    layers[1] = replace(x, energy=3.0 * x.energy)
    ratio = replace(net.law, layers=tuple(layers)).mean_terms / net.law.mean_terms
    assert ratio == pytest.approx([3.0, 1.0, 3.0], rel=FLOAT64)
