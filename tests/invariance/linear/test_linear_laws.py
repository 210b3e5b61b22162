"""Linear laws of real nets: right by the rate test, as many as brute force finds."""

import numpy as np
import pytest
import torch
from invariance_oracles import ZOO, Case, Layout, draws, rates
from torch import nn
from torch.nn import functional

from spectrank.invariance.laws import Laws, evaluate
from spectrank.invariance.linear import linear_laws
from spectrank.invariance.potentials import solve
from spectrank.model.graph import graph

# Gradients that are exactly zero leave rounding over rounding.
ZERO = 1e-8


class Function(nn.Module):
    """Modules, and a function of them and of the input."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


class Scaled(nn.Module):
    """Logits and a learned number."""

    def __init__(self, function):
        super().__init__()
        self.function, self.a = function, nn.Linear(2, 3)
        self.t = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(self.a(x), self.t)


def case_of(build, inputs, **options):
    def given(generator):
        return (torch.randn(4, *inputs, generator=generator, dtype=torch.float64),)

    return Case("net", build, given, 0, **options)


def laws_of(case, loss="of the case"):
    model = case.module()
    found = graph(model, *case.inputs(torch.Generator().manual_seed(0)))
    named = "cross_entropy" if case.softmax else None
    return linear_laws(solve(found), loss=named if loss == "of the case" else loss)


def check(case, expected):
    laws = laws_of(case)
    assert {law.name: (law.shape[0], law.count) for law in laws} == expected
    for name, rate in rates(laws, case, num_draws=3).items():
        assert rate < (ZERO if name.startswith("constant") else 1e-12), name


def num_linear_laws(case):
    """Directions to which the gradients of many random risks are orthogonal."""
    layout = Layout(case.module())
    source = draws(case, torch.Generator().manual_seed(5), cotangents=2)
    rows = []
    for _ in range(3 * layout.total):
        row = layout.flat(next(source)[1]).numpy()
        rows.append(row / np.linalg.norm(row))
    s = np.linalg.svd(np.stack(rows), compute_uv=False)
    null = s < 1e-12 * s[0]
    assert s[~null].min() > 1e-4 * s[0]
    return int(null.sum())


STANDARD = {
    "mlp relu softmax": {"softmax 4.weight": (2, 2), "softmax 4.bias": (1, 1)},
    "mlp relu": {},
    "residual free relu": {"equal-gradient Z.0.bias - U.0.bias": (2, 2)},
    "cnn batchnorm relu": {"constant 0.bias": (2, 2)},
    "cnn batchnorm eval": {},
    "resnet batchnorm": {
        "equal-gradient block2.bn2.bias - block2.shortcut.1.bias": (2, 2)
    },
    "dense layernorm": {"sum 0.weight": (2, 2), "sum 0.bias": (1, 1)},
    "dense rmsnorm": {},
    "cnn groupnorm": {"sum 0.bias": (2, 2)},
    "attention biases": {"constant attn.in_proj_bias": (2, 2)},
    "attention rotary": {},
    "transformer pre-LN": {
        # Summed over features it follows from the sums of the rows of E and P.
        "equal-gradient E.weight - P.weight": (3, 2),
        "sum E.weight": (3, 3),
        "sum P.weight": (3, 3),
        "constant block.k.bias": (1, 1),
        "sum block.o.weight": (1, 1),
        "sum block.o.bias": (1, 1),
        "sum block.fc2.weight": (2, 2),
        "sum block.fc2.bias": (1, 1),
        "softmax head.weight": (3, 3),
        "softmax head.bias": (1, 1),
    },
    "transformer no final norm": {
        "equal-gradient E.weight - P.weight": (3, 3),
        "sum P.weight - block.o.bias": (1, 1),
        "constant block.k.bias": (1, 1),
        "sum block.o.bias - block.fc2.bias": (1, 1),
        "softmax head.weight": (3, 3),
        "softmax head.bias": (1, 1),
    },
    "post-LN block": {
        "constant k.bias": (1, 1),
        "sum o.weight": (1, 1),
        "sum o.bias": (1, 1),
        "sum fc2.weight": (2, 2),
        "sum fc2.bias": (1, 1),
    },
    "lstm": {"equal-gradient rnn.bias_ih_l0 - rnn.bias_hh_l0": (8, 8)},
    "gru": {"equal-gradient rnn.bias_ih_l0 - rnn.bias_hh_l0": (4, 4)},
    "rnn tanh": {"equal-gradient rnn.bias_ih_l0 - rnn.bias_hh_l0": (2, 2)},
    "embedding head softmax": {"softmax head.weight": (2, 2)},
    "embedding tied softmax": {},
    "embedding tied positions": {"equal-gradient E.weight - P.weight": (2, 2)},
}


@pytest.mark.parametrize("name", STANDARD)
def test_the_laws_of_the_standard_blocks(name):
    check(ZOO[name], STANDARD[name])


def _attention(model, x, *, dropout=0.0, clamp=False):
    q, k, v = model.q(x), model.k(x), model.v(x)
    scores = q @ k.transpose(1, 2) * 0.7
    scores = scores + torch.ones(3, 3).triu(1).to(x) * -5
    if clamp:
        scores = scores.clamp(-1, 1)
    return functional.dropout(scores.softmax(-1), dropout) @ v


def attention(**options):
    return lambda: Function(
        lambda m, x: m.norm(_attention(m, x, **options)),
        q=nn.Linear(2, 2),
        k=nn.Linear(2, 2),
        v=nn.Linear(2, 3),
        norm=nn.LayerNorm(3, elementwise_affine=False),
    )


class Positions(nn.Module):
    """A learned position per token, a class token, a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.ones(1, 1, 3))
        self.P = nn.Parameter(torch.ones(3, 3))
        self.fc = nn.Linear(2, 3, bias=False)
        self.norm, self.head = nn.LayerNorm(3), nn.Linear(3, 2)

    def forward(self, x):
        x = torch.cat([self.first.expand(len(x), -1, -1), self.fc(x)], 1) + self.P
        return self.head(torch.tanh(self.norm(x)).mean(1))


