"""Buffers after a rescaling are those that the same data leave at the new weights."""

import copy

import pytest
import torch
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.invariance import balance_, find

# An eps that is added to gradients is no sum of them.
TINY = 1e-30
# Rates of zero: weights stay where they are while buffers fill.
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.0, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(
        p, lr=0.0, momentum=0.5, centered=True, eps=TINY
    ),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.0),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.0, eps=TINY),
}


def _net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)),
            *(nn.LeakyReLU(), nn.Linear(4, 2)),
        ).double()
    with torch.no_grad():
        net[0].weight *= 3.0
        net[3].bias += 1.0
    return net


def _filled(net, optimizer):
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        x = torch.randn(5, 2, 5, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return optimizer


def _buffers(net, optimizer):
    return {
        (name, key): value.clone()
        for name, p in net.named_parameters()
        for key, value in optimizer.state[p].items()
        if isinstance(value, torch.Tensor) and value.dim()
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_buffers_are_those_of_the_same_past_at_the_balanced_weights(name):
    net, make = _net(), OPTIMIZERS[name]
    laws = find(net, torch.zeros(2, 2, 5, dtype=torch.float64))
    other = copy.deepcopy(net)
    optimizer = _filled(net, make(net.parameters()))
    before = _buffers(net, optimizer)
    balance_(net, laws, optimizer=optimizer)
    balance_(other, laws)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    expected = _buffers(other, _filled(other, make(other.parameters())))
    found = _buffers(net, optimizer)
    assert found.keys() == expected.keys()
    assert {key for _, key in found} >= {
        "momentum": {"momentum_buffer"},
        "adam": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
        "rmsprop": {"square_avg", "grad_avg", "momentum_buffer"},
        "adagrad": {"sum"},
        "adamax": {"exp_avg", "exp_inf"},
    }[name]
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-14)
    moved = [k for k in found if not torch.allclose(found[k], before[k], rtol=1e-3)]
    assert len(moved) >= len(found) / 2


def test_without_an_optimizer_buffers_stay():
    net = _net()
    laws = find(net, torch.zeros(2, 2, 5, dtype=torch.float64))
    optimizer = _filled(net, OPTIMIZERS["momentum"](net.parameters()))
    before = _buffers(net, optimizer)
    balance_(net, laws)
    after = _buffers(net, optimizer)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_what_goes_with_no_rescaling_is_refused_before_anything_is_changed():
    net = _net()
    laws = find(net, torch.zeros(2, 2, 5, dtype=torch.float64))
    start = copy.deepcopy(net.state_dict())
    with pytest.raises(ArgumentTypeError, match="got list"):
        balance_(net, laws, optimizer=[])
    momentum = _filled(net, OPTIMIZERS["momentum"](net.parameters()))
    with pytest.raises(DomainError, match="matrices=True"):
        balance_(net, laws, optimizer=momentum, matrices=True)
    for made in (torch.optim.Adadelta, torch.optim.Rprop, torch.optim.Adafactor):
        optimizer = _filled(net, made(net.parameters(), lr=0.0))
        net.load_state_dict(start)
        with pytest.raises(DomainError, match="sums of gradients"):
            balance_(net, laws, optimizer=optimizer)
    fresh = torch.optim.Adam(net.parameters())
    for key, value in net.state_dict().items():
        assert torch.equal(value, start[key])
    balance_(net, laws, optimizer=fresh)
    # No state is made where there was none.
    assert not fresh.state
