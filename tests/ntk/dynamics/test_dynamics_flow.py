"""Training curves of squares against matrix exponentials, loops and regression."""

import math

import mpmath
import numpy as np
import pytest
import torch
from kernel_setting import CONVENTIONS, C, M, N, Setting, torch_gradient
from scipy.linalg import expm
from tolerances import FLOAT64

from spectrank.ntk.dynamics import gradient_flow
from spectrank.ntk.dynamics.modes import flow_factors, step_factors

TIMES = [0.0, 0.3, 2.0, 11.0]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("reduction", "factor"), CONVENTIONS)
def test_squares_follow_the_matrix_exponential(shared, reduction, factor):
    s = Setting(shared=shared)
    flow = s.predict(TIMES, reduction=reduction, factor=factor)
    rate = 2.0 * factor / (N * C if reduction == "mean" else 1)
    # d/dt (f, 1) = A (f, 1): the whole affine system at once.
    size = (N + M) * C
    A = np.zeros((size + 1, size + 1))
    A[:size, : N * C] = -rate * s.operator()
    A[:size, size] = rate * s.operator() @ s.Y.flatten().numpy()
    start = np.append(s.f.flatten().numpy(), 1.0)
    truth = [(expm(A * t) @ start)[:size] for t in TIMES]
    s.check(flow, truth, rel=1e-10)
    for i, f in enumerate(truth):
        value = torch_gradient(f[: N * C], s, "mse", reduction, factor)[1]
        assert float(flow.losses[i]) == pytest.approx(value, rel=1e-9)
    assert flow.rate == pytest.approx(rate)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(("reduction", "factor"), CONVENTIONS)
def test_gradient_descent_is_a_loop_over_torchs_own_gradient(
    shared, loss, reduction, factor
):
    s = Setting(shared=shared)
    steps, learning_rate = [0, 1, 7, 60], 0.05 if reduction == "sum" else 0.2
    flow = s.predict(
        steps,
        loss=loss,
        reduction=reduction,
        factor=factor,
        learning_rate=learning_rate,
    )
    f, truth = s.f.flatten().numpy().copy(), []
    for k in range(61):
        if k in steps:
            truth.append(f.copy())
            value = torch_gradient(f[: N * C], s, loss, reduction, factor)[1]
            got = float(flow.losses[steps.index(k)])
            assert got == pytest.approx(value, rel=1e-10)
        gradient = torch_gradient(f[: N * C], s, loss, reduction, factor)[0]
        f = f - learning_rate * s.operator() @ gradient
    s.check(flow, truth, rel=1e-11)


def test_the_end_of_training_is_kernel_regression():
    s = Setting(shared=True)
    flow = s.predict([math.inf])
    torch.testing.assert_close(flow.outputs[0], s.Y, rtol=0.0, atol=1e-11)
    weights = torch.linalg.solve(s.K, s.Y - s.f[:N])
    want = s.f[N:] + s.K_test @ weights
    torch.testing.assert_close(flow.test_outputs[0], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("times", [[3.0, 1e6], [3.0, math.inf]])
def test_a_repeated_point_with_two_targets_ends_at_their_mean(times):
    # Rank one: the difference of the two is a mode of eigenvalue zero.
    K = torch.ones(2, 2, dtype=torch.float64)
    flow = gradient_flow(
        K, [0.0, 1.0], times, K_test=torch.ones(1, 2, dtype=torch.float64)
    )
    assert flow.outputs[-1].flatten().tolist() == pytest.approx([0.5, 0.5])
    assert float(flow.test_outputs[-1]) == pytest.approx(0.5)
    assert float(flow.losses[-1]) == pytest.approx(0.25)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_kernel_and_the_time_have_one_scale(loss, scale):
    s = Setting(shared=True)
    plain = s.predict([1.0, 5.0], loss=loss)
    s.K, s.K_test = s.K * scale, s.K_test * scale
    scaled = s.predict([1.0 / scale, 5.0 / scale], loss=loss)
    for name in ("outputs", "test_outputs"):
        torch.testing.assert_close(
            getattr(scaled, name), getattr(plain, name), rtol=1e-9, atol=1e-9
        )
    ratio = scaled.largest_learning_rate / plain.largest_learning_rate
    assert ratio * scale == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("learning_rate", [None, 0.5])
def test_a_zero_kernel_trains_nothing_but_what_it_is_coupled_to(loss, learning_rate):
    # Gradients stay as they are, so the test point moves on a line.
    flow = gradient_flow(
        torch.zeros(2, 2, dtype=torch.float64),
        [0, 1],
        [0, 4],
        loss=loss,
        reduction="sum",
        factor=0.5,
        K_test=torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        learning_rate=learning_rate,
    )
    assert flow.outputs[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    p = 0.0 if loss == "mse" else 0.5
    rate, time = (1.0 if loss == "mse" else 0.5), 4.0 * (learning_rate or 1.0)
    gradient = torch.tensor([[p - 1.0, p], [p, p - 1.0]], dtype=torch.float64)
    want = -time * rate * torch.tensor([[1.0, 2.0]], dtype=torch.float64) @ gradient
    torch.testing.assert_close(flow.test_outputs[1], want, rtol=1e-9, atol=0.0)
    assert flow.largest_learning_rate == math.inf


@pytest.mark.parametrize("value", [0.0, 1e-14, 1e-3, 0.7, 1.0, 1.9])
@pytest.mark.parametrize("k", [1.0, 10.0, 100_000.0])
def test_mode_factors_keep_their_digits(value, k):
    with mpmath.workdps(60):
        x, t = mpmath.mpf(value), mpmath.mpf(k)
        e, q = mpmath.exp(-x * t), (1 - x) ** t
        reach = [(1 - z) / x if value else t for z in (e, q)]
    values = torch.tensor([value], dtype=torch.float64)
    times = torch.tensor([k], dtype=torch.float64)
    flow = flow_factors(values, times, 0.0)
    steps = step_factors(values, times, 1.0)
    for got, want in ((flow[0], e), (flow[1], reach[0]), (steps[1], reach[1])):
        assert float(got) == pytest.approx(float(want), rel=FLOAT64, abs=1e-300)
    # (1 - x)^k: k times the rounding of 1 - x.
    assert float(steps[0]) == pytest.approx(float(q), rel=3e-16 * k, abs=1e-300)


def test_a_curve_is_a_table_of_losses():
    s = Setting(shared=True)
    flow = s.predict([0.0, 2.0], labels_test=torch.tensor([1, 0, 0]))
    table = flow.table()
    train = list(table.where(subject="train", metric="loss"))
    assert [row["value"] for row in train] == flow.losses.tolist()
    assert [row["time"] for row in train] == [0.0, 2.0]
    want = torch.nn.functional.mse_loss(
        flow.test_outputs[1], torch.eye(2).double()[[1, 0, 0]]
    )
    test = list(table.where(subject="test"))
    assert test[1]["value"] == pytest.approx(float(want))
    steps = s.predict([0, 3], learning_rate=0.1).table()
    assert [row["step"] for row in steps.where(metric="loss")] == [0, 3]


def test_a_learning_rate_above_the_largest_ends_in_a_status():
    s = Setting(shared=True)
    limit = s.predict([0.0]).largest_learning_rate
    flow = s.predict([1, 100_000], learning_rate=1.5 * limit)
    assert flow.status == "nonfinite"
    assert "above the largest" in flow.reason
    rows = list(flow.table().where(metric="loss"))
    assert [row["status"] for row in rows] == ["ok", "nonfinite"]
    assert s.predict([1, 100_000], learning_rate=0.99 * limit).status == "ok"
