"""The grid of learning rates: it grows until the optimum is inside."""

import math

import pytest

from spectrank.experiments.georgiev2021stable.convergence.rates import search


class Valley:
    """Costs with their optima where they are put; counts what is asked."""

    def __init__(self, optima, *, diverges=math.inf):
        self.optima, self.diverges = optima, diverges
        self.asked = []

    def __call__(self, pairs):
        self.asked += pairs
        return [
            math.inf
            if rate > self.diverges * self.optima[arm]
            else math.log2(rate / self.optima[arm]) ** 2
            for arm, rate in pairs
        ]


@pytest.mark.parametrize("octaves", [-11.3, -4.0, -2.2, 0.0, 0.6, 2.1, 7.4, 12.0])
def test_the_optimum_is_found_wherever_it_is_within_a_quarter_octave(octaves):
    valley = Valley({"a": 0.1 * 2.0**octaves})
    best = search(["a"], valley, centre=0.1)["a"]
    assert abs(math.log2(best.learning_rate / valley.optima["a"])) <= 0.25 + 1e-9
    assert best.edge is None
    tried = sorted(rate for _, rate in valley.asked)
    assert len(set(tried)) == len(tried)
    assert tried[0] < best.learning_rate < tried[-1]


def test_arms_are_searched_apart_though_together():
    valley = Valley({"slow": 1e-4, "fast": 3.0})
    both = search(["slow", "fast"], valley, centre=0.1)
    for arm in ("slow", "fast"):
        alone = search([arm], Valley(valley.optima), centre=0.1)[arm]
        assert both[arm] == alone


@pytest.mark.parametrize("above", [1.0, 1.5, 4.0])
def test_rates_that_diverge_bound_the_optimum(above):
    # The best rate that works may be the largest that does.
    valley = Valley({"a": 0.001}, diverges=above)
    best = search(["a"], valley, centre=0.1)["a"]
    works = [r for _, r in valley.asked if r <= above * 0.001]
    assert best.value == min(math.log2(r / 0.001) ** 2 for r in works)
    assert abs(math.log2(best.learning_rate / 0.001)) <= 0.5
    assert best.edge is None


def test_all_diverged_extends_downwards_until_something_works():
    valley = Valley({"a": 1e-5}, diverges=1.2)
    best = search(["a"], valley, centre=0.1)["a"]
    assert abs(math.log2(best.learning_rate / 1e-5)) <= 0.5


def test_an_arm_that_diverges_everywhere_is_absent_and_the_search_ends():
    calls = []

    def hopeless(pairs):
        calls.append(len(pairs))
        return [math.inf if arm == "lost" else rate for arm, rate in pairs]

    found = search(["lost", "falling"], hopeless, centre=1.0)
    assert "lost" not in found
    # The lower the better, without end: the limit is met and said.
    assert found["falling"].edge == "low"
    assert found["falling"].learning_rate == pytest.approx(2.0**-20)
    assert len(calls) < 15


def test_of_equal_values_the_lowest_rate_is_kept_and_the_search_ends():
    found = search(["a"], lambda pairs: [1.0] * len(pairs), centre=1.0)
    assert found["a"].edge == "low"
