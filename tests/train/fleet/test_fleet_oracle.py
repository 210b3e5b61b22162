"""A fleet is the loop it replaces: 10 float64 steps, every optimiser, every route."""

import functools

import numpy as np
import pytest
import torch
from fleet_loop import class_data, drawn, largest_difference, perceptron, train_alone
from tolerances import FLOAT64
from torch import nn

from spectrank.train import SGD, Adam, stack, train_fleet

M = 5
RATES = [0.1, 0.05, 0.2, 0.01, 0.3]
DECAYS = [0.0, 0.01, 0.1, 0.001, 0.02]
MOMENTA = [0.9, 0.5, 0.0, 0.99, 0.7]
DAMPING = [0.0, 0.1, 0.5, 0.3, 0.0]
BETA1, BETA2, EPS = [0.9, 0.8, 0.0, 0.95, 0.5], [0.999, 0.9, 0.99, 0.95, 0.5], 1e-7
POSITIVE = [0.9, 0.5, 0.3, 0.99, 0.7]

# Ours, and torch's for member i.
OPTIMIZERS = {
    "sgd": (
        SGD(learning_rate=RATES),
        lambda i, p: torch.optim.SGD(p, lr=RATES[i]),
    ),
    "sgd with decay": (
        SGD(learning_rate=RATES, weight_decay=DECAYS),
        lambda i, p: torch.optim.SGD(p, lr=RATES[i], weight_decay=DECAYS[i]),
    ),
    "momentum": (
        SGD(learning_rate=RATES, momentum=MOMENTA),
        lambda i, p: torch.optim.SGD(p, lr=RATES[i], momentum=MOMENTA[i]),
    ),
    "dampening": (
        SGD(
            learning_rate=RATES,
            momentum=MOMENTA,
            dampening=DAMPING,
            weight_decay=DECAYS,
        ),
        lambda i, p: torch.optim.SGD(
            p,
            lr=RATES[i],
            momentum=MOMENTA[i],
            dampening=DAMPING[i],
            weight_decay=DECAYS[i],
        ),
    ),
    "nesterov": (
        SGD(learning_rate=RATES, momentum=POSITIVE, weight_decay=DECAYS, nesterov=True),
        lambda i, p: torch.optim.SGD(
            p,
            lr=RATES[i],
            momentum=POSITIVE[i],
            weight_decay=DECAYS[i],
            nesterov=True,
        ),
    ),
    "adam": (
        Adam(
            learning_rate=np.array(RATES) / 10,
            beta1=BETA1,
            beta2=BETA2,
            eps=EPS,
            weight_decay=DECAYS,
        ),
        lambda i, p: torch.optim.Adam(
            p,
            lr=RATES[i] / 10,
            betas=(BETA1[i], BETA2[i]),
            eps=EPS,
            weight_decay=DECAYS[i],
        ),
    ),
    "adamw": (
        Adam(learning_rate=RATES, weight_decay=DECAYS, decoupled=True),
        lambda i, p: torch.optim.AdamW(p, lr=RATES[i], weight_decay=DECAYS[i]),
    ),
}


def alone(nets, x, y, make, **options):
    return [
        train_alone(net, x, y, functools.partial(make, i), seed=40 + i, **options)
        for i, net in enumerate(nets)
    ]


def assert_same(result, pairs, tolerance=FLOAT64):
    modules, losses = zip(*pairs, strict=True)
    assert largest_difference(result.parameters, modules) <= tolerance
    assert np.abs(result.losses - np.array(losses).T).max() <= tolerance


