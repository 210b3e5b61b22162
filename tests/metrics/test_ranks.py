"""Ranks: golden values, relations that hold, and laws that only look plausible."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import named_spectrum, with_spectrum
from tolerances import FLOAT64

from spectrank import metrics
from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import spectrum

# sigma = (4, 2, 1, 1): worked out by hand, to the digits printed.
RANKME_SHARES = [0.5 + 1e-7, 0.25 + 1e-7, 0.125 + 1e-7, 0.125 + 1e-7]
# Densities of 16, 4, 1, 1: power law of exponent 1 + 4/log 64, exponential of mean 4.5.
LIKELIER = [
    math.log(4.0 / math.log(64.0))
    - (1.0 + 4.0 / math.log(64.0)) * math.log(x)
    + math.log(4.5)
    + (x - 1.0) / 4.5
    for x in (16.0, 4.0, 1.0, 1.0)
]
GOLDEN = [
    ("stable_rank", {}, 1.375),
    ("nuclear_rank", {}, 2.0),
    ("nuclear_rank", {"variant": "squared"}, 64 / 22),
    ("participation_ratio", {}, 484 / 274),
    ("effective_rank", {}, 2 * 2 ** (3 / 4)),
    ("effective_rank", {"variant": "squared"}, 2.2763215),
    ("relative_distance_to_rank", {"k": 2}, math.sqrt(2 / 22)),
    ("relative_distance_to_rank", {"k": 0}, 1.0),
    ("relative_distance_to_rank", {"k": 4}, 0.0),
    ("numerical_rank", {"rtol": 0.3}, 2),
    ("numerical_rank", {"rtol": 0.2}, 4),
    ("energy_rank", {"q": 0.7}, 1),
    ("energy_rank", {"q": 0.9}, 2),
    ("energy_rank", {"q": 0.95}, 3),
    ("energy_rank", {"q": 0.999}, 4),
    ("spectral_norm", {}, 4.0),
    ("frobenius_norm", {}, math.sqrt(22)),
    ("nuclear_norm", {}, 8.0),
    ("condition_number", {}, 4.0),
    ("spectral_gap", {}, 0.5),
    ("schatten_norm", {}, 274**0.25),
    ("schatten_norm", {"p": 1.0}, 8.0),
    ("schatten_norm", {"p": 2.0}, math.sqrt(22)),
    ("schatten_norm", {"p": 3.0}, 74 ** (1 / 3)),
    ("schatten_norm", {"p": 0.5}, (4 + math.sqrt(2)) ** 2),
    ("schatten_norm", {"p": math.inf}, 4.0),
    ("spectral_entropy", {}, 1.75 * math.log(2.0)),
    ("spectral_entropy", {"variant": "squared"}, math.log(2.2763215)),
    # 4 is above the noise; 2, 1, 1 are noise in 5 x 3 dimensions: (6 / 15)^(1/2).
    ("mp_sigma", {}, math.sqrt(0.4)),
    # The median of the law of ratio 2/3 is 0.7723759763938683, by quadrature.
    ("mp_sigma", {"variant": "median"}, 1.5 / math.sqrt(6 * 0.7723759763938683)),
    ("mp_sigma", {"variant": "entries"}, math.sqrt(22 / 24)),
    ("mp_edge", {}, math.sqrt(0.4) * (math.sqrt(6) + 2)),
    ("mp_edge", {"end": "lower"}, math.sqrt(0.4) * (math.sqrt(6) - 2)),
    ("mp_softrank", {}, 0.4 * (math.sqrt(6) + 2) ** 2 / 16),
    # Noise of 6 x 4 exceeds 3.24 once in 100 times and 4.18 once in a million.
    ("num_spikes", {}, 1),
    ("num_spikes", {"level": 1e-6}, 0),
    # Eigenvalues 16, 4, 1, 1: see tests/linalg/test_power_law.py.
    ("ks_distance", {}, 0.25),
    ("xmin", {}, 1.0),
    ("num_tail", {}, 4),
    ("power_law_ratio", {}, 2.0 * np.mean(LIKELIER) / np.std(LIKELIER)),
    ("rankme", {}, math.exp(-sum(p * math.log(p) for p in RANKME_SHARES))),
]
# Fits have a standard error and tests of their own.
FITTED = {
    "alpha_req",
    "alpha",
    "alpha_weighted",
    "log_alpha_norm",
    "mp_distance",
    "tracy_widom_p",
}


@pytest.mark.parametrize(("name", "options", "truth"), GOLDEN)
def test_golden_values_of_the_spectrum_4_2_1_1(name, options, truth):
    W = with_spectrum([4.0, 2.0, 1.0, 1.0], 6, 4, seed=1)
    value = metrics.get_metric(name)(W, **options)
    assert value.value == pytest.approx(truth, rel=1e-7, abs=FLOAT64)
    assert value.lower <= value.value <= value.upper
    assert value.upper - value.lower <= 1e-9 * max(truth, 1.0)


def test_every_registered_metric_has_a_golden_value():
    golden = {name for name, _, _ in GOLDEN}
    assert golden == {m.name for m in metrics.list_metrics()} - FITTED


@pytest.mark.parametrize("name", ["flat", "graded", "power", "spike", "gap-free"])
def test_each_rank_agrees_with_a_direct_formula_in_numpy(name):
    sigma = named_spectrum(name, 40)
    W = with_spectrum(sigma, 60, 40, seed=2)
    x = np.linalg.svd(W.numpy(), compute_uv=False)
    p, p2 = x / x.sum(), x**2 / (x**2).sum()
    direct = {
        "stable_rank": (x**2).sum() / x[0] ** 2,
        "participation_ratio": (x**2).sum() ** 2 / (x**4).sum(),
        "effective_rank": np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()),
        "nuclear_rank": x.sum() / x[0],
        "numerical_rank": np.linalg.matrix_rank(W.numpy(), rtol=1e-3),
        "energy_rank": np.searchsorted(np.cumsum(p2), 0.99) + 1,
    }
    for key, truth in direct.items():
        assert metrics.get_metric(key)(W).value == pytest.approx(truth, rel=1e-9), key
    squared = np.exp(-(p2[p2 > 0] * np.log(p2[p2 > 0])).sum())
    value = metrics.effective_rank(W, variant="squared")
    assert value.value == pytest.approx(squared, rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    m=st.integers(1, 20),
    n=st.integers(1, 20),
    exponent=st.integers(-200, 200),
    decay=st.floats(0.0, 12.0),
    seed=st.integers(0, 2**31),
)
def test_ranks_are_ordered_at_every_scale(m, n, exponent, decay, seed):
    k = min(m, n)
    sigma = 10.0 ** (-decay * torch.arange(k, dtype=torch.float64) / k)
    W = with_spectrum(sigma, m, n, seed) * 10.0**exponent
    stable, ratio = metrics.stable_rank(W), metrics.participation_ratio(W)
    squared = metrics.effective_rank(W, variant="squared")
    plain = metrics.effective_rank(W)
    tiny = 1 + 1e-9
    # Renyi entropies of s^2 of order infinity, 2 and 1, then order 1 of s.
    assert 1.0 <= stable.value <= ratio.value * tiny
    assert ratio.value <= squared.value * tiny
    assert squared.value <= plain.value * tiny
    assert plain.value <= k * tiny
    assert metrics.nuclear_rank(W).value >= stable.value / tiny


def test_stable_rank_may_grow_when_a_row_is_deleted():
    W = torch.diag(torch.tensor([10.0, 1.0, 1.0]))
    assert metrics.stable_rank(W[1:]).value > metrics.stable_rank(W).value + 0.9


def test_a_zero_matrix_has_norms_and_a_count_of_zero_and_no_other_rank():
    zero = torch.zeros(4, 3)
    for metric in metrics.list_metrics():
        value = metric(zero)
        assert value.status == "degenerate"
        has_zero = metric.name in {
            "spectral_norm",
            "frobenius_norm",
            "nuclear_norm",
            "schatten_norm",
            "numerical_rank",
        }
        assert value.value == 0.0 if has_zero else math.isnan(value.value), metric.name


def test_the_numerical_rank_is_not_the_machine_precision_rank():
    W = with_spectrum([1.0, 1e-4, 1e-9], 5, 3, seed=3)
    assert metrics.numerical_rank(W).value == 1
    assert metrics.numerical_rank(W, rtol=1e-6).value == 2
    assert metrics.numerical_rank(W, rtol=1e-12).value == 3
    assert int(torch.linalg.matrix_rank(W)) == 3


def test_a_count_on_the_edge_of_its_threshold_says_so():
    # Below the floor of the Gram matrix the count is open, and the ends show it.
    W = with_spectrum([1.0] + [1e-9] * 9, 40, 10, seed=4)
    coarse = metrics.numerical_rank.function(spectrum(W), rtol=1e-8)
    assert coarse.lower == 1
    assert coarse.upper == 10
    fine = metrics.numerical_rank(W, rtol=1e-8)
    assert (fine.lower, fine.upper) == (1, 1)


def test_the_effective_rank_of_a_rank_deficient_matrix_is_sharp():
    W = with_spectrum([1.0] * 3 + [0.0] * 197, 300, 200, seed=5)
    value = metrics.effective_rank(W)
    assert value.value == pytest.approx(3.0, rel=1e-9)
    assert value.relative_width < 1e-7
    # From the Gram matrix alone the promise would be weak, and is told as weak.
    weak = metrics.effective_rank.function(spectrum(W))
    assert weak.relative_width > 1e-6
    assert weak.lower <= 3.0 <= weak.upper


def test_the_condition_number_of_a_singular_matrix_is_infinite_with_a_reason():
    value = metrics.condition_number(with_spectrum([1.0, 0.5, 0.0], 5, 3, seed=6))
    assert value.value == math.inf
    assert value.status == "degenerate"
    assert "zero" in value.reason
    assert value.lower > 1e12


def test_the_condition_number_of_an_ill_conditioned_matrix_is_right():
    value = metrics.condition_number(with_spectrum([1.0, 1e-3, 1e-11], 9, 3, seed=7))
    assert value.status == "ok"
    assert value.lower <= 1e11 <= value.upper
    assert value.value == pytest.approx(1e11, rel=1e-3)


def test_a_spectrum_that_cannot_see_the_small_end_is_refused_where_it_counts():
    W = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    with pytest.raises(DomainError, match=r"resolves 1 of 2 values"):
        metrics.condition_number(spectrum(W))
    assert metrics.condition_number(W).value == pytest.approx(1e9, rel=1e-6)


def test_the_stable_rank_is_certified_where_the_norm_is():
    W = with_spectrum(named_spectrum("power", 40), 60, 40, seed=10)
    for needs in (["frobenius", "sigma_max"], ["sigma"]):
        s = spectrum(W, needs, certify="deterministic")
        value = metrics.stable_rank(s)
        assert value.error_kind == "certified"
        truth = float(named_spectrum("power", 40).square().sum())
        assert value.lower <= truth * (1 + FLOAT64)
        assert value.upper >= truth * (1 - FLOAT64)


def test_the_distance_to_rank_k_is_attained_by_the_truncated_svd():
    W = with_spectrum(named_spectrum("power", 12), 20, 12, seed=8)
    U, S, V = torch.linalg.svd(W, full_matrices=False)
    for k in (1, 3, 11):
        nearest = (U[:, :k] * S[:k]) @ V[:k]
        truth = float((W - nearest).norm() / W.norm())
        value = metrics.relative_distance_to_rank(W, k=k)
        assert value.value == pytest.approx(truth, rel=1e-10)


def test_the_energy_rank_bounds_the_truncation_error():
    W = with_spectrum(named_spectrum("power", 30), 40, 30, seed=9)
    r = int(metrics.energy_rank(W, q=0.9).value)
    assert metrics.relative_distance_to_rank(W, k=r).value <= math.sqrt(0.1)
    assert metrics.relative_distance_to_rank(W, k=r - 1).value > math.sqrt(0.1)


def test_sums_beyond_float64_are_a_status_and_their_ratios_are_numbers():
    W = torch.diag(torch.tensor([1.2e308, 1e308], dtype=torch.float64))
    total = metrics.nuclear_norm(W)
    assert total.status == "nonfinite"
    assert "rescale the matrix" in total.reason
    assert metrics.nuclear_rank(W).value == pytest.approx(2.2 / 1.2)
    squared = metrics.nuclear_rank(W, variant="squared").value
    assert squared == pytest.approx(2.2**2 / (1.2**2 + 1.0))


@pytest.mark.parametrize(
    ("name", "options", "error", "match"),
    [
        ("energy_rank", {"q": 1.0}, DomainError, r"q must lie in \(0, 1\), got 1.0"),
        ("numerical_rank", {"rtol": 0.0}, DomainError, r"rtol must lie in \(0, 1\)"),
        ("effective_rank", {"variant": "cubed"}, UnknownNameError, "got 'cubed'"),
        ("nuclear_rank", {"variant": "cubed"}, UnknownNameError, "got 'cubed'"),
        ("relative_distance_to_rank", {"k": -1}, DomainError, "whole number"),
        ("relative_distance_to_rank", {"k": 1.0}, DomainError, "whole number"),
        ("relative_distance_to_rank", {"k": "2"}, DomainError, "whole number"),
        ("relative_distance_to_rank", {"k": True}, DomainError, "got True"),
        ("alpha_req", {"first": True}, DomainError, "got True to 100"),
        ("stable_rank", {"q": 0.5}, UnknownNameError, "options of stable_rank are"),
    ],
)
def test_options_out_of_range_are_refused(name, options, error, match):
    with pytest.raises(error, match=match):
        metrics.get_metric(name)(torch.eye(3), **options)
