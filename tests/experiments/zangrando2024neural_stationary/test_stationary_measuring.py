"""Layers measured at a point: against sums over samples written out, and by halving."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from spectrank.experiments.zangrando2024neural.stationary.measuring import (
    gradient_distances,
    layer_numbers,
)
from spectrank.experiments.zangrando2024neural.stationary.minima import best_minimum
from spectrank.experiments.zangrando2024neural.stationary.networks import Mixture, mlp

K, DECAY = 3, 0.5


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(5)
    mixture = Mixture(num_classes=K, per_class=9, dimension=6)
    x, labels = mixture.sample(0.4, 11)
    return mlp((6, 8, 5, K), generator), x, labels


def by_hand(model, x, labels):
    """Inputs and derivatives of the summed loss of each layer, by the chain rule."""
    W = [model[i].weight.detach() for i in (0, 2, 4)]
    b = [model[i].bias.detach() for i in (0, 2, 4)]
    z1 = torch.tanh(x @ W[0].T + b[0])
    z2 = torch.tanh(z1 @ W[1].T + b[1])
    d3 = torch.softmax(z2 @ W[2].T + b[2], 1) - one_hot(labels, K)
    d2 = (d3 @ W[2]) * (1 - z2**2)
    d1 = (d2 @ W[1]) * (1 - z1**2)
    return list(zip(W, (x, z1, z2), (d1, d2, d3), strict=True))


def test_bounds_are_those_of_sums_over_samples(problem):
    model, x, labels = problem
    found = layer_numbers(model, x, labels, weight_decay=DECAY)
    for row, (W, z, delta) in zip(found, by_hand(model, x, labels), strict=True):
        dz, dd = z.clone(), delta.clone()
        for c in range(K):
            dz[labels == c] -= z[labels == c].mean(0)
            dd[labels == c] -= delta[labels == c].mean(0)
        num = len(x)
        R = dd.T @ dz / num
        wcv_z, wcv_d = dz.square().sum() / num, dd.square().sum() / num
        e = delta.T @ z / num + DECAY * W
        sigma = torch.linalg.svdvals(W)
        expected = {
            "norm": W.norm(),
            "distance": sigma[K:].norm(),
            "next": sigma[K] / sigma[0] if len(sigma) > K else 0.0,
            "rtcv": wcv_z * num / (z - z.mean(0)).square().sum(),
            "b1": (delta.square().sum() / num * wcv_z).sqrt() / DECAY,
            "b2": (wcv_d * wcv_z).sqrt() / DECAY,
            "b3": R.norm() / DECAY,
            "residual": e.norm() / DECAY,
            "rank": float((sigma > max(1e-2 * sigma[0], e.norm() / DECAY)).sum()),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), rel=1e-9, abs=1e-12), name
        tails = [sigma[K:].norm(), sigma[K:].max() if len(sigma) > K else 0.0]
        tails.append(sigma[K:].sum())
        r, s = torch.linalg.svdvals(R), torch.linalg.svdvals(e)
        bounds = [(r.norm() + s.norm()), r[0] + s[0], r.sum() + s.sum()]
        ratios = [float(t / b * DECAY) for t, b in zip(tails, bounds, strict=True)]
        assert row["tightness"] == pytest.approx(max(ratios), rel=1e-7, abs=1e-12)


def test_cells_need_not_be_classes(problem):
    # One cell: R is the covariance of delta and z, K is 1.
    model, x, labels = problem
    found = layer_numbers(
        model, x, labels, weight_decay=DECAY, cells=torch.zeros_like(labels)
    )
    W, z, delta = by_hand(model, x, labels)[1]
    R = (delta - delta.mean(0)).T @ (z - z.mean(0)) / len(x)
    assert found[1]["b3"] == pytest.approx(float(R.norm()) / DECAY, rel=1e-9)
    assert found[1]["distance"] == pytest.approx(
        float(torch.linalg.svdvals(W)[1:].norm()), rel=1e-9
    )


def test_gradient_distances_are_those_of_autograd(problem):
    model, x, labels = problem
    found = gradient_distances(model, x, labels)
    weight = model[0].weight
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), labels), [weight])
    tail = torch.linalg.svdvals(gradient)[K:]
    assert found[0, 0] == pytest.approx(float(tail.norm()), rel=1e-6)
    assert (np.diff(found, axis=1) > 0).all()  # distance < R < both < inputs alone
    assert found[2, 0] == 0.0
    assert weight.grad is None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_half_the_noise_quarters_the_distance_of_a_smooth_network(seed):
    mixture = Mixture()
    model = mlp((20, 12, 12, 4), torch.Generator().manual_seed(seed))
    wide, narrow = (
        gradient_distances(model, *mixture.sample(noise, seed))
        for noise in (0.02, 0.01)
    )
    assert wide[:2, 0] / narrow[:2, 0] == pytest.approx([4.0, 4.0], rel=0.05)
    assert wide[:2, 2] / narrow[:2, 2] == pytest.approx([4.0, 4.0], rel=0.05)
    # The bound that leaves the gradients' variability out halves only.
    assert wide[:2, 3] / narrow[:2, 3] == pytest.approx([2.0, 2.0], rel=0.05)


def test_what_the_gradient_left_over_can_have_made_is_no_rank(problem):
    model, x, labels = problem
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-8)
        model[4].weight.zero_()
    # Nearly all of e is the decay of what is left of the weights.
    found = layer_numbers(model, x, labels, weight_decay=1e3)
    assert found["rank"].tolist() == [0.0, 0.0, 0.0]
    assert found["next"][2] == 0.0 < found["norm"][0]


def test_the_rank_of_a_stationary_weight_is_counted(problem):
    _, x, labels = problem
    start = mlp((6, 5, K), torch.Generator().manual_seed(1))
    found = best_minimum([start], x, labels, weight_decay=1e-2, tolerance=1e-8)
    row = layer_numbers(found.model, x, labels, weight_decay=1e-2)[0]
    sigma = torch.linalg.svdvals(found.model[0].weight.detach())
    assert 0 < row["rank"] == float((sigma > 1e-2 * sigma[0]).sum())
    assert row["residual"] < 1e-5
