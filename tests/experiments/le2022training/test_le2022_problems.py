"""Margins, gradients and flows against autograd, scipy and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from spectrank.experiments.le2022training.flows import (
    Pace,
    flow,
    norm,
    rk4,
    scaled_flow,
)
from spectrank.experiments.le2022training.problems import (
    Problem,
    chain,
    chain_forward,
    gaussian,
    separable,
    slope,
)


def two_layers(loss="logistic", num=3):
    data = separable(7, ("test",), num, 4, 10)
    problem = replace(data, forward=chain_forward(2, num_relus=1), loss=loss)
    return problem, gaussian(7, ("test",), num, chain((4, 5, 1)))


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_slope_is_the_gradient_of_the_log_of_the_mean_loss(loss):
    problem, params = two_layers(loss)
    for r in range(3):
        leaves = [params[k][r].clone().requires_grad_() for k in params]
        h = (problem.inputs[r] @ leaves[0].T).clamp(min=0)
        m = problem.labels[r] * (h @ leaves[1].T).squeeze(1)
        risk = (torch.log(1 + (-m).exp()) if loss == "logistic" else (-m).exp()).mean()
        risk.log().backward()
        risk = risk.detach()
        found = slope(problem, params)
        assert float(found.log_risk[r]) == pytest.approx(math.log(risk), rel=1e-12)
        for k, leaf in zip(params, leaves, strict=True):
            torch.testing.assert_close(
                found.gradients[k][r], leaf.grad, rtol=1e-11, atol=1e-14
            )
            torch.testing.assert_close(
                found.of_risk()[k][r], leaf.grad * float(risk), rtol=1e-11, atol=1e-14
            )


def test_a_risk_below_the_range_of_float64_keeps_its_gradient():
    problem, params = two_layers()
    for k in params:
        params[k] *= 60.0
    # One direction only: margins of all samples are positive and large.
    far = replace(problem, labels=problem.forward(params, problem.inputs).sign())
    live = far.labels.abs().sum(1) == far.labels.shape[1]
    found = slope(far, params)
    m = found.margins
    expected = torch.logsumexp(-m, 1) - math.log(m.shape[1])
    torch.testing.assert_close(found.log_risk[live], expected[live], rtol=1e-2, atol=1)
    assert all(bool(g.isfinite().all()) for g in found.gradients.values())
    # Euler: <w, grad f> = 2 f, so that <w, grad log R> lies near -2 m_min.
    dot = sum((params[k] * g).flatten(1).sum(1) for k, g in found.gradients.items())
    least = m.min(1).values
    assert bool((-dot[live] >= 2 * least[live] * 0.99).all())


def test_margins_of_classes_give_softmax_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator)
    labels = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    problem = Problem(lambda params, x: params["z"] + 0 * x, logits, labels)
    found = slope(problem, {"z": logits})
    loss = torch.nn.functional.cross_entropy
    for r in range(2):
        leaf = logits[r].clone().requires_grad_()
        mean = loss(leaf, labels[r])
        mean.log().backward()
        mean = mean.detach()
        assert float(found.log_risk[r]) == pytest.approx(math.log(mean), rel=1e-12)
        torch.testing.assert_close(found.gradients["z"][r], leaf.grad)


def test_the_flow_in_time_agrees_with_scipy():
    problem, params = two_layers()
    linear = replace(problem, forward=chain_forward(2))
    ended = flow(linear, params, step=0.02, num_steps=100)
    for r in range(3):
        x, y = linear.inputs[r].numpy(), linear.labels[r].numpy()

        def field(_, w, x=x, y=y):
            a, b = w[:20].reshape(5, 4), w[20:].reshape(1, 5)
            m = y * (x @ a.T @ b.T).ravel()
            c = -y / (1 + np.exp(m)) / len(y)
            da = b.T @ (c @ x)[None]
            db = (c @ x)[None] @ a.T
            return -np.concatenate([da.ravel(), db.ravel()])

        start = np.concatenate([params[k][r].numpy().ravel() for k in params])
        known = solve_ivp(field, (0, 2), start, rtol=1e-11, atol=1e-12).y[:, -1]
        found = np.concatenate([ended[k][r].numpy().ravel() for k in params])
        np.testing.assert_allclose(found, known, rtol=1e-7, atol=1e-8)


def test_the_scaled_flow_reaches_each_risk_and_conserves_the_gap():
    problem, params = two_layers()
    linear = replace(problem, forward=chain_forward(2))
    targets = [math.log(1e-3), math.log(1e-12)]
    found = scaled_flow(linear, params, targets, Pace(2))

    def gap(w):
        return w["1.weight"].mT @ w["1.weight"] - w["0.weight"] @ w["0.weight"].mT

    for target, at in zip(targets, found, strict=True):
        log_risk = slope(linear, at).log_risk
        assert bool(((log_risk <= target) & (log_risk > target - 0.5)).all())
        assert float((gap(at) - gap(params)).abs().max()) < 1e-4
        assert bool((norm(at) > norm(params)).all())


def test_a_step_tells_the_curvature_that_it_met():
    def field(at):
        return {"w": -3.0 * at["w"]}

    start = {"w": torch.tensor([[2.0], [5.0]], dtype=torch.float64)}
    size = torch.tensor([0.1, 0.0], dtype=torch.float64)
    after, met = rk4(field, start, size)
    assert float(met[0]) == pytest.approx(3.0)
    assert float(met[1]) == 0.0
    assert float(after["w"][0]) == pytest.approx(2.0 * math.exp(-0.3), rel=1e-4)
    assert float(after["w"][1]) == 5.0


def test_samples_that_pull_apart_make_no_step_oscillate():
    # A margin of 0.05 between two samples of norm 1: curvature 400 times the rule's.
    inputs = torch.tensor([[[1.0, 0.05], [-1.0, 0.05]]], dtype=torch.float64)
    data = replace(
        separable(7, ("test",), 1, 2, 2), inputs=inputs, labels=torch.ones(1, 2)
    )
    problem = replace(data, labels=data.labels.double(), forward=chain_forward(2))
    start = gaussian(7, ("test",), 1, chain((2, 3, 1)))

    def drift(stiff):
        (at,) = scaled_flow(problem, start, [math.log(1e-12)], Pace(2, stiff=stiff))
        gaps = [w["1.weight"].mT @ w["1.weight"] for w in (start, at)]
        gaps = [
            g - w["0.weight"] @ w["0.weight"].mT
            for g, w in zip(gaps, (start, at), strict=True)
        ]
        return float((gaps[1] - gaps[0]).abs().max())

    assert drift(0.25) < 1e-2
    assert drift(None) > 10.0


def test_a_seed_that_does_not_arrive_is_nan():
    problem, params = two_layers()
    starts = slope(problem, params).log_risk.sort().values
    reached = float(starts[1]) + 1e-9
    (found,) = scaled_flow(problem, params, [reached], Pace(2, most_steps=1))
    arrived = slope(problem, found).log_risk <= reached
    assert bool(arrived.any())
    assert not bool(arrived.all())
    for value in found.values():
        assert torch.equal(value.isfinite().flatten(1).all(1), arrived)
        assert torch.equal(value.isnan().flatten(1).all(1), ~arrived)


def test_separable_data_are_separated_by_a_hyperplane_through_the_origin():
    from scipy.optimize import linprog

    data = separable(3, ("test",), 2, 4, 30)
    for r in range(2):
        x, y = data.inputs[r].numpy(), data.labels[r].numpy()
        assert np.linalg.norm(x, axis=1).max() == pytest.approx(1.0)
        signed = -(y[:, None] * x)
        found = linprog(np.zeros(4), signed, -np.ones(30), bounds=(None, None))
        assert found.success
    assert not torch.equal(data.inputs[0], data.inputs[1])
