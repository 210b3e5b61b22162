"""Requests: the stable rank is hit in every dtype, at both ends, or refused early."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    SpectrankError,
    UnknownNameError,
)
from spectrank.linalg.ensembles import SPECTRA, ensemble
from spectrank.linalg.ensembles.mp_spike import largest_sure

PRESCRIBED = [name for name in SPECTRA if name != "gaussian"]
# Promised relative accuracy of the stable rank.
ACCURACY = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-2,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def largest(m, n, spectrum):
    return largest_sure(m, n) if spectrum == "mp-spike" else float(min(m, n))


def stable_rank(W):
    s = torch.linalg.svdvals(W.double())
    return float((s / s[0]).square().sum())


@st.composite
def requests(draw):
    m, n = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    spectrum = draw(st.sampled_from(PRESCRIBED))
    top = largest(m, n, spectrum)
    # Ends included.
    r = 1.0 + draw(st.floats(0.0, 1.0)) ** draw(st.sampled_from([1, 8])) * (top - 1.0)
    return m, n, spectrum, float(min(m, n)) if spectrum == "orthogonal" else r


@settings(derandomize=True, deadline=None, max_examples=60)
@given(request=requests(), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("dtype", ACCURACY)
def test_every_draw_hits_the_stable_rank_and_the_norm(dtype, request, seed):
    m, n, spectrum, r = request
    e = ensemble(m, n, stable_rank=r, spectrum=spectrum)
    W = e.sample(generator(seed), spectral_norm=3.0, dtype=dtype)
    assert W.shape == (m, n)
    assert W.dtype == dtype
    assert W.is_contiguous()
    assert stable_rank(W) == pytest.approx(r, rel=ACCURACY[dtype])
    norm = float(torch.linalg.matrix_norm(W.double(), 2))
    assert norm == pytest.approx(3.0, rel=ACCURACY[dtype])


@pytest.mark.parametrize("spectrum", PRESCRIBED)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 7), (7, 1), (2, 2), (30, 17)])
@pytest.mark.parametrize("end", ["low", "high"])
def test_both_ends_are_included(spectrum, m, n, end):
    top = largest(m, n, spectrum)
    r = 1.0 if end == "low" and spectrum != "orthogonal" else top
    e = ensemble(m, n, stable_rank=r, spectrum=spectrum)
    assert e.stable_rank == pytest.approx(r, rel=FLOAT64)
    assert stable_rank(e.sample(generator())) == pytest.approx(r, rel=FLOAT64)
    rho = e.participation_ratio
    assert r * (1 - FLOAT64) <= rho <= min(m, n) * (1 + FLOAT64)


@pytest.mark.parametrize("spectrum", PRESCRIBED)
def test_a_larger_matrix_keeps_the_promise_in_float32(spectrum):
    r = 200.0 if spectrum == "orthogonal" else 20.0
    e = ensemble(300, 200, stable_rank=r, spectrum=spectrum)
    W = e.sample(generator(), frobenius_norm=20.0, dtype=torch.float32)
    assert stable_rank(W) == pytest.approx(r, rel=1e-5)
    assert float(W.double().norm()) == pytest.approx(20.0, rel=1e-5)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("size", [1e-200, 1e-3, 7.0, 1e200])
def test_scales_multiply_the_unit_draw(spectrum, size):
    r = None if spectrum in ("orthogonal", "gaussian") else 2.0
    e = ensemble(6, 5, stable_rank=r, spectrum=spectrum)
    unit = e.sample(generator(3))
    scaled = e.sample(generator(3), spectral_norm=size)
    assert torch.allclose(scaled / size, unit, atol=0.0, rtol=1e-15)
    by_frobenius = e.sample(generator(3), frobenius_norm=size)
    a1 = e.moments.a1
    assert torch.allclose(by_frobenius / size, unit / math.sqrt(a1), rtol=1e-14)


def test_moments_scale_as_squares_and_fourth_powers():
    e = ensemble(6, 5, stable_rank=2.5, spectrum="temper")
    unit, scaled = e.moments, e.moments.scaled(3.0)
    assert scaled.a1 == pytest.approx(9.0 * 2.5)
    assert scaled.a1_squared == pytest.approx(81.0 * unit.a1_squared)
    assert scaled.a2 == pytest.approx(81.0 * unit.a2)
    assert scaled.a2_stderr == pytest.approx(81.0 * unit.a2_stderr)
    assert unit.a2_stderr > 0.0
    assert scaled.participation_ratio == pytest.approx(unit.participation_ratio)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_one_state_gives_one_matrix_and_the_global_state_stays(spectrum):
    r = None if spectrum in ("orthogonal", "gaussian") else 2.0
    e = ensemble(6, 5, stable_rank=r, spectrum=spectrum)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = (e.sample(generator(seed)) for seed in (1, 1, 2))
    _ = e.moments
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_a_second_draw_from_one_generator_is_another_matrix():
    g, e = generator(), ensemble(6, 5, stable_rank=2.0)
    assert not torch.allclose(e.sample(g), e.sample(g))


@pytest.mark.parametrize("dtype", ACCURACY)
def test_filling_in_place_is_drawing(dtype):
    e = ensemble(6, 5, stable_rank=2.0, spectrum="slice")
    weight = torch.nn.Parameter(torch.zeros(6, 5, dtype=dtype))
    kept = weight.data_ptr()
    assert e.sample_(weight, generator(), frobenius_norm=4.0) is weight
    assert weight.data_ptr() == kept
    assert weight.requires_grad
    assert weight.is_leaf
    drawn = e.sample(generator(), frobenius_norm=4.0, dtype=dtype)
    assert torch.equal(weight.detach(), drawn)
    # A view of a larger tensor, with strides of its own.
    column_major = torch.zeros(5, 12, dtype=dtype).T[::2]
    e.sample_(column_major, generator(), frobenius_norm=4.0)
    assert torch.equal(column_major, drawn)


def test_a_refused_draw_writes_nothing():
    e = ensemble(20, 20, stable_rank=6.0)
    refused = 0
    for seed in range(40):
        weight = torch.full((20, 20), 7.0, dtype=torch.float64)
        try:
            e.sample_(weight, generator(seed))
        except DomainError:
            refused += 1
            assert bool((weight == 7.0).all())
    assert refused > 0


@pytest.mark.parametrize(
    ("tensor", "kind", "message"),
    [
        (torch.zeros(5, 6), ShapeError, r"fills a 6 x 5 matrix, got shape \(5, 6\)"),
        (torch.zeros(6, 5, 1), ShapeError, r"got shape \(6, 5, 1\)"),
        (torch.zeros(6, 5, device="meta"), DomainError, "meta device; materialise"),
        (torch.zeros(6, 5, dtype=torch.int8), DomainError, "got torch.int8"),
        (np.zeros((6, 5)), ArgumentTypeError, "got ndarray; pass the weight"),
    ],
)
def test_tensors_that_cannot_be_filled_are_refused(tensor, kind, message):
    with pytest.raises(kind, match=message):
        ensemble(6, 5, stable_rank=2.0).sample_(tensor, generator())


@pytest.mark.parametrize("dtype", ACCURACY)
def test_the_achieved_values_are_those_of_the_stored_matrix(dtype):
    e = ensemble(40, 30, stable_rank=5.0, spectrum="temper")
    sample = e.sample_measured(generator(), spectral_norm=2.0, dtype=dtype)
    assert torch.equal(
        sample.matrix, e.sample(generator(), spectral_norm=2.0, dtype=dtype)
    )
    t = torch.linalg.svdvals(sample.matrix.double()).square()
    assert sample.stable_rank.lower <= float(t.sum() / t[0]) <= sample.stable_rank.upper
    assert float(sample.stable_rank) == pytest.approx(5.0, rel=ACCURACY[dtype])
    rho = float(t.sum() ** 2 / t.square().sum())
    assert float(sample.participation_ratio) == pytest.approx(rho, rel=1e-9)
    # A rounded matrix has the stable rank it has, not the one that was asked for.
    if dtype == torch.bfloat16:
        assert abs(float(sample.stable_rank) - 5.0) > 1e-6


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"stable_rank": 0.99}, DomainError, r"in \[1, 5\] for a 6 x 5.*got 0\.99"),
        ({"stable_rank": 5.01}, DomainError, r"in \[1, 5\].*got 5\.01; choose a small"),
        ({"stable_rank": math.nan}, DomainError, "got nan"),
        ({"stable_rank": math.inf}, DomainError, "got inf"),
        ({"stable_rank": -2}, DomainError, "got -2"),
        ({"stable_rank": "2"}, ArgumentTypeError, "got '2'"),
        ({"stable_rank": True}, ArgumentTypeError, "got True"),
        ({"stable_rank": None}, ArgumentTypeError, r"needs a stable_rank in \[1, 5\]"),
        ({"stable_rank": 2, "spectrum": "spkie"}, UnknownNameError, "mean 'spike'"),
        ({"stable_rank": 2, "spectrum": "gaussian"}, DomainError, "random stable rank"),
        ({"stable_rank": 2, "spectrum": "orthogonal"}, DomainError, "here 5, got"),
        ({"stable_rank": 3}, DomainError, "up to 2.366 on 6 x 5.*'temper' reaches"),
        ({"m": 0, "stable_rank": 1}, DomainError, "m must be at least 1, got 0"),
        ({"n": 2.5, "stable_rank": 1}, ArgumentTypeError, "n is a whole number"),
    ],
)
def test_bad_requests_are_refused_when_the_ensemble_is_made(arguments, kind, message):
    with pytest.raises(kind, match=message):
        ensemble(**({"m": 6, "n": 5} | arguments))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"spectral_norm": 0.0}, DomainError, "must be positive and finite, got 0.0"),
        ({"frobenius_norm": -1.0}, DomainError, "frobenius_norm must be positive"),
        ({"spectral_norm": math.inf}, DomainError, "got inf"),
        ({"spectral_norm": "2"}, ArgumentTypeError, "a positive number, got '2'"),
        ({"spectral_norm": 1, "frobenius_norm": 1}, DomainError, "leave one out"),
        ({"spectral_norm": 1e39, "dtype": torch.float32}, DomainError, r"got 1e\+39"),
        ({"spectral_norm": 1e5, "dtype": torch.float16}, DomainError, "got 100000"),
        ({"spectral_norm": 1e-39, "dtype": torch.bfloat16}, DomainError, "got 1e-39"),
        ({"dtype": torch.complex64}, DomainError, "got torch.complex64"),
        ({"dtype": "float32"}, DomainError, "got float32"),
        ({"num": 0}, DomainError, "num must be at least 1"),
    ],
)
def test_bad_draws_are_refused_before_anything_is_drawn(arguments, kind, message):
    g = generator()
    before = g.get_state()
    with pytest.raises(kind, match=message):
        ensemble(6, 5, stable_rank=2.0).sample(g, **arguments)
    assert torch.equal(before, g.get_state())
    with pytest.raises(ArgumentTypeError, match="Generator, got NoneType"):
        ensemble(6, 5, stable_rank=2.0).sample(None)


def test_every_error_is_one_of_ours():
    with pytest.raises(SpectrankError):
        ensemble(6, 5, stable_rank=9)
    with pytest.raises(ValueError, match="stable_rank"):
        ensemble(6, 5, stable_rank=9)


def test_numpy_scalars_are_numbers():
    e = ensemble(np.int64(6), np.int32(5), stable_rank=np.float32(2.5), spectrum="flat")
    assert e == ensemble(6, 5, stable_rank=2.5, spectrum="flat")
    assert type(e.m) is int


def test_an_ensemble_is_a_value():
    e = ensemble(6, 5, stable_rank=2.0, spectrum="slice")
    assert e == copy.deepcopy(e) == ensemble(6, 5, stable_rank=2, spectrum="slice")
    assert e != ensemble(6, 5, stable_rank=2.1, spectrum="slice")
    assert hash(e) == hash(copy.deepcopy(e))
    assert repr(e) == "Ensemble(6 x 5, slice, stable_rank=2)"
    gaussian = ensemble(6, 5, spectrum="gaussian")
    assert repr(gaussian) == "Ensemble(6 x 5, gaussian, random stable rank)"
    with pytest.raises(AttributeError):
        e.m = 7


def test_orthogonal_matrices_are_orthogonal():
    W = ensemble(7, 4, spectrum="orthogonal").sample(generator())
    assert torch.allclose(W.T @ W, torch.eye(4, dtype=torch.float64), atol=FLOAT64)
    W = ensemble(4, 7, spectrum="orthogonal").sample(generator())
    assert torch.allclose(W @ W.T, torch.eye(4, dtype=torch.float64), atol=FLOAT64)


@pytest.mark.parametrize("spectrum", ["spike", "flat", "mp-spike", "slice", "temper"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_draw_on_another_device_is_the_same_matrix(spectrum):
    e = ensemble(40, 30, stable_rank=5.0, spectrum=spectrum)
    host = e.sample(generator())
    assert torch.allclose(host, e.sample(generator(), device="cuda").cpu(), atol=1e-10)
