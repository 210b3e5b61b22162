"""Laws of the mean over features, against all laws that there are."""

import pytest
import torch
from invariance_oracles import Case, compare, rates
from invariance_oracles.case import features, tokens
from invariance_oracles.zoo_conv import EPS
from torch import nn
from torch.nn import functional as F

from spectrank.invariance import find
from spectrank.invariance.laws import evaluate

IMAGE = features(2, 2, batch=4)


class Net(nn.Module):
    """A net of named parts, run by a function."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def case(name, run, inputs=None, **parts):
    def build():
        made = {key: part() for key, part in parts.items()}
        return Net(run, **made)

    return Case(name, build, features(2, batch=4) if inputs is None else inputs, -1)


def dense(n, m, **options):
    return lambda: nn.Linear(n, m, **options)


def norm(size=3):
    return lambda: nn.LayerNorm(size, eps=EPS)


def weight(*shape):
    return lambda: nn.Parameter(torch.ones(shape))


def branch(net, x):
    return net.back(F.gelu(net.up(net.ln(x))))


def residual(net, x):
    x = net.stem(x)
    return net.head(x + branch(net, x))


PARTS = {
    "stem": dense(2, 3, bias=False),
    "ln": norm(),
    "up": dense(3, 1),
    "back": dense(1, 3),
    "head": dense(3, 2, bias=False),
}


def without(name, **parts):
    return {**{k: v for k, v in PARTS.items() if k != name}, **parts}


def placed(net, x):
    x = net.stem(x) + net.place
    x = x + branch(net, x)
    return net.head(0.5 * x)


def joined(net, x):
    x = net.stem(x)
    x = torch.stack([x, x + branch(net, x)], 1)
    return net.head(x[:, 1]) + net.head(2 * x[:, 0])


def embedded(net, t):
    x = net.table(t)
    return (x + branch(net, x)) @ net.read


FOUND = [
    case("residual", residual, **PARTS),
    case(
        "positions and a factor",
        placed,
        IMAGE,
        **PARTS,
        place=weight(2, 3),
    ),
    case("stacked and read twice", joined, **PARTS),
    case(
        "table and transposed head",
        embedded,
        tokens(3, 2),
        ln=norm(),
        up=dense(3, 1),
        back=dense(1, 3),
        table=lambda: nn.Embedding(3, 3),
        read=weight(3, 2),
    ),
    case(
        "shifted",
        lambda net, x: net.head((x := net.stem(x) + net.d) + branch(net, x)),
        **PARTS,
        d=weight(3),
    ),
]


@pytest.mark.parametrize("case_", FOUND, ids=lambda case_: case_.name)
def test_with_the_law_of_the_mean_the_laws_are_all_there_are(case_):
    model = case_.module()
    laws = find(model, case_.inputs(torch.Generator().manual_seed(0)), loss=None)
    assert any("of the mean" in law.name for law in laws)
    result = compare(case_, laws)
    assert not result.wrong, str(result)
    assert not result.missing, str(result)
    assert result.claimed == result.brute


def lone(net, x):
    x = net.stem(x)
    return net.head(net.end(x + branch(net, x)))


def dropped(net, x):
    x = F.dropout(net.stem(x), 0.5, training=True)
    return net.head(x + branch(net, x))


def scaled(net, x):
    x = net.d * net.stem(x)
    return net.head(x + branch(net, x))


def bent(net, x):
    x = net.stem(x)
    return net.head(F.leaky_relu(x + branch(net, x)))


def shared(net, x):
    x = net.stem(x)
    return net.stem.weight.T @ (x + branch(net, x)).T


NONE = [
    case("every read subtracts it", lone, **PARTS, end=norm()),
    case("a mask on single features", dropped, **PARTS),
    case("a learned scale", scaled, **PARTS, d=weight(3)),
    case("an activation of the stream", bent, **PARTS),
    case("nothing subtracts it", residual, **without("ln", ln=nn.Identity)),
    case(
        "the mean stays in an RMSNorm",
        residual,
        **without("ln", ln=lambda: nn.RMSNorm(3, eps=EPS)),
    ),
    case("one matrix writes and reads", shared, **without("head")),
]


@pytest.mark.parametrize("case_", NONE, ids=lambda case_: case_.name)
def test_no_law_of_the_mean_where_it_says_nothing_or_does_not_hold(case_):
    model = case_.module()
    laws = find(model, case_.inputs(torch.Generator().manual_seed(0)), loss=None)
    assert not [law.name for law in laws if "of the mean" in law.name]


def test_the_value_is_that_of_squared_feature_sums_written_out():
    model = FOUND[0].module()
    laws = find(model, torch.zeros(2, 2).double(), loss=None)
    law = next(law for law in laws if "of the mean" in law.name)
    sums = [
        *model.stem.weight.sum(0).tolist(),
        *model.back.weight.sum(0).tolist(),
        model.back.bias.sum().item(),
    ]
    reads = model.head.weight.sum(1).tolist()
    by_hand = sum(s**2 for s in sums) - sum(s**2 for s in reads)
    value = float(evaluate(law, dict(model.named_parameters())))
    # The sign of a law of one number is free.
    assert abs(value) == pytest.approx(abs(by_hand), rel=1e-12)
    assert law.exact


def test_it_holds_for_any_eps():
    blunt = case("eps", residual, **without("ln", ln=lambda: nn.LayerNorm(3, eps=0.5)))
    laws = find(blunt.module(), torch.zeros(2, 2).double(), loss=None)
    means = [law for law in laws if "of the mean" in law.name]
    assert len(means) == 1
    assert max(rates(means, blunt).values()) < 1e-12
