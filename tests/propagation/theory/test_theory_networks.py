"""`predict` against 40,000 sampled networks, and small cases by direct integration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spectrank.propagation import predict
from spectrank.propagation.theory.depth import signal_moments
from spectrank.random_nets import RandomMLP
from spectrank.table import Table

NUM = 40_000
SEEDS = (0, 1, 2)
NETS: dict[str, dict[str, Any]] = {
    "relu": {"widths": [3, 6, 4, 5], "stable_rank": 2, "spectrum": "spike"},
    # A layer of two units dies in a quarter of the networks, gradients behind it too.
    "narrow": {"widths": [4, 2, 2, 3, 2], "stable_rank": 1.5, "spectrum": "flat"},
    "mixed": {
        "widths": [4, 5, 3],
        "stable_rank": [2.5, None],
        "spectrum": ["flat", "gaussian"],
    },
    "leaky_relu": {
        "widths": [4, 3, 5],
        "stable_rank": 1.5,
        "spectrum": "power",
        "activation": "leaky_relu",
    },
    "linear": {
        "widths": [4, 6, 3],
        "stable_rank": 1.7,
        "spectrum": "mp-spike",
        "activation": "linear",
    },
}
_FUNCTIONS = {
    "relu": torch.relu,
    "leaky_relu": torch.nn.LeakyReLU(),
    "linear": torch.nn.Identity(),
}


def number(table: Table, metric: str, index: int | None, variant: str | None) -> float:
    rows = list(table.where(metric=metric, index=index, variant=variant))
    assert len(rows) == 1, (metric, index, variant)
    return float(rows[0]["value"])


def assert_mean(samples: Tensor, truth: float, what: str) -> None:
    error = float(samples.std()) / math.sqrt(len(samples))
    gap = abs(float(samples.mean()) - truth)
    assert gap <= 4.0 * error + 1e-12, (what, float(samples.mean()), truth, error)


def check(
    table: Table, Y: Tensor, prefix: str, index: int, variant: str | None
) -> None:
    """Check mean, second moment and logs of a squared norm."""
    gain = number(table, f"{prefix}_gain", index, variant)
    second = number(table, f"{prefix}_second_moment", index, variant)
    assert_mean(Y, gain, f"{prefix} gain {index} {variant}")
    assert_mean(Y**2, second * gain**2, f"{prefix} second moment {index} {variant}")
    mean = number(table, f"log_{prefix}_mean", index, variant)
    variance = number(table, f"log_{prefix}_variance", index, variant)
    logs = Y[Y > 0.0].log()
    assert_mean(logs, mean, f"log {prefix} mean {index} {variant}")
    assert_mean((logs - mean) ** 2, variance, f"log {prefix} variance {index}")


def check_jacobian(
    table: Table, weights: list[Tensor], zs: list[Tensor], phi: Any
) -> None:
    """Check the annealed variance of the eigenvalues of J J^T, J = d f/d x."""
    J = weights[0]
    for W, pre in zip(weights[1:], zs[:-1], strict=True):
        z = pre.clone().requires_grad_()
        # phi' from autodiff of phi alone.
        slopes = torch.autograd.grad(phi(z).sum(), z)[0]
        J = W @ (slopes.unsqueeze(-1) * J)
    X = J @ J.mT
    first, second = X.diagonal(dim1=1, dim2=2).sum(1), X.square().sum((1, 2))
    truth = number(table, "jacobian_eigenvalue_variance", None, "annealed")
    ratio = X.shape[1] / float(first.mean()) ** 2
    # Delta method: the estimate is a ratio of means.
    influence = ratio * (second - 2.0 * second.mean() * first / first.mean())
    error = float(influence.std()) / math.sqrt(NUM)
    assert abs(ratio * float(second.mean()) - 1.0 - truth) <= 4.0 * error


def forward(weights: list[Tensor], x: Tensor, phi: Any) -> tuple[list[Tensor], ...]:
    """Return z_1..z_L and h_0..h_{L-1} of a batch of networks at x (num, n_0)."""
    zs, hs = [], [x]
    for W in weights:
        zs.append((W @ hs[-1].unsqueeze(-1)).squeeze(-1))
        hs.append(phi(zs[-1]))
    return zs, hs[:-1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NETS)
def test_every_layer_agrees_with_sampled_networks(name: str, seed: int) -> None:
    net = RandomMLP(**NETS[name])
    table, phi = predict(net), _FUNCTIONS[net.activation]
    generator = torch.Generator().manual_seed(seed)
    weights = net.sample_weights(generator, num=NUM)
    x, u = torch.randn(2, net.widths[0], generator=generator, dtype=torch.float64)
    u = u / u.norm()
    v = torch.randn(net.widths[-1], generator=generator, dtype=torch.float64)
    batch = x.expand(NUM, -1).clone().requires_grad_()
    zs, hs = forward(weights, batch, phi)
    gradients = torch.autograd.grad((zs[-1] * v).sum(), hs)
    # Piecewise linear: a difference is the derivative but for a kink in the gap.
    step = 1e-7
    with torch.no_grad():
        moved, _ = forward(weights, batch + step * u, phi)
    tangents = [(a - b) / step for a, b in zip(moved, zs, strict=True)]
    square = float(x @ x)
    for i in range(net.num_layers):
        check(table, zs[i].detach().square().sum(1) / square, "signal", i + 1, "pre")
        if i:
            post = hs[i].detach().square().sum(1) / square
            check(table, post, "signal", i, "post")
        backward = gradients[i].square().sum(1) / float(v @ v)
        check(table, backward, "gradient", i + 1, None)
        Y = tangents[i].detach().square().sum(1)
        check(table, Y, "jacobian", i + 1, None)
        length = number(table, "length_gain", i + 1, "pre")
        assert_mean(Y.sqrt(), length, f"length {i + 1}")
    check_jacobian(table, weights, [z.detach() for z in zs], phi)


@pytest.mark.parametrize("seed", SEEDS)
def test_squared_cosine_agrees_with_sampled_linear_networks(seed: int) -> None:
    net = RandomMLP([4, 5, 3], stable_rank=2, spectrum="flat", activation="linear")
    generator = torch.Generator().manual_seed(seed)
    weights = net.sample_weights(generator, num=NUM)
    x = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    y = torch.tensor([0.3, 0.91**0.5, 0.0, 0.0], dtype=torch.float64)
    table = predict(net, cosine=0.3)
    u, v = x.expand(NUM, -1), y.expand(NUM, -1)
    for i, W in enumerate(weights):
        u, v = (W @ u.unsqueeze(-1))[..., 0], (W @ v.unsqueeze(-1))[..., 0]
        top = (u * v).sum(1).square()
        bottom = u.square().sum(1) * v.square().sum(1)
        ratio = float(top.mean() / bottom.mean())
        influence = (top - ratio * bottom) / bottom.mean()
        error = float(influence.std()) / math.sqrt(NUM)
        truth = number(table, "squared_cosine", i + 1, "annealed")
        assert abs(ratio - truth) <= 4.0 * error


def half_circle_counts(W1: np.ndarray, W2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact new kinks and pattern changes of layer 2 along half a great circle.

    Layer 1 has one kink per neuron; between kinks layer 2 is a sinusoid of the angle,
    so its zeros are known in closed form.
    """
    num, n1, _ = W1.shape
    A = W1[:, :, :2]  # z_1 = A (cos, sin)
    kinks = np.sort(np.mod(np.arctan2(-A[..., 0], A[..., 1]), np.pi), axis=1)
    ends = np.concatenate([np.zeros((num, 1)), kinks, np.full((num, 1), np.pi)], axis=1)
    new, changes = np.zeros(num), np.zeros(num)
    before: np.ndarray | None = None
    for k in range(n1 + 1):
        low, high = ends[:, k], ends[:, k + 1]
        middle = 0.5 * (low + high)
        point = np.stack([np.cos(middle), np.sin(middle)], -1)
        active = (A @ point[..., None]) > 0.0
        p, q = np.moveaxis(W2 @ (active * A), -1, 0)
        zero = np.mod(np.arctan2(-p, q), np.pi)
        alive = active.any((1, 2))
        # A zero at the end of a piece is h_1 = 0 there, not a new kink.
        tiny = 1e-9
        inside = (zero > low[:, None] + tiny) & (zero < high[:, None] - tiny)
        new += (inside & alive[:, None]).sum(1)

        def pattern(angle: np.ndarray, p: np.ndarray = p, q: np.ndarray = q) -> Any:
            return p * np.cos(angle)[:, None] + q * np.sin(angle)[:, None] > 0.0

        if before is not None:
            changes += (before != pattern(low + tiny)).sum(1)
        before = pattern(high - tiny)
    return new, new + changes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spectrum", ["flat", "orthogonal"])
