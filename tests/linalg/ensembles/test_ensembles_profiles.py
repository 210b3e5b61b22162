"""Deterministic profiles: prescribed sums at the hard ends, shapes, extremes of rho."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from tolerances import FLOAT64

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.ensembles import ensemble, profiles
from spectrank.linalg.ensembles.temper import gaussian_log_values

SHAPES = {
    "flat": profiles.flat,
    "spike": profiles.spike,
    "power": profiles.power,
    "exp": profiles.exponential,
}


@st.composite
def requests(draw):
    p = draw(st.integers(1, 300))
    # Both ends closely: r - 1 and p - r from 1e-15 up.
    position = draw(st.floats(0.0, 1.0))
    power = draw(st.sampled_from([1.0, 4.0, 16.0]))
    inside = position**power if draw(st.booleans()) else 1.0 - position**power
    return p, min(max(1.0 + inside * (p - 1), 1.0), float(p))


@pytest.mark.parametrize("name", SHAPES)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(request=requests())
def test_profiles_descend_from_one_to_the_prescribed_sum(name, request):
    p, r = request
    t = SHAPES[name](p, r)
    assert t.shape == (p,)
    assert t.dtype == torch.float64
    assert float(t[0]) == 1.0
    assert bool((t[1:] <= t[:-1]).all())
    assert float(t[-1]) >= 0.0
    assert math.fsum(t.tolist()) == pytest.approx(r, rel=FLOAT64)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("p", [2, 3, 64, 4096])
@pytest.mark.parametrize("excess", [2.3e-16, 1e-14, 1e-6])
def test_a_stable_rank_barely_above_one_keeps_its_excess(name, p, excess):
    r = 1.0 + excess
    rest = SHAPES[name](p, r)[1:]
    assert float(rest.sum()) == pytest.approx(r - 1.0, rel=1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_the_largest_stable_rank_is_the_orthogonal_matrix(name):
    for p in (1, 2, 64, 1000):
        t = SHAPES[name](p, float(p))
        assert torch.allclose(t, torch.ones(p, dtype=torch.float64), atol=1e-13)


@pytest.mark.parametrize("r", [1.0, 1.5, 2.0, 17.25, 63.0])
def test_flat_has_ones_then_one_remainder_then_zeros(r):
    t = profiles.flat(64, r).tolist()
    k = math.floor(r)
    assert t[:k] == [1.0] * k
    assert t[k] == r - k
    assert t[k + 1 :] == [0.0] * (63 - k)


@pytest.mark.parametrize("r", [1.2, 5.0, 40.0])
def test_power_is_straight_in_log_log_and_exp_in_log(r):
    i = np.arange(1, 51)
    logs = np.log(profiles.power(50, r).numpy())
    slopes = np.diff(logs) / np.diff(np.log(i))
    assert np.allclose(slopes, slopes[0], rtol=1e-9)
    logs = np.log(profiles.exponential(50, r).numpy())
    assert np.allclose(np.diff(logs), logs[1], rtol=1e-9)


@pytest.mark.parametrize("r", [1.001, 2.5, 9.0, 19.9])
def test_tempered_solves_what_brentq_solves(r):
    s = np.sort(np.random.default_rng(0).random(20))[::-1].copy()
    s /= s[0]
    gamma = brentq(lambda g: (s ** (2 * g)).sum() - r, 0.0, 1e4, xtol=1e-14)
    found = profiles.tempered(torch.from_numpy(np.log(s)), r)
    assert np.allclose(found.numpy(), s ** (2 * gamma), rtol=1e-9)


def test_tempering_a_gaussian_to_its_own_stable_rank_changes_nothing():
    logs = gaussian_log_values(40, 60, 5, np.random.default_rng(0))
    for row in logs:
        t = (2.0 * row).exp()
        again = profiles.tempered(row, float(t.sum()))
        assert torch.allclose(again, t, rtol=1e-11)


def test_a_batch_is_tempered_row_by_row():
    logs = gaussian_log_values(9, 6, 4, np.random.default_rng(1))
    together = profiles.tempered(logs, 3.3)
    apart = torch.stack([profiles.tempered(row, 3.3) for row in logs])
    assert torch.allclose(together, apart, rtol=FLOAT64)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12),
)
def test_flat_and_spike_bound_the_participation_ratio(values):
    t = sorted([1.0, *values], reverse=True)
    p, r = len(t), min(math.fsum(t), float(len(t)))
    rho = r**2 / math.fsum(x * x for x in t)
    smallest = r**2 / float(profiles.flat(p, r).square().sum())
    largest = r**2 / float(profiles.spike(p, r).square().sum())
    assert smallest * (1 - FLOAT64) <= rho <= largest * (1 + FLOAT64)


def test_closed_forms_of_the_participation_ratio():
    for p, r in ((64, 16.0), (64, 8.0), (10, 3.7)):
        k = math.floor(r)
        flat = ensemble(p, p, stable_rank=r, spectrum="flat").participation_ratio
        spike = ensemble(p, p, stable_rank=r, spectrum="spike").participation_ratio
        assert flat == pytest.approx(r**2 / (k + (r - k) ** 2), rel=FLOAT64)
        truth = r**2 / (1 + (r - 1) ** 2 / (p - 1))
        assert spike == pytest.approx(truth, rel=FLOAT64)


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e200])
def test_a_profile_is_taken_up_to_scale(scale):
    e = ensemble(5, 4, profile=[2.0 * scale, scale, scale])
    assert e.spectrum == "profile"
    assert e.stable_rank == pytest.approx(1.5, rel=FLOAT64)
    assert e.moments.a2 == pytest.approx(1.125, rel=FLOAT64)
    W = e.sample(torch.Generator().manual_seed(0))
    s = torch.linalg.svdvals(W)
    truth = torch.tensor([1.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    assert torch.allclose(s, truth, atol=FLOAT64)


def test_a_profile_may_be_a_tensor_of_any_real_dtype():
    given_ = torch.tensor([3, 2, 1])
    assert ensemble(3, 3, profile=given_) == ensemble(3, 3, profile=[3.0, 2.0, 1.0])
    half = ensemble(3, 3, profile=given_.half(), stable_rank=14 / 9)
    assert half.stable_rank == pytest.approx(14 / 9, rel=FLOAT64)


@pytest.mark.parametrize(
    ("profile", "kind", "message"),
    [
        (
            [],
            ShapeError,
            r"1 to 3 singular values for a 3 x 4 matrix, got shape \(0,\)",
        ),
        ([1.0] * 4, ShapeError, r"got shape \(4,\)"),
        ([[1.0]], ShapeError, r"got shape \(1, 1\); pass a 1-D tensor"),
        ([1.0, 2.0], DomainError, r"descending.*got \[1, 2\]; sort it"),
        ([1.0, -0.5], DomainError, "non-negative"),
        ([0.0, 0.0], DomainError, "starts above zero"),
        ([math.inf, 1.0], DomainError, r"finite.*got \[inf, 1\]"),
        ([1.0, math.nan], DomainError, r"got \[1, nan\]"),
        ("flat", ArgumentTypeError, "got 'flat'"),
        ([1.0, "a"], ArgumentTypeError, "a profile is a tensor or a sequence"),
        ([1.0 + 1.0j], ArgumentTypeError, "a profile is a tensor or a sequence"),
        (torch.ones(2) + 0j, ArgumentTypeError, "singular values are real"),
    ],
)
def test_bad_profiles_are_refused(profile, kind, message):
    with pytest.raises(kind, match=message):
        ensemble(3, 4, profile=profile)


def test_a_profile_keeps_its_own_stable_rank_and_name():
    with pytest.raises(DomainError, match=r"here 1\.25, got stable_rank=2"):
        ensemble(3, 4, profile=[1.0, 0.5], stable_rank=2.0)
    with pytest.raises(DomainError, match="got spectrum='flat' too"):
        ensemble(3, 4, profile=[1.0, 0.5], spectrum="flat")


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (4, 7), (20, 5)])
def test_the_bidiagonal_form_has_the_singular_values_of_a_gaussian(m, n, seed):
    num = 2_000
    drawn = gaussian_log_values(m, n, num, np.random.default_rng(seed)).exp()
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(num, m, n, dtype=torch.float64, generator=generator)
    s = torch.linalg.svdvals(G)
    truth = s / s[:, :1]
    for power in (1, 2, 4):
        x, y = drawn.pow(power)[:, 1:], truth.pow(power)[:, 1:]
        error = ((x.var(0) + y.var(0)) / num).sqrt()
        assert bool(((x.mean(0) - y.mean(0)).abs() <= 4.0 * error).all())
