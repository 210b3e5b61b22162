"""Paths between parameters: closed forms of curves, heights and losses."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from spectrank.experiments.zangrando2024neural.stationary.landscape import (
    Landscape,
    bezier,
)
from spectrank.experiments.zangrando2024neural.stationary.networks import (
    Bypassed,
    Mixture,
    linear_layers,
    mlp,
    residual,
)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.fixture
def problem():
    x, labels = Mixture(per_class=5).sample(0.3, 2)
    model = mlp((20, 6, 4), torch.Generator().manual_seed(1))
    return model, Landscape(model, x, labels, 0.1), x, labels


def test_a_curve_of_controls_on_a_line_is_the_line():
    ends = torch.tensor([[0.0, 1.0], [3.0, -2.0]], dtype=torch.float64)
    shares = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    controls = ends[0] + shares * (ends[1] - ends[0])
    t = torch.tensor([0.0, 0.3, 1.0])
    expected = torch.lerp(ends[0], ends[1], t.double()[:, None])
    assert torch.allclose(bezier(controls, t), expected, atol=1e-6)
    square = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    assert bezier(square, t)[1, 0].item() == pytest.approx(0.09, rel=1e-6)


def test_losses_are_cross_entropy_plus_half_the_decayed_square(problem):
    model, landscape, x, labels = problem
    theta = flat(model)
    expected = cross_entropy(model(x), labels) + 0.05 * theta.square().sum()
    found = landscape.losses(torch.stack([theta, 0 * theta]))
    assert found[0].item() == pytest.approx(expected.item(), rel=1e-12)
    assert found[1].item() == pytest.approx(math.log(4), rel=1e-12)


def test_a_path_by_way_of_the_zero_network_has_height_one(problem):
    # tanh is odd: without a last bias a network and its negative are one function.
    model, _, x, labels = problem
    landscape = Landscape(model, x, labels, 1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(30):
        optimizer.zero_grad()
        cross_entropy(model(x), labels).backward()
        model[2].bias.grad = None
        with torch.no_grad():
            model[2].bias.zero_()
        optimizer.step()
    theta = flat(model)
    heights = landscape.heights(torch.stack([theta, -theta]))
    assert heights[10] == pytest.approx(1.0)
    assert max(heights[0], heights[-1]) == 0.0
    assert heights[0] == pytest.approx(heights[-1], abs=1e-12)
    # The higher end is the one that counts.
    ends = torch.stack([theta, 0.5 * theta])
    low, high = sorted(landscape.losses(ends).tolist())
    heights = landscape.heights(ends)
    assert max(heights[0], heights[-1]) == 0.0
    assert min(heights[0], heights[-1]) == pytest.approx(
        (low - high) / (math.log(4) - high)
    )


def test_optimising_a_curve_lowers_its_mean_loss_and_keeps_its_ends(problem):
    _, landscape, _, _ = problem
    start, end = (
        2.0 * flat(mlp((20, 6, 4), torch.Generator().manual_seed(s))) for s in (3, 4)
    )
    controls = landscape.curve(start, end)
    t = torch.linspace(0, 1, 41)
    straight = landscape.losses(bezier(torch.stack([start, end]), t))
    curved = landscape.losses(bezier(controls, t))
    assert float(curved.mean()) < 0.8 * float(straight.mean())
    assert torch.equal(controls[0], start)
    assert torch.equal(controls[-1], end)


def test_networks_compute_what_they_say():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    net = residual((6, 5, 3), 2, generator)
    h = net.embedding(x)
    for i in range(2):
        h = h + net.outer[i](torch.tanh(net.inner[i](h)))
    assert torch.allclose(net(x), net.readout(h), atol=1e-14)
    other = Bypassed(3, 4, 2, generator)
    changed = x.clone()
    changed[:, 3:] += 1.0
    assert not torch.allclose(other(changed), other(x))
    assert all(layer.bias is None for layer in linear_layers(other).values())
    # torch's own law, from the generator alone: uniform within 1 / sqrt(fan-in).
    weight = mlp((400, 300), generator)[0].weight.detach()
    assert weight.abs().max().item() <= 0.05
    assert weight.var().item() == pytest.approx(0.05**2 / 3, rel=0.02)


def test_noise_scales_about_the_same_centres():
    mixture = Mixture(num_classes=3, per_class=4, dimension=5, centre_norm=2.0)
    (none, labels), (low, _), (high, _) = (
        mixture.sample(noise, 9) for noise in (0.0, 0.1, 0.3)
    )
    assert torch.allclose(high - none, 3.0 * (low - none), atol=1e-6)
    assert torch.allclose(none.norm(dim=1), torch.full((12,), 2.0).double(), atol=1e-6)
    assert len(none[labels == 1].unique(dim=0)) == 1
