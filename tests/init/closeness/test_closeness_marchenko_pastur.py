"""Quantiles of the Marchenko-Pastur law and the distance to it."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from spectrank.init.closeness.marchenko_pastur import distance, quantiles

SHAPES = [(100, 100), (300, 100), (100, 300), (1000, 10)]


def mass_below(x, gamma):
    """Integral of the density itself, by adaptive quadrature."""
    a, b = (1 - math.sqrt(gamma)) ** 2, (1 + math.sqrt(gamma)) ** 2

    def density(t):
        return math.sqrt(max((b - t) * (t - a), 0.0)) / (2 * math.pi * gamma * t)

    return quad(density, a, x, limit=500)[0]


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_mass_below_a_quantile_is_its_level(m, n):
    gamma = min(m, n) / max(m, n)
    levels = np.array([0.05, 0.3, 0.5, 0.8, 0.99])
    for level, x in zip(levels, quantiles(m, n, levels), strict=True):
        assert mass_below(x, gamma) == pytest.approx(level, abs=2e-6)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_mean_one_variance_gamma_and_the_ends_of_the_support(m, n):
    gamma = min(m, n) / max(m, n)
    x = quantiles(m, n, (np.arange(200_000) + 0.5) / 200_000)
    assert x.mean() == pytest.approx(1.0, abs=1e-5)
    assert x.var() == pytest.approx(gamma, abs=1e-5)
    ends = quantiles(m, n, np.array([0.0, 1.0]))
    assert ends[0] == pytest.approx((1 - math.sqrt(gamma)) ** 2, abs=1e-12)
    assert ends[1] == pytest.approx((1 + math.sqrt(gamma)) ** 2, abs=1e-12)


def test_singular_values_of_a_square_matrix_fill_a_quarter_circle():
    # The distribution function of sqrt(x) on [0, 2], in closed form.
    levels = np.linspace(0.02, 0.98, 13)
    s = np.sqrt(quantiles(64, 64, levels))
    closed = (s * np.sqrt(4 - s**2) / 2 + 2 * np.arcsin(s / 2)) / math.pi
    np.testing.assert_allclose(closed, levels, atol=1e-6)


def test_the_distance_is_zero_at_the_quantiles_whatever_order_and_scale():
    p = 50
    x = quantiles(80, p, (np.arange(p) + 0.5) / p)
    # The mid-point sum of p quantiles has mean 1 only nearly.
    assert distance(x / x.mean(), 80, p) < 1e-3
    shuffled = np.random.default_rng(0).permutation(x)
    assert distance(1e120 * shuffled, 80, p) == pytest.approx(distance(x, 80, p))


def test_the_distance_of_a_flat_spectrum_is_the_mean_deviation_of_the_law():
    p = 40_000
    x = quantiles(p, p, (np.arange(p) + 0.5) / p)
    expected = np.abs(1.0 - x).mean()
    assert distance(np.ones(p), p, p) == pytest.approx(expected, rel=1e-12)
    # E|x - 1| of the law by quadrature, not by quantiles.
    below = quad(lambda t: (1 - t) * math.sqrt(t * (4 - t)) / (2 * math.pi * t), 0, 1)[
        0
    ]
    assert distance(np.ones(p), p, p) == pytest.approx(2 * below, rel=1e-4)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_matrix_has_a_distance_of_order_one_over_p(seed):
    rng = np.random.default_rng(seed)
    for p in (50, 200):
        s = np.linalg.svd(rng.standard_normal((2 * p, p)), compute_uv=False)
        assert 0.05 / p < distance(s**2, 2 * p, p) < 3.0 / p
    # Uniform entries fill the same law.
    s = np.linalg.svd(rng.uniform(-1, 1, (400, 200)), compute_uv=False)
    assert distance(s**2, 400, 200) < 3.0 / 200