def test_kinks_agree_with_exact_counts_along_half_a_circle(
    spectrum: str, seed: int
) -> None:
    r = 2 if spectrum == "flat" else None
    net = RandomMLP([4, 3, 5, 2], stable_rank=r, spectrum=spectrum)
    weights = net.sample_weights(torch.Generator().manual_seed(seed), num=20_000)
    W1, W2 = (W.numpy() for W in weights[:2])
    new, changes = half_circle_counts(W1, W2)
    table = predict(net)
    # Angular length pi; 5 (1 - 4/8) and 5 (1 - 1/8).
    truth = (
        number(table, "new_kinks", 2, None),
        number(table, "pattern_changes", 2, None),
    )
    assert truth == pytest.approx((2.5, 4.375))
    assert_mean(torch.from_numpy(new), truth[0], "new kinks")
    assert_mean(torch.from_numpy(changes), truth[1], "pattern changes")


def test_two_by_two_second_moment_by_direct_integration() -> None:
    net = RandomMLP([2, 2, 2], stable_rank=1.4, spectrum="flat", norm="spectral")
    law = net.layers[0]
    assert law.spectral_norm is not None
    # W x = R(a) diag(s) (cos b, sin b); ReLU on the circle of radius |Wx|.
    b = 2.0 * np.pi * (np.arange(2000) + 0.5) / 2000
    radius = law.spectral_norm**2 * (np.cos(b) ** 2 + 0.4 * np.sin(b) ** 2)
    share = np.maximum(np.cos(b), 0.0) ** 2 + np.maximum(np.sin(b), 0.0) ** 2
    gain = radius.mean() * share.mean()
    second = (radius**2).mean() * (share**2).mean() / gain**2
    post, _ = signal_moments(net.layers, 0.0)
    assert math.exp(post[0].log_gain) == pytest.approx(gain, rel=1e-12)
    assert math.exp(post[0].log_second) == pytest.approx(second, rel=1e-6)


