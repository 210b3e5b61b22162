"""Spectra against answers known beforehand, LAPACK's QR iteration and mpmath."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import SPECTRA, named_spectrum, with_spectrum
from tolerances import FLOAT64, SPECTRUM

from spectrank import metrics
from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.linalg import NEEDS, spectrum
from spectrank.linalg import enclosure as enclosure_module
from spectrank.linalg import gram as gram_module
from spectrank.linalg import spectrum as spectrum_function
from spectrank.linalg.certificate import certify
from spectrank.linalg.enclosure import gram_product
from spectrank.linalg.operand import make_operand
from spectrank.linalg.routes import singular_values_of

NORMS = ("frobenius", "sigma_max")


def gesvd(W):
    return torch.from_numpy(
        scipy.linalg.svd(
            W.to(torch.float64).numpy(), compute_uv=False, lapack_driver="gesvd"
        ).copy()
    )


@pytest.mark.parametrize("shape", [(50, 50), (200, 40), (40, 200), (1500, 30)])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_full_spectrum_is_the_one_the_matrix_was_built_from(name, shape):
    sigma = named_spectrum(name, min(shape))
    W = with_spectrum(sigma, *shape, seed=1)
    s = spectrum(W)
    assert s.route == "gram"
    assert bool(((s.sigma - sigma).abs() <= s.sigma_error + 1e-14).all())
    big = sigma > 1e-6
    assert float((s.sigma - sigma)[big].abs().max()) <= SPECTRUM
    assert bool((s.sigma.diff() <= 0).all())


@pytest.mark.parametrize("name", SPECTRA)
def test_the_full_spectrum_agrees_with_lapacks_qr_iteration(name):
    W = with_spectrum(named_spectrum(name, 60), 90, 60, seed=2) * 7.3
    s, dense = spectrum(W), spectrum(W, ["small_end"])
    truth = gesvd(W)
    assert bool(((s.sigma - truth).abs() <= s.sigma_error + 1e-13).all())
    assert float((dense.sigma - truth).abs().max()) <= 7.3 * 64 * FLOAT64
    assert bool(((dense.sigma - truth).abs() <= dense.sigma_error + 1e-13).all())


def mp_singular_values(entries):
    mpmath.mp.dps = 80
    return [float(x) for x in mpmath.svd_r(mpmath.matrix(entries), compute_uv=False)]


def test_the_small_end_of_a_hilbert_matrix_agrees_with_eighty_digits():
    n = 10
    exact = [[mpmath.mpf(1) / (i + j + 1) for j in range(n)] for i in range(n)]
    W = torch.tensor([[float(x) for x in row] for row in exact], dtype=torch.float64)
    # The truth of the rounded matrix, not of the ideal one.
    truth = torch.tensor(
        mp_singular_values([[mpmath.mpf(float(x)) for x in row] for row in W.tolist()]),
        dtype=torch.float64,
    )
    s = spectrum(W, ["small_end"])
    assert s.route == "svd"
    assert bool(((s.sigma - truth).abs() <= s.sigma_error).all())
    coarse = spectrum(W)
    assert coarse.route == "gram"
    assert bool(((coarse.sigma - truth).abs() <= coarse.sigma_error).all())
    # kappa = 1.6e13: a Gram matrix cannot see the small end, and says so.
    assert coarse.num_resolved < n
    assert s.num_resolved == n


def test_the_error_of_a_root_covers_both_ends_of_the_eigenvalue():
    relative = 1e-12
    eigenvalues = torch.tensor([1.0, 1e-3, 4e-12, 1e-12, 2e-13, 0.0]).double()
    sigma, error = singular_values_of(eigenvalues, relative)
    low = (eigenvalues - relative).clamp_min(0.0).sqrt()
    high = (eigenvalues + relative).sqrt()
    assert bool((sigma - error <= low * (1 + FLOAT64)).all())
    assert bool((sigma + error >= high * (1 - FLOAT64)).all())


@pytest.mark.parametrize("power", [4, 8, 12])
def test_errors_of_a_graded_matrix_hold_against_eighty_digits(power):
    n = 14
    i = torch.arange(n, dtype=torch.float64)
    W = with_spectrum(10.0 ** (-power * i / (n - 1)), n, n, seed=3)
    truth = torch.tensor(
        mp_singular_values([[mpmath.mpf(float(x)) for x in row] for row in W.tolist()]),
        dtype=torch.float64,
    )
    for needs in (["sigma"], ["small_end"]):
        s = spectrum(W, needs)
        assert bool(((s.sigma - truth).abs() <= s.sigma_error).all()), needs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1300, 1100), (1100, 1300)])
@pytest.mark.parametrize("name", ["quarter-circle", "power", "spike", "flat"])
def test_norms_of_a_large_matrix_enclose_the_known_ones(name, shape, dtype):
    sigma = named_spectrum(name, 1100)
    W = with_spectrum(sigma, *shape, seed=5).to(dtype)
    s = spectrum(W, NORMS)
    assert s.route == "lanczos-float32"
    assert s.sigma is None
    assert s.sigma_max.relative_width <= 1e-4
    # Rounding the matrix to float32 moves its norm by 1e-7 at the most.
    slack = 1e-7 if dtype == torch.float32 else 1e-13
    assert s.sigma_max.lower - slack <= 1.0 <= s.sigma_max.upper + slack
    norm = float(torch.linalg.vector_norm(W.double()))
    assert s.frobenius.lower <= norm <= s.frobenius.upper
    # The value itself is far better than the enclosure.
    assert s.sigma_max.value == pytest.approx(1.0, abs=1e-6)


def test_a_fine_tolerance_takes_float64_products():
    W = with_spectrum(named_spectrum("power", 1100), 1200, 1100, seed=6)
    s = spectrum(W, NORMS, rtol=1e-8)
    assert s.route == "lanczos-float64"
    assert s.sigma_max.relative_width <= 1e-8
    assert s.sigma_max.lower <= 1.0 + 1e-14
    assert s.sigma_max.upper >= 1.0 - 1e-14


def test_float32_products_that_are_too_coarse_are_repeated_in_float64(monkeypatch):
    monkeypatch.setattr(enclosure_module, "_FLOAT32_RTOL", 0.0)
    W = with_spectrum(named_spectrum("power", 1100), 1200, 1100, seed=6)
    s = spectrum(W, NORMS, rtol=1e-8)
    assert s.route == "lanczos-float64"
    assert s.sigma_max.relative_width <= 1e-8


def test_a_deterministic_certificate_encloses_and_has_no_failure_probability():
    W = with_spectrum(named_spectrum("quarter-circle", 1100), 1200, 1100, seed=7)
    for shape in (W, W[:60, :50]):
        truth = float(gesvd(shape)[0])
        s = spectrum(shape, NORMS, certify="deterministic")
        assert s.sigma_max.error_kind == "certified"
        assert s.sigma_max.failure_probability == 0.0
        assert s.sigma_max.lower <= truth <= s.sigma_max.upper
        assert s.sigma_max.relative_width <= 1e-4


def test_a_certificate_refuses_an_upper_end_that_is_too_low():
    W = with_spectrum(named_spectrum("power", 80), 100, 80, seed=8)
    op = make_operand(W)
    upper = gram_module.gram(op)
    value = spectrum(W).sigma_max
    low = type(value)(value.value, 0.9, 1.0 - 1e-9, "probabilistic", 1e-9)
    high = type(value)(value.value, 0.9, 1.0 + 1e-9, "probabilistic", 1e-9)
    assert certify(op, upper, low) is None
    assert certify(op, upper, high) is not None


def test_the_schatten_norm_comes_without_eigenvalues():
    sigma = named_spectrum("power", 1200)
    W = with_spectrum(sigma, 1300, 1200, seed=9)
    s = spectrum(W, ["frobenius", "sigma_max", "schatten4"])
    assert s.route == "gram-lanczos"
    truth = float(sigma.pow(4).sum() ** 0.25)
    assert s.schatten4.lower <= truth <= s.schatten4.upper
    assert s.schatten4.value == pytest.approx(truth, rel=FLOAT64)
    assert s.sigma_max.lower <= 1.0 <= s.sigma_max.upper


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(700, 300), (300, 700)])
def test_the_blocked_product_is_the_product(shape, dtype):
    W = with_spectrum(named_spectrum("power", 300), *shape, seed=10).to(dtype)
    op = make_operand(W)
    v = torch.randn(
        300, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    A = W.double() if shape[0] > shape[1] else W.double().T
    error = (gram_product(op, dtype)(v) - A.T @ (A @ v)).norm() / v.norm()
    assert float(error) < (1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("panel", [7, 1000])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("shape", [(70, 30), (30, 70), (2100, 30), (30, 2100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gram_matrix_is_the_one_of_the_smaller_side(
    shape, contiguous, dtype, panel, monkeypatch
):
    monkeypatch.setattr(gram_module, "_PANEL", panel)
    W = with_spectrum(named_spectrum("power", 30), *shape, seed=11).to(dtype)
    W = W if contiguous else torch.cat([W, W], dim=1)[:, ::2]
    A = W if W.shape[0] >= W.shape[1] else W.T
    upper = gram_module.gram(make_operand(W))
    expected = A.double().T @ A.double()
    assert torch.allclose(torch.triu(upper), torch.triu(expected), atol=1e-14)
    assert torch.allclose(gram_module.symmetrised(upper), expected, atol=1e-14)


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    m=st.integers(1, 24),
    n=st.integers(1, 24),
    rank=st.integers(1, 24),
    exponent=st.integers(-200, 200),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_matrix_is_enclosed(m, n, rank, exponent, dtype, seed):
    rng = np.random.default_rng(seed)
    r = min(rank, m, n)
    W = rng.standard_normal((m, r)) @ rng.standard_normal((r, n))
    limit = {torch.float64: 200, torch.float32: 30, torch.float16: 2}.get(dtype, 30)
    exponent = max(-limit, min(limit, exponent))
    W = torch.from_numpy(W * 10.0**exponent).to(dtype)
    if not bool((W != 0).any()):
        return
    scale = float(W.abs().max())
    truth = gesvd(W.double() / scale)
    for needs in (["sigma"], ["small_end"], list(NEEDS)):
        s = spectrum(W, needs)
        assert s.status == "ok"
        error = (s.sigma / scale - truth).abs()
        allowed = s.sigma_error / scale + 1e-14 * truth[0]
        assert bool((error <= allowed).all()), (needs, error, allowed)
        top = s.sigma_max
        assert top.lower / scale <= float(truth[0]) * (1 + FLOAT64)
        assert top.upper / scale >= float(truth[0]) * (1 - FLOAT64)
        frobenius = float(truth.square().sum().sqrt())
        assert s.frobenius.value / scale == pytest.approx(frobenius, rel=FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_quarter_precision_is_cast_and_measured(dtype):
    W = with_spectrum(named_spectrum("power", 20), 30, 20, seed=12).to(dtype)
    s = spectrum(W)
    assert float((s.sigma - gesvd(W)).abs().max()) <= FLOAT64


@pytest.mark.parametrize("needs", [NORMS, ("sigma",), ("small_end",), NEEDS])
@pytest.mark.parametrize(
    ("W", "status"),
    [
        (torch.zeros(40, 30), "degenerate"),
        (torch.empty(0, 30), "degenerate"),
        (torch.empty(30, 0), "degenerate"),
        (torch.full((3, 3), math.nan), "nonfinite"),
        (torch.tensor([[1.0, -math.inf]]), "nonfinite"),
    ],
)
def test_matrices_without_a_spectrum_get_a_status(W, status, needs):
    s = spectrum(W, needs)
    assert s.status == status
    assert s.sigma_max.status == status
    assert s.reason
    assert s.route == "none"


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1.0, 1e200, 1e307])
def test_extreme_scales_neither_overflow_nor_underflow(scale):
    sigma = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    s = spectrum(with_spectrum(sigma, 5, 3, seed=13) * scale)
    # 1e-310 is subnormal: the entries themselves have only a few digits left.
    rel = 1e-4 if scale < 1e-300 else FLOAT64
    assert (s.sigma / s.sigma[0]).tolist() == pytest.approx(sigma.tolist(), rel=rel)
    assert s.sigma_max.value == pytest.approx(scale, rel=rel)


def test_a_spectrum_prints_what_it_knows():
    assert repr(spectrum(torch.diag(torch.tensor([3.0, 4.0])))) == (
        "Spectrum(2 x 2, 2 values, sigma_max=4, frobenius=5, route='gram', status='ok')"
    )
    large = spectrum(torch.ones(1100, 1100), NORMS)
    assert "norms only" in repr(large)


def test_a_single_entry_and_a_single_row():
    assert spectrum(torch.tensor([[-3.0]])).sigma.tolist() == pytest.approx([3.0])
    row = torch.tensor([[3.0, 4.0, 0.0]])
    for W in (row, row.T):
        assert spectrum(W).sigma.tolist() == pytest.approx([5.0])
        assert spectrum(W, NORMS).sigma_max.value == pytest.approx(5.0)


def test_a_60000_row_embedding_is_routine():
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(60_000, 96, generator=generator)
    s = spectrum(W)
    truth = torch.linalg.eigvalsh(W.double().T @ W.double()).flip(0).sqrt()
    assert float((s.sigma / truth - 1).abs().max()) < 1e-10


@pytest.mark.parametrize("shape", [(4096, 1024), (1024, 4096)])
@pytest.mark.parametrize("certify", ["probabilistic", "deterministic"])
def test_a_freshly_initialised_layer_is_enclosed_on_every_route(shape, certify):
    # Its spectrum stays away from zero, where lost orthogonality shows most.
    torch.manual_seed(0)
    W = torch.nn.Linear(*shape, bias=False).weight.detach()
    A = W.double() if W.shape[0] >= W.shape[1] else W.double().T
    truth = float(torch.linalg.eigvalsh(A.T @ A)[-1].sqrt())
    for needs in (NORMS, ("frobenius", "sigma_max", "schatten4"), ("sigma",)):
        for rtol in (1e-2, 1e-4, 1e-8):
            s = spectrum(W, needs, rtol=rtol, certify=certify)
            assert s.sigma_max.lower <= truth * (1 + FLOAT64), (s.route, rtol)
            assert s.sigma_max.upper >= truth * (1 - FLOAT64), (s.route, rtol)
            assert s.sigma_max.value == pytest.approx(truth, rel=rtol)


def test_the_popular_shortcut_is_biased_and_the_enclosure_is_not():
    # svd_lowrank with its defaults is several per cent low on a flat spectrum.
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(1200, 1200, generator=generator)
    truth = float(torch.linalg.eigvalsh(W.double().T @ W.double())[-1].sqrt())
    shortcut = float(torch.svd_lowrank(W, q=6)[1][0])
    assert shortcut < 0.97 * truth
    s = spectrum(W, NORMS)
    assert s.route == "lanczos-float32"
    assert s.sigma_max.lower <= truth <= s.sigma_max.upper


def test_the_start_is_independent_of_a_model_made_under_the_same_seed():
    # torch.manual_seed(s) and a generator seeded with s draw the same numbers.
    n = 1536
    torch.manual_seed(0)
    v = torch.randn(n, dtype=torch.float64)
    v /= v.norm()
    W = torch.randn(n, n, dtype=torch.float64) / n**0.5
    # The direction of that vector is taken out of the matrix.
    A = W - torch.outer(W @ v, v)
    truth = float(torch.linalg.eigvalsh(A.T @ A)[-1].sqrt())
    for needs, rtol in ((["schatten4", "sigma_max"], 1e-4), (NORMS, 1e-6)):
        s = spectrum(A, needs, rtol=rtol)
        assert "lanczos" in s.route
        assert s.sigma_max.lower <= truth * (1 + FLOAT64)
        assert s.sigma_max.upper >= truth * (1 - FLOAT64)


@pytest.mark.parametrize("certify", ["probabilistic", "deterministic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1_000_000, 1), (1_000_000, 2), (200_000, 20)])
def test_long_columns_of_one_sign_stay_within_their_error(shape, dtype, certify):
    # The worst case of summation: rounding does not average out.
    W = torch.full(shape, 0.1, dtype=dtype)
    entry = mpmath.mpf(float(W[0, 0]))
    truth = entry * mpmath.sqrt(W.numel())
    for needs in (["sigma"], ["small_end"]):
        s = spectrum(W, needs, certify=certify)
        assert mpmath.mpf(s.sigma_max.lower) <= truth <= mpmath.mpf(s.sigma_max.upper)
        assert mpmath.mpf(s.frobenius.lower) <= truth <= mpmath.mpf(s.frobenius.upper)
        assert abs(s.sigma[0] - float(truth)) <= s.sigma_error[0]
        assert bool((s.sigma[1:] <= s.sigma_error[1:]).all())
        certified = certify == "deterministic"
        assert (s.sigma_max.error_kind == "certified") == certified


def test_entries_at_the_edge_of_float64_give_numbers_or_a_status():
    s = spectrum(torch.diag(torch.tensor([1e308, 0.0], dtype=torch.float64)))
    assert s.sigma.tolist() == [1e308, 0.0]
    s = spectrum(torch.full((10, 10), 1.7e308, dtype=torch.float64))
    assert s.status == "nonfinite"
    assert "rescale" in s.reason
    assert metrics.condition_number(torch.full((3, 4), 1e-320).double()).status != "ok"
    huge = torch.tensor([[1.7e308, 1.7e308], [1.7e308, -1.7e308]], dtype=torch.float64)
    for metric in metrics.list_metrics():
        assert metric(huge).status == "nonfinite"
        metric(torch.full((3, 4), 1e-320, dtype=torch.float64))
    tiny = spectrum(torch.eye(2, dtype=torch.float64) * 5e-324)
    ratio = (tiny.frobenius / tiny.sigma_max) ** 2
    assert ratio.lower <= 2.0 <= ratio.upper
    assert float(tiny.sigma_error[0]) > 0.0


def test_when_eigenvalues_fail_a_dense_svd_serves_and_when_all_fail_a_status(
    monkeypatch,
):
    def fail(*args, **kwargs):
        raise torch.linalg.LinAlgError("planted")

    W = with_spectrum(named_spectrum("power", 20), 30, 20, seed=14)
    monkeypatch.setattr(gram_module, "_by_scipy", fail)
    monkeypatch.setattr(gram_module, "_by_torch", fail)
    s = spectrum(W)
    assert s.route == "svd"
    assert s.sigma.tolist() == pytest.approx(named_spectrum("power", 20).tolist())
    monkeypatch.setattr(torch.linalg, "svdvals", fail)
    assert spectrum(W).sigma.tolist() == pytest.approx(s.sigma.tolist())

    def fail_too(*args, **kwargs):
        raise np.linalg.LinAlgError("planted")

    monkeypatch.setattr(scipy.linalg, "svd", fail_too)
    s = spectrum(W)
    assert s.status == "not_converged"
    assert "converge" in s.reason


def test_a_default_device_of_the_user_is_not_in_the_way():
    W = torch.ones(1100, 1100) + torch.eye(1100)
    with torch.device("meta"):
        assert spectrum(W, NORMS).sigma_max.value == pytest.approx(1101.0)
        assert spectrum(torch.zeros(3, 3, device="cpu")).status == "degenerate"
        assert spectrum(W[:20, :20]).sigma_max.value == pytest.approx(21.0)


def test_the_matrix_and_the_global_generator_are_left_as_they_were():
    W = torch.nn.Parameter(torch.randn(40, 30))
    before, state = W.detach().clone(), torch.get_rng_state()
    for needs in (NORMS, NEEDS):
        s = spectrum(W, needs)
        assert s.sigma is None or not s.sigma.requires_grad
    assert torch.equal(before, W)
    assert W.grad is None
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("W", "error", "match"),
    [
        ([[1.0]], ArgumentTypeError, "torch.Tensor, got list; convert"),
        (np.ones((2, 2)), ArgumentTypeError, "torch.Tensor, got ndarray; convert"),
        (torch.ones(3), ShapeError, "2-D tensor, got shape"),
        (torch.ones(3, 3, dtype=torch.int32), DomainError, "got torch.int32"),
        (torch.ones(3, 3, dtype=torch.complex64), DomainError, "got torch.complex64"),
        (torch.ones(3, 3, device="meta"), DomainError, "meta device"),
        (torch.eye(3).to_sparse(), DomainError, "dense tensor, got layout"),
    ],
)
def test_what_is_not_a_real_matrix_is_refused(W, error, match):
    with pytest.raises(error, match=match):
        spectrum(W)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"needs": ["sigmas"]}, UnknownNameError, "got 'sigmas'"),
        ({"rtol": 0.0}, DomainError, r"rtol must lie in \(0, 1\), got 0.0"),
        ({"failure_probability": 1.0}, DomainError, "failure_probability must lie"),
        ({"rtol": "a"}, ArgumentTypeError, "rtol is a number"),
        ({"seed": "a"}, ArgumentTypeError, "seed is a whole number"),
        ({"certify": "maybe"}, UnknownNameError, "got 'maybe'"),
    ],
)
def test_options_out_of_range_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        spectrum_function(torch.eye(3), **options)
