"""Moments of one stream: one pass is two passes, whatever the offset."""

import math

import numpy as np
import pytest
import torch
from exact_moments import exact_mean, exact_scatter, largest_relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.moments import Moments

# Features of unequal scale, so that none hides behind another.
SCALES = torch.tensor([1.0, 1e-3, 30.0, 1e3], dtype=torch.float64)
OFFSETS = (0.0, 1.0, -1e3, 1e6)
SPREADS = (1.0, 1e-6, 1e-12)


def rows_around(offset, spread, *, num_rows=120, seed=0):
    """Float64 rows with relative spread about an offset, correlated columns."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_rows, 4, dtype=torch.float64, generator=generator)
    noise[:, 1] += noise[:, 0]
    base = offset if offset else 1.0
    return (offset + base * spread * noise) * SCALES


def accumulate(rows, *, batch=7, **options):
    moments = Moments(rows.shape[1], **options)
    for part in rows.split(batch):
        moments.update(part)
    return moments


def mean_error(mean, rows):
    """Largest error of a mean over the largest entry of its column."""
    return float(((mean - exact_mean(rows)).abs() / rows.abs().amax(0)).max())


def chan_without_pivot(rows, batch):
    """The update that textbooks give: mean and scatter of the rows themselves."""
    n, mean, scatter = 0, torch.zeros(rows.shape[1], dtype=torch.float64), 0.0
    for part in rows.split(batch):
        b, m = len(part), part.mean(0)
        d = m - mean
        scatter = scatter + (part - m).T @ (part - m)
        scatter = scatter + torch.outer(d, d) * (n * b / (n + b))
        mean = mean + d * (b / (n + b))
        n += b
    return scatter


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("batch", [1, 7, 120])
def test_one_pass_is_exact_arithmetic_to_the_last_digits(offset, spread, batch):
    rows = rows_around(offset, spread)
    moments, truth = accumulate(rows, batch=batch), exact_scatter(rows)
    summary = moments.compute()
    assert largest_relative_error(summary.scatter, truth) < FLOAT64
    assert mean_error(summary.mean, rows) < 1e-15
    diagonal = accumulate(rows, batch=batch, scatter="diagonal").compute().scatter
    assert torch.allclose(diagonal, truth.diagonal(), rtol=FLOAT64, atol=0.0)
    trace = accumulate(rows, batch=batch, scatter="trace").compute().scatter
    assert float(trace) == pytest.approx(float(truth.trace()), rel=FLOAT64, abs=0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_update_without_a_pivot_does_not_pass_the_same_test(seed):
    rows = rows_around(1.0, 1e-12, num_rows=2000, seed=seed)
    truth = exact_scatter(rows)
    assert largest_relative_error(chan_without_pivot(rows, 10), truth) > 1e-8
    assert largest_relative_error(accumulate(rows).compute().scatter, truth) < 1e-14


def test_many_rows_of_a_known_scatter_leave_no_trace_of_their_number():
    # 100,000 rows 1 + k 2^-40, k in -2..2 equally often in each column: S_ii is
    # 2 * 100,000 * 2^-80, and columns whose k run in other orders are uncorrelated.
    # 260 columns: several panels of a product, and more than one tile.
    k = torch.arange(-2, 3, dtype=torch.float64)
    one, other = k.repeat(20_000), k.repeat_interleave(20_000)
    rows = 1.0 + torch.stack([one, other], 1) * 2.0**-40
    wide = rows.repeat(1, 130)
    moments = Moments(260)
    for part in wide.split(20_000):
        moments.update(part)
    summary = moments.compute()
    size = 2.0 * 100_000 * 2.0**-80
    want = size * torch.eye(2, dtype=torch.float64).repeat(130, 130)
    # The stated error holds with room, though every term adds to the same sums.
    assert float((summary.scatter - want).abs().max()) < 1e-14 * size
    assert summary.scatter_error < FLOAT64
    assert torch.equal(summary.mean, torch.ones(260, dtype=torch.float64))


@pytest.mark.parametrize("scatter", ["full", "diagonal", "trace"])
def test_equal_rows_of_any_number_do_not_add_up_their_rounding(scatter):
    # Each adds the same digits: a running total of 400,000 drifts by 1e-12.
    pair = torch.tensor([[1.0 + 0.7e-3], [1.0 - 0.9e-3]], dtype=torch.float64)
    moments = Moments(1, scatter=scatter)
    for _ in range(4):
        moments.update(pair.repeat(50_000, 1))
    want = 200_000 * float(exact_scatter(pair))
    got = float(moments.compute().scatter)
    assert got == pytest.approx(want, rel=1e-13, abs=0)


@pytest.mark.parametrize("distance", [1.0, 1e3, 1e9])
def test_a_first_row_far_from_all_others_costs_no_digit(distance):
    # The pivot lies where no other row does.
    rows = rows_around(1.0, 1e-6, num_rows=300)
    rows[0] += distance * SCALES
    summary = accumulate(rows).compute()
    assert largest_relative_error(summary.scatter, exact_scatter(rows)) < FLOAT64
    # Looser: 299 deviations of one sign are summed, each as large as the pivot's.
    assert mean_error(summary.mean, rows) < 1e-14


@given(
    num_rows=st.integers(1, 40),
    exponent=st.integers(-150, 150),
    offset=st.sampled_from([0.0, 1.0, -1.0, 1e3]),
    batch=st.integers(1, 40),
    seed=st.integers(0, 10_000),
)
@settings(derandomize=True, deadline=None, max_examples=80)
def test_scale_from_1e_minus_150_to_1e150_changes_nothing(
    num_rows, exponent, offset, batch, seed
):
    rows = (offset + rows_around(0.0, 1.0, num_rows=num_rows, seed=seed) / SCALES) * (
        10.0**exponent
    )
    truth = exact_scatter(rows)
    summary = accumulate(rows, batch=batch).compute()
    assert summary.status == "ok"
    if num_rows == 1:
        assert torch.equal(summary.scatter, torch.zeros(4, 4, dtype=torch.float64))
    else:
        assert largest_relative_error(summary.scatter, truth) < FLOAT64


@pytest.mark.parametrize("size", [1e160, 1e200, 1e308])
def test_rows_too_far_apart_to_be_squared_are_nonfinite_not_wrong(size):
    summary = accumulate(rows_around(0.0, 1.0, num_rows=20) / SCALES * size).compute()
    assert summary.status == "nonfinite"
    assert summary.num_nonfinite > 0
    assert "5e+151" in summary.reason
    assert torch.isnan(summary.scatter).all()
    assert torch.isnan(summary.mean).all()


@pytest.mark.parametrize("scatter", ["full", "diagonal", "trace"])
def test_sums_of_squares_that_overflow_say_so(scatter):
    # Each square is 2^1006, 2^18 of them are too many.
    pair = torch.tensor([[0.0], [2.0**503]], dtype=torch.float64)
    moments = Moments(1, scatter=scatter)
    moments.update(pair.repeat(1000, 1))
    assert moments.compute().status == "ok"
    for _ in range(10):
        moments.merge(moments)
    summary = moments.compute()
    assert summary.num_nonfinite == 0
    assert summary.status == "nonfinite"
    assert "power of two" in summary.reason


def test_large_rows_that_lie_close_together_are_served():
    rows = rows_around(1.0, 1e-6) / SCALES * 1e100
    rows *= 1e55
    summary = accumulate(rows).compute()
    assert summary.status == "ok"
    assert largest_relative_error(summary.scatter, exact_scatter(rows)) < FLOAT64


@pytest.mark.parametrize("size", [1e-155, 1e-200])
def test_deviations_whose_squares_underflow_are_degenerate_not_zero(size):
    rows = rows_around(0.0, 1.0) / SCALES * size
    summary = accumulate(rows / 10.0).compute()
    assert summary.status == "degenerate"
    assert "power of two" in summary.reason


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5, 19])
def test_a_row_that_is_not_finite_is_counted_and_named(bad, place):
    rows = rows_around(1.0, 1.0, num_rows=20)
    rows[place, 2] = bad
    moments = accumulate(rows)
    summary = moments.compute()
    assert (summary.count, summary.num_nonfinite) == (19, 1)
    assert summary.status == "nonfinite"
    assert "1 rows" in summary.reason
    assert torch.isnan(summary.mean).all()
    assert torch.isnan(summary.scatter).all()


def test_no_row_is_degenerate_and_one_row_has_no_scatter():
    empty = Moments(3).compute()
    assert (empty.count, empty.status) == (0, "degenerate")
    assert torch.isnan(empty.mean).all()
    assert torch.isnan(empty.covariance).all()
    moments = Moments(3)
    moments.update(torch.empty(0, 3))
    moments.update(torch.tensor([[1.0, 2.0, 3.0]]))
    one = moments.compute()
    assert (one.count, one.status) == (1, "ok")
    assert one.mean.tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(one.scatter, torch.zeros(3, 3, dtype=torch.float64))


def test_covariance_divides_by_the_number_of_rows_as_numpy_does_with_bias():
    rows = rows_around(1.0, 1.0, num_rows=5)
    summary = accumulate(rows).compute()
    assert np.allclose(
        summary.covariance, np.cov(rows.T, bias=True), rtol=1e-13, atol=0.0
    )
    unbiased = np.cov(rows.T)
    assert not np.allclose(summary.covariance, unbiased, rtol=0.1, atol=0.0)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
def test_the_second_moment_is_about_zero(offset):
    rows = rows_around(offset, 0.1)
    want = rows.T @ rows / len(rows)
    full = accumulate(rows).compute()
    assert torch.allclose(full.second_moment(), want, rtol=1e-13, atol=1e-13)
    # A property that were changed in place would give another answer now.
    assert torch.allclose(full.second_moment(), want, rtol=1e-13, atol=1e-13)
    diagonal = accumulate(rows, scatter="diagonal").compute().second_moment()
    assert torch.allclose(diagonal, want.diagonal(), rtol=1e-13, atol=0.0)
    trace = accumulate(rows, scatter="trace").compute().second_moment()
    assert float(trace) == pytest.approx(float(want.trace()), rel=1e-13, abs=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_rows_are_taken_as_they_are(dtype):
    rows = (1.0 + rows_around(0.0, 0.01) / SCALES).to(dtype)
    narrow, wide = accumulate(rows).compute(), accumulate(rows.double()).compute()
    assert torch.equal(narrow.scatter, wide.scatter)
    assert torch.equal(narrow.mean, wide.mean)
    assert largest_relative_error(narrow.scatter, exact_scatter(rows)) < FLOAT64


def test_a_summary_is_of_its_moment_and_rows_are_left_alone():
    rows = rows_around(1.0, 1.0)
    before = rows.clone()
    moments = accumulate(rows)
    first = moments.compute()
    scatter, mean = first.scatter.clone(), first.mean.clone()
    moments.update(rows + 5.0)
    assert torch.equal(first.scatter, scatter)
    assert torch.equal(first.mean, mean)
    assert torch.equal(rows, before)
    again = accumulate(torch.cat([rows, rows + 5.0])).compute()
    last = moments.compute()
    assert last.count == 240
    assert largest_relative_error(last.scatter, again.scatter) < FLOAT64


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Moments(0), DomainError, "dim must be at least 1, got 0"),
        (lambda: Moments(2.0), ArgumentTypeError, "dim must be an int, got float"),
        (lambda: Moments(True), ArgumentTypeError, "got bool"),
        (lambda: Moments(2, scatter="no"), DomainError, "'full', 'diagonal', 'trace'"),
        (lambda: Moments(2, precision="float16"), DomainError, "got 'float16'"),
        (lambda: Moments(2).update([[1.0, 2.0]]), ArgumentTypeError, "got list"),
        (lambda: Moments(2).update(torch.zeros(3, 3)), ShapeError, r"\(N, 2\), got"),
        (lambda: Moments(2).update(torch.zeros(2)), ShapeError, "flatten samples"),
        (
            lambda: Moments(2).update(torch.zeros(3, 2, dtype=torch.int64)),
            DomainError,
            r"rows.double\(\)",
        ),
        (
            lambda: Moments(2).update(torch.zeros(3, 2, dtype=torch.complex64)),
            DomainError,
            "complex64",
        ),
        (
            lambda: Moments(2).update(torch.zeros(3, 2).to_sparse()),
            DomainError,
            "sparse",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_a_way_out(make, error, message):
    with pytest.raises(error, match=message):
        make()
