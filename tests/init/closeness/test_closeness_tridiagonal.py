"""Gaussian matrices in tridiagonal form, against dense matrices and exact moments."""

import math

import numpy as np
import pytest
import torch
from tolerances import FLOAT64, RECURRENCE, STANDARD_ERRORS

from spectrank.init.closeness.tridiagonal import gaussian_tridiagonals

SHAPES = [(7, 7), (12, 5), (5, 12), (3, 1)]
SEEDS = (11, 23, 37)


def dense(draws, i):
    """T as a full matrix."""
    off = np.sqrt(draws.squared_off[:, i])
    return np.diag(draws.diagonal[:, i]) + np.diag(off, 1) + np.diag(off, -1)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_what_is_read_of_t_is_what_dense_linear_algebra_gives(m, n):
    draws = gaussian_tridiagonals(m, n, 6, np.random.default_rng(0))
    largest, p = draws.largest(), min(m, n)
    x = 1.3 * largest
    log_det = draws.log_det(x)
    below = draws.log_det(0.99 * largest)
    for i in range(6):
        T = dense(draws, i)
        t = np.linalg.eigvalsh(T)
        assert T.shape == (p, p)
        assert draws.trace[i] == pytest.approx(t.sum(), rel=FLOAT64)
        assert draws.trace_of_square[i] == pytest.approx((t**2).sum(), rel=FLOAT64)
        assert largest[i] == pytest.approx(t[-1], rel=RECURRENCE)
        sign, value = np.linalg.slogdet(np.eye(p) - T / x[i])
        assert sign == 1.0
        assert log_det[i] == pytest.approx(value, rel=RECURRENCE)
        assert below[i] == -math.inf
        np.testing.assert_allclose(draws.eigenvalues(i), t[::-1], atol=1e-9)


@pytest.mark.parametrize(("m", "n"), [(500, 500), (4000, 400), (300, 90_000)])
def test_the_largest_eigenvalue_of_many_rows_is_found_on_the_first_few(m, n):
    draws = gaussian_tridiagonals(m, n, 5, np.random.default_rng(1))
    truth = [draws.eigenvalues(i)[0] for i in range(5)]
    np.testing.assert_allclose(draws.largest(), truth, rtol=RECURRENCE)


def test_a_large_eigenvalue_on_the_last_rows_is_found_too():
    # No Gaussian matrix has it there: the proof fails and all rows are searched.
    draws = gaussian_tridiagonals(500, 500, 3, np.random.default_rng(2))
    draws.diagonal[-1] = 1e4
    truth = [draws.eigenvalues(i)[0] for i in range(3)]
    np.testing.assert_allclose(draws.largest(), truth, rtol=RECURRENCE)


def test_an_x_between_the_first_two_eigenvalues_has_no_log_det_either():
    # One negative pivot: an even number of them would pass for a positive determinant.
    draws = gaussian_tridiagonals(9, 6, 50, np.random.default_rng(4))
    for rank in (1, 2, 3, 5):
        between = np.array(
            [draws.eigenvalues(i)[rank - 1 : rank + 1].mean() for i in range(50)]
        )
        assert (draws.log_det(between) == -math.inf).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("m", "n"), [(6, 6), (9, 4), (4, 9)])
def test_moments_are_those_of_a_gaussian_matrix(m, n, seed):
    # E tr = mn, E tr^2 = mn(mn + 2), E tr T^2 = mn(m + n + 1).
    num = 40_000
    draws = gaussian_tridiagonals(m, n, num, np.random.default_rng(seed))
    for values, truth in (
        (draws.trace, m * n),
        (draws.trace**2, m * n * (m * n + 2)),
        (draws.trace_of_square, m * n * (m + n + 1)),
    ):
        error = values.std() / math.sqrt(num)
        assert abs(values.mean() - truth) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("seed", SEEDS)
def test_stable_ranks_have_the_law_of_those_of_dense_gaussian_matrices(seed):
    num, m, n = 10_000, 8, 5
    draws = gaussian_tridiagonals(m, n, num, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(num, m, n, generator=generator, dtype=torch.float64)
    s = torch.linalg.svdvals(G).numpy()
    ours = draws.trace / draws.largest()
    theirs = (s**2).sum(1) / s[:, 0] ** 2
    for power in (1, 2, 3):
        a, b = np.log(ours) ** power, np.log(theirs) ** power
        error = math.sqrt((a.var() + b.var()) / num)
        assert abs(a.mean() - b.mean()) <= STANDARD_ERRORS * error
