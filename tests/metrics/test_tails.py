"""Tails of eigenvalues: planted exponents, the definition, statuses and reasons."""

import math

import numpy as np
import pytest
import torch
from matrices import with_spectrum
from tail_samples import samples
from tolerances import STANDARD_ERRORS

from spectrank import metrics
from spectrank.linalg import Spectrum, Value, spectrum

TAILS = (
    "alpha",
    "alpha_weighted",
    "log_alpha_norm",
    "ks_distance",
    "xmin",
    "num_tail",
    "power_law_ratio",
)


def planted(kind, size, seed):
    """A matrix whose eigenvalues are a sample, and the sample in descending order."""
    x = np.sort(samples(kind, size, seed))[::-1].copy()
    sigma = torch.from_numpy(np.sqrt(x))
    return with_spectrum(sigma, size + 9, size, seed=seed), x


def brute(x):
    """The fit by its definition, over every start that leaves three values."""
    best = (math.inf,)
    for n in range(3, len(x) + 1):
        tail = x[:n][::-1]
        alpha = 1.0 + n / np.log(tail / tail[0]).sum()
        fitted = 1.0 - (tail / tail[0]) ** (1.0 - alpha)
        distance = np.abs(fitted - np.arange(n) / n).max()
        if distance <= best[0]:
            best = (distance, alpha, tail[0], n)
    return best


@pytest.mark.parametrize("kind", ["pareto", "lognormal", "exponential", "student"])
@pytest.mark.parametrize("size", [12, 90])
def test_the_metrics_are_those_of_the_eigenvalues(kind, size):
    W, x = planted(kind, size, 4)
    distance, alpha, xmin, n = brute(x)
    s = spectrum(W)
    assert metrics.alpha(s).value == pytest.approx(alpha, rel=1e-7)
    assert metrics.ks_distance(s).value == pytest.approx(distance, abs=1e-8)
    assert metrics.xmin(s).value == pytest.approx(xmin, rel=1e-7)
    assert metrics.num_tail(s).value == n
    weighted = alpha * math.log10(x[0])
    assert metrics.alpha_weighted(s).value == pytest.approx(weighted, rel=1e-7)
    norm = math.log10((x**alpha).sum())
    assert metrics.log_alpha_norm(s).value == pytest.approx(norm, rel=1e-7)


def test_the_ends_of_an_exponent_are_one_standard_error_away():
    W, x = planted("pareto", 60, 1)
    _, alpha, _, n = brute(x)
    value = metrics.alpha(W)
    stderr = (alpha - 1.0) / math.sqrt(n)
    assert value.error_kind == "stderr"
    assert value.upper == pytest.approx(alpha + stderr, rel=1e-6)
    assert value.lower == pytest.approx(alpha - stderr, rel=1e-6)
    weighted = metrics.alpha_weighted(W)
    assert weighted.error_kind == "stderr"
    width = 2.0 * stderr * abs(math.log10(x[0]))
    assert weighted.upper - weighted.lower == pytest.approx(width, rel=1e-6)
    norm = metrics.log_alpha_norm(W)
    top = math.log10((x ** (alpha + stderr)).sum())
    assert norm.upper == pytest.approx(top, rel=1e-6)


def test_an_exponent_says_where_no_power_law_is():
    x = np.sort(np.random.default_rng(0).pareto(1.5, 300) + 1.0)[::-1].copy()
    law = with_spectrum(torch.from_numpy(np.sqrt(x)), 300, 300)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 200, generator=generator)
    # Its values differ by the rounding of its float32 entries alone.
    flat = torch.linalg.qr(torch.randn(200, 200, generator=generator)).Q
    few = torch.randn(3, 3, generator=generator)
    for name in ("alpha", "alpha_weighted", "log_alpha_norm"):
        metric = metrics.get_metric(name)
        assert metric(law).reason is None
        assert "exponential tail fits better" in metric(noise).reason
        assert metric(noise).status == "ok"
        for W in (flat, few):
            assert "no better than an exponential" in metric(W).reason


def test_an_exponent_is_recovered():
    for seed in range(3):
        random = np.random.default_rng(seed)
        x = np.sort(random.pareto(2.0, 400) + 1.0)[::-1].copy()
        value = metrics.alpha(with_spectrum(torch.from_numpy(np.sqrt(x)), 400, 400))
        stderr = value.upper - value.value
        assert abs(value.value - 3.0) <= STANDARD_ERRORS * stderr


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e150])
def test_the_exponent_does_not_see_the_scale_and_the_weighted_one_does(scale):
    W, _ = planted("student", 40, 2)
    one, scaled = spectrum(W), spectrum(W * scale)
    for name in ("alpha", "ks_distance", "num_tail"):
        metric = metrics.get_metric(name)
        assert metric(scaled).value == pytest.approx(metric(one).value, rel=1e-9)
    alpha = metrics.alpha(one).value
    for name in ("alpha_weighted", "log_alpha_norm"):
        metric = metrics.get_metric(name)
        moved = metric(one).value + 2.0 * alpha * math.log10(scale)
        assert metric(scaled).value == pytest.approx(moved, rel=1e-9)
    assert math.sqrt(metrics.xmin(one).value) * scale == pytest.approx(
        float(scaled.sigma[int(metrics.num_tail(one).value) - 1]), rel=1e-9
    )


@pytest.mark.parametrize("name", TAILS)
def test_values_that_do_not_spread_have_no_tail(name):
    metric = metrics.get_metric(name)
    flat = with_spectrum(torch.ones(30, dtype=torch.float64), 40, 30, seed=0)
    for W in (flat, torch.ones(9, 5), torch.ones(1, 1), torch.eye(40)[:2]):
        value = metric(W)
        assert math.isnan(value.value)
        assert value.status == "degenerate"
        assert "no tail to fit" in value.reason


def test_values_that_cannot_be_told_from_zero_take_no_part():
    x = np.sort(samples("pareto", 30, 5))[::-1].copy()
    sigma = np.concatenate([np.sqrt(x), np.zeros(20)])
    W = with_spectrum(torch.from_numpy(sigma), 60, 50, seed=1)
    _, alpha, _, n = brute(x)
    assert metrics.alpha(W).value == pytest.approx(alpha, rel=1e-7)
    assert metrics.num_tail(W).value == n


def test_the_tail_starts_at_its_own_value_where_unknown_ones_lie_between():
    # A block of small values may resolve what one of large values cannot see.
    sigma = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.5, 1.0], dtype=torch.float64)
    error = torch.tensor([0.0, 0.0, 4.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    shape = (8, 6)
    norm = Value.exact(float(torch.linalg.vector_norm(sigma)))
    s = Spectrum(shape, norm, Value.exact(9.0), None, sigma, error, "block-gram")
    _, alpha, xmin, n = brute(sigma[error == 0.0].square().numpy())
    assert metrics.alpha(s).value == pytest.approx(alpha)
    assert metrics.num_tail(s).value == n
    assert metrics.xmin(s).value == pytest.approx(xmin)


def test_one_fit_serves_one_spectrum_and_never_another():
    first, _ = planted("pareto", 25, 1)
    second, x = planted("lognormal", 25, 2)
    s, t = spectrum(first), spectrum(second)
    for _ in range(2):
        assert metrics.alpha(s).value != metrics.alpha(t).value
        assert metrics.alpha(t).value == pytest.approx(brute(x)[1], rel=1e-7)
