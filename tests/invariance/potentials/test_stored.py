"""Normalisations with stored statistics, against all laws that there are."""

import pytest
import torch
from invariance_oracles import Case, compare
from invariance_oracles.case import features
from torch import nn

from spectrank.invariance import find
from spectrank.invariance.laws import evaluate
from spectrank.model import graph

SIGNALS = features(2, 3, batch=3)


def stored(*layers, means=True):
    def build():
        net = nn.Sequential(*(layer() for layer in layers))
        for module in net.modules():
            if getattr(module, "running_mean", None) is not None:
                size = len(module.running_mean)
                if means:
                    module.running_mean.copy_(torch.linspace(0.5, 1.0, size))
                module.running_var.copy_(torch.linspace(0.5, 2.0, size))
        return net

    return build


def case(name, count, *layers, inputs=SIGNALS, **options):
    return Case(name, stored(*layers, **options), inputs, count, train=False)


def conv(**options):
    return lambda: nn.Conv1d(2, 2, 2, **options)


def norm(**options):
    return lambda: nn.BatchNorm1d(2, **options)


def leaky():
    return nn.LeakyReLU(0.3)


def dense():
    return nn.Linear(2, 2)


CASES = [
    # ||w||^2 + (b - m)^2 - gamma^2 and gamma^2 + beta^2 - ||column||^2, per channel.
    case("after a bias", 4, conv(), norm(), leaky, conv()),
    case("without a bias", 2, conv(bias=False), norm(), leaky, conv()),
    case("mean zero", 4, conv(bias=False), norm(), leaky, conv(), means=False),
    case("without scale", 2, conv(), norm(affine=False), leaky, conv()),
    case("of vectors", 4, dense, norm(), dense, inputs=features(2, batch=4)),
    case(
        "between layers",
        4,
        *(dense, leaky, dense, norm(), nn.Tanh, dense),
        inputs=features(2, batch=4),
    ),
    case(
        "of single samples",
        4,
        conv(),
        lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        leaky,
        conv(),
    ),
]


def found(case_):
    inputs = case_.inputs(torch.Generator().manual_seed(0))
    return find(case_.module(), inputs, loss=None)


@pytest.mark.parametrize("case_", CASES, ids=lambda case_: case_.name)
def test_laws_through_stored_statistics_are_all_there_are(case_):
    result = compare(case_, found(case_))
    assert result.right, str(result)


def test_the_value_is_that_of_the_centred_bias_written_out():
    case_ = CASES[0]
    model, laws = case_.module(), found(case_)
    (law,) = (law for law in laws if law.offsets)
    weight, bias = model[0].weight.detach(), model[0].bias.detach()
    mean, gamma = model[1].running_mean, model[1].weight.detach()
    by_hand = (weight**2).sum((1, 2)) + (bias - mean) ** 2 - gamma**2
    value = evaluate(law, dict(model.named_parameters()))
    torch.testing.assert_close(value, by_hand, rtol=1e-12, atol=0)
    assert law.exact
    assert "stored mean" in law.condition


class Branches(nn.Module):
    """A convolution that a stored normalisation is not the only one to read."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x):
        h = self.a(x)
        return self.b(torch.relu(self.norm(h)) + torch.relu(h))


class Shared(nn.Module):
    """One bias before a stored normalisation and elsewhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1)
        self.b.bias = self.a.bias
        self.norm = nn.BatchNorm1d(2)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


@pytest.mark.parametrize("build", [Branches, Shared])
def test_a_bias_that_others_see_follows_no_mean(build):
    case_ = Case("seen", build, SIGNALS, -1, train=False)
    laws = found(case_)
    assert not any(law.offsets for law in laws)
    result = compare(case_, laws)
    assert not result.wrong, str(result)


def test_a_graph_alone_knows_no_means():
    case_ = CASES[0]
    inputs = case_.inputs(torch.Generator().manual_seed(0))
    laws = find(graph(case_.module(), inputs), loss=None)
    assert sum(law.count for law in laws) == 2
    assert any("stored statistics" in item.reason for item in laws.skipped)
    assert sum(law.count for law in found(case_)) == 4