@pytest.mark.parametrize("route", ["mlp", "vmap", "loop"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_is_torchs_own(name, route):
    nets = [perceptron([7, 9, 9, 4], seed=i) for i in range(M)]
    x, y = class_data()
    ours, make = OPTIMIZERS[name]
    pairs = alone(nets, x, y, make, steps=10, batch_size=10)
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=ours,
        batch_size=10,
        seeds=range(40, 40 + M),
        max_steps=10,
        route=route,
        group_size=2,
    )
    assert result.route == route
    assert_same(result, pairs)


def test_decoupled_decay_of_sgd_shrinks_before_the_step():
    nets = [perceptron([7, 9, 4], seed=i) for i in range(M)]
    x, y = class_data()

    def make(i, parameters):
        optimizer = torch.optim.SGD(parameters, lr=RATES[i], momentum=MOMENTA[i])

        def shrink(*_):
            with torch.no_grad():
                for p in parameters:
                    p.mul_(1 - RATES[i] * DECAYS[i])

        optimizer.register_step_pre_hook(shrink)
        return optimizer

    pairs = alone(nets, x, y, make, steps=10, batch_size=8)
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=SGD(
            learning_rate=RATES, momentum=MOMENTA, weight_decay=DECAYS, decoupled=True
        ),
        batch_size=8,
        seeds=range(40, 40 + M),
        max_steps=10,
    )
    assert_same(result, pairs)


@pytest.mark.parametrize("route", ["mlp", "vmap"])
def test_the_schedule_is_lambdalr_and_the_limit_clip_grad_norm(route):
    nets = [perceptron([7, 9, 4], seed=i) for i in range(M)]
    x, y = class_data()
    limits = [0.1, 0.5, float("inf"), 1.0, 0.01]

    def schedule(step):
        return min(1.0, (step + 1) / 5) * 0.5 * (1 + np.cos(np.pi * step / 12))

    pairs = [
        train_alone(
            net,
            x,
            y,
            lambda p, i=i: torch.optim.Adam(p, lr=0.02 * (i + 1)),
            seed=40 + i,
            steps=10,
            batch_size=8,
            schedule=schedule,
            clip_norm=limits[i],
        )
        for i, net in enumerate(nets)
    ]
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=Adam(learning_rate=[0.02 * (i + 1) for i in range(M)]),
        batch_size=8,
        seeds=range(40, 40 + M),
        max_steps=10,
        schedule=schedule,
        clip_norm=limits,
        route=route,
    )
    assert_same(result, pairs)
    free = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=Adam(learning_rate=0.02),
        batch_size=8,
        seeds=range(40, 40 + M),
        max_steps=10,
    )
    assert not np.allclose(result.losses[-1], free.losses[-1], rtol=1e-3)


def test_the_limit_of_the_gradient_counts_nothing_but_the_gradient():
    # Adam without eps leaves 0 / 0 where storage has gaps.
    nets = [perceptron([7, 9, 4], activation=nn.Tanh, seed=i) for i in range(3)]
    x, y = class_data()
    pairs = alone(
        nets,
        x,
        y,
        lambda i, p: torch.optim.Adam(p, lr=0.01, eps=0.0),
        steps=10,
        batch_size=8,
        clip_norm=0.1,
    )
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=Adam(learning_rate=0.01, eps=0.0),
        batch_size=8,
        seeds=range(40, 43),
        max_steps=10,
        clip_norm=0.1,
    )
    assert_same(result, pairs)


ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky relu": functools.partial(nn.LeakyReLU, 0.2),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu by tanh": functools.partial(nn.GELU, "tanh"),
    "silu": nn.SiLU,
    "identity": nn.Identity,
}


