"""Haar frames: laws that only the uniform one has, and samplers that break them."""

import math
from types import SimpleNamespace

import pytest
import torch
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.haar import frame, haar, haar_moments

NUM = 8_000
SEEDS = (1, 2, 3)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def gaussian(m, p, num, seed):
    return torch.randn(num, m, p, dtype=torch.float64, generator=generator(seed))


def rotation(m):
    """A fixed orthogonal matrix that mixes all axes unequally."""
    axis = torch.arange(1.0, m + 1.0, dtype=torch.float64)
    axis /= axis.norm()
    return torch.eye(m, dtype=torch.float64) - 2.0 * torch.outer(axis, axis)


def statistics(Q):
    """Per-sample values and truths, from Weingarten calculus on O(m)."""
    m, p = Q.shape[-2:]
    a, b = Q[:, 0, 0], Q[:, m - 1, p - 1]
    yield "mean", a, 0.0
    yield "second", a**2, 1.0 / m
    yield "second of the last", b**2, 1.0 / m
    yield "fourth", a**4, 3.0 / (m * (m + 2))
    yield "fourth of the last", b**4, 3.0 / (m * (m + 2))
    yield "product", a * b, 0.0
    yield "same column", a**2 * Q[:, m - 1, 0] ** 2, 1.0 / (m * (m + 2))
    if p > 1:
        pair = (m - 1) * m * (m + 2)
        yield "same row", a**2 * Q[:, 0, p - 1] ** 2, 1.0 / (m * (m + 2))
        yield "two rows and columns", a**2 * b**2, (m + 1) / pair
        yield "rectangle", a * b * Q[:, 0, p - 1] * Q[:, m - 1, 0], -1.0 / pair
    if m == p:
        yield "determinant", torch.linalg.det(Q), 0.0
        trace = Q.diagonal(dim1=-2, dim2=-1).sum(-1)
        yield "trace", trace, 0.0
        yield "squared trace", trace**2, 1.0


def failures(sampler, m, p, seed):
    """Names of the laws broken by 4 standard errors, as drawn and after rotations."""
    Q = sampler(m, p, NUM, seed)
    broken = []
    for where, X in (
        ("drawn", Q),
        ("rotated left", rotation(m) @ Q),
        ("rotated right", Q @ rotation(p)),
    ):
        for name, values, truth in statistics(X):
            error = float(values.std()) / math.sqrt(len(values))
            if abs(float(values.mean()) - truth) > STANDARD_ERRORS * error + FLOAT64:
                broken.append(f"{name} ({where})")
    return broken


def true_sampler(m, p, num, seed):
    return haar(m, p, generator=generator(seed), num=num)


def without_sign(m, p, num, seed):
    return torch.linalg.qr(gaussian(m, p, num, seed))[0]


def with_the_size_of_r(m, p, num, seed):
    Q, R = torch.linalg.qr(gaussian(m, p, num, seed))
    return Q * R.diagonal(dim1=-2, dim2=-1).abs().sign().unsqueeze(-2)


def with_one_sign_for_all(m, p, num, seed):
    Q, R = torch.linalg.qr(gaussian(m, p, num, seed))
    return Q * R[:, :1, :1].sign()


def of_uniform_entries(m, p, num, seed):
    X = torch.rand(num, m, p, dtype=torch.float64, generator=generator(seed))
    Q, R = torch.linalg.qr(X)
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def of_signed_permutations(m, p, num, seed):
    g = generator(seed)
    order = torch.rand(num, m, generator=g).argsort(-1)
    Q = torch.eye(m, dtype=torch.float64)[order][..., :p]
    signs = torch.randint(0, 2, (num, 1, p), generator=g) * 2 - 1
    return Q * signs


def of_unequal_columns(m, p, num, seed):
    scale = torch.linspace(1.0, 3.0, m, dtype=torch.float64).unsqueeze(-1)
    Q, R = torch.linalg.qr(scale * gaussian(m, p, num, seed))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def of_determinant_one(m, p, num, seed):
    Q = true_sampler(m, p, num, seed)
    Q[:, :, 0] *= torch.linalg.det(Q).sign().unsqueeze(-1)
    return Q


