"""Stable rank normalisation of a layer: what it computes and when it iterates."""

import copy

import pytest
import torch
from matrices import named_spectrum, with_spectrum
from tolerances import FLOAT64
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.init.control import stable_rank_norm
from spectrank.model import iter_matrices

# A float32 product of a few dozen terms, squared.
FLOAT32 = 1e-5
# bfloat16 rounds every entry of the result to 2**-9.
BFLOAT16 = 2e-2


def spectrum_of(matrix):
    return torch.linalg.svdvals(matrix.detach().double())


def stable_rank(matrix):
    s = spectrum_of(matrix)
    return float((s / s[0]).square().sum())


def by_svd(W, r, variant):
    """The closed form from a full SVD: one singular value and the rest, scaled."""
    u, s, vh = torch.linalg.svd(W.double(), full_matrices=False)
    gamma = (r - 1) ** 0.5 * s[0] / s[1:].norm()
    if gamma >= 1:
        return W.double()
    top = 1.0 if variant == "keep" else (gamma + r - 1) / r / gamma
    s = torch.cat([top * s[:1], top * gamma * s[1:]])
    return (u * s) @ vh


def linear(W):
    layer = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
    with torch.no_grad():
        layer.weight.copy_(W)
    return layer


def matrix(m=12, n=9, name="power", seed=0):
    return with_spectrum(named_spectrum(name, min(m, n)), m, n, seed=seed)


def norm_of(layer, name="weight"):
    return layer.parametrizations[name][0]


def vectors(layer):
    state = norm_of(layer).state_dict()
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", ["keep", "optimal"])
@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (7, 7)])
def test_weight_equals_the_closed_form_of_an_svd(shape, variant, training, exact):
    W = matrix(*shape)
    layer = linear(W).train(training)
    stable_rank_norm(layer, 1.7, variant=variant, exact=exact)
    expected = by_svd(W, 1.7, variant)
    assert torch.allclose(layer.weight, expected, rtol=0.0, atol=FLOAT64)
    assert stable_rank(layer.weight) == pytest.approx(1.7, rel=FLOAT64)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, FLOAT64), (torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)],
)
@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_target_is_met_in_every_precision(dtype, tolerance, variant):
    layer = linear(matrix(40, 30).to(dtype))
    stable_rank_norm(layer, 2.0, variant=variant)
    assert layer.weight.dtype == dtype
    assert stable_rank(layer.weight) == pytest.approx(2.0, rel=tolerance)


def test_fraction_is_a_share_of_the_shorter_side():
    layer = stable_rank_norm(linear(matrix(40, 30, "flat")), fraction=0.3)
    assert norm_of(layer).stable_rank == pytest.approx(9.0)
    assert stable_rank(layer.weight) == pytest.approx(9.0, rel=FLOAT64)
    least = stable_rank_norm(linear(matrix(4, 3)), fraction=0.1)
    assert norm_of(least).stable_rank == 1.0


@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_a_weight_below_the_target_is_used_bit_for_bit(variant):
    W = matrix(name="spike").float()
    layer = stable_rank_norm(linear(W), 3.0, variant=variant)
    assert torch.equal(layer.weight, W)


