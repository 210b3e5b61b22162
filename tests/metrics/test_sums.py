"""Schatten norms and the entropy: relations that hold at every scale, and refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import named_spectrum, with_spectrum
from tolerances import FLOAT64

from spectrank import metrics
from spectrank.errors import DomainError
from spectrank.linalg import spectrum


@pytest.mark.parametrize("name", ["flat", "power", "spike", "gap-free"])
@pytest.mark.parametrize("p", [0.3, 1.0, 1.5, 2.0, 3.0, 4.0, 17.0])
def test_a_schatten_norm_is_the_lp_norm_of_the_singular_values(name, p):
    sigma = named_spectrum(name, 20)
    value = metrics.schatten_norm(with_spectrum(sigma, 30, 20, seed=1), p=p)
    truth = float((sigma**p).sum() ** (1.0 / p))
    # Below 1 the rounding of a zero weighs: the enclosure knows.
    assert value.value == pytest.approx(truth, rel=1e-5 if p < 1 else 1e-9)
    assert value.lower <= truth * (1 + FLOAT64)
    assert value.upper >= truth * (1 - FLOAT64)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    exponent=st.integers(-200, 200),
    p=st.floats(0.2, 40.0),
    q=st.floats(0.2, 40.0),
    seed=st.integers(0, 2**31),
)
def test_schatten_norms_fall_with_their_order_and_rise_as_means(
    m, n, exponent, p, q, seed
):
    k = min(m, n)
    p, q = min(p, q), max(p, q)
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(m, n, dtype=torch.float64, generator=generator) * 10.0**exponent
    low, high = metrics.schatten_norm(W, p=p), metrics.schatten_norm(W, p=q)
    assert high.lower <= low.upper
    # Power means: (sum / k)^(1/p) rises with p.
    mean_low, mean_high = low.lower * k ** (-1.0 / p), high.upper * k ** (-1.0 / q)
    assert mean_low <= mean_high * (1 + 1e-9)
    assert metrics.spectral_norm(W).lower <= high.upper


def test_the_ends_of_float64_have_norms_or_a_status():
    tiny = metrics.schatten_norm(torch.eye(2, dtype=torch.float64) * 5e-324, p=3.0)
    assert tiny.lower == 0.0
    assert tiny.upper >= 5e-324
    # 50 ** 1000 is no float64, and infinity is no number to sort or plot by.
    beyond = metrics.schatten_norm(torch.eye(50), p=1e-3)
    assert beyond.status == "nonfinite"
    assert math.isnan(beyond.value)
    assert "larger order" in beyond.reason
    huge = metrics.schatten_norm(torch.eye(4, dtype=torch.float64) * 1e300, p=0.5)
    assert huge.value == pytest.approx(16e300)


def test_orders_with_a_cheap_route_need_no_full_spectrum():
    norm = metrics.schatten_norm
    assert norm.needs({"p": 2.0}) == {"frobenius"}
    assert norm.needs({"p": 4.0}) == {"schatten4"}
    assert norm.needs({"p": math.inf}) == {"sigma_max"}
    assert norm.needs({"p": 3.0}) == {"sigma"}
    assert norm.needs({"p": 0.5}) == {"small_end"}


def test_the_order_below_one_is_no_norm():
    a, b = torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0]))
    parts = (
        metrics.schatten_norm(a, p=0.5).value + metrics.schatten_norm(b, p=0.5).value
    )
    assert metrics.schatten_norm(a + b, p=0.5).value == pytest.approx(4.0)
    assert parts == pytest.approx(2.0)


@pytest.mark.parametrize("variant", [None, "squared"])
def test_the_entropy_is_the_logarithm_of_the_effective_rank(variant):
    W = with_spectrum(named_spectrum("power", 25), 40, 25, seed=3)
    p = torch.linalg.svdvals(W) ** (2 if variant else 1)
    p = p / p.sum()
    value = metrics.spectral_entropy(W, variant=variant)
    assert value.value == pytest.approx(-float((p * p.log()).sum()), rel=1e-9)
    assert value.lower <= value.value <= value.upper <= math.log(25)
    rank = metrics.effective_rank(W, variant=variant).value
    assert math.exp(value.value) == pytest.approx(rank, rel=1e-12)


def test_the_entropy_of_rank_one_is_zero_and_of_a_flat_spectrum_log_k():
    one = metrics.spectral_entropy(torch.ones(6, 4, dtype=torch.float64))
    assert one.value == pytest.approx(0.0, abs=1e-9)
    assert metrics.spectral_entropy(torch.eye(7)).value == pytest.approx(math.log(7))


@pytest.mark.parametrize("p", [0.0, -1.0, math.nan, "2", True])
def test_an_order_that_is_not_positive_is_refused(p):
    with pytest.raises(DomainError, match="p must be positive, got"):
        metrics.schatten_norm(torch.eye(3), p=p)


def test_infinite_and_cheap_orders_are_the_norms_themselves():
    s = spectrum(with_spectrum([3.0, 2.0, 1.0], 5, 3, seed=0), ("sigma",))
    assert metrics.schatten_norm(s, p=math.inf) == metrics.spectral_norm(s)
    assert metrics.schatten_norm(s, p=2.0) == metrics.frobenius_norm(s)
