"""The Marchenko-Pastur law against quadrature, moments, scikit-rmt and draws."""

import json
import math
from pathlib import Path

import pytest
import torch
from scipy import integrate
from tolerances import FLOAT64

from spectrank.errors import DomainError
from spectrank.linalg.marchenko_pastur import MarchenkoPastur

GOLDEN = json.loads(
    Path(__file__).with_name("random_matrix_golden.json").read_text(encoding="utf-8")
)
RATIOS = [0.01, 0.3, 0.99, 1.0, 1.7, 40.0]


def integral(law, weight, top):
    """Integrate weight(x) times the density from the lower edge to ``top``.

    x = lower + width sin^2 removes the root singularities of both edges.
    """
    width = law.upper - law.lower

    def function(t):
        x = law.lower + width * math.sin(t) ** 2
        density = float(law.density(torch.tensor(x, dtype=torch.float64)))
        return weight(x) * density * width * math.sin(2.0 * t)

    share = min(max((top - law.lower) / width, 0.0), 1.0)
    end = math.asin(math.sqrt(share))
    return integrate.quad(function, 0.0, end, epsabs=1e-13, epsrel=1e-12, limit=200)[0]


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_distribution_function_is_the_integral_of_the_density(ratio):
    law = MarchenkoPastur(ratio, 2.0)
    points = torch.linspace(law.lower, law.upper, 9, dtype=torch.float64)[1:-1]
    for x, value in zip(points.tolist(), law.cdf(points).tolist(), strict=True):
        truth = law.atom + integral(law, lambda _: 1.0, x)
        assert value == pytest.approx(truth, abs=1e-10)
    assert law.atom + integral(law, lambda _: 1.0, law.upper) == pytest.approx(1.0)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_moments_are_those_of_the_law(ratio):
    # E x = v and E x^2 = v^2 (1 + q), the limits of tr W^T W / N and of its square.
    law = MarchenkoPastur(ratio, 3.0)
    assert integral(law, lambda x: x, law.upper) == pytest.approx(3.0, rel=1e-9)
    second = integral(law, lambda x: x * x, law.upper)
    assert second == pytest.approx(9.0 * (1.0 + ratio), rel=1e-9)


@pytest.mark.parametrize("golden", GOLDEN["marchenko_pastur"], ids=lambda g: g["ratio"])
def test_scikit_rmt_agrees(golden):
    law = MarchenkoPastur(golden["ratio"], golden["sigma"] ** 2)
    points = torch.tensor(golden["points"], dtype=torch.float64)
    assert [law.lower, law.upper] == pytest.approx(golden["edges"], rel=FLOAT64)
    assert law.cdf(points).tolist() == pytest.approx(golden["cdf"], abs=1e-10)
    # Its density of the continuous part has mass one; ours leaves room for the atom.
    density = law.density(points).tolist()
    assert density == pytest.approx(golden["pdf"], rel=1e-10)


@pytest.mark.parametrize("ratio", RATIOS)
def test_quantiles_invert_the_distribution_function(ratio):
    law = MarchenkoPastur(ratio, 0.5)
    p = torch.tensor([1e-9, 1e-3, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)
    x = law.quantile(p)
    beyond = p > law.atom
    assert torch.allclose(law.cdf(x)[beyond], p[beyond], rtol=0.0, atol=1e-13)
    assert bool((x[~beyond] == 0.0).all())
    ends = law.quantile(torch.tensor([0.0, 1.0])).tolist()
    assert ends == pytest.approx([0.0 if law.atom else law.lower, law.upper])


def test_small_quantiles_of_a_square_law_are_accurate_to_their_own_size():
    # F(x) ~ (2 / pi) sqrt(x / v) near zero for q = 1: x = v (pi p / 2)^2.
    x = float(MarchenkoPastur(1.0, 2.0).quantile(1e-4))
    assert x == pytest.approx(2.0 * (math.pi * 1e-4 / 2.0) ** 2, rel=1e-6)


def test_more_columns_than_rows_is_the_transpose_with_zeros():
    # W^T W / N has the k - N zeros, and k/N times the eigenvalues of W W^T / k.
    q = 3.2
    wide, tall = MarchenkoPastur(q), MarchenkoPastur(1.0 / q)
    x = torch.linspace(0.0, wide.upper, 40, dtype=torch.float64)
    truth = (1.0 - 1.0 / q) + tall.cdf(x / q) / q
    assert torch.allclose(wide.cdf(x), truth, rtol=0.0, atol=1e-13)
    below = wide.cdf(torch.tensor([-1e-9, 0.0], dtype=torch.float64))
    assert below.tolist() == pytest.approx([0.0, 1.0 - 1.0 / q])


def test_the_density_outside_is_zero_and_at_the_hard_edge_infinite():
    law = MarchenkoPastur(0.25)
    outside = torch.tensor([-1.0, 0.0, 0.2, 2.3], dtype=torch.float64)
    assert law.density(outside).tolist() == [0.0] * 4
    zero = torch.zeros(1, dtype=torch.float64)
    assert law.cdf(outside).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert MarchenkoPastur(1.0).density(zero).item() == math.inf


def test_the_published_threshold_for_unknown_noise_comes_out():
    # Gavish & Donoho (2014), abstract: 4/sqrt(3) with known noise is 2.858 medians.
    median = float(MarchenkoPastur(1.0).quantile(0.5))
    assert 4.0 / math.sqrt(3.0 * median) == pytest.approx(2.858, abs=5e-4)


def test_nonsense_is_refused():
    with pytest.raises(DomainError, match=r"ratio must be positive .* got 0"):
        MarchenkoPastur(0.0)
    with pytest.raises(DomainError, match="variance must be positive"):
        MarchenkoPastur(0.5, math.inf)
    with pytest.raises(DomainError, match=r"probabilities must lie in \[0, 1\]"):
        MarchenkoPastur(0.5).quantile(1.5)
