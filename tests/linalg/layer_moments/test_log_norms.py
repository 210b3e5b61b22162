"""Log-norm and root moments against mpmath, closed forms and direct integrals."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import torch

from spectrank.linalg.layer_moments.laplace import beta_grid, half_moment, log_moments
from spectrank.linalg.layer_moments.log_norms import (
    layer_log_norm,
    mask_log_norm,
    scaled,
    sphere_log_norm,
)
from spectrank.random_nets import RandomMLP


def moments_of(mean_of: Callable[[Callable], mp.mpf]) -> tuple[float, float, float]:
    """Mean and variance of log Y and log E sqrt Y from a mean of functions of Y."""
    mean = mean_of(mp.log)
    variance = mean_of(lambda y: (mp.log(y) - mean) ** 2)
    return float(mean), float(variance), float(mp.log(mean_of(mp.sqrt)))


def on_the_circle(a: float, b: float) -> Callable[[Callable], mp.mpf]:
    def mean_of(f: Callable) -> mp.mpf:
        def at(angle: mp.mpf) -> mp.mpf:
            return f(a * mp.cos(angle) ** 2 + b * mp.sin(angle) ** 2)

        return mp.quad(at, mp.linspace(0, mp.pi / 2, 5)) * 2 / mp.pi

    return mean_of


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.5), (1.0, 1e-3), (1.0, 0.999)])
def test_two_inputs_agree_with_the_integral_over_the_circle(a: float, b: float) -> None:
    found = sphere_log_norm(np.array([a, b]), 2)
    truth = moments_of(on_the_circle(a, b))
    got = (found.mean, found.variance, found.log_half)
    assert got == pytest.approx(truth, abs=2e-13)
    # On the circle E log is 2 log of the mean of the semi-axes.
    known = 2.0 * math.log((math.sqrt(a) + math.sqrt(b)) / 2.0)
    assert found.mean == pytest.approx(known, abs=2e-13)


@pytest.mark.parametrize("squares", [(1.0, 0.5, 0.25), (1.0, 0.6, 0.02)])
def test_three_inputs_agree_with_the_integral_over_the_sphere(
    squares: tuple[float, float, float],
) -> None:
    # Height uniform on [-1, 1], angle uniform: both rules converge exponentially.
    z, weights = np.polynomial.legendre.leggauss(400)
    angle = np.pi * np.arange(400) / 400
    a, b, c = squares
    flat = a * np.cos(angle) ** 2 + b * np.sin(angle) ** 2
    Y = np.outer(1.0 - z**2, flat) + c * z[:, None] ** 2
    weights = weights / 2.0
    mean = float(weights @ np.log(Y).mean(1))
    variance = float(weights @ ((np.log(Y) - mean) ** 2).mean(1))
    root = math.log(weights @ np.sqrt(Y).mean(1))
    found = sphere_log_norm(np.array(squares), 3)
    got = (found.mean, found.variance, found.log_half)
    assert got == pytest.approx((mean, variance, root), abs=1e-12)


@pytest.mark.parametrize(("r", "n"), [(1, 2), (1, 9), (3, 7), (40, 64), (900, 1000)])
def test_equal_squares_are_beta_distributed(r: int, n: int) -> None:
    with mp.workdps(30):
        a, b, half = mp.mpf(r) / 2, mp.mpf(n) / 2, mp.mpf(1) / 2
        root = mp.loggamma(a + half) - mp.loggamma(a)
        root -= mp.loggamma(b + half) - mp.loggamma(b)
        mean = mp.digamma(a) - mp.digamma(b)
        truth = (float(mean), float(mp.psi(1, a) - mp.psi(1, b)), float(root))
    closed = sphere_log_norm(np.ones(r), n)
    got = (closed.mean, closed.variance, closed.log_half)
    assert got == pytest.approx(truth, abs=3e-14)
    # Nearly equal squares go through the Laplace transform and must meet them.
    nearly = np.ones(r)
    nearly[-1] = 1.0 - 1e-13
    near = sphere_log_norm(nearly, n)
    got = (near.mean, near.variance, near.log_half)
    assert got == pytest.approx(truth, abs=1e-12)


def test_an_orthogonal_layer_has_no_fluctuation_at_all() -> None:
    law = RandomMLP([6, 9], spectrum="orthogonal", activation="linear").layers[0]
    found = layer_log_norm(law)
    assert found.variance == 0.0
    assert found.mean == pytest.approx(math.log(9 / 6), abs=1e-14)
    assert found.log_half == pytest.approx(0.5 * math.log(9 / 6), abs=1e-14)
    assert layer_log_norm(law, transposed=True).variance > 0.0


def test_log_moments_of_a_gamma_number_are_polygammas() -> None:
    for k in (0.5, 1.0, 3.7, 200.0):
        mean, variance = log_moments(lambda t, k=k: -k * np.log1p(t / k))
        assert mean == pytest.approx(float(mp.digamma(k) - mp.log(k)), abs=1e-13)
        assert variance == pytest.approx(float(mp.psi(1, k)), abs=1e-12)
        root = half_moment(lambda t, k=k: -k * np.log1p(t / k))
        truth = mp.gamma(k + 0.5) / mp.gamma(k) / mp.sqrt(k)
        assert root == pytest.approx(float(truth), rel=1e-13)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.5, 400.0), (3.0, 0.5), (1e3, 2e6)])
def test_means_over_a_beta_number_are_right(a: float, b: float) -> None:
    x, rest, weights = beta_grid(a, b)
    assert weights @ x == pytest.approx(a / (a + b), rel=1e-12)
    assert weights @ rest == pytest.approx(b / (a + b), rel=1e-12)
    log_mean = float(mp.digamma(a) - mp.digamma(a + b))
    assert weights @ np.log(x) == pytest.approx(log_mean, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_a_relu_mask_is_the_binomial_mixture_of_betas(m: int) -> None:
    half = mp.mpf(1) / 2
    total = mp.mpf(2) ** m
    mean = second = root = mp.mpf(0)
    for k in range(1, m + 1):
        weight, a, b = mp.binomial(m, k), k * half, m * half
        centre = mp.digamma(a) - mp.digamma(b)
        mean += weight * centre / (total - 1)
        spread = mp.psi(1, a) - mp.psi(1, b)
        second += weight * (spread + centre**2) / (total - 1)
        ratio = mp.gamma(a + half) * mp.gamma(b) / mp.gamma(a) / mp.gamma(b + half)
        root += weight * ratio / total
    found = mask_log_norm(m, 0.0)
    truth = (float(mean), float(second - mean**2), float(mp.log(root)))
    got = (found.mean, found.variance, found.log_half)
    assert got == pytest.approx(truth, abs=1e-13)


def test_one_leaky_unit_takes_two_values() -> None:
    for slope in (0.01, 0.5, 0.999):
        low = math.log(slope**2)
        found = mask_log_norm(1, slope)
        assert found.mean == pytest.approx(low / 2, abs=1e-12)
        assert found.variance == pytest.approx(low**2 / 4, rel=1e-12, abs=1e-12)
        assert found.log_half == pytest.approx(math.log((1 + slope) / 2), abs=1e-12)


@pytest.mark.parametrize("slope", [0.01, 0.3])
def test_two_leaky_units_agree_with_the_integral_over_the_circle(slope: float) -> None:
    def mean_of(f: Callable) -> mp.mpf:
        low = mp.mpf(slope) ** 2
        mixed = on_the_circle(1.0, low)(f)
        return (f(mp.mpf(1)) + f(low) + 2 * mixed) / 4

    found = mask_log_norm(2, slope)
    got = (found.mean, found.variance, found.log_half)
    assert got == pytest.approx(moments_of(mean_of), abs=1e-12)


def test_masks_join_relu_and_linear() -> None:
    linear = mask_log_norm(12, 1.0)
    assert (linear.mean, linear.variance, linear.log_half) == (0.0, 0.0, 0.0)
    # Dead networks have a root of zero and no log: only the root is continuous.
    near = mask_log_norm(12, 1e-9)
    assert near.log_half == pytest.approx(mask_log_norm(12, 0.0).log_half, abs=1e-8)


def test_gaussian_layers_are_chi_square() -> None:
    law = RandomMLP([5, 8], spectrum="gaussian", activation="linear").layers[0]
    found = layer_log_norm(law)
    # Entries of variance 1/n: |Wx|^2 = chi^2_8 / 5.
    assert found.mean == pytest.approx(
        float(mp.log(2) + mp.digamma(4) - mp.log(5)), abs=1e-13
    )
    assert found.variance == pytest.approx(float(mp.psi(1, 4)), rel=1e-13)
    root = mp.sqrt(2) * mp.gamma(4.5) / mp.gamma(4) / mp.sqrt(5)
    assert found.log_half == pytest.approx(float(mp.log(root)), abs=1e-13)


def test_a_two_by_two_mp_spike_is_a_spike() -> None:
    for r in (1.0, 1.3, 2.0):
        nets = [
            RandomMLP([2, 2], stable_rank=r, spectrum=name, norm="spectral", sigma=1.7)
            for name in ("mp-spike", "spike")
        ]
        a, b = (layer_log_norm(net.layers[0]) for net in nets)
        assert (a.mean, a.variance) == pytest.approx((b.mean, b.variance), abs=1e-12)
        assert a.log_half == pytest.approx(b.log_half, abs=1e-12)


@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 1.9), (2, 9, 1.5), (9, 2, 1.5)])
def test_mp_spike_agrees_with_mpmath(m: int, n: int, r: float) -> None:
    net = RandomMLP([n, m], stable_rank=r, spectrum="mp-spike", norm="spectral")
    law = net.layers[0]
    assert law.spectral_norm is not None
    # E Y^s exactly, from which log moments follow by finite differences at s = 0.
    a, b = mp.mpf(m - 1) / 2, mp.mpf((m - 1) * (n - 2)) / 2

    def power(s: mp.mpf) -> mp.mpf:
        def given(C: mp.mpf) -> mp.mpf:
            # B ~ Beta(1/2, (n-1)/2): Y = q + (1 - q) B, q = (r - 1) C.
            q = (r - 1) * C
            c = mp.mpf(n) / 2
            return mp.hyp2f1(-s, mp.mpf(n - 1) / 2, c, 1 - q)

        if n == 2:
            return given(mp.mpf(1))

        def weighted(w: mp.mpf) -> mp.mpf:
            # C = w^2 takes the root singularity at 0 away.
            return given(w * w) * 2 * w ** (2 * a - 1) * (1 - w * w) ** (b - 1)

        return mp.quad(weighted, [0, 0.25, 0.5, 1]) / mp.beta(a, b)

    with mp.workdps(20):
        h = mp.mpf("1e-4")
        up, down = mp.log(power(h)), mp.log(power(-h))
        truth = (float((up - down) / (2 * h)), float((up + down) / h**2))
        root = float(mp.log(power(mp.mpf(1) / 2)))
    found = scaled(layer_log_norm(law), 1.0 / law.spectral_norm)
    assert (found.mean, found.variance) == pytest.approx(truth, rel=1e-6)
    assert found.log_half == pytest.approx(root, rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("spectrum", "m", "n", "r"), [("slice", 5, 4, 2.2), ("temper", 4, 6, 1.8)]
)
def test_random_spectra_agree_with_their_own_draws(
    spectrum: str, m: int, n: int, r: float, seed: int
) -> None:
    net = RandomMLP([n, m], stable_rank=r, spectrum=spectrum, activation="linear")
    law, num = net.layers[0], 40_000
    W = net.sample_weights(torch.Generator().manual_seed(seed), num=num)[0].numpy()
    for transposed in (False, True):
        found = layer_log_norm(law, transposed=transposed)
        assert found.exact
        Y = (W[:, 0, :] ** 2 if transposed else W[:, :, 0] ** 2).sum(1)
        logs = np.log(Y)
        pairs = (
            (logs, found.mean, found.stderr[0]),
            ((logs - found.mean) ** 2, found.variance, found.stderr[1]),
            (np.sqrt(Y) * math.exp(-found.log_half), 1.0, found.stderr[2]),
        )
        for samples, truth, stderr in pairs:
            assert 0.0 < stderr < 0.05
            error = math.hypot(samples.std() / math.sqrt(num), stderr)
            assert abs(samples.mean() - truth) <= 4.0 * error


def test_a_slice_without_room_is_a_flat_spectrum_and_has_no_error() -> None:
    nets = [
        RandomMLP([5, 2], stable_rank=1.5, spectrum=name, activation="linear")
        for name in ("slice", "flat")
    ]
    a, b = (layer_log_norm(net.layers[0]) for net in nets)
    assert a.stderr == pytest.approx((0.0, 0.0, 0.0), abs=1e-15)
    assert (a.mean, a.variance) == pytest.approx((b.mean, b.variance), abs=1e-13)


def test_fractional_flat_lies_between_its_whole_neighbours() -> None:
    def logs(r: float) -> float:
        net = RandomMLP([9, 9], stable_rank=r, spectrum="flat", norm="spectral")
        law = net.layers[0]
        return layer_log_norm(law).mean

    values = [logs(r) for r in (3.0, 3.000001, 3.5, 3.999999, 4.0)]
    assert values == sorted(values)
    assert values[1] == pytest.approx(values[0], abs=1e-6)
    assert values[3] == pytest.approx(values[4], abs=1e-6)


def test_scale_moves_the_mean_alone() -> None:
    a = sphere_log_norm(np.array([1.0, 0.4]), 5)
    b = sphere_log_norm(np.array([1e-200, 0.4e-200]), 5)
    assert b.mean - a.mean == pytest.approx(-200 * math.log(10), rel=1e-13)
    assert b.variance == pytest.approx(a.variance, rel=1e-12)
    assert b.log_half - a.log_half == pytest.approx(-100 * math.log(10), rel=1e-13)
