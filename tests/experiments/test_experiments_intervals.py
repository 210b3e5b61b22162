"""Intervals cover the truth as often as they state, and fail when they are wrong."""

import math

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binom
from tolerances import FLOAT64

from spectrank.errors import DomainError
from spectrank.experiments.intervals import (
    bootstrap_interval,
    smallest_step_interval,
    student_interval,
)

COUNT = 2500


def covered(intervals, truth):
    return sum(x.lower <= truth <= x.upper for x in intervals)


def is_consistent(hits, count, p):
    """Two-sided binomial test at 1e-4."""
    return scipy.stats.binomtest(hits, count, p).pvalue > 1e-4


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("num", "confidence"), [(2, 0.95), (10, 0.95), (10, 0.8)])
def test_students_interval_covers_the_mean_as_often_as_stated(seed, num, confidence):
    draws = np.random.default_rng(seed).normal(3.0, 2.0, (COUNT, num))
    found = [student_interval(x, confidence=confidence) for x in draws]
    assert is_consistent(covered(found, 3.0), COUNT, confidence)


def test_the_coverage_test_would_tell_a_wrong_standard_error():
    # Not divided by sqrt(10), or with the normal quantile in place of Student's.
    draws = np.random.default_rng(1).normal(3.0, 2.0, (COUNT, 10))
    half = scipy.stats.t.ppf(0.975, 9) * draws.std(1, ddof=1)
    wide = int((abs(draws.mean(1) - 3.0) <= half).sum())
    assert not is_consistent(wide, COUNT, 0.95)
    half = 1.96 * draws.std(1, ddof=1) / math.sqrt(10)
    narrow = int((abs(draws.mean(1) - 3.0) <= half).sum())
    assert not is_consistent(narrow, COUNT, 0.95)


def test_students_interval_agrees_with_scipy():
    x = np.random.default_rng(0).normal(size=7)
    found = student_interval(x, confidence=0.9)
    peer = scipy.stats.ttest_1samp(x, 0.0).confidence_interval(0.9)
    assert found.lower == pytest.approx(peer.low, abs=FLOAT64)
    assert found.upper == pytest.approx(peer.high, abs=FLOAT64)
    assert found.standard_error == pytest.approx(scipy.stats.sem(x), rel=FLOAT64)
    assert found.num_seeds == 7


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("slopes", [(1.0,) * 9, (3.0, 0.1, 2.0), (1.0, -0.5, 1.0)])
def test_the_smallest_step_is_covered_at_least_as_often_as_stated(seed, slopes):
    rng = np.random.default_rng(seed)
    means = np.cumsum([0.0, *slopes])
    draws = means + rng.normal(0.0, 1.0, (600, 8, len(means)))
    found = [smallest_step_interval(x) for x in draws]
    hits = covered(found, min(slopes))
    assert binom.cdf(hits, 600, 0.95) > 1e-4


def test_without_bonferroni_equal_steps_would_be_missed_too_often():
    rng = np.random.default_rng(1)
    draws = np.arange(12.0) + rng.normal(0.0, 1.0, (500, 8, 12))
    misses = 0
    for x in draws:
        each = [student_interval(step) for step in np.diff(x, axis=1).T]
        misses += min(e.upper for e in each) < 1.0 or min(e.lower for e in each) > 1.0
    assert misses > binom.ppf(0.9999, 500, 0.05)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_bootstrap_of_a_median_covers_nearly_as_often_as_stated(seed):
    # Approximate by nature: at 30 skewed estimates it stays within 4 points.
    draws = np.random.default_rng(seed).lognormal(0.0, 1.0, (200, 30))
    found = [
        bootstrap_interval(x, statistic="median", num_resamples=499) for x in draws
    ]
    assert binom.cdf(covered(found, 1.0), 200, 0.91) > 1e-4
    assert binom.sf(covered(found, 1.0), 200, 0.99) > 1e-4


def test_at_ten_estimates_the_bootstrap_covers_less_than_it_states():
    # A false friend: for few seeds Student's interval is the honest one.
    draws = np.random.default_rng(1).normal(size=(400, 10))
    found = [bootstrap_interval(x, num_resamples=299) for x in draws]
    assert binom.cdf(covered(found, 0.0), 400, 0.95) < 1e-3
    assert binom.cdf(covered(found, 0.0), 400, 0.90) > 1e-3


def test_the_bootstrap_repeats_itself_and_takes_equal_estimates():
    x = np.random.default_rng(0).normal(size=12)
    assert bootstrap_interval(x) == bootstrap_interval(x)
    found = bootstrap_interval(np.full(5, 2.5))
    assert (found.lower, found.value, found.upper) == (2.5, 2.5, 2.5)
    assert found.standard_error == 0.0


@pytest.mark.parametrize(
    ("function", "estimates", "message"),
    [
        (student_interval, np.ones(1), "at least 2"),
        (student_interval, np.ones((2, 2)), "at least 2"),
        (bootstrap_interval, np.ones(2), "at least 3"),
        (student_interval, np.array([1.0, math.nan]), "must be finite"),
        (smallest_step_interval, np.ones((5, 1)), "at least 2 points"),
        (smallest_step_interval, np.ones(5), "at least 2 points"),
    ],
)
def test_what_has_no_interval_is_refused(function, estimates, message):
    with pytest.raises(DomainError, match=message):
        function(estimates)


def test_a_confidence_lies_between_0_and_1():
    with pytest.raises(DomainError, match=r"\(0, 1\)"):
        student_interval(np.ones(3), confidence=95)
