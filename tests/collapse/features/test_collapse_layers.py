"""The line of log D over layers, against scipy's regression."""

import math

import numpy as np
import pytest
from scipy.stats import linregress

from spectrank.collapse.features import layer_law


def test_a_geometric_sequence_is_its_own_line():
    law = layer_law([5.0 * 0.3**i for i in range(6)])
    assert law.rate.value == pytest.approx(0.3, rel=1e-13)
    assert law.initial == pytest.approx(5.0, rel=1e-13)
    assert law.correlation == pytest.approx(-1.0, rel=1e-13)
    assert max(map(abs, law.deviations)) < 1e-13


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_noisy_sequence_has_the_line_of_scipy(seed):
    noise = np.random.default_rng(seed).normal(size=9)
    y = 1.0 - 0.5 * np.arange(9) + 0.2 * noise
    law, fit = layer_law(np.exp(y)), linregress(np.arange(9), y)
    assert law.rate.value == pytest.approx(math.exp(fit.slope), rel=1e-12)
    assert law.initial == pytest.approx(math.exp(fit.intercept), rel=1e-12)
    assert law.correlation == pytest.approx(fit.rvalue, rel=1e-12)
    assert law.rate.error_kind == "stderr"
    for end, sign in ((law.rate.lower, -4), (law.rate.upper, 4)):
        assert end == pytest.approx(math.exp(fit.slope + sign * fit.stderr), rel=1e-12)
    off = y - fit.intercept - fit.slope * np.arange(9)
    assert law.deviations == pytest.approx(off, abs=1e-12)


def test_two_layers_make_a_line_and_constant_d_no_correlation():
    law = layer_law([8.0, 2.0])
    assert law.rate.value == pytest.approx(0.25, rel=1e-13)
    flat = layer_law([3.0, 3.0, 3.0])
    assert flat.rate.value == 1.0
    assert math.isnan(flat.correlation)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0], "two layers, got 1"),
        ([1.0, 0.0, 2.0], "layer 1 has D = 0"),
        ([1.0, math.nan], "layer 1 has D = nan"),
        ([math.inf, 1.0], "layer 0 has D = inf"),
    ],
)
def test_what_has_no_logarithm_is_degenerate(values, reason):
    law = layer_law(values)
    assert law.rate.status == "degenerate"
    assert reason in law.rate.reason
    assert len(law.deviations) == len(values)
