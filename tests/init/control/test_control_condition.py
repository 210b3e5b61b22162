"""The condition for spectral updates: closed forms, and decreases that are kept."""

import math

import numpy as np
import pytest
import torch
from matrices import with_spectrum
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.errors import ShapeError
from spectrank.init.control import spectral_update_condition

# Norms by a Gram matrix, in float64.
SPECTRUM = 1e-10


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e100])
def test_planted_spectra_give_their_closed_forms(scale):
    g, a = [4.0, 2.0, 1.0, 1.0], [5.0, 3.0, 1.0, 1.0, 0.5, 0.1]
    G = with_spectrum(g, 4, 6, seed=0) * scale
    A = with_spectrum(a, 20, 6, seed=1)
    got = spectral_update_condition(G, A)
    nuclear, stable = 64.0 / 22.0, 36.26 / 25.0
    assert got.nuclear_rank.value == pytest.approx(nuclear, rel=SPECTRUM)
    assert got.stable_rank.value == pytest.approx(stable, rel=SPECTRUM)
    assert got.ratio.value == pytest.approx(nuclear / stable, rel=SPECTRUM)
    # Not the other nuclear rank, sum s / s_1 = 2, nor the root of the squared one.
    assert abs(got.nuclear_rank.value - 2.0) > 0.5
    if scale == 1.0:
        assert got.euclidean.value == pytest.approx(22.0 / 50.0, rel=SPECTRUM)
        assert got.spectral.value == pytest.approx(64.0 / 72.52, rel=SPECTRUM)
    ratio = got.spectral.value / got.euclidean.value
    if scale >= 1.0:
        assert ratio == pytest.approx(got.ratio.value, rel=SPECTRUM)
    assert got.num_rows == 20


def least_squares(g):
    """A problem 1/2 ||W A^T - Y||^2 with spectra that range from flat to spiked."""
    m, n, rows = (int(torch.randint(2, 12, (), generator=g)) for _ in range(3))
    rows += n
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    A = normal(rows, n) + 3.0 * torch.rand((), generator=g) * normal(rows, 1)
    W = normal(m, n)
    return A, W, W @ A.T + normal(m, rows) * torch.rand((), generator=g) * 3


def test_both_guarantees_hold_on_random_least_squares():
    g = torch.Generator().manual_seed(0)
    right = 0
    for _ in range(300):
        A, W, Y = least_squares(g)
        loss = lambda X, A=A, Y=Y: 0.5 * float((X @ A.T - Y).square().sum())  # noqa: E731
        G = (W @ A.T - Y) @ A
        u, s, vh = torch.linalg.svd(G, full_matrices=False)
        top = torch.linalg.svdvals(A)[0]
        euclidean = loss(W) - loss(W - G / top**2)
        spectral = loss(W) - loss(W - s.sum() / A.square().sum() * (u @ vh))
        got = spectral_update_condition(G, A)
        slack = 1 + FLOAT64
        assert got.euclidean.value <= euclidean * slack
        assert got.spectral.value <= spectral * slack
        right += (got.ratio.value >= 1.0) == (spectral >= euclidean)
    # The note found 97 %; guaranteed decreases are not those that happen.
    assert 0.9 < right / 300 < 1.0


def test_guarantees_are_attained_where_nothing_is_lost():
    # A of rank one: both steps are exact line searches along the same direction.
    a = torch.tensor([[3.0], [4.0]], dtype=torch.float64) @ torch.ones(1, 3).double()
    W, Y = torch.zeros(2, 3).double(), torch.tensor([[1.0, 1.0], [2.0, 2.0]]).double()
    G = (W @ a.T - Y) @ a
    got = spectral_update_condition(G, a)
    assert got.ratio.value == pytest.approx(1.0, rel=SPECTRUM)
    after = W - G / torch.linalg.svdvals(a)[0] ** 2
    decrease = 0.5 * (Y.square().sum() - (after @ a.T - Y).square().sum())
    assert got.euclidean.value == pytest.approx(float(decrease), rel=SPECTRUM)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stable_rank_of_relu_of_gaussians_is_near_pi(seed):
    # E relu^2 = 1/2 and (E relu)^2 = 1/(2 pi): pi in the limit. A spike of square
    # N d / (2 pi) in noise of variance v = 1/2 - 1/(2 pi) has s_1^2 larger by
    # (1 + (pi - 1)/N) (1 + (pi - 1)/d).
    N, d = 200, 150
    g = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(40):
        A = torch.randn(N, d, dtype=torch.float64, generator=g).relu()
        values.append(spectral_update_condition(torch.ones(2, d), A).stable_rank.value)
    expected = math.pi / (1 + (math.pi - 1) / N) / (1 + (math.pi - 1) / d)
    error = np.std(values, ddof=1) / len(values) ** 0.5
    assert abs(np.mean(values) - expected) <= STANDARD_ERRORS * error
    assert abs(np.mean(values) - expected) < 0.02


def test_zero_gradients_and_activations_have_a_status():
    zero, one = torch.zeros(3, 4), torch.ones(5, 4)
    got = spectral_update_condition(zero, one)
    assert got.nuclear_rank.status == got.ratio.status == "degenerate"
    assert got.stable_rank.status == "ok"
    got = spectral_update_condition(torch.ones(3, 4), torch.zeros(5, 4))
    assert got.stable_rank.status == got.ratio.status == "degenerate"
    got = spectral_update_condition(torch.full((3, 4), math.nan), one)
    assert got.ratio.status == "nonfinite"


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="share n"):
        spectral_update_condition(torch.ones(3, 4), torch.ones(4, 3))
