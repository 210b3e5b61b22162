"""Stable rank normalisation: when it iterates, what it keeps, how it is undone."""

import copy

import pytest
import torch
from srn_layers import (
    BFLOAT16,
    by_svd,
    linear,
    matrix,
    stable_rank,
    vectors,
)
from tolerances import FLOAT64
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from spectrank.init.control import stable_rank_norm
from spectrank.model import iter_matrices


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
