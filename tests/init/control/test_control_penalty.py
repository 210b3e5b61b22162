"""Penalties on stable ranks: values, exact gradients, carried vectors."""

import math

import pytest
import torch
from matrices import with_spectrum
from penalty_layers import KINDS, expected, gradient, layer_of, matrix
from tolerances import FLOAT64
from torch import nn

from spectrank.errors import SpectrankWarning
from spectrank.init.control import StableRankPenalty, stable_rank_penalty
from spectrank.init.control.triplet import top_triplet

# Central differences of step 1e-6 on numbers of order one.
DIFFERENCES = 1e-7


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("make", [stable_rank_penalty, StableRankPenalty])
def test_value_and_gradient_equal_those_of_an_svd(options, make):
    layer = layer_of(matrix())
    value = make(layer, **options)
    value = value() if make is StableRankPenalty else value
    W = matrix().requires_grad_()
    truth = expected(W, **options)
    assert float(value.detach()) == pytest.approx(float(truth.detach()), rel=FLOAT64)
    ours, theirs = gradient(value, layer.weight), gradient(truth, W)
    assert torch.allclose(ours, theirs, rtol=0.0, atol=FLOAT64)


@pytest.mark.parametrize("options", KINDS)
def test_gradient_equals_finite_differences(options):
    layer = layer_of(matrix())
    slope = gradient(stable_rank_penalty(layer, **options), layer.weight)
    for i, j in [(0, 0), (2, 3), (5, 4)]:
        sides = []
        for step in (1e-6, -1e-6):
            W = matrix()
            W[i, j] += step
            sides.append(float(expected(W, **options)))
        difference = (sides[0] - sides[1]) / 2e-6
        assert float(slope[i, j]) == pytest.approx(difference, abs=DIFFERENCES)


def test_gradient_of_the_plain_penalty_has_its_closed_form():
    W = matrix()
    u, s, vh = torch.linalg.svd(W)
    layer = layer_of(W)
    slope = gradient(stable_rank_penalty(layer, kind="plain"), layer.weight)
    size = s.square().sum()
    form = 2 * W / s[0] ** 2 - 2 * size / s[0] ** 3 * torch.outer(u[:, 0], vh[0])
    assert torch.allclose(slope, form, rtol=0.0, atol=FLOAT64)


@pytest.mark.parametrize("options", KINDS)
def test_gradient_is_orthogonal_to_the_weight_even_with_lagging_vectors(options):
    layer = layer_of(matrix())
    penalty = StableRankPenalty(layer, **options, refresh=None)
    penalty()
    with torch.no_grad():
        layer.weight.copy_(matrix(name="quarter-circle", seed=5))
    slope = gradient(penalty(), layer.weight)
    assert float(slope.norm()) > 1e-3
    product = float((slope * layer.weight).sum().detach())
    assert abs(product) < FLOAT64 * float(slope.norm() * layer.weight.detach().norm())


def test_hinge_is_zero_below_its_target_and_pulls_nowhere():
    W = matrix(name="spike")
    for target in (2.0, 5.0):
        layer = layer_of(W)
        value = stable_rank_penalty(layer, kind="hinge", target=target)
        assert float(value.detach()) == 0.0
        assert float(gradient(value, layer.weight).abs().max()) == 0.0
    # The square is no hinge: below the target it pulls upward.
    layer = layer_of(W)
    value = stable_rank_penalty(layer, kind="square", target=2.0)
    slope = gradient(value, layer.weight)
    up = layer_of(W - 1e-3 * slope)
    before = float(stable_rank_penalty(layer, kind="plain").detach())
    assert float(stable_rank_penalty(up, kind="plain").detach()) > before


def test_at_a_repeated_largest_value_it_returns_a_limit_of_gradients():
    W = with_spectrum([2.0, 2.0, 1.0], 5, 3)
    pair = top_triplet(W)
    layer = layer_of(W)
    slope = gradient(stable_rank_penalty(layer), layer.weight)
    # Just beside W, where this pair alone is the largest, the gradient is unique.
    near = (W + 1e-7 * torch.outer(pair.u, pair.v)).requires_grad_()
    limit = gradient(expected(near), near)
    assert torch.allclose(slope, limit, rtol=0.0, atol=1e-6)
    # And differs from the limit along another pair of the same space.
    other = torch.outer(pair.u, pair.v)
    u, _, vh = torch.linalg.svd(W - 2.0 * other, full_matrices=False)
    far = (W + 1e-7 * torch.outer(u[:, 0], vh[0])).requires_grad_()
    assert float((slope - gradient(expected(far), far)).norm()) > 0.1


