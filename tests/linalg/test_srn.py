"""Factors of stable rank normalisation against spectra and a constrained search."""

import math

import numpy as np
import pytest
import torch
from matrices import with_spectrum
from scipy.optimize import minimize
from tolerances import FLOAT64

from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg.srn import srn_factors

VARIANTS = ("keep", "optimal")


def scalar(x):
    return torch.tensor(x, dtype=torch.float64)


def factors(sigma, r, variant, **options):
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    # Scaled by hand: torch's norm squares 1e-200 to zero.
    scale = sigma[0] if sigma[0] > 0 else 1.0
    tail = scale * torch.linalg.vector_norm(sigma[1:] / scale)
    top, rest = srn_factors(sigma[0], tail, r, variant=variant, **options)
    return float(top), float(rest)


def stable_rank(sigma):
    sigma = np.asarray(sigma, dtype=np.float64)
    return float(((sigma / sigma.max()) ** 2).sum())


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e150])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("r", [1.0, 1.0 + 1e-9, 1.7, 2.2])
def test_scaled_spectrum_has_the_target(variant, r, scale):
    sigma = np.array([3.0, 2.5, 2.0, 1.0, 0.1]) * scale
    top, rest = factors(sigma, r, variant)
    got = [top * sigma[0], *(rest * sigma[1:])]
    assert max(got) == got[0]
    assert stable_rank(got) == pytest.approx(r, rel=FLOAT64)


@pytest.mark.parametrize("r", [1.0, 1.5, 2.0])
def test_keep_leaves_the_largest_singular_value(r):
    top, rest = factors([3.0, 2.5, 2.0], r, "keep")
    assert top == 1.0
    assert rest < 1.0


@pytest.mark.parametrize("r", [1.0, 1.3, 2.0, 2.6])
def test_optimal_is_nearer_than_keep_by_the_root_of_the_target(r):
    sigma = np.array([3.0, 2.5, 2.4, 2.0, 1.0])

    def distance(variant):
        top, rest = factors(sigma, r, variant)
        return math.hypot((1 - top) * sigma[0], (1 - rest) * np.linalg.norm(sigma[1:]))

    assert distance("keep") / distance("optimal") == pytest.approx(
        math.sqrt(r), rel=FLOAT64
    )


@pytest.mark.parametrize(("r", "seed"), [(1.2, 0), (1.6, 1), (1.9, 2)])
def test_optimal_equals_a_search_over_full_matrices(r, seed):
    # All 12 entries are free; the constraint is on the stable rank from an SVD.
    sigma = [2.0, 1.6, 1.2]
    W = with_spectrum(sigma, 3, 4, seed=seed)

    def excess(x):
        X = torch.tensor(x.reshape(3, 4), requires_grad=True)
        s = torch.linalg.svdvals(X)
        value = (s.square().sum() / s[0] ** 2).log() - math.log(r)
        (slope,) = torch.autograd.grad(value, X)
        return float(value.detach()), slope.numpy().ravel()

    found = minimize(
        lambda x: (((x - W.numpy().ravel()) ** 2).sum(), 2 * (x - W.numpy().ravel())),
        W.numpy().ravel(),
        jac=True,
        method="SLSQP",
        constraints={
            "type": "eq",
            "fun": lambda x: excess(x)[0],
            "jac": lambda x: excess(x)[1],
        },
        options={"ftol": 1e-15, "maxiter": 500},
    )
    u, s, vh = torch.linalg.svd(W, full_matrices=False)
    top, rest = factors(s, r, "optimal")
    first = s[0] * torch.outer(u[:, 0], vh[0])
    ours = top * first + rest * (W - first)
    assert float((ours - W).square().sum()) == pytest.approx(found.fun, rel=1e-8)
    # The search stops where the distance, not the matrix, has settled.
    assert np.abs(ours.numpy().ravel() - found.x).max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_spectrum_at_or_below_the_target_is_left_alone(variant):
    assert factors([3.0, 1.0, 1.0], 3.0, variant) == (1.0, 1.0)
    assert factors([3.0, 1.0, 1.0], 2.0, variant) == (1.0, 1.0)


def test_it_raises_where_asked_to_while_the_tail_stays_below():
    sigma = np.array([3.0, 1.0, 1.0])
    for variant in VARIANTS:
        top, rest = factors(sigma, 2.0, variant, lower_only=False)
        got = [top * sigma[0], *(rest * sigma[1:])]
        assert max(got) == got[0]
        assert stable_rank(got) == pytest.approx(2.0, rel=FLOAT64)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sigma", [[2.0, 0.0], [0.0, 0.0], [5e-324, 0.0]])
def test_rank_one_and_zero_have_nothing_to_lower(variant, sigma):
    assert factors(sigma, 1.0, variant) == (1.0, 1.0)
    assert factors(sigma, 1.5, variant, lower_only=False) == (1.0, 1.0)


def test_a_target_of_one_takes_the_rest_away():
    assert factors([3.0, 2.0], 1.0, "keep") == (1.0, 0.0)
    assert factors([3.0, 2.0], 1.0, "optimal") == (1.0, 0.0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("r", [1.0, 1.4])
def test_gradients_equal_finite_differences(variant, r):
    inputs = (scalar(1.3).requires_grad_(), scalar(1.9).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda s, t: srn_factors(s, t, r, variant=variant), inputs
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5)])
def test_gradients_of_what_is_left_alone_are_zero_and_not_nan(variant, s, t):
    inputs = [scalar(s).requires_grad_(), scalar(t).requires_grad_()]
    top, rest = srn_factors(*inputs, 2.0, variant=variant)
    if not (top + rest).requires_grad:
        return
    for slope in torch.autograd.grad(top + rest, inputs, allow_unused=True):
        assert slope is None or float(slope) == 0.0


def test_factors_are_taken_elementwise():
    sigma, tail = torch.tensor([1.0, 1.0]).double(), torch.tensor([2.0, 0.1]).double()
    top, rest = srn_factors(sigma, tail, 2.0, variant="optimal")
    assert (float(top[1]), float(rest[1])) == (1.0, 1.0)
    assert float(top[0]) == pytest.approx(1.5)
    assert float(rest[0]) == pytest.approx(0.75)


@pytest.mark.parametrize("r", [0.99, -1.0, math.nan, math.inf])
def test_a_target_below_one_is_refused(r):
    with pytest.raises(DomainError, match="at least 1"):
        srn_factors(scalar(1.0), scalar(1.0), r)


def test_an_unknown_variant_is_refused():
    with pytest.raises(UnknownNameError, match="keep, optimal"):
        srn_factors(scalar(1.0), scalar(1.0), 2.0, variant="best")
