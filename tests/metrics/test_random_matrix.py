"""Noise, its edge, and what sticks out: planted matrices and rates of false alarms."""

import math

import pytest
import torch
from matrices import with_spectrum
from tolerances import STANDARD_ERRORS

from spectrank import metrics
from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import Spectrum, Value, spectrum
from spectrank.linalg.implicit import BlockDiagonal, FactorProduct
from spectrank.linalg.noise import noise_scale, noise_threshold
from spectrank.linalg.null import gaussian_singular_values
from spectrank.linalg.tracy_widom import (
    largest_eigenvalue_law,
    tracy_widom_isf,
    tracy_widom_sf,
)


def noise(m, n, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(m, n, dtype=torch.float64, generator=generator)


def spiked(m, n, num, size, seed):
    """Noise of scale 1 and ``num`` orthogonal spikes of singular value ``size``."""
    sigma = torch.zeros(min(m, n), dtype=torch.float64)
    sigma[:num] = size
    return noise(m, n, seed) + with_spectrum(sigma, m, n, seed=seed + 100)


@pytest.mark.parametrize("shape", [(200, 100), (80, 320), (128, 128)])
def test_noise_is_recognised(shape):
    for seed in range(3):
        W = noise(*shape, seed, scale=0.02)
        assert metrics.mp_sigma(W).value == pytest.approx(0.02, rel=0.02)
        median = metrics.mp_sigma(W, variant="median").value
        assert median == pytest.approx(0.02, rel=0.06)
        edge = 0.02 * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
        assert metrics.mp_edge(W).value == pytest.approx(edge, rel=0.02)
        lower = 0.02 * abs(math.sqrt(shape[0]) - math.sqrt(shape[1]))
        assert metrics.mp_edge(W, end="lower").value == pytest.approx(lower, rel=0.02)
        assert metrics.mp_softrank(W).value == pytest.approx(1.0, abs=0.1)
        assert metrics.mp_distance(W).value < 4.0 / min(shape)


@pytest.mark.parametrize("num", [0, 1, 5])
@pytest.mark.parametrize("variant", [None, "median"])
def test_planted_spikes_are_counted(num, variant):
    for seed in range(3):
        W = spiked(200, 120, num, 80.0, seed)
        # 1e-6: no draw of the three shows one of its own.
        assert metrics.num_spikes(W, level=1e-6, variant=variant).value == num
        p = metrics.tracy_widom_p(W, variant=variant).value
        assert (p < 1e-100) if num else (p > 1e-3)


def test_many_spikes_are_counted_by_the_bulk_fit_and_hidden_by_the_entries():
    W = spiked(300, 200, 40, 60.0, 0)
    assert metrics.num_spikes(W, level=1e-6).value == 40
    assert metrics.num_spikes(W, level=1e-6, variant="entries").value < 40
    assert metrics.mp_sigma(W).value == pytest.approx(1.0, rel=0.02)


def test_a_spike_below_the_transition_leaves_no_trace():
    # Baik, Ben Arous & Peche: a planted value below (mn)^(1/4) does not leave the bulk.
    m, n = 400, 200
    weak, strong = 0.7 * (m * n) ** 0.25, 1.6 * (m * n) ** 0.25
    for seed in range(3):
        assert metrics.num_spikes(spiked(m, n, 1, weak, seed), level=1e-4).value == 0
        assert metrics.num_spikes(spiked(m, n, 1, strong, seed), level=1e-4).value == 1


def test_the_rate_of_false_alarms_is_the_level():
    m, n, num, level = 60, 40, 200, 0.05
    alarms, above_edge, p_values = 0, 0, []
    for seed in range(num):
        s = spectrum(noise(m, n, seed))
        alarms += metrics.num_spikes(s, level=level).value > 0
        above_edge += s.sigma_max.value > metrics.mp_edge(s).value
        p_values.append(metrics.tracy_widom_p(s).value)
    stderr = math.sqrt(level * (1.0 - level) / num)
    assert alarms / num == pytest.approx(level, abs=STANDARD_ERRORS * stderr)
    # The edge itself is no test: noise is above it one time in eight here.
    centre, width = largest_eigenvalue_law(m, n)
    truth = tracy_widom_sf(((math.sqrt(m) + math.sqrt(n)) ** 2 - centre) / width)
    assert truth > 0.12
    stderr = math.sqrt(truth * (1.0 - truth) / num)
    assert above_edge / num == pytest.approx(truth, abs=STANDARD_ERRORS * stderr)
    # p-values of noise are uniform: their mean is 1/2.
    mean = sum(p_values) / num
    assert mean == pytest.approx(0.5, abs=STANDARD_ERRORS / math.sqrt(12 * num) + 0.01)


def test_the_count_and_the_p_value_are_one_test():
    for seed in range(40):
        s = spectrum(noise(50, 40, seed))
        p = metrics.tracy_widom_p(s).value
        assert (metrics.num_spikes(s, level=0.3).value > 0) == (p < 0.3)


def test_a_value_at_the_threshold_is_counted_with_its_doubt():
    # All but the first value fix the median, so the first can be put anywhere.
    m, n, level = 40, 30, 0.01
    sigma = torch.linalg.svdvals(noise(m, n, 0))
    scale = metrics.mp_sigma(with_spectrum(sigma, m, n), variant="median").value
    centre, width = largest_eigenvalue_law(m, n)
    threshold = scale * math.sqrt(centre + tracy_widom_isf(level) * width)
    for factor, low, high in ((1 - 1e-7, 0, 0), (1.0, 0, 1), (1 + 1e-7, 1, 1)):
        sigma[0] = threshold * factor
        value = metrics.num_spikes(with_spectrum(sigma, m, n), variant="median")
        assert (value.lower, value.upper) == (low, high)


def test_the_distance_to_the_law_is_kolmogorovs():
    # One value at each quantile (i - 1/2)/k of the fitted law: 1/(2k) everywhere.
    from spectrank.linalg.marchenko_pastur import MarchenkoPastur

    k, N = 41, 60
    p = (torch.arange(k, dtype=torch.float64) + 0.5) / k
    sigma = (N * MarchenkoPastur(k / N).quantile(p)).sqrt().flip(0)
    W = with_spectrum(sigma, N, k, seed=2)
    value = metrics.mp_distance(W, variant="median")
    assert value.value == pytest.approx(0.5 / k, rel=1e-6)
    assert value.lower <= 0.5 / k <= value.upper
    # All mass in the median of the law: half of it on either side.
    flat = with_spectrum(torch.ones(k, dtype=torch.float64), N, k, seed=3)
    assert metrics.mp_distance(flat, variant="median").value == pytest.approx(0.5)


@pytest.mark.parametrize(
    "name", ["mp_sigma", "mp_edge", "mp_softrank", "mp_distance", "num_spikes"]
)
def test_without_noise_there_is_a_status_and_a_reason(name):
    low = with_spectrum([3.0, 2.0, 1.0] + [0.0] * 17, 30, 20, seed=1)
    value = metrics.get_metric(name)(low)
    assert math.isnan(value.value)
    assert value.status == "degenerate"
    assert "median singular value" in value.reason
    steep = torch.diag(2.0 ** -torch.arange(20, dtype=torch.float64))
    value = metrics.get_metric(name)(steep)
    assert value.status == "degenerate"
    assert "no bulk" in value.reason


@pytest.mark.parametrize(
    "name", ["mp_sigma", "mp_edge", "mp_softrank", "mp_distance", "num_spikes"]
)
@pytest.mark.parametrize("variant", [None, "entries"])
def test_a_matrix_with_zeros_by_construction_has_no_law_of_noise(name, variant):
    # The blocks are noise, the matrix is not: its edge would be twice that of a block.
    blocks = noise(4 * 30, 20, 0).reshape(4, 30, 20)
    value = metrics.get_metric(name)(BlockDiagonal(blocks), variant=variant)
    assert math.isnan(value.value)
    assert value.status == "skipped"
    assert "by construction; take a dense view" in value.reason
    product = FactorProduct(noise(40, 3, 1), noise(3, 30, 2))
    assert metrics.get_metric(name)(product).status == "skipped"


def test_enclosures_hold_what_the_errors_of_the_values_allow():
    W = noise(60, 40, 5)
    s = spectrum(W)
    loose = type(s)(
        s.shape,
        s.frobenius,
        Value.around(s.sigma_max.value, 0.01),
        s.schatten4,
        s.sigma,
        torch.full_like(s.sigma, 0.01),
        s.route,
    )
    for name in ("mp_sigma", "mp_edge", "mp_softrank", "mp_distance", "tracy_widom_p"):
        metric = metrics.get_metric(name)
        value = metric(loose)
        for sign in (-1.0, 1.0):
            moved = with_spectrum(s.sigma + 0.01 * sign, 60, 40, seed=9)
            assert value.lower <= metric(moved).value * (1 + 1e-9), name
            assert value.upper >= metric(moved).value * (1 - 1e-9), name
        assert value.upper > value.lower


def test_values_flatter_than_noise_are_said_to_be():
    g = torch.Generator().manual_seed(0)
    flat = torch.linalg.qr(torch.randn(60, 60, generator=g)).Q
    for name in ("mp_sigma", "mp_edge", "mp_softrank"):
        value = metrics.get_metric(name)(flat)
        assert value.status == "ok"
        assert "flatter than noise" in value.reason
        for shape in ((60, 60), (7, 5), (200, 20)):
            noise = torch.randn(shape, generator=g)
            assert metrics.get_metric(name)(noise).reason is None


@pytest.mark.parametrize(
    "name", ["mp_sigma", "mp_softrank", "mp_distance", "num_spikes", "tracy_widom_p"]
)
@pytest.mark.parametrize("variant", [None, "median", "entries"])
def test_a_single_row_or_column_is_no_noise(name, variant):
    # Fitted to itself its soft rank would be 16/9 at n = 9 and its p-value 0.399,
    # whatever its entries.
    for shape in ((1, 9), (9, 1), (1, 1)):
        value = metrics.get_metric(name)(noise(*shape, 0), variant=variant)
        assert value.status == "degenerate"
        assert "fitted to it" in value.reason


def test_the_ends_hold_the_fit_on_either_side_of_a_jump():
    # A little larger, the first value counts as a spike, and the scale falls.
    m, n = 40, 30
    sigma = torch.linalg.svdvals(noise(m, n, 3))

    def with_first(x):
        return torch.cat([torch.tensor([x], dtype=torch.float64), sigma[1:]])

    low, high = float(sigma[1]), 20.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        signal = noise_scale(with_first(middle), (m, n)) < 0.99 * math.sqrt(
            float(with_first(middle).square().sum()) / (m * n)
        )
        low, high = (low, middle) if signal else (middle, high)
    error = torch.zeros(n, dtype=torch.float64)
    error[0] = 1e-9
    values = with_first(low)
    norm = Value.exact(float(torch.linalg.vector_norm(values)))
    s = Spectrum((m, n), norm, Value.around(low, 1e-9), None, values, error, "gram")
    value = metrics.mp_sigma(s)
    rest = float(sigma[1:].square().sum())
    assert value.upper >= math.sqrt((rest + low**2) / (m * n)) * (1 - 1e-12)
    assert value.lower <= math.sqrt(rest / ((m - 1) * (n - 1))) * (1 + 1e-12)


def test_small_noise_has_more_false_alarms_than_the_level():
    # The fit leaves out what it takes for a spike, and then sees it stick out.
    generator = torch.Generator().manual_seed(0)
    num, level, alarms = 1000, 0.01, 0
    for _ in range(num):
        sigma = gaussian_singular_values((10, 10), generator=generator)
        scale = noise_scale(sigma, (10, 10))
        alarms += float(sigma[0]) > scale * noise_threshold((10, 10), level)
    stderr = math.sqrt(0.05 * 0.95 / num)
    assert alarms / num == pytest.approx(0.05, abs=STANDARD_ERRORS * stderr)


@pytest.mark.parametrize(
    ("name", "options", "error", "match"),
    [
        ("mp_sigma", {"variant": "mean"}, UnknownNameError, "'median' or 'entries'"),
        ("mp_edge", {"end": "upper"}, UnknownNameError, "or 'lower', got 'upper'"),
        ("num_spikes", {"level": 0.0}, DomainError, r"level must lie in \[1e-12, 1\)"),
        ("num_spikes", {"level": "x"}, DomainError, "level must lie"),
        ("num_spikes", {"variant": "x"}, UnknownNameError, "noise is fitted by"),
    ],
)
def test_options_out_of_range_are_refused(name, options, error, match):
    with pytest.raises(error, match=match):
        metrics.get_metric(name)(torch.eye(3), **options)