@pytest.mark.parametrize("last", [False, True], ids=["", "after the last layer too"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_its_own_backward(name, last):
    make = ACTIVATIONS[name]
    nets = [
        perceptron([7, 5, 9, 4], activation=make, seed=i, last=make if last else None)
        for i in range(3)
    ]
    x, y = class_data()
    pairs = alone(
        nets, x, y, lambda i, p: torch.optim.SGD(p, lr=0.3), steps=10, batch_size=6
    )
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=SGD(learning_rate=0.3),
        batch_size=6,
        seeds=range(40, 43),
        max_steps=10,
    )
    assert result.route == "mlp"
    assert_same(result, pairs)


@pytest.mark.parametrize("route", ["mlp", "vmap", "loop"])
@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize(
    ("loss", "outputs", "axes"),
    [
        ("mse", 3, 2),
        ("mse", 1, 1),
        ("bce_with_logits", 1, 1),
        ("bce_with_logits", 3, 2),
    ],
)
def test_every_loss_is_torchs_own(loss, outputs, axes, batch_size, route):
    nets = [perceptron([7, 9, outputs], seed=i) for i in range(3)]
    x, _ = class_data()
    g = torch.Generator().manual_seed(1)
    y = torch.rand(len(x), outputs, generator=g, dtype=torch.float64)
    pairs = alone(
        nets,
        x,
        y,
        lambda i, p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        steps=10,
        batch_size=batch_size,
        loss=loss,
    )
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y if axes == 2 else y[:, 0],
        optimizer=SGD(learning_rate=0.1, momentum=0.9),
        batch_size=batch_size,
        seeds=range(40, 43),
        max_steps=10,
        loss=loss,
        route=route,
    )
    assert_same(result, pairs)


@pytest.mark.parametrize("bias", [True, False])
def test_nested_flattened_and_biasless_perceptrons_take_the_fast_route(bias):
    def make(seed):
        inner = nn.Sequential(nn.Linear(12, 9, bias=bias), nn.ReLU(), nn.Dropout(0.0))
        layers = [nn.Flatten(), inner, nn.Identity(), nn.Linear(9, 4, bias=bias)]
        return drawn(nn.Sequential(*layers), seed)

    nets = [make(i) for i in range(3)]
    x, y = class_data(shape=(3, 4))
    pairs = alone(
        nets, x, y, lambda i, p: torch.optim.SGD(p, lr=0.1), steps=10, batch_size=8
    )
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=SGD(learning_rate=0.1),
        batch_size=8,
        seeds=range(40, 43),
        max_steps=10,
    )
    assert result.route == "mlp"
    assert_same(result, pairs)


class Residual(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(7, width)
        self.block = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 4, bias=False)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x):
        x = self.first(x)
        # The block is used twice.
        for _ in range(2):
            x = x + self.scale * torch.relu(self.block(self.norm(x)))
        return self.last(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(3, 5, batch_first=True)
        self.last = nn.Linear(5, 4)

    def forward(self, x):
        return self.last(self.cell(x)[0][:, -1])


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def frozen():
    net = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 4))
    return net.requires_grad_(False).append(nn.Linear(4, 4))


def tied():
    layer = nn.Linear(7, 7)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(7, 4))


# Module, shape of a sample, routes that take it, the one taken by itself first.
GENERAL = {
    "residual": (Residual, (7,), ["vmap", "loop"]),
    "convolutional": (convolutional, (1, 4, 4), ["loop", "vmap"]),
    "recurrent": (Recurrent, (6, 3), ["loop"]),
    "frozen": (frozen, (7,), ["vmap", "loop"]),
    "tied": (tied, (7,), ["vmap", "loop"]),
    "two maps in a row": (
        lambda: nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.ReLU(), nn.Linear(4, 4)),
        (7,),
        ["vmap", "loop"],
    ),
    "without a hand-written map": (
        lambda: nn.Sequential(nn.Linear(7, 4), nn.Softplus(), nn.Linear(4, 4)),
        (7,),
        ["vmap"],
    ),
}


