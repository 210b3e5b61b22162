"""Training curves of cross-entropy against closed forms and other solvers."""

import mpmath
import numpy as np
import pytest
import torch
from kernel_setting import CONVENTIONS, C, N, Setting
from scipy.integrate import solve_ivp
from scipy.special import softmax

from spectrank.ntk.dynamics import gradient_flow
from spectrank.ntk.dynamics.softmax import solve_weights


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("reduction", "factor"), CONVENTIONS)
def test_cross_entropy_follows_another_solver_in_the_space_of_outputs(
    shared, reduction, factor
):
    s = Setting(shared=shared)
    # Any order of times, and one twice.
    times = [2.0, 0.0, 11.0, 2.0]
    flow = s.predict(times, loss="cross_entropy", reduction=reduction, factor=factor)
    assert flow.status == "ok"
    rate = factor / (N if reduction == "mean" else 1)

    def slope(_, f):
        p = softmax(f[: N * C].reshape(N, C), axis=1)
        return -rate * s.operator() @ (p - s.Y.numpy()).ravel()

    start = s.f.flatten().numpy()
    solved = solve_ivp(
        slope, (0.0, 11.0), start, "DOP853", [0.0, 2.0, 11.0], rtol=1e-12, atol=1e-12
    )
    truth = [solved.y[:, i] for i in (1, 0, 2, 1)]
    # The stated tolerance of the solver is 1e-8 a step.
    s.check(flow, truth, rel=3e-7)


def test_many_outputs_take_the_explicit_solver_to_the_same_weights():
    s = Setting(shared=True)
    request = (s.K.numpy(), s.f[:N].numpy(), s.Y.numpy(), np.array([0.0, 1.0, 20.0]))
    found, words = solve_weights(*request, 1e-9, largest_dense=0)
    implicit, _ = solve_weights(*request, 1e-9)
    assert words is None
    assert not np.array_equal(found, implicit)
    np.testing.assert_allclose(found, implicit, rtol=0.0, atol=1e-7)


def test_a_solver_that_gives_up_is_a_status_and_not_a_number(monkeypatch):
    def give_up(*args, **options):
        solution = solve_ivp(*args, **options)
        solution.y, solution.success = solution.y[:, :1], False
        solution.message = "Required step size is too small"
        return solution

    monkeypatch.setattr("spectrank.ntk.dynamics.softmax.solve_ivp", give_up)
    flow = Setting(shared=True).predict([0.0, 1.0, 2.0], loss="cross_entropy")
    assert (flow.status, flow.reason) == (
        "not_converged",
        "Required step size is too small",
    )
    assert torch.isfinite(flow.outputs[0]).all()
    assert torch.isnan(flow.outputs[1:]).all()
    rows = list(flow.table().where(metric="loss"))
    assert [row["status"] for row in rows] == ["ok"] + ["not_converged"] * 2


@pytest.mark.parametrize("k", [1e-3, 1.0, 1e4])
def test_cross_entropy_of_one_sample_is_the_lambert_function(k):
    # Margin m of two logits: dm/dt = 2 k / (1 + e^m), so m + e^m = 1 + 2 k t.
    times = [0.1, 1.0, 50.0]
    flow = gradient_flow(
        torch.tensor([[k]], dtype=torch.float64),
        torch.tensor([[1.0, 0.0]]),
        times,
        loss="cross_entropy",
    )
    for t, f in zip(times, flow.outputs, strict=True):
        u = mpmath.mpf(1) + 2 * mpmath.mpf(k) * mpmath.mpf(t)
        # m + e^m = u: e^m = W(e^u), by logarithms where e^u is too large.
        m = mpmath.findroot(lambda z, u=u: z + mpmath.exp(z) - u, mpmath.log(u))
        assert float(f[0, 0] - f[0, 1]) == pytest.approx(float(m), rel=1e-6)
        assert float(f[0, 0] + f[0, 1]) == pytest.approx(0.0, abs=1e-10)


def test_stiff_cross_entropy_agrees_with_an_implicit_solver():
    # Eigenvalues over six decades, times long after the fast ones have settled.
    Q = torch.linalg.qr(Setting(shared=True).joint[:N, :N]).Q
    K = (Q * torch.tensor([1e4, 1e1, 1.0, 1e-2], dtype=torch.float64)) @ Q.T
    labels, times = torch.tensor([0, 2, 1, 2]), [1.0, 30.0]
    flow = gradient_flow(K, labels, times, loss="cross_entropy", reduction="sum")
    Y = np.eye(3)[labels.numpy()]
    full = np.kron(K.numpy(), np.eye(3))

    def slope(_, f):
        return -full @ (softmax(f.reshape(N, 3), axis=1) - Y).ravel()

    solved = solve_ivp(
        slope, (0.0, 30.0), np.zeros(12), "Radau", times, rtol=1e-9, atol=1e-10
    )
    for i in range(2):
        want = torch.as_tensor(solved.y[:, i]).reshape(N, 3)
        torch.testing.assert_close(flow.outputs[i], want, rtol=1e-5, atol=1e-5)