NETS = {
    # Both branches, one after the other, end in the same BatchNorm.
    "two biases before a BatchNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.bn(m.a(x[:, :1]) - 2 * m.b(x[:, 1:]))),
            a=nn.Conv1d(1, 3, 1),
            b=nn.Conv1d(1, 3, 2, padding="same"),
            bn=nn.BatchNorm1d(3, eps=1e-30),
        ),
        (2, 5),
        {"constant a.bias": (3, 3), "constant b.bias": (3, 3)},
    ),
    "two maps of one input": (
        lambda: Function(
            lambda m, x: torch.tanh(m.a(x) + 2 * m.b(x)),
            a=nn.Linear(2, 3),
            b=nn.Linear(2, 3),
        ),
        (2,),
        {
            "equal-gradient a.weight - b.weight": (6, 6),
            "equal-gradient a.bias - b.bias": (3, 3),
        },
    ),
    "average before a softmax": (
        lambda: Function(lambda m, x: m.a(x).mean(1), a=nn.Linear(2, 3)),
        (4, 2),
        {"softmax a.weight": (2, 2), "softmax a.bias": (1, 1)},
    ),
    "maximum before a softmax": (
        lambda: Function(lambda m, x: m.a(x).amax(1), a=nn.Linear(2, 3)),
        (4, 2),
        {"softmax a.bias": (1, 1)},
    ),
    "softmax over pixels' classes": (
        lambda: nn.Conv2d(1, 3, 2, padding=1),
        (1, 3, 3),
        {"softmax weight": (4, 4), "softmax bias": (1, 1)},
    ),
    "heads normalised one by one": (
        lambda: Function(
            lambda m, x: torch.tanh(m.norm(m.a(x).unflatten(-1, (2, 3)))),
            a=nn.Linear(2, 6),
            norm=nn.LayerNorm(3, elementwise_affine=False),
        ),
        (2,),
        {"sum a.weight": (4, 4), "sum a.bias": (2, 2)},
    ),
    "dropout before a LayerNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.norm(functional.dropout(m.a(x), 0.5))),
            a=nn.Linear(2, 4),
            norm=nn.LayerNorm(4, elementwise_affine=False),
        ),
        (2,),
        {},
    ),
    "channels last, convolution before a LayerNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.norm(m.a(x).transpose(1, 2))),
            a=nn.Conv1d(2, 3, 2),
            norm=nn.LayerNorm(3),
        ),
        (2, 4),
        {"sum a.weight": (4, 4), "sum a.bias": (1, 1)},
    ),
    "depthwise convolution before a LayerNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.norm(m.a(x).transpose(1, 2))),
            a=nn.Conv1d(3, 3, 2, groups=3),
            norm=nn.LayerNorm(3),
        ),
        (3, 4),
        {"sum a.bias": (1, 1)},
    ),
    "a block used twice": (
        lambda: Function(
            lambda m, x: m.norm(m.fc(torch.tanh(m.norm(m.fc(torch.tanh(x)))))),
            fc=nn.Linear(3, 3),
            norm=nn.LayerNorm(3, elementwise_affine=False),
        ),
        (3,),
        {"sum fc.weight": (3, 3), "sum fc.bias": (1, 1)},
    ),
    "used once where it is seen": (
        lambda: Function(
            lambda m, x: torch.tanh(m.fc(torch.tanh(m.norm(m.fc(torch.tanh(x)))))),
            fc=nn.Linear(3, 3),
            norm=nn.LayerNorm(3, elementwise_affine=False),
        ),
        (3,),
        {},
    ),
    # A mean of values that move alike over features moves alike over features.
    "values through attention": (
        attention(),
        (3, 2),
        {"constant k.bias": (2, 2), "sum v.weight": (2, 2), "sum v.bias": (1, 1)},
    ),
    "dropout of the attention": (
        attention(dropout=0.5),
        (3, 2),
        {"constant k.bias": (2, 2), "sum v.weight": (2, 2), "sum v.bias": (1, 1)},
    ),
    "clamped scores": (
        attention(clamp=True),
        (3, 2),
        {"sum v.weight": (2, 2), "sum v.bias": (1, 1)},
    ),
    "a learned temperature": (
        lambda: Scaled(lambda x, t: x * t),
        (2,),
        {"softmax a.weight": (2, 2), "softmax a.bias": (1, 1)},
    ),
    "a learned temperature, exp": (
        lambda: Scaled(lambda x, t: t[0].exp() * x),
        (2,),
        {"softmax a.weight": (2, 2), "softmax a.bias": (1, 1)},
    ),
    "logits divided by a learned number": (
        lambda: Scaled(lambda x, t: t / x),
        (2,),
        {},
    ),
    "a gate of a sample before a LayerNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.norm(m.a(x) * x[:, :1])),
            a=nn.Linear(2, 3),
            norm=nn.LayerNorm(3, elementwise_affine=False),
        ),
        (2,),
        {"sum a.weight": (2, 2), "sum a.bias": (1, 1)},
    ),
    "a gate of each feature before a LayerNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.norm(m.a(x) * x)),
            a=nn.Linear(3, 3),
            norm=nn.LayerNorm(3, elementwise_affine=False),
        ),
        (3,),
        {},
    ),
    "the mean of a batch, without its axis": (
        lambda: Function(
            lambda m, x: torch.tanh(m.a(x) - m.a(x).mean(0)), a=nn.Linear(2, 3)
        ),
        (2,),
        {"constant a.bias": (3, 3)},
    ),
    # Only a constant is the same for all samples.
    "values and a BatchNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.bn(_attention(m, x).transpose(1, 2))),
            q=nn.Linear(2, 2),
            k=nn.Linear(2, 2),
            v=nn.Linear(2, 3),
            bn=nn.BatchNorm1d(3, eps=1e-30),
        ),
        (3, 2),
        {"constant k.bias": (2, 2), "constant v.bias": (3, 3)},
    ),
    "dropped values and a BatchNorm": (
        lambda: Function(
            lambda m, x: torch.tanh(m.bn(_attention(m, x, dropout=0.5).mT)),
            q=nn.Linear(2, 2),
            k=nn.Linear(2, 2),
            v=nn.Linear(2, 3),
            bn=nn.BatchNorm1d(3, eps=1e-30),
        ),
        (3, 2),
        {"constant k.bias": (2, 2)},
    ),
    "positions": (
        Positions,
        (2, 2),
        {
            "sum P": (3, 3),
            # The sum over ``first`` follows.
            "equal-gradient first - P": (3, 3),
            "sum fc.weight": (2, 2),
            "softmax head.weight": (3, 3),
            "softmax head.bias": (1, 1),
        },
    ),
}
# Laws that hold for a softmax loss only, by the rate test with other cotangents.
ANY_LOSS = {name for name, (_, _, e) in NETS.items() if "softmax" not in str(e)}


