"""Leading directions against a dense SVD; angles against SciPy's."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from matrices import with_spectrum

import spectrank.linalg.subspaces as module
from spectrank.linalg import spectrum, spectrum_and_subspaces
from spectrank.linalg.subspaces import largest_angle, subspace_overlap, wedin_bound

SHAPES = [(30, 12), (12, 30), (20, 20), (1, 6), (6, 1)]


def gaps(m: int, n: int) -> torch.Tensor:
    """A matrix whose values halve, so that every direction is told."""
    sigma = 2.0 ** -torch.arange(min(m, n), dtype=torch.float64)
    return with_spectrum(sigma, m, n, seed=m + 100 * n)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_directions_are_those_of_a_dense_svd(m, n, whole, monkeypatch):
    if not whole:
        # The route of matrices beyond a thousand columns.
        monkeypatch.setattr(module, "_WHOLE", 0)
    W = gaps(m, n)
    s, found = spectrum_and_subspaces(W, 4)
    U, sigma, Vh = (torch.from_numpy(x) for x in np.linalg.svd(W.numpy()))
    k = min(4, m, n)
    assert found.left.shape == (m, k)
    assert found.right.shape == (n, k)
    assert found.sigma.tolist() == pytest.approx(sigma[:k].tolist(), rel=1e-12)
    for j in range(k):
        assert abs(float(found.left[:, j] @ U[:, j])) == pytest.approx(1.0, abs=1e-12)
        assert abs(float(found.right[:, j] @ Vh[j])) == pytest.approx(1.0, abs=1e-12)
    following = sigma[k].item() if k < len(sigma) else 0.0
    assert found.value_at(k) == pytest.approx(following, rel=1e-6, abs=1e-12)
    # Values are those of the plain route, to the error that both state.
    plain = spectrum(W, ("sigma",))
    assert (s.sigma - plain.sigma).abs().le(s.sigma_error + plain.sigma_error).all()


@pytest.mark.parametrize("whole", [True, False])
def test_directions_below_the_rounding_of_a_gram_matrix_are_left_out(
    whole, monkeypatch
):
    if not whole:
        monkeypatch.setattr(module, "_WHOLE", 0)
    sigma = torch.tensor([1.0, 1e-3, 1e-12, 0.0, 0.0], dtype=torch.float64)
    _, found = spectrum_and_subspaces(with_spectrum(sigma, 9, 5, seed=0), 4)
    assert found.left.shape == (9, 2)
    assert found.angle_error(2) < 1e-6


def test_tied_directions_have_no_angle():
    _, found = spectrum_and_subspaces(torch.eye(6), 3)
    assert found.angle_error(3) == math.inf
    assert found.angle_error(1) == math.inf


@pytest.mark.parametrize("gap", [0.5, 1.5, 3.0, 10.0])
def test_the_error_of_an_angle_is_reached_by_no_turn_of_two_by_two(gap):
    # G = diag(1 + gap E, 1) and every symmetric change of norm E: brute force.
    E = 1e-3
    found = module.LeadingSubspaces(
        left=torch.eye(2),
        right=torch.eye(2),
        sigma=torch.tensor([1.0 + gap * E]).double().sqrt(),
        following=1.0,
        square_error=E,
        exponent=0,
    )
    G = np.diag([1.0 + gap * E, 1.0])
    sines = []
    for t in np.linspace(0.0, math.pi, 721):
        v = np.array([math.cos(t), math.sin(t)])
        turned = np.linalg.eigh(G + E * (2.0 * np.outer(v, v) - np.eye(2)))[1][:, 1]
        sines.append(abs(turned[1]))
    assert max(sines) <= found.angle_error(1)
    assert found.angle_error(1) < 8.0 * max(sines) or gap <= 1.5


@pytest.mark.parametrize("scale", [1e-200, 1e200, 1e307])
def test_extreme_scales_keep_values_and_directions(scale):
    W = gaps(8, 5)
    _, plain = spectrum_and_subspaces(W, 3)
    s, found = spectrum_and_subspaces(W * scale, 3)
    assert found.value_at(0) == pytest.approx(scale, rel=1e-12)
    assert s.sigma[0].item() == pytest.approx(scale, rel=1e-12)
    assert subspace_overlap(found.left, plain.left) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_measured_as_the_matrix_it_is(dtype):
    W = gaps(12, 7).to(dtype)
    _, found = spectrum_and_subspaces(W, 2)
    U = torch.linalg.svd(W.double()).U[:, :2]
    assert subspace_overlap(found.left, U) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    "W",
    [torch.zeros(3, 2), torch.empty(0, 4), torch.full((2, 2), math.nan)],
    ids=["zero", "empty", "nan"],
)
def test_without_numbers_there_are_no_directions(W):
    s, found = spectrum_and_subspaces(W, 2)
    assert found is None
    assert s.status == spectrum(W).status


@pytest.mark.parametrize("turn", [1e-9, 1e-4, 0.3, 1.2, math.pi / 2.0])
def test_largest_angle_is_that_of_a_known_turn_and_of_scipy(turn):
    U = torch.eye(5, dtype=torch.float64)[:, :2]
    V = U.clone()
    V[1, 1], V[3, 1] = math.cos(turn), math.sin(turn)
    Q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert largest_angle(Q @ U, Q @ V) == pytest.approx(turn, rel=1e-6, abs=1e-15)
    theirs = scipy.linalg.subspace_angles((Q @ U).numpy(), (Q @ V).numpy())[0]
    assert largest_angle(Q @ U, Q @ V) == pytest.approx(theirs, rel=1e-6, abs=1e-15)
    overlap = (1.0 + math.cos(turn) ** 2) / 2.0
    assert subspace_overlap(Q @ U, Q @ V) == pytest.approx(overlap, rel=1e-12)


def test_wedins_bound_holds_where_it_says_something():
    A = gaps(10, 6)
    E = torch.randn(10, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    E *= 1e-3 / torch.linalg.matrix_norm(E, 2)
    (_, a), (_, b) = (spectrum_and_subspaces(x, 2) for x in (A, A + E))
    bound = wedin_bound(1e-3, a.value_at(1), b.value_at(2))
    assert bound < 1.0
    for U, V in ((a.left, b.left), (a.right, b.right)):
        assert math.sin(largest_angle(U, V)) <= bound
    assert wedin_bound(1.0, 1.0, 1.0) == math.inf