MUTANTS = (
    without_sign,
    with_the_size_of_r,
    with_one_sign_for_all,
    of_uniform_entries,
    of_signed_permutations,
    of_unequal_columns,
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("m", "p"), [(4, 4), (5, 3), (7, 1), (2, 2)])
def test_haar_frames_have_the_moments_of_the_uniform_law(m, p, seed):
    assert failures(true_sampler, m, p, seed) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_samplers_that_are_not_haar_are_rejected(mutant, seed):
    assert failures(mutant, 4, 4, seed)
    assert failures(mutant, 5, 3, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_the_sign_the_first_entry_is_never_positive(seed):
    values = without_sign(5, 3, NUM, seed)[:, 0, 0]
    assert float(values.max()) <= 0.0
    error = float(values.std()) / math.sqrt(NUM)
    assert abs(float(values.mean()) + 3 / 8) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("seed", SEEDS)
def test_rotations_without_reflections_are_rejected(seed):
    assert "determinant (drawn)" in failures(of_determinant_one, 4, 4, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_frame_of_one_number_is_either_sign(seed):
    Q = true_sampler(1, 1, NUM, seed)
    assert torch.equal(Q.abs(), torch.ones(NUM, 1, 1, dtype=torch.float64))
    assert abs(float(Q.mean())) <= STANDARD_ERRORS / math.sqrt(NUM)


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 1), (3, 3), (40, 7), (200, 200)])
def test_columns_are_orthonormal(m, p):
    Q = haar(m, p, generator=generator(0))
    assert Q.shape == (m, p)
    assert torch.allclose(Q.T @ Q, torch.eye(p, dtype=torch.float64), atol=FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_columns_are_orthonormal_as_far_as_the_dtype_goes(dtype):
    Q = haar(60, 20, generator=generator(0), dtype=dtype)
    assert Q.dtype == dtype
    # Rounding of 60 products of entries of size 60^-1/2.
    bound = 8.0 * torch.finfo(dtype).eps
    error = Q.double().T @ Q.double() - torch.eye(20, dtype=torch.float64)
    assert float(error.abs().max()) <= bound


def test_a_dependent_column_is_kept():
    # sign(0) = 0 would wipe it out.
    X = gaussian(4, 3, 1, 0)[0]
    X[:, 1] = 0.0
    Q = frame(4, 3, SimpleNamespace(normal=lambda m, p: X))
    assert torch.allclose(Q.T @ Q, torch.eye(3, dtype=torch.float64), atol=FLOAT64)


def test_one_state_of_the_generator_gives_one_frame_and_the_global_state_stays():
    before = torch.get_rng_state()
    a, b = (haar(5, 3, generator=generator(7)) for _ in range(2))
    c = haar(5, 3, generator=generator(8))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_frame_is_the_same_numbers_on_another_device():
    host = haar(9, 4, generator=generator(1))
    moved = haar(9, 4, generator=generator(1), device="cuda")
    assert moved.device.type == "cuda"
    assert torch.allclose(host, moved.cpu(), atol=FLOAT64)
    own = torch.Generator(device="cuda").manual_seed(1)
    assert haar(9, 4, generator=own).device.type == "cuda"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"m": 3, "p": 4}, DomainError, r"p must lie in \[1, 3\].*got 4.*transpose"),
        ({"m": 0, "p": 0}, DomainError, "m must be at least 1, got 0"),
        ({"m": 3, "p": 0}, DomainError, "p must be at least 1, got 0"),
        ({"m": 3.0, "p": 1}, ArgumentTypeError, r"m is a whole number, got 3\.0"),
        ({"m": True, "p": 1}, ArgumentTypeError, "m is a whole number, got True"),
        ({"m": 3, "p": 1, "num": 0}, DomainError, "num must be at least 1, got 0"),
        ({"m": 3, "p": 1, "dtype": torch.int64}, DomainError, "got torch.int64"),
        ({"m": 3, "p": 1, "generator": None}, ArgumentTypeError, "got NoneType"),
        ({"m": 3, "p": 1, "generator": 0}, ArgumentTypeError, "got int"),
    ],
)
def test_bad_requests_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        haar(**({"generator": generator(0)} | arguments))


SPECTRUM = torch.tensor([1.0, 0.8, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 7, 500])
@pytest.mark.parametrize(("a1_squared", "a2"), [(4.0, 4.0), (4.0, 2.5), (9.0, 5.0)])
def test_haar_moments_contract_to_the_moments_of_the_spectrum(n, a1_squared, a2):
    # E (tr M)^2 and E tr M^2 fix both numbers; here they are summed back.
    alpha, beta = haar_moments(n, a1_squared, a2)
    assert n * n * alpha + 2 * n * beta == pytest.approx(a1_squared, rel=FLOAT64)
    assert n * alpha + n * (n + 1) * beta == pytest.approx(a2, rel=FLOAT64)


def test_haar_moments_of_one_input_are_the_square_itself():
    assert haar_moments(1, 9.0, 9.0) == (9.0, 0.0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("m", "n"), [(3, 5), (6, 3)])
def test_haar_moments_are_those_of_sampled_matrices(m, n, seed):
    g = generator(seed)
    U, V = haar(m, 3, generator=g, num=NUM), haar(n, 3, generator=g, num=NUM)
    W = (U * SPECTRUM) @ V.mT
    t = SPECTRUM**2
    for M, size in ((W.mT @ W, n), (W @ W.mT, m)):
        alpha, beta = haar_moments(size, float(t.sum()) ** 2, float((t**2).sum()))
        for values, truth in (
            (M[:, 0, 0] ** 2, alpha + 2 * beta),
            (M[:, 0, 0] * M[:, 1, 1], alpha),
            (M[:, 0, 1] ** 2, beta),
            (M[:, 0, 1] * M[:, 1, 2], 0.0),
        ):
            error = float(values.std()) / math.sqrt(NUM)
            assert abs(float(values.mean()) - truth) <= STANDARD_ERRORS * error


@pytest.mark.parametrize(
    ("n", "a1_squared", "a2"),
    [(4, 4.0, 4.1), (4, 4.0, 0.9), (4, 2.0, 4.0), (4, -1.0, 1.0), (3, math.nan, 1.0)],
)
def test_moments_that_no_spectrum_has_are_refused(n, a1_squared, a2):
    with pytest.raises(DomainError, match="got a1_squared"):
        haar_moments(n, a1_squared, a2)
