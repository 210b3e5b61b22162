"""The coefficient of the decay, against the gradient that it adds."""

import math

import pytest
import torch
from torch import nn

from spectrank.collapse.statistics import decay_of, effective_decays
from spectrank.errors import ArgumentTypeError, DomainError


def model():
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False)).double()


def test_a_penalty_has_twice_its_coefficient():
    net = model()
    weight = net[0].weight
    w = 0.3
    (gradient,) = torch.autograd.grad(w * weight.square().sum(), [weight])
    found = decay_of(effective_decays(w, net, decay="penalty"), "0.weight")
    assert found.kind == "penalty"
    torch.testing.assert_close(gradient, found.coefficient * weight.detach())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_coupled_decay_is_what_the_optimizer_adds_to_the_gradient(kind):
    net = model()
    optimizer = kind(net.parameters(), lr=0.1, weight_decay=0.2)
    found = decay_of(effective_decays(optimizer, net), "1.weight")
    assert (found.coefficient, found.kind) == (0.2, "coupled")
    assert found.algorithm == kind.__name__
    if kind is torch.optim.SGD:
        before = net[1].weight.detach().clone()
        net[1].weight.grad = torch.zeros_like(before)
        optimizer.step()
        step = (before - net[1].weight.detach()) / 0.1
        torch.testing.assert_close(step, found.coefficient * before)


def test_groups_have_their_own_decay_and_adamw_is_decoupled():
    net = model()
    groups = [
        {"params": [net[0].weight], "weight_decay": 0.0},
        {"params": [net[1].weight], "weight_decay": 0.5},
    ]
    decays = effective_decays(torch.optim.AdamW(groups, lr=0.1), net)
    assert decay_of(decays, "0.weight").kind == "none"
    found = decay_of(decays, "1.weight")
    assert (found.coefficient, found.kind, found.algorithm) == (
        0.5,
        "decoupled",
        "AdamW",
    )


def test_a_weight_that_the_optimizer_does_not_hold_is_unknown():
    net = model()
    decays = effective_decays(torch.optim.SGD([net[0].weight], lr=0.1), net)
    found = decay_of(decays, "1.weight")
    assert found.kind == "unknown"
    assert math.isnan(found.coefficient)
    assert "holds no parameter 1.weight" in found.reason
    tied = decay_of(decays, "1.weight", aliases=("0.weight",))
    assert tied.kind == "none"


def test_an_optimizer_of_unknown_rule_is_unknown_with_its_reason():
    class Mine(torch.optim.SGD):
        pass

    net = model()
    decays = effective_decays(Mine(net.parameters(), lr=0.1, weight_decay=0.1), net)
    found = decay_of(decays, "0.weight")
    assert (found.kind, math.isnan(found.coefficient)) == ("unknown", True)
    assert "subclass of SGD" in found.reason


def test_a_number_means_what_is_said():
    net = model()
    assert effective_decays(0.1, net).kind == "coupled"
    assert effective_decays(0.1, net, decay="decoupled").coefficient == 0.1
    assert effective_decays(0, net).kind == "none"


def test_what_is_no_decay_is_refused():
    net = model()
    with pytest.raises(DomainError, match=r"at least 0, got -0.1"):
        effective_decays(-0.1, net)
    with pytest.raises(DomainError, match=r"finite and at least 0, got nan"):
        effective_decays(math.nan, net)
    with pytest.raises(ArgumentTypeError, match="number or an optimizer, got str"):
        effective_decays("0.1", net)
    with pytest.raises(DomainError, match="decay must be one of coupled"):
        effective_decays(0.1, net, decay="l2")


def test_an_ascending_optimizer_gives_no_coefficient():
    net = model()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, weight_decay=0.2, maximize=True
    )
    found = decay_of(effective_decays(optimizer, net), "1.weight")
    assert math.isnan(found.coefficient)
    assert found.kind == "unknown"
    assert "maximize=True" in found.reason
