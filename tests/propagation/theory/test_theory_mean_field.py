"""Mean field against Gauss-Hermite sums, mpmath, closed forms and wide networks."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from spectrank.errors import DomainError, UnknownNameError
from spectrank.propagation import critical_sigma, predict
from spectrank.propagation.theory.angles import cosine_map
from spectrank.propagation.theory.mean_field import (
    SMOOTH,
    activation_cosine,
    critical_weight_variance,
    mean_square,
    mean_square_slope,
)
from spectrank.random_nets import RandomMLP

_MODULES = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}
# For saturated units, whose steps Gauss-Hermite nodes jump over.
FINE_Z = np.linspace(-12.0, 12.0, 8_001)
FINE_WEIGHTS = np.exp(-0.5 * FINE_Z**2)
FINE_WEIGHTS /= FINE_WEIGHTS.sum()
HERMITE_Z, HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(180)
HERMITE_WEIGHTS = HERMITE_WEIGHTS / HERMITE_WEIGHTS.sum()


def torch_phi(name: str, z: np.ndarray) -> np.ndarray:
    return _MODULES[name](torch.from_numpy(z)).numpy()


def torch_slope(name: str, z: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(z).requires_grad_()
    return torch.autograd.grad(_MODULES[name](x).sum(), x)[0].numpy()


@pytest.mark.parametrize("q", [1e-6, 0.3, 1.0])
@pytest.mark.parametrize("name", SMOOTH)
def test_gaussian_means_agree_with_gauss_hermite(name: str, q: float) -> None:
    z = math.sqrt(q) * HERMITE_Z
    truth = HERMITE_WEIGHTS @ torch_phi(name, z) ** 2
    assert mean_square(name, q) == pytest.approx(truth, rel=1e-9)
    truth = HERMITE_WEIGHTS @ torch_slope(name, z) ** 2
    assert mean_square_slope(name, q) == pytest.approx(truth, rel=1e-8)


def test_gaussian_means_hold_where_a_unit_saturates() -> None:
    for q in (4.0, 25.0, 100.0):
        root = mp.sqrt(q)

        def weighted(z: mp.mpf, root: mp.mpf = root) -> mp.mpf:
            return mp.tanh(root * z) ** 2 * mp.npdf(z)

        truth = 2 * mp.quad(weighted, [0, 0.05, 0.2, 1, 4, 12])
        assert mean_square("tanh", q) == pytest.approx(float(truth), rel=1e-12)

        def steep(z: mp.mpf, root: mp.mpf = root) -> mp.mpf:
            return mp.sech(root * z) ** 4 * mp.npdf(z)

        truth = 2 * mp.quad(steep, [0, 0.05, 0.2, 1, 4, 12])
        assert mean_square_slope("tanh", q) == pytest.approx(float(truth), rel=1e-12)


def test_slopes_of_far_saturated_units_fall_as_one_over_their_scale() -> None:
    # E sech^4(s Z) = 4/(3 s sqrt(2 pi)) (1 - c/s^2 + ...), c = (pi^2/6 - 1)/4 < 0.17.
    for q in (1e4, 1e8, 1e40, 1e300):
        truth = 4.0 / (3.0 * math.sqrt(q) * math.sqrt(2.0 * math.pi))
        assert mean_square_slope("tanh", q) == pytest.approx(truth, rel=0.2 / q + 1e-12)


@pytest.mark.parametrize("cosine", [-0.8, 0.0, 0.5, 0.9999])
@pytest.mark.parametrize("q", [1e12, 1e300])
def test_angles_of_far_saturated_units_are_those_of_signs(
    q: float, cosine: float
) -> None:
    # E sign u sign v = 2/pi arcsin c; tanh differs from it by O(1/sqrt q).
    found = activation_cosine("tanh", q, q, cosine)
    assert found == pytest.approx(2.0 / math.pi * math.asin(cosine), abs=3e-6)
    relu = cosine_map(cosine, 0.0)
    assert activation_cosine("gelu", q, q, cosine) == pytest.approx(relu, abs=1e-8)


@pytest.mark.parametrize(
    ("cosine", "truth"), [(0.6, 0.416148206926), (0.999, 0.982910709870)]
)
def test_angles_of_steep_units_agree_with_nested_quadrature(
    cosine: float, truth: float
) -> None:
    # scipy.integrate.quad in both variables, broken at the steps, at q = 2500.
    assert activation_cosine("tanh", 2500.0, 2500.0, cosine) == pytest.approx(
        truth, abs=1e-10
    )


@pytest.mark.parametrize("cosine", [-1.0, -0.4, 0.0, 0.7, 0.999, 1.0])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_angle_map_agrees_with_gauss_hermite(name: str, cosine: float) -> None:
    q_x, q_y = 0.8, 1.7
    Z, Y = np.meshgrid(HERMITE_Z, HERMITE_Z, indexing="ij")
    weights = np.outer(HERMITE_WEIGHTS, HERMITE_WEIGHTS)
    u = torch_phi(name, math.sqrt(q_x) * Z)
    v = torch_phi(name, math.sqrt(q_y) * (cosine * Z + math.sqrt(1 - cosine**2) * Y))
    truth = (weights * u * v).sum()
    truth /= math.sqrt((weights * u * u).sum() * (weights * v * v).sum())
    found = activation_cosine(name, q_x, q_y, cosine)
    assert found == pytest.approx(truth, abs=1e-7)


def test_equal_inputs_stay_equal() -> None:
    for name in SMOOTH:
        assert activation_cosine(name, 1.3, 1.3, 1.0) == pytest.approx(1.0, abs=1e-12)
    for slope in (0.0, 0.01, 1.0):
        assert cosine_map(1.0, slope) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("cosine", [-1.0, -0.5, 0.0, 0.3, 0.95])
def test_the_piecewise_linear_angle_map_agrees_with_its_integral(
    cosine: float, slope: float
) -> None:
    # In polar coordinates the radius drops out: a mean over the angle alone, whose
    # kinks the midpoint rule meets with an error of 1/num^2.
    num = 400_000
    angle = 2.0 * np.pi * (np.arange(num) + 0.5) / num
    u = np.cos(angle)
    v = np.cos(angle - math.acos(cosine))
    phi_u, phi_v = (np.where(z > 0, z, slope * z) for z in (u, v))
    truth = (phi_u * phi_v).mean() / (phi_u**2).mean()
    assert cosine_map(cosine, slope) == pytest.approx(truth, abs=1e-9)


def test_the_arc_cosine_map_drifts_to_one_as_printed() -> None:
    c = 0.0
    for _ in range(4000):
        c = cosine_map(c, 0.0)
    assert 1.0 - c == pytest.approx(2.753e-6, abs=5e-10)
    assert 9.0 * math.pi**2 / (2.0 * 4000**2) == pytest.approx(2.776e-6, abs=5e-10)


@pytest.mark.parametrize(
    ("name", "variance"), [("relu", 2.0), ("linear", 1.0), ("tanh", 1.0)]
)
def test_the_edge_of_chaos_without_biases(name: str, variance: float) -> None:
    assert critical_weight_variance(name) == variance
    sigma = critical_sigma(name, 64, 16)
    assert sigma**2 == pytest.approx(64 * variance / 16, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "bias"), [("tanh", 0.05), ("tanh", 1.0), ("sigmoid", 0.0), ("gelu", 1.0)]
)
def test_the_edge_of_chaos_is_a_fixed_point_with_chi_one(
    name: str, bias: float
) -> None:
    variance = critical_weight_variance(name, bias_variance=bias)
    q = 1.0
    for _ in range(3000):
        # Iterate the map itself, by another quadrature than the one under test.
        mean = FINE_WEIGHTS @ torch_phi(name, math.sqrt(q) * FINE_Z) ** 2
        before, q = q, variance * mean + bias
        if abs(q - before) < 1e-13 * q:
            break
    slopes = torch_slope(name, math.sqrt(q) * FINE_Z)
    assert variance * (FINE_WEIGHTS @ slopes**2) == pytest.approx(1.0, rel=1e-7)


def test_half_stable_activations_have_no_edge_without_bias() -> None:
    for name in ("gelu", "silu"):
        with pytest.raises(DomainError, match="larger bias variance"):
            critical_weight_variance(name)


def test_bad_requests_for_the_edge_of_chaos_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="pass the name"):
        critical_weight_variance("swish")
    with pytest.raises(DomainError, match="leave it at 0"):
        critical_weight_variance("relu", bias_variance=0.1)
    with pytest.raises(DomainError, match="not negative"):
        critical_weight_variance("tanh", bias_variance=-1.0)
    with pytest.raises(DomainError, match="wider layer"):
        critical_sigma("relu", 8, 9)


@pytest.mark.parametrize("name", SMOOTH)
def test_wide_networks_approach_mean_field(name: str) -> None:
    width, num = 256, 48
    net = RandomMLP([width] * 4, spectrum="gaussian", gain=1.5, activation=name)
    table = predict(net, cosine=0.4, input_mean_square=0.7)
    x = torch.zeros(2, width, dtype=torch.float64)
    x[0, 0], x[1, 0], x[1, 1] = 1.0, 0.4, 0.84**0.5
    x *= math.sqrt(0.7 * width)
    generator = torch.Generator().manual_seed(5)
    estimates: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(num):
        h = x
        for i, W in enumerate(net.sample_weights(generator)):
            z = h @ W.T
            h = _MODULES[name](z)
            found = {("signal_gain", "pre"): z, ("signal_gain", "post"): h}
            for (metric, variant), value in found.items():
                gain = float((value[0] @ value[0]) / (x[0] @ x[0]))
                estimates.setdefault((metric, variant, i + 1), []).append(gain)
            last = z if i == 2 else h
            cosine = torch.nn.functional.cosine_similarity(last[0], last[1], dim=0)
            key = ("cosine", "mean-field", i + 1)
            estimates.setdefault(key, []).append(float(cosine))
    estimates.pop(("signal_gain", "post", 3))
    for (metric, variant, index), values in estimates.items():
        rows = list(table.where(metric=metric, variant=variant, index=index))
        assert len(rows) == 1
        # Standard errors, and the 1/width that mean field leaves out.
        truth, error = rows[0]["value"], np.std(values, ddof=1) / math.sqrt(num)
        assert abs(np.mean(values) - truth) <= 4.0 * error + 8.0 / width * abs(truth)


@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_gradients_of_wide_networks_approach_mean_field(name: str) -> None:
    widths, num = [150, 250, 200, 100], 64
    net = RandomMLP(widths, spectrum="gaussian", gain=1.2, activation=name)
    table = predict(net)
    generator = torch.Generator().manual_seed(3)
    totals = np.zeros((num, 3))
    for k in range(num):
        h = torch.randn(widths[0], generator=generator, dtype=torch.float64)
        h = (h * math.sqrt(widths[0]) / h.norm()).requires_grad_()
        inputs, z = [], h
        for i, W in enumerate(net.sample_weights(generator)):
            inputs.append(h)
            z = W @ h
            h = _MODULES[name](z) if i < 2 else z
        v = torch.randn(100, generator=generator, dtype=torch.float64)
        gradients = torch.autograd.grad(z @ v, inputs)
        totals[k] = [float(g @ g / (v @ v)) for g in gradients]
    for index in (1, 2, 3):
        truth = table.where(metric="gradient_gain", index=index).frame["value"][0]
        values = totals[:, index - 1]
        error = values.std(ddof=1) / math.sqrt(num)
        assert abs(values.mean() - truth) <= 4.0 * error + 8.0 / 100 * truth


def test_mean_field_of_one_stable_rank_is_that_of_its_frobenius_norm() -> None:
    options = {"activation": "tanh", "norm": "spectral", "sigma": 1.4}
    net = RandomMLP([64, 64, 64], stable_rank=16, spectrum="flat", **options)
    rows = list(predict(net).where(metric="preactivation_variance"))
    assert rows[0]["value"] == pytest.approx(1.4**2 * 16 / 64, rel=1e-12)
    chi = list(predict(net).where(metric="chi_1"))
    assert len(chi) == 1
    slope = mean_square_slope("tanh", rows[0]["value"])
    assert chi[0]["value"] == pytest.approx(1.4**2 * 16 / 64 * slope, rel=1e-12)
