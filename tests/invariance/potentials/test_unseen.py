"""What a normalisation right after does not see, against all laws that there are."""

import pytest
import torch
from invariance_oracles import Case, compare
from invariance_oracles.case import features
from invariance_oracles.zoo_conv import EPS
from torch import nn

from spectrank.invariance import find

VECTORS, SIGNALS = features(2, batch=4), features(2, 3, batch=4)


def case(name, count, *layers, inputs=VECTORS):
    return Case(
        name, lambda: nn.Sequential(*(make() for make in layers)), inputs, count
    )


def dense(n, m, **options):
    return lambda: nn.Linear(n, m, **options)


def conv(n=2, m=2):
    return lambda: nn.Conv1d(n, m, 1)


def leaky():
    return nn.LeakyReLU(0.3)


def rms(**options):
    return lambda: nn.RMSNorm(3, eps=EPS, **options)


def layer_norm():
    return nn.LayerNorm(3, eps=EPS)


def instance_norm():
    return nn.InstanceNorm1d(2, eps=EPS, affine=True)


def between():
    return nn.Sequential(instance_norm(), leaky())


def batch_norm():
    return nn.BatchNorm1d(2, eps=EPS)


class Twice(nn.Module):
    """One layer, applied twice with a step between."""

    def __init__(self, layer, between, frozen=False):
        super().__init__()
        self.layer, self.between = layer(), between()
        self.layer.bias.requires_grad_(not frozen)

    def forward(self, x):
        return self.layer(self.between(self.layer(x)))


def twice(layer, between, **options):
    return lambda: Twice(layer, between, **options)


class Fixed(nn.Conv1d):
    """A convolution whose bias is not learned."""

    def __init__(self):
        super().__init__(2, 2, 1)
        self.bias.requires_grad_(False)


CASES = [
    # Per feature ||w_i||^2 - gain_i^2; the gain's norm; the second gain and the head.
    case(
        "RMSNorm twice",
        7,
        *(dense(2, 3, bias=False), leaky, rms(), rms(), dense(3, 2)),
    ),
    case(
        "RMSNorm then LayerNorm",
        7,
        *(dense(2, 3, bias=False), leaky, rms(), layer_norm, dense(3, 2)),
    ),
    # The mean that the first subtracts mixes features: no laws of single ones. But
    # the sum of its shift is not seen.
    case(
        "LayerNorm twice",
        6,
        *(dense(2, 3, bias=False), leaky, layer_norm, layer_norm, dense(3, 2)),
    ),
    case(
        "LayerNorm then RMSNorm",
        5,
        *(dense(2, 3, bias=False), leaky, layer_norm, rms(), dense(3, 2)),
    ),
    case(
        "a gain that is fixed",
        4,
        *(dense(2, 3, bias=False), leaky, rms(elementwise_affine=False), rms()),
        dense(3, 2),
    ),
    # ||W||^2 + ||b||^2 of the shared layer: its bias is seen in the first use alone.
    case(
        "shared layer before InstanceNorm",
        3,
        *(twice(conv(), leaky), instance_norm, leaky, conv()),
        inputs=SIGNALS,
    ),
    case(
        "shared layer before BatchNorm",
        3,
        *(twice(dense(2, 2), leaky), batch_norm, leaky, dense(2, 2)),
    ),
    # Both uses are subtracted: per channel a constant bias, the norm of a row and the
    # last affine map; and ||W||^2 + |gain|^2 + |shift|^2 of the first.
    case(
        "both uses unseen",
        7,
        *(twice(conv(), between), instance_norm, leaky, conv(2, 1)),
        inputs=SIGNALS,
    ),
    case(
        "fixed bias before InstanceNorm",
        4,
        *(Fixed, instance_norm, leaky, conv()),
        inputs=SIGNALS,
    ),
]


@pytest.mark.parametrize("case_", CASES, ids=lambda case_: case_.name)
def test_laws_before_a_normalisation_are_all_there_are(case_):
    inputs = case_.inputs(torch.Generator().manual_seed(0))
    result = compare(case_, find(case_.module(), inputs, loss=None))
    assert result.right, str(result)


class Positions(nn.Module):
    """A linear map over features before a BatchNorm over positions, the bias tied."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, x):
        return self.b(self.norm(self.a(torch.relu(self.a(x)))))


def test_a_bias_over_other_axes_than_those_of_the_norm_is_seen():
    case_ = Case("positions", Positions, features(2, 2, batch=3), -1)
    inputs = case_.inputs(torch.Generator().manual_seed(0))
    result = compare(case_, find(case_.module(), inputs, loss=None))
    assert not result.wrong, str(result)
