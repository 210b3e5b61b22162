"""Null laws: the conditioned one by brute force, p-values by counting."""

import math

import numpy as np
import pytest
import torch
from tolerances import STANDARD_ERRORS

from spectrank.init.closeness import nulls
from spectrank.init.closeness.nulls import (
    Nulls,
    effective_draws,
    moments,
    normalised_weights,
    rank_p_value,
    weighted_p_value,
)
from spectrank.init.closeness.tridiagonal import gaussian_tridiagonals
from spectrank.linalg import ensemble

SEEDS = (5, 17, 29)


def rest_of_conditioned(m, n, r, half, num, seed):
    """Gaussian matrices whose stable rank fell into r -/+ half: rest sr and rho."""
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(num, m, n, generator=generator, dtype=torch.float64)
    t = torch.linalg.svdvals(G).square()
    ranks = t.sum(1) / t[:, 0]
    rest = t[(ranks - r).abs() < half][:, 1:]
    stable = rest.sum(1) / rest[:, 0]
    ratio = rest.sum(1).square() / rest.square().sum(1)
    return stable.log().numpy(), ratio.log().numpy()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("m", "n", "r"), [(5, 4, 1.5), (4, 4, 2.0), (4, 7, 2.4)])
def test_weighted_bulks_are_gaussian_matrices_conditioned_on_their_stable_rank(
    m, n, r, seed
):
    brute = rest_of_conditioned(m, n, r, 0.02, 150_000, seed)
    null = Nulls(40_000, seed).of(m - 1, n - 1)
    weights = normalised_weights(null.log_weights(r))
    ours = (null.log_stable_rank, null.log_participation_ratio)
    for mine, theirs in zip(ours, brute, strict=True):
        assert len(theirs) > 1000
        law = moments(mine, weights)
        error = math.hypot(law.standard_error, theirs.std() / math.sqrt(len(theirs)))
        assert abs(law.mean - theirs.mean()) <= STANDARD_ERRORS * error
        # Its spread too: a standard deviation errs by sd sqrt((kurtosis - 1) / 4N).
        z = (theirs - theirs.mean()) / theirs.std()
        share = (z**4).mean() - 1.0
        num = 1.0 / (1.0 / len(theirs) + 1.0 / effective_draws(weights))
        slack = STANDARD_ERRORS * theirs.std() * math.sqrt(share / (4.0 * num))
        assert abs(law.deviation - theirs.std()) <= slack


def test_without_the_weights_the_law_would_be_another_one():
    # The false friend: mp-spike as it is drawn, not tilted by prod (1 - t).
    brute = rest_of_conditioned(4, 4, 2.0, 0.02, 150_000, 5)
    null = Nulls(40_000, 5).of(3, 3)
    law = moments(null.log_stable_rank)
    error = brute[0].std() / math.sqrt(len(brute[0]))
    assert abs(law.mean - brute[0].mean()) > 10 * error


def test_far_below_the_gaussian_rank_the_law_is_that_of_mp_spike():
    # There the weights hardly vary; E sum t^2 of mp-spike is exact.
    m, n, r = 40, 60, 4.0
    null = Nulls(4000, 0).of(m - 1, n - 1)
    weights = normalised_weights(null.log_weights(r))
    bulk = (r - 1.0) ** 2 / np.exp(null.log_participation_ratio)
    a2 = moments(1.0 + bulk, weights)
    exact = ensemble(m, n, stable_rank=r, spectrum="mp-spike").moments.a2
    assert effective_draws(weights) > 0.95 * 4000
    assert a2.mean == pytest.approx(exact, rel=1e-3)


def test_above_the_gaussian_rank_no_draw_is_left():
    null = Nulls(500, 0).of(39, 59)
    weights = normalised_weights(null.log_weights(35.0))
    assert effective_draws(weights) < 1e-9
    assert weights.sum() == 0.0


def test_a_shape_has_one_null_whatever_was_asked_before():
    one, two = Nulls(50, 3), Nulls(50, 3)
    two.of(4, 4)
    first, second = one.of(9, 5), two.of(5, 9)
    np.testing.assert_array_equal(first.log_stable_rank, second.log_stable_rank)
    assert one.of(9, 5) is first
    other = Nulls(50, 4).of(9, 5)
    assert not np.array_equal(other.log_stable_rank, first.log_stable_rank)


def test_shapes_that_come_again_are_drawn_once_within_a_budget(monkeypatch):
    drawn = []

    def counting(m, n, num, rng):
        drawn.append((m, n))
        return gaussian_tridiagonals(m, n, num, rng)

    monkeypatch.setattr(nulls, "gaussian_tridiagonals", counting)
    monkeypatch.setattr(nulls, "_KEPT_ENTRIES", 50 * 20)
    report = Nulls(50, 0)
    for shape in [(9, 8), (8, 9), (30, 6), (9, 8), (30, 6)]:
        report.of(*shape)
    assert drawn == [(9, 8), (30, 6)]
    # 8 + 6 + 7 rows are one too many: the shape asked for longest ago goes.
    report.of(9, 8)
    report.of(7, 7)
    report.of(9, 8)
    assert drawn == [(9, 8), (30, 6), (7, 7)]
    report.of(30, 6)
    # One larger than all room is not kept, and takes the place of all others.
    first = report.of(40, 21).log_stable_rank
    again = report.of(40, 21).log_stable_rank
    assert drawn[-3:] == [(30, 6), (40, 21), (40, 21)]
    np.testing.assert_array_equal(first, again)


