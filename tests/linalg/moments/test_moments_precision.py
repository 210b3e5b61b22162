"""float32 products within their stated error, and what the caller's modes change."""

import pytest
import torch
from exact_moments import exact_within
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.linalg.moments import ClassMoments, CrossMoments, Moments


def rows_of(num_rows, dim, *, spread=1.0, seed=0, decades=4.0):
    """Positive-mean rows whose columns range over many decades."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_rows, dim, dtype=torch.float64, generator=generator)
    scales = 10.0 ** torch.linspace(-decades, decades, dim, dtype=torch.float64)
    return (1.0 + spread * (noise + noise[:, :1])) * scales


def relative_error(got, want):
    size = want.diagonal().sqrt()
    return float(((got - want).abs() / torch.outer(size, size)).max())


@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e-12])
def test_float32_products_stay_within_a_few_float32_roundings(spread):
    rows = rows_of(3000, 40, spread=spread)
    exact, quick = Moments(40), Moments(40, precision="float32")
    for part in rows.split(100):
        exact.update(part)
        quick.update(part)
    got, want = quick.compute(), exact.compute()
    error = relative_error(got.scatter, want.scatter)
    assert error <= got.scatter_error
    # Stated worst case 6e-5; the rounding of rows alone is 2^-24 = 6e-8.
    assert error < 3e-6
    assert error > 1e-9
    assert got.scatter_error == pytest.approx(6.1e-5, rel=0.02, abs=0)
    assert want.scatter_error < 1e-13


@given(
    num_rows=st.integers(2, 50),
    exponent=st.integers(-60, 60),
    decades=st.sampled_from([0.0, 10.0, 40.0]),
    seed=st.integers(0, 1000),
)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_float32_products_have_the_range_of_float64(num_rows, exponent, decades, seed):
    # float32 itself ends at 1e-38 and 1e38, squares at the roots of that.
    rows = rows_of(num_rows, 4, seed=seed, decades=decades) * 10.0**exponent
    labels = torch.arange(num_rows) % 2
    quick = ClassMoments(2, 4, precision="float32")
    quick.update(rows, labels)
    truth = exact_within(rows, rows, labels, 2).sum(0)
    summary = quick.compute()
    if num_rows > 2:
        assert relative_error(summary.scatter, truth) <= summary.scatter_error


def test_everything_but_the_products_is_float64_in_either_precision():
    rows = rows_of(200, 6, spread=1e-9)
    labels = torch.arange(200) % 3
    summaries = []
    for precision in ("float64", "float32"):
        moments = CrossMoments(3, 6, 6, precision=precision, scatter_in="full")
        moments.update(rows, rows.flip(1), labels)
        summaries.append(moments.compute())
    exact, quick = summaries
    assert torch.equal(quick.inputs.traces, exact.inputs.traces)
    assert torch.equal(quick.inputs.means, exact.inputs.means)
    assert quick.inputs.wcv == exact.inputs.wcv
    left = exact.outputs.traces.sum().sqrt() * exact.inputs.traces.sum().sqrt()
    error = (quick.within - exact.within).abs() / left
    assert 0.0 < float(error.max()) < quick.inputs.scatter_error


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_scatters_are_symmetric_to_the_bit_and_positive(precision):
    # 300 columns: more than one panel.
    rows = rows_of(400, 300, decades=0.0)
    moments = Moments(300, precision=precision)
    for part in rows.split(150):
        moments.update(part)
        moments.compute()
    scatter = moments.compute().scatter
    assert torch.equal(scatter, scatter.T)
    centred = rows - rows.mean(0)
    limit = 1e-13 if precision == "float64" else 1e-6
    assert relative_error(scatter, centred.T @ centred) < limit
    eigenvalues = torch.linalg.eigvalsh(scatter)
    assert float(eigenvalues[0]) > -limit * float(eigenvalues[-1])


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_autocast_inference_mode_and_autograd_change_no_bit(precision):
    rows = rows_of(60, 5).float()
    labels = torch.arange(60) % 3
    want = ClassMoments(3, 5, precision=precision)
    want.update(rows, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ClassMoments(3, 5, precision=precision)
        cast.update(rows, labels)
        cast_summary = cast.compute()
    with torch.inference_mode():
        inference = ClassMoments(3, 5, precision=precision)
        inference.update(rows[:30] * 1.0, labels[:30])
        inference.compute()
    # What was made and filled under inference mode goes on without it.
    inference.update(rows[30:].requires_grad_(), labels[30:])
    summary = want.compute()
    assert torch.equal(cast_summary.scatter, summary.scatter)
    got = inference.compute()
    assert torch.allclose(got.scatter, summary.scatter, rtol=1e-5, atol=0.0)
    assert not got.scatter.requires_grad
    assert torch.is_autocast_enabled("cpu") is False


def test_float32_products_that_are_not_float32_are_done_in_float64():
    rows = rows_of(100, 5)
    exact, quick = Moments(5), Moments(5, precision="float32")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        exact.update(rows)
        quick.update(rows)
        assert torch.equal(quick.compute().scatter, exact.compute().scatter)
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_global_generator_is_not_touched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    moments = ClassMoments(3, 4)
    moments.update(rows_of(30, 4), torch.arange(30) % 3)
    moments.compute()
    assert torch.equal(torch.get_rng_state(), before)
