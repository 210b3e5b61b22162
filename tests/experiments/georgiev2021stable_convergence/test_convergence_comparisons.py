"""Paired comparisons: planted effects, censoring, families, pairs."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from spectrank.errors import DomainError
from spectrank.experiments.georgiev2021stable.convergence.comparisons import (
    compare,
    factor_text,
    holm,
    log_ratios,
    rank_correlations,
)
from spectrank.experiments.georgiev2021stable.convergence.training import (
    SMOOTHING,
    Reached,
    first_below,
)
from spectrank.train import SGD, stack, train_fleet

BUDGET = 400.0


def reached(steps):
    """Restrict planted times at the budget."""
    steps = np.asarray(steps, dtype=float)
    inside = steps < BUDGET
    never = np.zeros(len(steps), dtype=bool)
    unknown = np.full(len(steps), np.nan)
    return Reached(np.minimum(steps, BUDGET), inside, never, unknown, unknown)


def planted(rng, factor, num=10, noise=0.1, shared=0.1, middle=200.0):
    """Times of a reference and an arm that takes ``factor`` times as long."""
    common = rng.normal(size=num) * shared
    a, b = (common + rng.normal(size=num) * noise for _ in range(2))
    return reached(middle * factor * np.exp(a)), reached(middle * np.exp(b))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fifth_fewer_steps_is_found_and_measured(seed):
    rng = np.random.default_rng(seed)
    num = 300
    found = [
        compare({"arm": log_ratios(*planted(rng, 0.8, middle=100.0))})["arm"]
        for _ in range(num)
    ]
    means = np.array([one.value for one in found])
    error = means.std(ddof=1) / math.sqrt(num)
    assert abs(means.mean() - math.log(0.8)) <= 4 * error
    # sd of a pair 0.14, of ten 0.045: five standard errors from 0.
    assert np.mean([one.upper < 0.0 for one in found]) > 0.95
    assert np.mean([one.adjusted < 0.05 for one in found]) > 0.95
    assert np.mean([one.wins for one in found]) > 0.85


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_family_without_effects_one_is_found_in_five_percent_at_most(seed):
    rng = np.random.default_rng(seed)
    num, arms = 400, 12
    by_interval = by_p = covered = 0
    for _ in range(num):
        _, reference = planted(rng, 1.0, shared=0.0)
        family = {
            str(k): log_ratios(planted(rng, 1.0, shared=0.0)[0], reference)
            for k in range(arms)
        }
        found = compare(family).values()
        by_interval += any(one.lower > 0 or one.upper < 0 for one in found)
        by_p += any(one.adjusted < 0.05 for one in found)
        covered += all(one.lower <= 0 <= one.upper for one in found)
    limit = num * 0.05 + 4 * math.sqrt(num * 0.05 * 0.95)
    assert by_interval <= limit
    assert by_p <= limit
    assert covered >= num - limit
    # Without the correction nearly every other family would have one.
    assert by_interval > 0 or by_p > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pairs_that_share_their_data_order_vary_less_than_strangers(seed):
    rng = np.random.default_rng(seed)
    arm, reference = planted(rng, 1.0, num=2000, noise=0.1, shared=0.3, middle=50.0)
    paired = log_ratios(arm, reference).var()
    order = rng.permutation(2000)
    strangers = log_ratios(arm.of(order), reference).var()
    # Truth: 2 * 0.01 against 2 * (0.01 + 0.09), before the budget cuts.
    assert paired < 0.25 * strangers


def test_a_censored_run_bounds_the_ratio_on_its_own_side():
    late, soon = reached([2000.0, 900.0]), reached([100.0, 300.0])
    slower = log_ratios(late, soon)
    truth = np.log([20.0, 3.0])
    assert ((slower > 0) & (slower < truth)).all()
    np.testing.assert_allclose(slower, np.log(BUDGET / np.array([100.0, 300.0])))
    np.testing.assert_allclose(log_ratios(soon, late), -slower)


def test_a_pair_of_which_none_arrived_leaves_the_comparison_without_a_value():
    arm, other = reached([100.0, 2000.0, 120.0]), reached([110.0, 900.0, 130.0])
    ratios = log_ratios(arm, other)
    assert np.isnan(ratios).tolist() == [False, True, False]
    clear = np.log([0.5, 0.51, 0.49])
    found = compare({"unknown": ratios, "clear": clear})
    assert found["unknown"] is None
    # It still counts: the p-value is multiplied by two.
    alone = compare({"clear": clear})["clear"]
    assert found["clear"].adjusted == pytest.approx(2.0 * alone.p_value)
    assert found["clear"].lower < alone.lower


def test_unequal_numbers_of_replicates_are_no_pairs():
    with pytest.raises(DomainError, match="2 and 3 replicates"):
        log_ratios(reached([1.0, 2.0]), reached([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_p_value_is_that_of_the_paired_t_test(seed):
    rng = np.random.default_rng(seed)
    ratios = rng.normal(0.05, 0.1, size=9)
    found = compare({"arm": ratios})["arm"]
    assert found.p_value == pytest.approx(stats.ttest_1samp(ratios, 0.0).pvalue)
    half = stats.t.ppf(0.975, 8) * ratios.std(ddof=1) / 3.0
    assert found.upper - found.value == pytest.approx(half)
    wider = compare({"arm": ratios, "b": ratios, "c": ratios})["arm"]
    half = stats.t.ppf(1 - 0.025 / 3, 8) * ratios.std(ddof=1) / 3.0
    assert wider.upper - wider.value == pytest.approx(half)


def test_equal_runs_differ_in_nothing_and_win_half():
    found = compare({"arm": np.zeros(5)})["arm"]
    assert (found.value, found.p_value, found.wins) == (0.0, 1.0, 0.5)
    constant = compare({"arm": np.full(5, -0.3)})["arm"]
    assert (constant.p_value, constant.wins) == (0.0, 1.0)


def closed_bonferroni(p_values):
    """Holm's method by its definition: closed testing with Bonferroni's test."""
    num = len(p_values)
    found = [0.0] * num
    for size in range(1, num + 1):
        for group in itertools.combinations(range(num), size):
            local = min(1.0, size * min(p_values[i] for i in group))
            for i in group:
                found[i] = max(found[i], local)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_holm_is_closed_testing_with_bonferroni_s_test(seed):
    p_values = (np.random.default_rng(seed).uniform(size=7) ** 3).tolist()
    np.testing.assert_allclose(holm(p_values), closed_bonferroni(p_values))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rank_correlations_are_spearman_s(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, size=8).astype(float)
    y = rng.integers(0, 6, size=(8, 4)).astype(float)
    expected = [stats.spearmanr(x, column).statistic for column in y.T]
    np.testing.assert_allclose(rank_correlations(x, y), expected)
    assert np.isnan(rank_correlations(x, np.ones((8, 1)))).all()


def test_a_factor_is_said_in_the_order_of_its_interval():
    text = factor_text(math.log(0.8), math.log(0.7), math.log(0.9))
    assert text == "0.8 [0.7, 0.9] times the steps"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_first_step_below_is_where_the_fleet_itself_stops(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(128, 6, generator=g)
    y = (x[:, 0] > 0).long()
    nets = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))]
    with torch.no_grad():
        for p in nets[0].parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.4)
    rates = [0.001, 0.1, 0.3, 1.0]
    options = {
        "optimizer": SGD(learning_rate=rates),
        "max_steps": 80,
        "batch_size": 16,
        "seeds": [7] * 4,
        "smoothing": SMOOTHING,
    }
    whole = train_fleet(nets[0], stack(nets * 4), x, y, **options)
    stopped = train_fleet(nets[0], stack(nets * 4), x, y, target_loss=0.4, **options)
    first = first_below(whole.losses, 0.4)
    assert first[0] == 0
    assert (first[1:] > 0).all()
    expected = np.nan_to_num(stopped.steps_to_target, nan=0.0)
    np.testing.assert_array_equal(first, expected)


def test_a_loss_that_is_no_number_is_never_below():
    losses = np.array([[1.0, 0.1], [np.nan, 0.1], [0.0, np.nan], [0.0, np.inf]])
    assert first_below(losses, 0.5).tolist() == [0, 1]
