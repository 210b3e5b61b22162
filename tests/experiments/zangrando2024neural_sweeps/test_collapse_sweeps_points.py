"""Numbers of a trained network against dense formulas; training against torch.optim."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.collapse import rank_bounds
from spectrank.experiments.images import Images
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural.networks import Cnn, Mlp
from spectrank.experiments.zangrando2024neural.sweeps.points import (
    CERTIFIED,
    RTOL,
    certified_rank,
    measure,
)
from spectrank.experiments.zangrando2024neural.training import (
    DECAY_TIMES,
    Cell,
    Recipe,
    train,
)
from spectrank.linalg.moments import CrossMoments
from spectrank.train import batch_order

DECAY = 0.05


def drawn(seed=3):
    """A small network of its data: 40 samples, ten classes in R^14."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(10).repeat(4)
    centres = torch.randn(10, 14, generator=g, dtype=torch.float64)
    x = centres[labels] + 0.2 * torch.randn(40, 14, generator=g, dtype=torch.float64)
    model = Mlp(14, 16, 3).draw(g).double()
    return model, x, labels


def dense(model, x, labels, decay):
    """Weights, inputs, R and e of each linear layer, sample by sample."""
    found = []
    rows = []
    for module in model:
        if isinstance(module, nn.Linear):
            rows.append((module, x))
        x = module(x)
    outputs = []
    z = rows[0][1]
    for module in model:
        z = module(z)
        if isinstance(module, nn.Linear):
            outputs.append(z)
    losses = nn.functional.cross_entropy(outputs[-1], labels, reduction="sum")
    deltas = torch.autograd.grad(losses, outputs)
    n = len(labels)
    for (module, inputs), delta in zip(rows, deltas, strict=True):
        z, within = inputs.detach(), torch.zeros_like(module.weight)
        wcv = 0.0
        for c in labels.unique():
            d0, z0 = delta[labels == c], z[labels == c]
            d0, z0 = d0 - d0.mean(0), z0 - z0.mean(0)
            within += sum(torch.outer(a, b) for a, b in zip(d0, z0, strict=True)) / n
            wcv += float(z0.square().sum()) / n
        gradient = sum(torch.outer(a, b) for a, b in zip(delta, z, strict=True)) / n
        total = float((z - z.mean(0)).square().sum()) / n
        W = module.weight.detach()
        found.append((W, within.detach(), gradient + decay * W, wcv, total))
    return found


