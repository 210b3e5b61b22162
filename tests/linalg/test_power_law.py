"""Power-law tails against brute force, powerlaw 2.0.0 and known exponents."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tail_samples import samples
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.power_law import PowerLawFit, against_exponential, fit_power_law

GOLDEN = json.loads(
    Path(__file__).with_name("random_matrix_golden.json").read_text(encoding="utf-8")
)


def brute(values, min_tail=3, unbiased=False):
    """Every start in turn, by the definition."""
    x = np.sort(np.asarray(values))
    best = (math.inf, None)
    for i in range(len(x) - min_tail + 1):
        tail = x[i:]
        spread = np.log(tail / tail[0]).sum()
        if spread == 0.0:
            continue
        n = len(tail)
        alpha = 1.0 + (n - unbiased) / spread
        fitted = 1.0 - (tail / tail[0]) ** (1.0 - alpha)
        distance = np.abs(fitted - np.arange(n) / n).max()
        if distance < best[0]:
            best = (distance, (alpha, tail[0], distance, n))
    return best[1]


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(["pareto", "lognormal", "exponential", "student", "uniform"]),
    size=st.integers(3, 400),
    seed=st.integers(0, 2**31),
    min_tail=st.integers(2, 9),
    unbiased=st.booleans(),
    exponent=st.integers(-300, 300),
)
def test_the_fit_is_that_of_brute_force(kind, size, seed, min_tail, unbiased, exponent):
    x = samples(kind, size, seed)
    found = fit_power_law(
        torch.from_numpy(x * 10.0**exponent), min_tail=min_tail, unbiased=unbiased
    )
    truth = brute(x, min_tail, unbiased)
    if truth is None:
        assert found is None
        return
    alpha, xmin, distance, num = truth
    # Two starts may tie to rounding; the distance decides, the rest follows.
    assert found.distance == pytest.approx(distance, abs=1e-10)
    if found.num_tail == num:
        assert found.alpha == pytest.approx(alpha, rel=1e-9)
        assert found.xmin == pytest.approx(xmin * 10.0**exponent, rel=1e-13)
    else:
        start = np.sort(x)[len(x) - found.num_tail]
        again = brute(x[x >= start], found.num_tail, unbiased)
        assert again[2] == pytest.approx(distance, abs=1e-10)


@pytest.mark.parametrize("golden", GOLDEN["power_law"], ids=lambda g: str(g["case"]))
def test_powerlaw_agrees(golden):
    fit = fit_power_law(torch.from_numpy(samples(*golden["case"])))
    assert fit.alpha == pytest.approx(golden["alpha"], rel=1e-6)
    assert fit.xmin == pytest.approx(golden["xmin"], rel=1e-12)
    assert fit.distance == pytest.approx(golden["distance"], abs=1e-6)
    assert fit.num_tail == golden["num_tail"]
    assert fit.stderr == pytest.approx(golden["stderr"], rel=1e-6)


def test_powerlaw_agrees_where_it_is_installed():
    powerlaw = pytest.importorskip("powerlaw")
    x = samples("student", 80, 7)
    with warnings.catch_warnings():
        # It warns of names of its own.
        warnings.simplefilter("ignore")
        theirs = powerlaw.Fit(x, parameter_ranges={"alpha": [1, 50]}, verbose=0)
    ours = fit_power_law(torch.from_numpy(x))
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-6)
    assert ours.xmin == pytest.approx(theirs.xmin, rel=1e-12)


@pytest.mark.parametrize("kind", ["pareto", "lognormal", "exponential", "student"])
def test_powerlaw_compares_with_an_exponential_alike(kind):
    powerlaw = pytest.importorskip("powerlaw")
    x = samples(kind, 150, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = powerlaw.Fit(x, parameter_ranges={"alpha": [1, 50]}, verbose=0)
        ratio, p = theirs.distribution_compare(
            "power_law", "exponential", normalized_ratio=True
        )
    values = torch.from_numpy(x)
    ours, error = against_exponential(values, fit_power_law(values))
    # It searches for the rate of the exponential, and stops near 1/mean.
    assert ours == pytest.approx(ratio, rel=1e-3, abs=1e-5)
    assert math.erfc(abs(ours) / math.sqrt(2.0)) == pytest.approx(p, abs=1e-3)
    assert error == 0.0


def test_a_power_law_is_told_from_an_exponential_tail_and_noise_never_is():
    told = []
    for seed in range(40):
        x = torch.from_numpy(np.random.default_rng(seed).pareto(1.5, 400) + 1.0)
        told.append(against_exponential(x, fit_power_law(x))[0] > 1.645)
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(150, 100, dtype=torch.float64, generator=generator)
        noise = torch.linalg.svdvals(W).square()
        assert against_exponential(noise, fit_power_law(noise))[0] < 1.645
    assert sum(told) >= 36


def test_the_error_of_the_ratio_holds_under_noise_of_that_size():
    x = torch.from_numpy(samples("student", 60, 1))
    fit = fit_power_law(x)
    ratio, error = against_exponential(x, fit, error=1e-6)
    for seed in range(20):
        noise = np.random.default_rng(seed).uniform(-1e-6, 1e-6, len(x))
        moved = x * torch.from_numpy(1.0 + noise)
        again = fit_power_law(moved)
        assert again.num_tail == fit.num_tail
        assert abs(against_exponential(moved, again)[0] - ratio) <= error
    assert error < 1e-3


def test_values_without_spread_are_no_evidence():
    fit = PowerLawFit(alpha=2.0, xmin=1.0, distance=0.0, num_tail=4)
    assert against_exponential(torch.ones(4), fit)[0] == 0.0


def test_a_tail_worked_out_by_hand():
    # 1, 1, 4, 16: from the first on the logarithms over xmin sum to 6 log 2, and the
    # largest gap is 1/4, at the second one; from the second on it is 1 - 1/e - 1/3.
    fit = fit_power_law(torch.tensor([16.0, 4.0, 1.0, 1.0]))
    assert fit.alpha == pytest.approx(1.0 + 4.0 / (6.0 * math.log(2.0)), rel=FLOAT64)
    assert (fit.xmin, fit.num_tail) == (1.0, 4)
    assert fit.distance == pytest.approx(0.25, rel=FLOAT64)
    assert fit.stderr == pytest.approx((fit.alpha - 1.0) / 2.0, rel=FLOAT64)


@pytest.mark.parametrize("exponent", [1.5, 2.5, 6.0])
def test_the_exponent_of_a_power_law_is_found(exponent):
    for seed in range(3):
        random = np.random.default_rng(seed)
        x = random.pareto(exponent - 1.0, 4000) + 1.0
        fit = fit_power_law(torch.from_numpy(x))
        assert abs(fit.alpha - exponent) <= STANDARD_ERRORS * fit.stderr
        assert fit.num_tail > 200


def test_the_start_of_a_tail_is_found_where_it_begins():
    random = np.random.default_rng(0)
    body = random.uniform(0.0, 1.0, 3000)
    tail = random.pareto(1.5, 1000) + 1.0
    fit = fit_power_law(torch.from_numpy(np.concatenate([body, tail])))
    assert 0.8 < fit.xmin < 1.5
    assert abs(fit.alpha - 2.5) <= STANDARD_ERRORS * fit.stderr


def test_the_unbiased_exponent_has_no_bias_of_order_one_over_n():
    # 1/rate of n exponential variables: n / sum is off by n/(n-1), (n-1)/sum is not.
    # The start is the least of the values, so n - 1 of them are free.
    n, rate, num = 8, 2.0, 20_000
    random = np.random.default_rng(1)
    y = random.exponential(1.0 / rate, (num, n))
    spread = (y - y.min(axis=1, keepdims=True)).sum(axis=1)
    for unbiased, mean in ((False, n / (n - 2)), (True, (n - 1) / (n - 2))):
        rates = [
            fit_power_law(torch.from_numpy(row), min_tail=n, unbiased=unbiased).alpha
            - 1.0
            for row in np.exp(y[:200])
        ]
        assert rates == pytest.approx((n - unbiased) / spread[:200], rel=1e-9)
        truth = (n - unbiased) / spread
        stderr = truth.std() / math.sqrt(num)
        assert truth.mean() == pytest.approx(rate * mean, abs=4.0 * stderr)


def test_values_that_do_not_spread_have_no_tail():
    assert fit_power_law(torch.ones(50)) is None
    assert fit_power_law(torch.tensor([1.0, 2.0])) is None
    assert fit_power_law(torch.empty(0)) is None
    # Two equal ones at the top end: only starts below them count.
    fit = fit_power_law(torch.tensor([1.0, 2.0, 2.0, 2.0]), min_tail=2)
    assert fit.num_tail == 4


def test_what_is_no_positive_vector_is_refused():
    with pytest.raises(ShapeError, match="fitted to a vector, got shape"):
        fit_power_law(torch.ones(2, 2))
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DomainError, match="positive finite values"):
            fit_power_law(torch.tensor([1.0, 2.0, bad, 3.0]))
    with pytest.raises(DomainError, match="at least 2 values, got min_tail=1"):
        fit_power_law(torch.ones(5), min_tail=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_tail_holds_all_values_from_its_start_on(seed):
    # Rounded values tie: brute force over the different starts.
    g = np.random.default_rng(seed)
    x = np.sort(np.round(g.pareto(1.5, 200) + 1.0, 1))
    best = None
    for start in np.unique(x):
        tail = x[x >= start]
        if len(tail) < 3 or tail[-1] == start:
            continue
        alpha = 1.0 + len(tail) / np.log(tail / start).sum()
        fitted = 1.0 - (tail / start) ** (1.0 - alpha)
        distance = np.abs(fitted - np.arange(len(tail)) / len(tail)).max()
        if best is None or distance < best[0]:
            best = (distance, alpha, start, len(tail))
    fit = fit_power_law(torch.from_numpy(x))
    assert fit.num_tail == (x >= fit.xmin).sum()
    truth = pytest.approx(best, rel=1e-10)
    assert (fit.distance, fit.alpha, fit.xmin, fit.num_tail) == truth