@pytest.mark.parametrize("name", NETS)
def test_what_is_seen_and_what_is_not(name):
    build, inputs, expected = NETS[name]
    softmax = name not in ANY_LOSS
    axis = 1 - 4 if len(inputs) == 3 else -1
    case = case_of(build, inputs, softmax=softmax, class_axis=axis)
    check(case, expected)
    assert num_linear_laws(case) == sum(count for _, count in expected.values())


def test_frozen_biases_are_in_no_law():
    case = ZOO["mlp relu softmax"]
    model = case.module()
    model[4].bias.requires_grad_(False)
    found = linear_laws(solve(graph(model, torch.randn(3, 2).double())))
    assert [law.name for law in found] == ["softmax 4.weight"]


def test_a_sum_over_rows_is_kept_as_such():
    # A table of 50,000 words times 768 has 38 million entries.
    laws = Laws(laws_of(ZOO["transformer pre-LN"]))
    sizes = {law.name: sum(len(t.laws) for t in law.terms) for law in laws}
    assert sizes["softmax head.weight"] == 3
    assert sizes["sum E.weight"] == 3
    assert sizes["equal-gradient E.weight - P.weight"] == 6
    assert sizes["sum block.o.bias"] == 1


def test_sums_are_those_of_columns_and_differences_those_of_entries():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4))
    laws = Laws(linear_laws(solve(graph(model, torch.randn(2, 2)))))
    tensors = {n: p.double() for n, p in model.named_parameters()}
    sums = evaluate(laws["softmax 2.weight"], tensors)
    assert torch.allclose(sums, tensors["2.weight"].sum(0), atol=1e-12)
    lstm = Function(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(2, 3, proj_size=2))
    law = linear_laws(solve(graph(lstm, torch.randn(4, 1, 2))), loss=None)[0]
    found = evaluate(law, dict(lstm.named_parameters()))
    expected = (lstm.rnn.bias_ih_l0 - lstm.rnn.bias_hh_l0).double()
    assert torch.allclose(found, expected.detach(), atol=1e-12)