@pytest.mark.parametrize(
    ("name", "route"),
    [
        (name, route)
        for name, (_, _, routes) in GENERAL.items()
        for route in ["auto", *routes]
    ],
)
def test_any_module_takes_a_general_route(name, route):
    make, shape, routes = GENERAL[name]
    nets = [drawn(make(), seed=i) for i in range(3)]
    before = {k: v.clone() for k, v in nets[0].state_dict().items()}
    x, y = class_data(shape=shape)
    pairs = alone(
        nets,
        x,
        y,
        lambda i, p: torch.optim.SGD(p, lr=0.1 + 0.1 * i, momentum=0.9),
        steps=10,
        batch_size=8,
    )
    result = train_fleet(
        nets[0],
        stack(nets),
        x,
        y,
        optimizer=SGD(learning_rate=[0.1, 0.2, 0.30000000000000004], momentum=0.9),
        batch_size=8,
        seeds=range(40, 43),
        max_steps=10,
        route=route,
    )
    assert result.route == (routes[0] if route == "auto" else route)
    assert_same(result, pairs)
    assert all(torch.equal(v, before[k]) for k, v in nets[0].state_dict().items())
    assert all(p.grad is None for p in nets[0].parameters())
    module = result.module(2)
    assert torch.equal(module(x).argmax(-1), pairs[2][0](x).argmax(-1))


def test_a_hook_of_the_template_is_not_passed_over():
    calls = []
    net = perceptron([7, 5, 4])
    net[0].register_forward_hook(lambda *_: calls.append(1))
    x, y = class_data()
    result = train_fleet(
        net, stack([net]), x, y, optimizer=SGD(learning_rate=0.1), max_steps=1
    )
    assert result.route == "vmap"
    assert calls


@pytest.mark.parametrize("batch_size", [None, 8])
def test_members_learn_data_sets_of_their_own(batch_size):
    nets = [perceptron([7, 9, 4], seed=i) for i in range(4)]
    x, y = class_data()
    sets = [(x + k, (y + k) % 4) for k in range(3)]
    which = [2, 0, 1, 0]
    pairs = [
        train_alone(
            net,
            *sets[which[i]],
            lambda p: torch.optim.SGD(p, lr=0.1),
            seed=40 + i,
            steps=10,
            batch_size=batch_size,
        )
        for i, net in enumerate(nets)
    ]
    result = train_fleet(
        nets[0],
        stack(nets),
        torch.stack([s[0] for s in sets]),
        torch.stack([s[1] for s in sets]),
        optimizer=SGD(learning_rate=0.1),
        dataset=which,
        batch_size=batch_size,
        seeds=range(40, 44),
        max_steps=10,
        group_size=3,
    )
    assert_same(result, pairs)


def test_float32_runs_differ_from_float64_by_float32_rounding():
    nets = [perceptron([7, 9, 4], seed=i) for i in range(3)]
    x, y = class_data()
    options = {
        "optimizer": SGD(learning_rate=0.1, momentum=0.9),
        "batch_size": 8,
        "seeds": range(3),
        "max_steps": 10,
    }
    exact = train_fleet(nets[0], stack(nets), x, y, **options)
    halved = {name: p.float() for name, p in stack(nets).items()}
    rounded = train_fleet(nets[0], halved, x, y, **options)
    assert rounded.parameters["0.weight"].dtype == torch.float32
    assert np.abs(rounded.losses - exact.losses).max() < 1e-5
    assert np.abs(rounded.losses - exact.losses).max() > 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("route", ["mlp", "vmap", "loop"])
def test_a_cuda_device_gives_the_same_numbers(route):
    nets = [perceptron([7, 9, 4], seed=i) for i in range(3)]
    x, y = class_data()
    options = {
        "optimizer": Adam(learning_rate=[0.01, 0.02, 0.03]),
        "batch_size": 8,
        "seeds": range(3),
        "max_steps": 10,
        "route": route,
        "evaluations": {"test": (x, y)},
    }
    here = train_fleet(nets[0], stack(nets), x, y, **options)
    there = train_fleet(nets[0], stack(nets), x, y, device="cuda", **options)
    assert there.parameters["0.weight"].is_cuda
    assert np.abs(here.losses - there.losses).max() <= FLOAT64
    assert (
        np.abs(here.evaluations["test_loss"] - there.evaluations["test_loss"]).max()
        <= FLOAT64
    )
