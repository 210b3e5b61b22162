"""Penalties on stable ranks: values, exact gradients, and which weights they reach."""

import math

import pytest
import torch
from matrices import named_spectrum, with_spectrum
from tolerances import FLOAT64
from torch import nn
from torch.nn.utils import parametrize

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    SpectrankWarning,
    UnknownNameError,
)
from spectrank.init.control import StableRankPenalty, stable_rank_penalty
from spectrank.init.control.triplet import top_triplet

# Central differences of step 1e-6 on numbers of order one.
DIFFERENCES = 1e-7
KINDS = [
    {"kind": "log"},
    {"kind": "plain"},
    {"kind": "square", "target": 2.0},
    {"kind": "square", "target": 4.5},
    {"kind": "hinge", "target": 1.3},
    {"kind": "hinge", "fraction": 0.4},
]


def layer_of(W):
    layer = nn.Linear(W.shape[1], W.shape[0], dtype=W.dtype, bias=False)
    with torch.no_grad():
        layer.weight.copy_(W)
    return layer


def matrix(m=6, n=5, name="power", seed=0):
    return with_spectrum(named_spectrum(name, min(m, n)), m, n, seed=seed)


def expected(W, kind="log", target=None, fraction=None):
    """From all singular values, differentiable through torch's SVD."""
    s = torch.linalg.svdvals(W.flatten(1))
    rank = s.square().sum() / s[0].square()
    r = fraction * min(W.flatten(1).shape) if target is None and fraction else target
    if kind == "plain":
        return rank
    if kind == "log":
        return rank.log()
    excess = rank.log() - math.log(r)
    return excess.square() if kind == "square" or excess > 0 else 0.0 * excess


def gradient(value, weight):
    (slope,) = torch.autograd.grad(value, weight)
    return slope


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
    for target in (2.0, 5.0, 64.0):
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


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = layer_of(matrix(5, 5)), nn.Linear(5, 5).double()
        self.second.weight = self.first.weight


def test_tied_weights_count_once():
    value = float(stable_rank_penalty(Tied()).detach())
    assert value == pytest.approx(float(expected(matrix(5, 5))), rel=FLOAT64)


def test_layers_add_up_and_kernels_are_unfolded():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)
    ).double()
    truth = sum(float(expected(model[k].weight.detach())) for k in (0, 3))
    got = float(stable_rank_penalty(model).detach())
    assert got == pytest.approx(truth, rel=FLOAT64)
    only = float(stable_rank_penalty(model, select="0.*").detach())
    assert only == pytest.approx(float(expected(model[0].weight.detach())), rel=FLOAT64)


def test_targets_may_be_given_by_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)).double()
    targets = {"0.*": 1.5, "[01].weight": 2.5}
    got = float(stable_rank_penalty(model, kind="square", target=targets).detach())
    truth = [
        float(expected(model[k].weight.detach(), "square", r))
        for k, r in ((0, 1.5), (1, 2.5))
    ]
    assert got == pytest.approx(sum(truth), rel=FLOAT64)


@pytest.mark.parametrize("make", [stable_rank_penalty, StableRankPenalty])
def test_it_reaches_through_a_parametrisation_and_moves_no_buffer(make):
    model = nn.utils.parametrizations.spectral_norm(layer_of(matrix()))
    with torch.no_grad():
        model.parametrizations.weight.original.add_(matrix(name="flat", seed=2))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    value = make(model)
    value = value() if make is StableRankPenalty else value
    original = model.parametrizations.weight.original
    # Spectral normalisation changes the scale alone.
    W = original.detach().clone().requires_grad_()
    truth = expected(W)
    assert float(value.detach()) == pytest.approx(float(truth.detach()), rel=FLOAT64)
    slope = gradient(value, original)
    assert torch.allclose(slope, gradient(truth, W), rtol=0.0, atol=FLOAT64)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(m.training for m in model.modules())


def test_factors_of_weight_norm_get_their_gradients():
    model = nn.utils.parametrizations.weight_norm(layer_of(matrix()))
    g, v = (getattr(model.parametrizations.weight, f"original{k}") for k in (0, 1))
    slopes = torch.autograd.grad(stable_rank_penalty(model), (g, v))
    p, q = (x.detach().clone().requires_grad_() for x in (g, v))
    truth = expected(p * q / q.norm(dim=1, keepdim=True))
    for ours, theirs in zip(slopes, torch.autograd.grad(truth, (p, q)), strict=True):
        assert torch.allclose(ours, theirs, rtol=0.0, atol=FLOAT64)


def test_inside_cached_the_weight_of_the_forward_pass_is_used():
    model = nn.utils.parametrizations.spectral_norm(layer_of(matrix()))
    with parametrize.cached():
        model(torch.ones(2, 5).double())
        used = model.weight
        value = stable_rank_penalty(model)
        # The gradient with respect to that very tensor exists.
        assert float(gradient(value, used).norm()) > 0


def test_a_weight_made_by_a_forward_hook_is_refused():
    model = nn.Sequential(layer_of(matrix()), layer_of(matrix(5, 6)))
    nn.utils.prune.random_unstructured(model[0], "weight", 0.5)
    with pytest.raises(DomainError, match=r"0\.weight is computed by a forward hook"):
        stable_rank_penalty(model)
    left = float(stable_rank_penalty(model, select="1.*").detach())
    assert left == pytest.approx(float(expected(matrix(5, 6))), rel=FLOAT64)


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


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "ridge"}, UnknownNameError, "log, hinge"),
        ({"kind": "hinge"}, DomainError, "pass target="),
        ({"kind": "log", "target": 2.0}, DomainError, "leave it out"),
        ({"kind": "plain", "fraction": 0.5}, DomainError, "leave it out"),
        ({"kind": "square", "target": 5.5}, DomainError, r"\[1, 5\]"),
        ({"kind": "hinge", "target": 0.5}, DomainError, r"\[1, 5\]"),
        ({"kind": "hinge", "target": 2, "fraction": 0.5}, DomainError, "stated once"),
        ({"kind": "hinge", "target": {"x": 2.0}}, DomainError, "match at least one"),
        ({"kind": "hinge", "target": {}}, DomainError, "got no keys"),
        (
            {"kind": "square", "target": {"*": 2.0, "0.wieght": 2.0}},
            DomainError,
            r"match at least one matrix, got '0\.wieght'",
        ),
        (
            {"kind": "square", "target": {"x": 2.0}, "fraction": 0.5},
            DomainError,
            "stated once.*give one",
        ),
        ({"select": "encoder.*"}, DomainError, "matches none"),
    ],
)
@pytest.mark.parametrize("make", [stable_rank_penalty, StableRankPenalty])
def test_bad_requests_are_refused(options, error, words, make):
    with pytest.raises(error, match=words):
        make(layer_of(matrix()), **options)


def test_what_has_no_matrix_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"torch\.nn\.Module"):
        stable_rank_penalty({"w": torch.ones(2, 2)})
    with pytest.raises(DomainError, match="at least one matrix"):
        stable_rank_penalty(nn.LayerNorm(3))
    with pytest.raises(DomainError, match="at least 1"):
        StableRankPenalty(layer_of(matrix()), iterations=0)