def test_layers_are_measured_as_dense_formulas_say():
    model, x, labels = drawn()
    before = copy.deepcopy(model.state_dict())
    found = measure(model, x, labels, weight_decay=DECAY, num_values=16)
    assert len(found) == 3
    for row, (W, R, e, wcv, total) in zip(
        found, dense(model, x, labels, DECAY), strict=True
    ):
        sigma = torch.linalg.svdvals(W)
        size, norm = len(sigma), float(sigma.norm())
        p = sigma / sigma.sum()
        expected = {
            "size": size,
            "rank": float((sigma > RTOL * sigma[0]).sum()),
            "effective_rank": float(torch.exp(-(p * p.log()).sum())),
            "norm": norm,
            "distance": float(sigma[10:].norm()) / norm,
            "rtcv": wcv / total,
            "wcv": wcv,
            "b3": float(R.norm()) / DECAY / norm,
            "excess": float(e.norm()) / DECAY / norm,
            "residual": float(e.norm()) / DECAY / norm,
        }
        for name, value in expected.items():
            # A distance may come from the Gram matrix, resolved to 1e-6 of itself.
            rel = 1e-5 if name == "distance" else 1e-9
            assert row[name] == pytest.approx(value, rel=rel, abs=1e-12), name
        np.testing.assert_allclose(row["sigma"][:size], sigma.numpy(), rtol=1e-10)
        assert np.isnan(row["sigma"][size:]).all()
        ratios = [0.0]
        if size > 10:
            for order in (2, math.inf, 1):
                tail = torch.linalg.vector_norm(sigma[10:], order)
                bound = sum(
                    torch.linalg.vector_norm(torch.linalg.svdvals(A), order)
                    for A in (R, e)
                )
                ratios.append(float(tail / bound) * DECAY)
        assert row["tightness"] == pytest.approx(max(ratios), rel=1e-5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_certified_rank_is_the_least_that_the_residue_of_the_gradient_promises():
    model, x, labels = drawn()
    # So large a decay that e is the weight's and the bound is near the norm.
    for weight, decay in ((1.0, DECAY), (0.03, 5.0)):
        with torch.no_grad():
            model[2].weight.mul_(weight)
        found = measure(model, x, labels, weight_decay=decay, num_values=16)[1]
        W, R, e, *_ = dense(model, x, labels, decay)[1]
        values = torch.linalg.svdvals(R)
        allowed = CERTIFIED * float(W.norm()) * decay - float(e.norm())
        least = [k for k in range(10, 16) if float(values[k - 10 :].norm()) <= allowed]
        between = torch.linalg.svdvals(e - decay * W - R)
        less = [
            k
            for k in range(1, 10)
            if float(between[k:].norm() + values.norm()) <= allowed
        ]
        assert found["certified"] == min([*less, *least, 16])


@pytest.mark.parametrize(("spread", "expected"), [(1e-3, 2), (1.0, 4), (2.0, 12)])
def test_a_stationary_weight_is_certified_where_its_cells_are_tight(spread, expected):
    g = torch.Generator().manual_seed(0)
    cells = torch.arange(4).repeat(30)

    def rows(dim):
        centres = torch.randn(4, dim, generator=g, dtype=torch.float64)
        centres *= torch.tensor([[1.0], [1.0], [0.1], [0.1]])
        noise = torch.randn(len(cells), dim, generator=g, dtype=torch.float64)
        return centres[cells] + spread * noise

    delta, z = rows(16), rows(20)
    cross = CrossMoments(4, 16, 20)
    cross.update(delta, z, cells)
    # The weight that balances its gradient: e = 0.
    weight = -delta.T @ z / len(cells) / DECAY
    bounds = rank_bounds(
        weight,
        cross.compute(),
        divisor=len(cells),
        weight_decay=DECAY,
        ranks=range(1, 16),
    )
    R = cross.compute().within / len(cells) / DECAY
    within, between = (torch.linalg.svdvals(M) for M in (R, -weight - R))
    allowed = CERTIFIED * float(weight.norm())
    least = [k for k in range(4, 16) if float(within[k - 4 :].norm()) <= allowed]
    fewer = [
        k
        for k in range(1, 4)
        if float(between[k:].norm()) + float(within.norm()) <= allowed
    ]
    assert certified_rank(bounds) == min([*least, *fewer, 16])
    assert certified_rank(bounds) == expected


def test_without_decay_there_are_ranks_but_no_bounds():
    model, x, labels = drawn()
    found = measure(model, x, labels, weight_decay=0.0, num_values=16)
    assert np.isnan(found["b3"]).all()
    assert np.isnan(found["residual"]).all()
    assert (found["certified"] == found["size"]).all()
    assert (found["rank"] > 0).all()


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_before_batchnorm_the_gradient_is_orthogonal_to_the_weight(kind):
    g = torch.Generator().manual_seed(5)
    labels = torch.arange(10).repeat(4)
    if kind == "mlp":
        network, x = Mlp(14, 16, 3, normalised=True), torch.randn(40, 14, generator=g)
    else:
        network = Cnn(2, (12, 16), normalised=True)
        x = torch.randn(40, 2, 8, 8, generator=g)
    model = network.draw(g)
    found = measure(model, x, labels, weight_decay=DECAY, num_values=16)
    exact = copy.deepcopy(model).double()
    loss = nn.functional.cross_entropy(exact(x.double()), labels)
    loss.backward()
    layers = [m for m in exact if isinstance(m, nn.Linear | nn.Conv2d)]
    for row, layer in zip(found, layers, strict=True):
        weight = layer.weight.detach()
        e = layer.weight.grad + DECAY * weight
        relative = float(e.norm() / (DECAY * weight.norm()))
        assert row["residual"] == pytest.approx(relative, rel=1e-9)
        assert row["tightness"] <= 1.0 + 1e-9
    # Pythagoras, but for the eps of BatchNorm: e = g + lambda W with <g, W> = 0.
    for row, layer in list(zip(found, layers, strict=True))[:-1]:
        g_norm, w = float(layer.weight.grad.norm()), float(layer.weight.detach().norm())
        whole = math.hypot(g_norm, DECAY * w) / (DECAY * w)
        assert row["residual"] == pytest.approx(whole, rel=2e-3)
        assert row["residual"] > 0.99


@pytest.mark.parametrize("decay", [0.03, 0.003])
@pytest.mark.parametrize("tail", [0.0, 0.5, 1.0])
def test_decay_times_are_the_sum_over_the_steps_and_at_least_five(decay, tail):
    recipe = Recipe(learning_rate=0.2, momentum=0.5, tail=tail, least_steps=1)
    num = recipe.num_steps(decay)
    expected = sum(
        0.2 / (1 - 0.5) * decay * min(1.0, ((num - t) / (tail * num)) ** 2)
        if tail
        else 0.4 * decay
        for t in range(num)
    )
    assert recipe.decay_times(decay) == pytest.approx(expected, rel=1e-12)
    assert DECAY_TIMES <= expected < DECAY_TIMES * 1.02
    assert Recipe(rule="adamw", learning_rate=0.2).rate == 0.2
    assert Recipe(most_steps=7).num_steps(0.0) == 7


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_a_cell_is_trained_as_torch_optim_trains(rule):
    images = Images("digits", 60, 20)
    recipe = Recipe(
        learning_rate=0.05 if rule == "sgd" else 0.002,
        batch_size=25,
        rule=rule,
        least_steps=12,
        most_steps=12,
    )
    cell = Cell(Mlp(64, 8, 3), 0.01, recipe, noise=0.3)
    found = train(cell, images, num_seeds=2, seed=7, stream=("test",))
    for r in range(2):
        model = cell.network.draw(
            derive_generator(7, "test", "start", cell.network.text(), r)
        )
        noise = torch.randn(60, 64, generator=derive_generator(7, "test", "noise", r))
        x = images.train.inputs + 0.3 * noise
        assert torch.equal(x, found.inputs[r])
        kind = torch.optim.SGD if rule == "sgd" else torch.optim.AdamW
        options = {"momentum": 0.9} if rule == "sgd" else {}
        optimizer = kind(
            model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, **options
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: 1.0 if t < 6 else ((12 - t) / 6) ** 2
        )
        order = batch_order(derive_seed(7, "test", "batches", r), 60, 25)
        for batch in itertools.islice(order, 12):
            optimizer.zero_grad()
            labels = images.train.labels[batch]
            nn.functional.cross_entropy(model(x[batch]), labels).backward()
            optimizer.step()
            schedule.step()
        for name, value in found.result.state_dict(r).items():
            torch.testing.assert_close(
                value, model.get_parameter(name).detach(), rtol=1e-4, atol=1e-6
            )
