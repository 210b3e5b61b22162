"""Training curves of a kernel against matrix exponentials, other solvers and loops."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import softmax
from tolerances import FLOAT64

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.ntk.dynamics import gradient_flow
from spectrank.ntk.dynamics.modes import flow_factors, step_factors
from spectrank.ntk.dynamics.softmax import solve_weights

N, M, C = 4, 3, 2
TIMES = [0.0, 0.3, 2.0, 11.0]
LOSSES = {"mse": torch.nn.MSELoss, "cross_entropy": torch.nn.CrossEntropyLoss}


class Setting:
    """A joint kernel of training and test points, targets and outputs at the start."""

    def __init__(self, *, shared, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        size = (N + M) * (1 if shared else C)
        J = normal(size, size + 2)
        self.joint = J @ J.T / size
        split = N * (1 if shared else C)
        self.shared = shared
        blocks = self.joint[:split, :split], self.joint[split:, :split]
        self.K, self.K_test = (b if shared else self.unflat(b) for b in blocks)
        self.labels = torch.tensor([0, 1, 1, 0])
        self.Y = torch.nn.functional.one_hot(self.labels).double()
        self.f = normal(N + M, C)

    @staticmethod
    def unflat(block):
        a, b = len(block) // C, block.shape[1] // C
        return block.reshape(a, C, b, C).permute(0, 2, 1, 3).contiguous()

    def operator(self):
        """What takes gradients (n, c) on training points to all outputs, flat."""
        full = torch.kron(self.joint, torch.eye(C)) if self.shared else self.joint
        return full[:, : N * C].numpy()

    def predict(self, times, **options):
        return gradient_flow(
            self.K,
            self.labels,
            times,
            initial=self.f[:N],
            K_test=self.K_test,
            initial_test=self.f[N:],
            **options,
        )

    def check(self, flow, truth, *, rel, at=TIMES):
        for i in range(len(at)):
            want = torch.as_tensor(truth[i]).reshape(N + M, C)
            torch.testing.assert_close(flow.outputs[i], want[:N], rtol=rel, atol=rel)
            torch.testing.assert_close(
                flow.test_outputs[i], want[N:], rtol=rel, atol=rel
            )


def torch_gradient(f, setting, loss, reduction, factor):
    """Gradient of torch's own loss in the outputs."""
    outputs = torch.as_tensor(f).reshape(N, C).clone().requires_grad_()
    target = setting.labels if loss == "cross_entropy" else setting.Y
    value = factor * LOSSES[loss](reduction=reduction)(outputs, target)
    return torch.autograd.grad(value, outputs)[0].flatten().numpy(), float(
        value.detach()
    )


CONVENTIONS = [("mean", 1.0), ("sum", 0.5), ("sum", 1.0), ("mean", 3.0)]


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
    s.check(flow, truth, rel=1e-11, at=steps)


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
    s.check(flow, truth, rel=3e-7, at=times)


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


def test_a_loss_without_a_flow_is_refused_before_the_kernel_is_read():
    with pytest.raises(UnknownNameError, match=r"closed form for mse.*got 'huber'"):
        gradient_flow(None, None, None, loss="huber")
    with pytest.raises(UnknownNameError, match=r"'mean' or 'sum'.*got 'none'"):
        gradient_flow(None, None, None, reduction="none")
    with pytest.raises(DomainError, match="factor must be positive"):
        gradient_flow(None, None, None, factor=0.0)
    with pytest.raises(ArgumentTypeError, match="factor is a positive number"):
        gradient_flow(None, None, None, factor="half")


BAD = [
    ({"K": torch.eye(N) * math.nan}, DomainError, "must be finite, got NaN"),
    ({"K": -torch.eye(N)}, DomainError, "positive semi-definite, the smallest"),
    ({"K": torch.ones(N, M)}, ShapeError, "one set of points"),
    ({"labels": torch.tensor([0, 1])}, ShapeError, "one row per sample"),
    ({"times": []}, ShapeError, "a list of at least one"),
    ({"times": [-1.0]}, DomainError, "must not be negative"),
    ({"times": [0.5], "learning_rate": 0.1}, DomainError, "whole numbers of steps"),
    ({"times": [1.0], "learning_rate": -0.1}, DomainError, "must be positive and"),
    ({"initial": torch.zeros(N, 3)}, DomainError, "classes|outputs"),
    ({"initial": torch.zeros(M, C)}, ShapeError, "must be the outputs"),
    ({"initial": torch.full((N, C), math.nan)}, DomainError, "initial must be finite"),
    ({"K_test": torch.ones(M, N + 1)}, ShapeError, r"K_test must be \(m, 4\)"),
    ({"K_test": torch.ones(M, N) * math.inf}, DomainError, "K_test must be finite"),
    ({"labels_test": [1.0]}, ShapeError, "without K_test"),
    ({"loss": "cross_entropy", "times": [math.inf]}, DomainError, "no limit in finite"),
    (
        {"loss": "cross_entropy", "labels": torch.ones(N, C)},
        DomainError,
        "rows of probabilities that sum to one",
    ),
    ({"rtol": 0.0}, DomainError, r"rtol must lie in \(0, 1\)"),
]


@pytest.mark.parametrize(("changed", "error", "words"), BAD)
def test_what_does_not_go_together_is_refused(changed, error, words):
    request = {
        "K": torch.eye(N, dtype=torch.float64),
        "labels": torch.tensor([0, 1, 1, 0]),
        "times": [1.0],
    }
    if changed.get("initial") is not None and changed["initial"].shape == (N, 3):
        request["labels"] = torch.tensor([0, 1, 3, 0])
    request |= changed
    with pytest.raises(error, match=words):
        gradient_flow(
            request.pop("K"), request.pop("labels"), request.pop("times"), **request
        )