def test_single_neurons_are_coins() -> None:
    table = predict(RandomMLP([1, 1, 1, 1], stable_rank=1, spectrum="flat"))
    # A one by one layer is +-s: every ReLU is alive with probability 1/2.
    s2 = 2.0
    for index in (1, 2):
        gain = number(table, "signal_gain", index, "post")
        assert gain == pytest.approx((s2 / 2) ** index, rel=1e-12)
        second = number(table, "signal_second_moment", index, "post")
        assert second == pytest.approx(2.0**index, rel=1e-12)
        logs = number(table, "log_signal_mean", index, "post")
        assert logs == pytest.approx(index * math.log(s2), abs=1e-12)
        assert number(table, "log_signal_variance", index, "post") == 0.0
        length = number(table, "length_gain", index, "post")
        assert length == pytest.approx((math.sqrt(s2) / 2) ** index, rel=1e-12)
    assert number(table, "gradient_second_moment", 1, None) == pytest.approx(4.0)


def test_one_output_row_is_a_random_direction() -> None:
    # m = 1: |Wx|^2 = s^2 (v.x)^2, on the circle s^2 cos^2.
    net = RandomMLP([2, 1], stable_rank=1, spectrum="spike", activation="linear")
    table = predict(net)
    s2 = net.layers[0].a1
    assert number(table, "signal_gain", 1, "pre") == pytest.approx(s2 / 2)
    # Mean of cos^4 over squared mean of cos^2 is (3/8)/(1/4).
    assert number(table, "signal_second_moment", 1, "pre") == pytest.approx(1.5)
    # Mean of log cos^2 is -2 log 2, its variance pi^2/3.
    mean = number(table, "log_signal_mean", 1, "pre")
    assert mean == pytest.approx(math.log(s2) - 2.0 * math.log(2.0), abs=1e-12)
    variance = number(table, "log_signal_variance", 1, "pre")
    assert variance == pytest.approx(math.pi**2 / 3, rel=1e-12)
    length = number(table, "length_gain", 1, "pre")
    assert length == pytest.approx(math.sqrt(s2) * 2 / math.pi, rel=1e-12)