def test_carried_vectors_follow_and_err_upward():
    layer = layer_of(matrix(20, 16, "spike").float().double())
    penalty = StableRankPenalty(layer, refresh=None)
    for k in range(10):
        exact = float(expected(layer.weight.detach()))
        carried = float(penalty().detach())
        assert exact <= carried * (1 + FLOAT64)
        # Steps of a tenth of the norm, with a gap of ten in the spectrum.
        assert carried <= exact * 1.02
        with torch.no_grad():
            layer.weight.add_(0.1 * matrix(20, 16, "spike", seed=k))


def test_more_iterations_and_a_refresh_come_nearer():
    values = {}
    for name, options in {
        "one": {"refresh": None},
        "five": {"refresh": None, "iterations": 5},
        "anew": {"refresh": 1},
    }.items():
        layer = layer_of(matrix(20, 16))
        penalty = StableRankPenalty(layer, **options)
        penalty()
        with torch.no_grad():
            layer.weight.copy_(matrix(20, 16, seed=9))
        values[name] = float(penalty().detach())
    exact = float(expected(matrix(20, 16, seed=9)))
    assert values["anew"] == pytest.approx(exact, rel=FLOAT64)
    assert values["one"] > values["five"] > exact


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("options", KINDS)
def test_value_does_not_depend_on_the_scale_in_float32(scale, options):
    layer = layer_of((matrix() * scale).float())
    got = float(stable_rank_penalty(layer, **options).detach())
    # Rounding of float32, in a log of order one.
    assert got == pytest.approx(float(expected(matrix(), **options)), rel=1e-5)


def test_bfloat16_and_autocast_are_computed_in_float32():
    W = matrix(20, 16).to(torch.bfloat16)
    layer = layer_of(W)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = stable_rank_penalty(layer)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(expected(W.double())), rel=1e-6)
    value.backward()
    assert layer.weight.grad.dtype == torch.bfloat16


def test_a_zero_matrix_warns_and_adds_nothing():
    model = nn.Sequential(layer_of(matrix()), layer_of(torch.zeros(3, 6).double()))
    with pytest.warns(SpectrankWarning, match=r"1\.weight is zero"):
        value = stable_rank_penalty(model)
    assert float(value.detach()) == pytest.approx(float(expected(matrix())))
    value.backward()
    assert float(model[1].weight.grad.abs().max()) == 0.0


def test_a_zero_matrix_in_bfloat16_adds_nothing_in_float32():
    layer = layer_of(torch.zeros(3, 3, dtype=torch.bfloat16))
    with pytest.warns(SpectrankWarning, match="weight is zero"):
        value = stable_rank_penalty(layer)
    assert value.dtype == torch.float32
    assert float(value.detach()) == 0.0


def test_a_nonfinite_matrix_shows():
    W = matrix()
    W[1, 1] = math.inf
    assert math.isnan(float(stable_rank_penalty(layer_of(W)).detach()))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (1, 4), (4, 1)])
def test_vectors_do_not_depend_on_the_scale(shape, scale):
    W = matrix(*shape)
    u, _, vh = torch.linalg.svd(W, full_matrices=False)
    pair = top_triplet(W * scale)
    got, want = torch.outer(pair.u, pair.v), torch.outer(u[:, 0], vh[0])
    assert torch.allclose(got, want, rtol=0.0, atol=FLOAT64)


def test_large_matrices_go_by_lanczos_to_the_same_vectors():
    # A planted triplet beside a rest that is orthogonal to it and smaller.
    g = torch.Generator().manual_seed(0)
    u, v = (torch.randn(k, dtype=torch.float64, generator=g) for k in (1200, 1100))
    u, v = u / u.norm(), v / v.norm()
    G = torch.randn(1200, 1100, dtype=torch.float64, generator=g)
    G -= torch.outer(u, u @ G)
    G -= torch.outer(G @ v, v)
    W = 100.0 * torch.outer(u, v) + G  # ||G||_2 is about 68.
    for transposed in (False, True):
        pair = top_triplet(W.T if transposed else W)
        a, b = (v, u) if transposed else (u, v)
        # 1e-6 over the root of the gap of a third.
        assert float((torch.outer(pair.u, pair.v) - torch.outer(a, b)).norm()) < 2e-6