def counted(draws, observed):
    """The p-value of one statistic by hand."""
    values = np.concatenate([[observed], draws])
    far = np.abs(values - values.mean())
    return (far >= far[0]).mean()


def test_a_p_value_is_the_share_of_draws_at_least_as_extreme():
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=200)
    for observed in (0.0, 1.0, 2.5, 9.0):
        p = rank_p_value(draws[None], np.array([observed]))
        assert p == pytest.approx(counted(draws, observed), rel=1e-12)
    assert rank_p_value(draws[None], np.array([1e9])) == pytest.approx(1 / 201)


def test_the_worse_of_two_statistics_counts_in_its_own_units():
    rng = np.random.default_rng(1)
    draws = np.stack([rng.standard_normal(999), 1e6 * rng.standard_normal(999)])
    usual = rank_p_value(draws, np.array([0.1, 1e5]))
    assert usual > 0.5
    assert rank_p_value(draws, np.array([6.0, 0.0])) == pytest.approx(1e-3)
    assert rank_p_value(draws, np.array([0.0, 6e6])) == pytest.approx(1e-3)


def test_two_statistics_are_as_extreme_as_the_worse_of_them():
    rng = np.random.default_rng(4)
    draws = rng.standard_normal((2, 300))
    for observed in ([1.3, 1.3], [2.0, 0.0], [0.2, -1.7]):
        points = [observed, *draws.T.tolist()]
        centre = [sum(x[k] for x in points) / 301 for k in (0, 1)]
        spread = [
            math.sqrt(sum((x[k] - centre[k]) ** 2 for x in points) / 301)
            for k in (0, 1)
        ]
        far = [max(abs(x[k] - centre[k]) / spread[k] for k in (0, 1)) for x in points]
        share = sum(x >= far[0] for x in far) / 301
        assert rank_p_value(draws, np.array(observed)) == pytest.approx(share)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_null_statistic_is_rejected_no_more_often_than_the_level_says(seed):
    # Skewed on purpose: the level holds whatever the law of the statistic.
    rng = np.random.default_rng(seed)
    num, level = 4000, 0.05
    rejected = sum(
        rank_p_value(x[None, 1:], x[:1]) <= level
        for x in rng.exponential(size=(num, 100)) ** 2
    )
    error = math.sqrt(level * (1 - level) * num)
    assert abs(rejected - level * num) <= STANDARD_ERRORS * error


def test_whole_weights_are_repeated_draws():
    rng = np.random.default_rng(2)
    draws, times = rng.standard_normal((2, 60)), rng.integers(1, 5, 60)
    points = np.repeat(draws, times, axis=1)
    weights = times / times.sum()
    own = (times**2).sum() / times.sum() ** 2
    for observed in ([1.2, -0.3], [0.1, 2.2], [0.0, 0.0]):
        centre, spread = points.mean(axis=1), points.std(axis=1)
        far = (np.abs(points.T - centre) / spread).max(axis=1)
        k = max(abs(np.array(observed) - centre) / spread)
        share = ((far >= k).mean() + own) / (1 + own)
        found = weighted_p_value(draws, weights, np.array(observed))
        assert found == pytest.approx(share, rel=1e-12)


def test_far_out_the_tail_of_a_log_concave_law_takes_over():
    draws = np.random.default_rng(0).standard_normal((2, 400))
    weights = np.full(400, 1 / 400)
    mean, deviation = draws.mean(axis=1), draws.std(axis=1)
    for k in (9.0, 20.0):
        p = weighted_p_value(draws, weights, mean + np.array([k, 0.0]) * deviation)
        assert p == pytest.approx(2 * math.exp(1 - k), rel=1e-9)
    near = weighted_p_value(draws, weights, mean + np.array([5.0, 0.0]) * deviation)
    assert near == pytest.approx(1 / 401)
    # True of the heaviest-tailed log-concave law there is, the exponential.
    for k in (1.0, 3.0, 8.0):
        assert math.exp(-(1 + k)) <= math.exp(1 - k)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tilted_null_is_rejected_about_as_often_as_the_level_says(seed):
    # Draws of N(0, 1), weights e^x: the law N(1, 1), from which the observed comes.
    rng = np.random.default_rng(seed)
    num, level = 3000, 0.05
    rejected = 0
    for _ in range(num):
        draws = rng.standard_normal((1, 300))
        observed = rng.standard_normal(1) + 1.0
        weights = normalised_weights(draws[0])
        rejected += weighted_p_value(draws, weights, observed) <= level
    error = math.sqrt(level * (1 - level) * num)
    # 110 draws in effect: the observed alone counts for a fifth of the level.
    assert abs(rejected - level * num) <= STANDARD_ERRORS * error + 0.2 * level * num


def test_weighted_moments_are_those_of_repeated_draws():
    rng = np.random.default_rng(3)
    values, times = rng.standard_normal(80), rng.integers(0, 4, 80)
    found = moments(values, times / times.sum())
    repeated = np.repeat(values, times)
    assert found.mean == pytest.approx(repeated.mean(), rel=1e-12)
    # Unbiased for Kish's number of draws in place of the sum of the counts.
    kish = times.sum() ** 2 / (times**2).sum()
    variance = repeated.var() * kish / (kish - 1)
    assert found.deviation == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert found.num_draws == (times > 0).sum()
    plain = moments(values)
    assert plain.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    expected = values.std() / math.sqrt(80)
    assert plain.standard_error == pytest.approx(expected, rel=1e-12)