@pytest.mark.parametrize("variant", ["keep", "optimal"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_target_is_not_exceeded_whatever_the_vectors(seed, variant):
    # Any unit u and v, not singular ones: the bound needs orthogonal parts alone.
    g = torch.Generator().manual_seed(seed)
    for trial in range(20):
        W = torch.randn(8, 6, dtype=torch.float64, generator=g)
        r = 1.0 + 3.0 * float(torch.rand((), generator=g))
        layer = stable_rank_norm(linear(W).eval(), r, variant=variant)
        state = norm_of(layer)
        state._u.copy_(torch.randn(8, dtype=torch.float64, generator=g))
        state._v.copy_(torch.randn(6, dtype=torch.float64, generator=g))
        assert stable_rank(layer.weight) <= r * (1 + FLOAT64), trial


CONVOLUTIONS = [
    (nn.Conv1d, 3, 0),
    (nn.Conv2d, (3, 2), 0),
    (nn.Conv3d, (3, 2, 1), 0),
    (nn.ConvTranspose1d, 3, 1),
    (nn.ConvTranspose2d, (3, 2), 1),
    (nn.ConvTranspose3d, (3, 2, 1), 1),
]


@pytest.mark.parametrize(("kind", "size", "dim"), CONVOLUTIONS)
def test_kernels_are_flattened_with_the_outputs_first(kind, size, dim):
    torch.manual_seed(0)
    layer = kind(4, 6, size, dtype=torch.float64)
    W = layer.weight.detach().clone()
    stable_rank_norm(layer, 1.5)
    assert layer.weight.shape == W.shape
    rows = W if dim == 0 else W.transpose(0, 1)
    expected = by_svd(rows.flatten(1), 1.5, "keep").view_as(rows)
    expected = expected if dim == 0 else expected.transpose(0, 1)
    assert torch.allclose(layer.weight, expected, rtol=0.0, atol=FLOAT64)


def test_any_axis_may_be_the_outputs():
    # Moving axis 2 of 4 to the front is a cycle of three: its inverse is another one,
    # unlike that of a swap, and all sizes differ so that a wrong one would show.
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, (5, 2), dtype=torch.float64)
    W = layer.weight.detach().clone()
    stable_rank_norm(layer, 1.5, dim=2)
    flat = torch.stack([W[:, :, k].flatten() for k in range(5)])
    expected = by_svd(flat, 1.5, "keep")
    for k in range(5):
        slab = expected[k].view(4, 3, 2)
        assert torch.allclose(layer.weight[:, :, k], slab, rtol=0.0, atol=FLOAT64)


@pytest.mark.parametrize("variant", ["keep", "optimal"])
@pytest.mark.parametrize("norm", [None, 0.7])
@pytest.mark.parametrize("target", [1.0, 1.6, 4.0])
def test_gradient_is_that_of_the_map_with_the_vectors_fixed(variant, norm, target):
    layer = linear(matrix(5, 4)).eval()
    stable_rank_norm(layer, target, variant=variant, spectral_norm=norm)
    # Perturbed, so that u and v are no singular vectors of it.
    W = matrix(5, 4) + 0.05 * matrix(5, 4, "flat", seed=1)
    assert torch.autograd.gradcheck(norm_of(layer), W.clone().requires_grad_())


def test_gradient_leaves_out_the_turn_of_the_vectors_also_where_exact():
    # The false friend: it is not the gradient of the closed form as a function of W.
    W, G = matrix(5, 4), matrix(5, 4, "flat", seed=3)
    layer = stable_rank_norm(linear(W), 1.5, exact=True)
    (layer.weight * G).sum().backward()
    ours = layer.parametrizations.weight.original.grad
    X = W.clone().requires_grad_()
    (whole,) = torch.autograd.grad((by_svd(X, 1.5, "keep") * G).sum(), X)
    assert float((ours - whole).norm() / whole.norm()) > 1e-3
    # Along W itself nothing turns, and there they agree.
    agree = float((ours * W).sum() - (whole * W).sum())
    assert abs(agree) < FLOAT64


def test_full_target_with_a_norm_is_spectral_normalisation():
    W, G = matrix(8, 6), matrix(8, 6, "flat", seed=3)
    ours = stable_rank_norm(linear(W), fraction=1.0, spectral_norm=1.0)
    torch.manual_seed(0)
    theirs = nn.utils.parametrizations.spectral_norm(
        linear(W), n_power_iterations=300, eps=1e-300
    )
    got, expected = ours.weight, theirs.weight
    assert torch.allclose(got, expected, rtol=0.0, atol=FLOAT64)
    (got * G).sum().backward()
    (expected * G).sum().backward()
    slopes = [x.parametrizations.weight.original.grad for x in (ours, theirs)]
    assert torch.allclose(*slopes, rtol=0.0, atol=FLOAT64)


@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_spectral_norm_and_stable_rank_are_set_together(variant):
    W = matrix(8, 6)
    layer = stable_rank_norm(linear(W), 1.5, variant=variant, spectral_norm=0.3)
    assert float(spectrum_of(layer.weight)[0]) == pytest.approx(0.3, rel=FLOAT64)
    assert stable_rank(layer.weight) == pytest.approx(1.5, rel=FLOAT64)


def by_hand(W, v, steps):
    for _ in range(steps):
        u = W @ v / (W @ v).norm()
        v = W.T @ u / (W.T @ u).norm()
    return u, v


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("write", ["no_grad", "data", "optimizer"])
def test_one_round_of_iteration_follows_each_change_of_the_weight(steps, write):
    layer = stable_rank_norm(linear(matrix(8, 6)), 1.5, iterations=steps)
    weight = layer.parametrizations.weight.original
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for k in range(3):
        before = vectors(layer)
        change = 0.1 * matrix(8, 6, "flat", seed=10 + k)
        if write == "no_grad":
            with torch.no_grad():
                weight.add_(change)
        elif write == "data":
            # Leaves the version counter of the parameter as it was.
            weight.data.add_(change)
        else:
            weight.grad = -change
            optimizer.step()
        first = layer.weight
        u, v = by_hand(weight.detach(), before["_v"], steps)
        after = vectors(layer)
        assert torch.allclose(after["_u"], u, rtol=0.0, atol=FLOAT64)
        assert torch.allclose(after["_v"], v, rtol=0.0, atol=FLOAT64)
        assert torch.equal(layer.weight, first)
        assert all(torch.equal(after[x], y) for x, y in vectors(layer).items())


def test_a_change_where_the_vectors_are_zero_is_noticed():
    # u^T W v stays 3.
    layer = stable_rank_norm(linear(torch.diag(torch.tensor([3.0, 2.0, 1.0]))), 1.1)
    with torch.no_grad():
        layer.parametrizations.weight.original[1, 0] = 1.0
    layer(torch.ones(1, 3))
    u = vectors(layer)["_u"] * vectors(layer)["_u"][0].sign()
    expected = torch.tensor([3.0, 1.0, 0.0]) / 10**0.5
    assert torch.allclose(u, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_cast_module_iterates_once_a_change_as_well(dtype):
    layer = stable_rank_norm(linear(matrix(40, 30)), 2.0).to(dtype)
    first, before = layer.weight, vectors(layer)
    assert first.dtype == dtype
    for _ in range(3):
        assert torch.equal(layer.weight, first)
        assert all(torch.equal(before[x], y) for x, y in vectors(layer).items())
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(matrix(40, 30, "flat", seed=1))
    assert stable_rank(layer.weight) <= 2.0 * (1 + BFLOAT16)
    assert not torch.equal(before["_u"], vectors(layer)["_u"])


def test_evaluation_never_iterates():
    layer = stable_rank_norm(linear(matrix(8, 6)), 1.5).eval()
    before = vectors(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(matrix(8, 6, "flat", seed=1))
    first = layer.weight
    assert torch.equal(layer.weight, first)
    assert all(torch.equal(before[x], y) for x, y in vectors(layer).items())


def test_gradients_of_two_uses_in_one_step_survive_the_iteration_between_them():
    layer = stable_rank_norm(linear(matrix(8, 8)), 1.5)
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(matrix(8, 8, "flat", seed=1))
    x = torch.ones(3, 8, dtype=torch.float64)
    layer(layer(x)).sum().backward()
    twice = layer.parametrizations.weight.original.grad.clone()
    layer.zero_grad()
    with parametrize.cached():
        layer(layer(x)).sum().backward()
    once = layer.parametrizations.weight.original.grad
    assert torch.allclose(twice, once, rtol=FLOAT64, atol=0.0)


def test_a_checkpointed_pass_recomputes_with_the_same_weight():
    grads = []
    for wrapped in (False, True):
        layer = stable_rank_norm(linear(matrix(8, 6)), 1.5)
        with torch.no_grad():
            layer.parametrizations.weight.original.add_(matrix(8, 6, "flat", seed=1))
        x = torch.ones(3, 6, dtype=torch.float64)
        y = checkpoint(layer, x, use_reentrant=False) if wrapped else layer(x)
        y.square().sum().backward()
        grads.append(layer.parametrizations.weight.original.grad)
    assert torch.equal(*grads)


def training_steps(layer, num_steps, first=0):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for k in range(first, first + num_steps):
        g = torch.Generator().manual_seed(k)
        x = torch.randn(5, 6, dtype=torch.float64, generator=g)
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one():
    whole = stable_rank_norm(linear(matrix(8, 6)), 1.5)
    training_steps(whole, 3)
    resumed = stable_rank_norm(linear(torch.ones(8, 6, dtype=torch.float64)), 1.5)
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(resumed.eval().weight, whole.eval().weight)
    training_steps(whole.train(), 3, first=3)
    training_steps(resumed.train(), 3, first=3)
    assert torch.equal(resumed.weight, whole.weight)


def test_a_deep_copy_shares_nothing():
    layer = stable_rank_norm(linear(matrix(8, 6)), 1.5)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.weight, layer.weight)
    kept = layer.eval().weight.detach().clone()
    training_steps(twin, 2)
    assert torch.equal(layer.weight, kept)
    assert not torch.equal(twin.weight, kept)


def test_removal_leaves_the_weight_as_used_or_as_stored():
    for used in (True, False):
        layer = stable_rank_norm(linear(matrix(8, 6)), 1.5)
        expected = layer.weight if used else layer.parametrizations.weight.original
        expected = expected.detach().clone()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=used)
        assert type(layer) is nn.Linear
        assert torch.equal(layer.weight, expected)


def test_an_assigned_weight_is_normalised_at_once():
    layer = stable_rank_norm(linear(matrix(8, 6)), 1.5)
    W = 1.3 * matrix(8, 6, "quarter-circle", seed=7)
    with torch.no_grad():
        layer.weight = W
    expected, exact = by_svd(W, 1.5, "keep"), vectors(layer)
    assert torch.allclose(layer.weight, expected, rtol=0.0, atol=FLOAT64)
    # They are exact for it: the first forward pass does not iterate once more.
    assert all(torch.equal(exact[x], y) for x, y in vectors(layer).items())
    below = matrix(8, 6, "spike", seed=8)
    with torch.no_grad():
        layer.weight = below
    assert torch.equal(layer.weight, below)


@pytest.mark.parametrize("norm", [None, 1.0])
def test_a_zero_weight_stays_zero_and_trains(norm):
    layer = linear(torch.zeros(8, 6, dtype=torch.float64))
    stable_rank_norm(layer, 1.5, spectral_norm=norm)
    x = torch.ones(3, 6, dtype=torch.float64) + torch.arange(6.0)
    (layer(x) - 1).square().sum().backward()
    original = layer.parametrizations.weight.original
    assert torch.isfinite(original.grad).all()
    assert float(original.grad.norm()) > 0
    with torch.no_grad():
        original.sub_(0.01 * original.grad)
    assert stable_rank(layer.weight) <= 1.5 * (1 + FLOAT64)


def test_vectors_of_a_zero_weight_come_from_the_generator_alone():
    random_state = torch.get_rng_state()
    drawn = []
    for seed in (3, 3, 4):
        layer = linear(torch.zeros(8, 6, dtype=torch.float64))
        before = torch.get_rng_state()
        g = torch.Generator().manual_seed(seed)
        stable_rank_norm(layer, 1.5, generator=g)
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(vectors(layer)["_u"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    torch.set_rng_state(random_state)


def test_autocast_does_not_reach_the_normalisation():
    layer = stable_rank_norm(linear(matrix(40, 30).float()), 2.0)
    plain = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, plain)


def test_a_reader_sees_the_weight_as_used_and_moves_nothing():
    layer = stable_rank_norm(linear(matrix(8, 6)), 1.5)
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(matrix(8, 6, "flat", seed=1))
    before = vectors(layer)
    (found,) = iter_matrices(layer)
    assert found.name == "weight"
    assert stable_rank(found.tensor()) <= 1.5 * (1 + FLOAT64)
    assert all(torch.equal(before[x], y) for x, y in vectors(layer).items())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stable_rank": 0.5}, DomainError, r"\[1, 6\]"),
        ({"stable_rank": 6.5}, DomainError, r"\[1, 6\]"),
        ({}, DomainError, "stated once"),
        ({"stable_rank": 2.0, "fraction": 0.5}, DomainError, "stated once"),
        ({"fraction": 0.0}, DomainError, r"\(0, 1\]"),
        ({"fraction": 1.5}, DomainError, r"\(0, 1\]"),
        ({"fraction": "half"}, ArgumentTypeError, "number"),
        ({"stable_rank": 2, "variant": "best"}, UnknownNameError, "keep, optimal"),
        ({"stable_rank": 2, "iterations": 0}, DomainError, "at least 1"),
        ({"stable_rank": 2, "spectral_norm": 0.0}, DomainError, "positive"),
        ({"stable_rank": 2, "name": "kernel"}, ArgumentTypeError, "'kernel'"),
        ({"stable_rank": 2, "dim": 2}, DomainError, "axis"),
        ({"stable_rank": 2, "generator": 3}, ArgumentTypeError, "Generator, got int"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_changed(options, error, words):
    layer = linear(matrix(8, 6))
    with pytest.raises(error, match=words):
        stable_rank_norm(layer, **options)
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["weight"]


def test_what_is_no_layer_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"torch\.nn\.Module"):
        stable_rank_norm(torch.ones(3, 3), 2.0)
    with pytest.raises(DomainError, match="real numbers"):
        stable_rank_norm(nn.LazyLinear(3), 2.0)
    with pytest.raises(ShapeError, match="matrix or a kernel"):
        stable_rank_norm(nn.Linear(3, 3), 2.0, name="bias")
    with pytest.raises(DomainError, match="real numbers"):
        stable_rank_norm(nn.Linear(3, 3, device="meta"), 2.0)
