"""The Tracy-Widom law against its differential equation, tables and draws."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special
from tolerances import STANDARD_ERRORS

from spectrank.errors import DomainError
from spectrank.linalg.tracy_widom import (
    largest_eigenvalue_law,
    tracy_widom_cdf,
    tracy_widom_isf,
    tracy_widom_sf,
)

GOLDEN = json.loads(
    Path(__file__).with_name("random_matrix_golden.json").read_text(encoding="utf-8")
)


def by_painleve(points):
    """F_1 at descending points from the Hastings-McLeod solution of Painleve II.

    q'' = s q + 2 q^3, q ~ Ai; F_1 = exp(-(I + J)/2) with I the integral of q from s on
    and J that of (x - s) q(x)^2.
    """
    start = 6.0
    ai, slope = special.airy(start)[:2]
    tail = integrate.quad(lambda x: special.airy(x)[0], start, 30.0)[0]
    first = integrate.quad(lambda x: special.airy(x)[0] ** 2, start, 30.0)[0]
    second = integrate.quad(
        lambda x: (x - start) * special.airy(x)[0] ** 2, start, 30.0
    )[0]

    def equation(s, y):
        q, dq, _, square, _ = y
        return [dq, s * q + 2.0 * q**3, -q, -(q**2), -square]

    solution = integrate.solve_ivp(
        equation,
        (start, min(points)),
        [ai, slope, tail, first, second],
        method="DOP853",
        t_eval=points,
        rtol=1e-12,
        atol=1e-16,
    )
    return np.exp(-0.5 * (solution.y[2] + solution.y[4]))


def test_the_determinant_solves_the_differential_equation():
    # Below -5 the equation itself is unstable.
    points = [4.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0]
    found = [tracy_widom_cdf(s) for s in points]
    assert found == pytest.approx(by_painleve(points), abs=2e-8)


def test_the_table_of_scikit_rmt_agrees():
    # The table is 4e-5 off on the left, as the differential equation shows.
    golden = GOLDEN["tracy_widom"]
    for s, truth in zip(golden["points"], golden["cdf"], strict=True):
        assert tracy_widom_cdf(s) == pytest.approx(truth, abs=5e-6 if s >= 0 else 5e-5)


def test_moments_agree_with_bornemann():
    # Mean and variance by integrals of the two tails; Bornemann (2010),
    # arXiv:0904.1581, tabulates -1.20653357458 and 1.60778103458.
    def right(x):
        return tracy_widom_sf(x)

    def left(x):
        return tracy_widom_cdf(-x)

    settings = {"epsabs": 1e-12, "epsrel": 1e-12, "limit": 200}
    mean = integrate.quad(right, 0.0, 30.0, **settings)[0]
    mean -= integrate.quad(left, 0.0, 10.0, **settings)[0]
    second = integrate.quad(lambda x: 2 * x * right(x), 0.0, 30.0, **settings)[0]
    second += integrate.quad(lambda x: 2 * x * left(x), 0.0, 10.0, **settings)[0]
    assert mean == pytest.approx(-1.20653357458, abs=1e-10)
    assert second - mean**2 == pytest.approx(1.60778103458, abs=1e-9)


def test_both_tails_add_up_and_never_leave_their_range():
    for s in (-200.0, -10.0, -6.0, -1.2, 0.0, 3.0, 5.0):
        assert tracy_widom_cdf(s) + tracy_widom_sf(s) == pytest.approx(1.0, abs=1e-14)
    assert (tracy_widom_sf(-200.0), tracy_widom_cdf(-200.0)) == (1.0, 0.0)
    assert (tracy_widom_sf(1e9), tracy_widom_cdf(1e9)) == (0.0, 1.0)
    assert math.isnan(tracy_widom_sf(math.nan))


@pytest.mark.parametrize("s", [10.0, 30.0, 60.0, 100.0])
def test_the_right_tail_keeps_relative_accuracy_far_below_float64s_unit(s):
    # To first order 1 - F_1 is the trace of the kernel, the integral of Ai(2x + s).
    trace = (
        0.5
        * integrate.quad(
            lambda x: (
                special.airye(s + x)[0]
                * math.exp(-2.0 / 3.0 * ((s + x) ** 1.5 - s**1.5))
            ),
            0.0,
            60.0 / math.sqrt(s),
            epsrel=1e-12,
        )[0]
    )
    truth = math.log(trace) - 2.0 / 3.0 * s**1.5
    assert math.log(tracy_widom_sf(s)) == pytest.approx(truth, rel=1e-11, abs=1e-9)


@pytest.mark.parametrize("p", [1.0 - 1e-9, 0.83, 0.5, 0.05, 0.01, 1e-6, 1e-100, 1e-299])
def test_the_upper_quantile_inverts_the_tail(p):
    assert tracy_widom_sf(tracy_widom_isf(p)) == pytest.approx(p, rel=1e-8)


def test_quantiles_of_common_tests():
    # The 95 % and 99 % points of the law as tabulated (two decimals are common).
    assert tracy_widom_isf(0.05) == pytest.approx(0.9793, abs=1e-4)
    assert tracy_widom_isf(0.01) == pytest.approx(2.0234, abs=1e-4)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, math.nan])
def test_probabilities_out_of_range_are_refused(p):
    with pytest.raises(DomainError, match="p must lie in"):
        tracy_widom_isf(p)


def test_the_edge_of_gaussian_matrices_follows_the_law_at_small_sizes():
    m, n, num = 30, 10, 20_000
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(num, m, n, dtype=torch.float64, generator=generator)
    top = torch.linalg.eigvalsh(W.mT @ W)[:, -1]
    centre, width = largest_eigenvalue_law(m, n)
    for level in (0.5, 0.1, 0.05, 0.01):
        above = float((top > centre + tracy_widom_isf(level) * width).double().mean())
        stderr = math.sqrt(level * (1.0 - level) / num)
        # Second order: min(m, n)^(-2/3) with a small constant.
        assert above == pytest.approx(level, abs=STANDARD_ERRORS * stderr + 0.004)


def test_the_constants_of_first_order_are_far_off_where_these_are_not():
    m, n, num, level = 100, 5, 40_000, 0.05
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(num, m, n, dtype=torch.float64, generator=generator)
    top = torch.linalg.eigvalsh(W.mT @ W)[:, -1]
    point = tracy_widom_isf(level)
    centre, width = largest_eigenvalue_law(m, n)
    second = float((top > centre + point * width).double().mean())
    a, b = math.sqrt(m - 1.0), math.sqrt(n)
    centre, width = (a + b) ** 2, (a + b) * (1.0 / a + 1.0 / b) ** (1.0 / 3.0)
    first = float((top > centre + point * width).double().mean())
    stderr = STANDARD_ERRORS * math.sqrt(level * (1.0 - level) / num)
    assert abs(second - level) < 0.1 * level + stderr
    assert abs(first - level) > 0.2 * level + stderr


def test_rows_and_columns_are_alike():
    assert largest_eigenvalue_law(7, 30) == largest_eigenvalue_law(30, 7)
    centre, width = largest_eigenvalue_law(1, 1)
    assert centre == pytest.approx(2.0)
    assert width == pytest.approx(2.0**0.5 * (2.0 * 2.0**0.5) ** (1 / 3))
