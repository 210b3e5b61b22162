"""What ``find`` reports: names, kinds, places without a law; the same net twice."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.invariance import find
from spectrank.invariance.laws import evaluate, polar
from spectrank.invariance.potentials import families, solve
from spectrank.model.graph import graph


class Bare(nn.Module):
    """A residual net on bare parameters."""

    def __init__(self):
        super().__init__()
        shapes = {"a": (4, 3), "b": (4,), "c": (5, 4), "d": (4, 5), "e": (2, 4)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        x = x @ self.a.T + self.b
        x = x + F.linear(torch.clamp_min(self.c @ x.T, 0).T, self.d)
        return torch.einsum("bi,oi->bo", x, self.e)


class Modules(nn.Module):
    """The same net as modules."""

    def __init__(self, bare):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.c = nn.Linear(4, 5, bias=False)
        self.d = nn.Linear(5, 4, bias=False)
        self.e = nn.Linear(4, 2, bias=False)
        self.a.weight, self.a.bias = bare.a, bare.b
        self.c.weight, self.d.weight, self.e.weight = bare.c, bare.d, bare.e

    def forward(self, x):
        x = self.a(x)
        return self.e(x + self.d(F.relu(self.c(x))))


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def values(model, laws):
    tensors = dict(model.named_parameters())
    return [evaluate(law, tensors) for law in laws]


def test_one_net_written_three_ways_has_the_same_laws():
    bare = Bare()
    modules = Modules(bare)
    nets = [bare, modules, Wrapped(Wrapped(modules))]
    found = [find(net, torch.zeros(6, 3), loss=None) for net in nets]
    forms = [[(law.kind, law.form, law.shape) for law in laws] for laws in found]
    assert forms[0] == forms[1] == forms[2]
    all_values = [values(n, laws) for n, laws in zip(nets, found, strict=True)]
    for first, *others in zip(*all_values, strict=True):
        for other in others:
            torch.testing.assert_close(first, other, rtol=1e-12, atol=1e-12)


def test_values_of_the_laws_are_in_minus_out():
    bare = Bare()
    laws = find(Modules(bare), torch.zeros(6, 3), loss=None)
    a, b, c, d, e = (p.detach().double() for p in bare.parameters())
    inner = c.square().sum(1) - d.square().sum(0)
    stream = a @ a.T + torch.outer(b, b) + d @ d.T - c.T @ c - e.T @ e
    tensors = dict(Modules(bare).named_parameters())
    torch.testing.assert_close(evaluate(laws["vertex c"], tensors), inner)
    torch.testing.assert_close(evaluate(laws["stream a"], tensors), stream)
    # No law across the skip: of d (what one block writes) and e (what reads it) alone.
    assert not any(set(law.parameters) == {"d.weight", "e.weight"} for law in laws)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)],
        lambda: [
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(3 * 9, 2),
        ],
        lambda: [
            nn.Conv1d(2, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
            nn.LeakyReLU(),
            nn.Conv1d(4, 2, 1, groups=2),
            nn.Flatten(),
            nn.ReLU(),
            nn.Linear(16, 3),
        ],
        lambda: [nn.Linear(3, 4), nn.LayerNorm(4), nn.GLU(), nn.Linear(2, 2)],
    ],
)
def test_a_sequential_needs_no_input(layers):
    model = nn.Sequential(*layers())
    example = {"Linear": (2, 3), "Conv2d": (2, 1, 8, 8), "Conv1d": (2, 2, 8)}
    traced = find(model, torch.zeros(example[type(model[0]).__name__]), loss=None)
    plain = find(model, loss=None)
    assert [law.name for law in plain] == [law.name for law in traced]
    for first, second in zip(values(model, plain), values(model, traced), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_diagonal_laws_of_a_sequential_need_no_sizes():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LeakyReLU(),
        nn.Linear(3 * 9, 2),
    )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    graphs = [graph(model), graph(model, torch.zeros(2, 1, 8, 8))]
    plain, traced = [
        [family.law for family in families(solve(found, shapes=shapes))]
        for found in graphs
    ]
    for first, second in zip(values(model, plain), values(model, traced), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_graph_gives_the_laws_of_its_model():
    model = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    example = torch.zeros(2, 3, 4)
    by_model = find(model, example, loss=None)
    by_graph = find(graph(model, example), loss=None)
    assert [law.name for law in by_graph] == [law.name for law in by_model]
    for a, b in zip(values(model, by_graph), values(model, by_model), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def reasons(model, example):
    return {item.name: item.reason for item in find(model, example).skipped}


def test_a_place_without_a_law_says_why():
    x = torch.zeros(2, 3)
    gelu = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    assert reasons(gelu, x) == {"0": "gelu is not homogeneous"}
    fixed = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    fixed[0].bias.requires_grad_(False)
    assert reasons(fixed, x) == {"0": "its bias is not learned"}
    assert "lstm" in reasons(Wrapped(First(nn.LSTM(3, 2))), x[:, None])["inner.inner"]
    spectral = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    found = reasons(nn.Sequential(spectral, nn.ReLU(), nn.Linear(4, 2)), x)
    assert "is computed from" in found["0"]
    own = nn.Sequential(Skip(nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 2))
    # One learned map, I + W, with a law of its own.
    assert "0.inner" not in reasons(own, x)


class First(Wrapped):
    def forward(self, x):
        return self.inner(x)[0]


class Skip(Wrapped):
    def forward(self, x):
        return x + self.inner(x)


def test_the_last_layer_is_no_place_without_a_law():
    assert reasons(nn.Sequential(nn.Linear(3, 2)), torch.zeros(2, 3)) == {}


def test_kinds_say_where_a_law_stands():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
        nn.AdaptiveAvgPool2d(1),
    )
    laws = find(net, torch.zeros(2, 1, 8, 8), loss=None).select(
        "scale", "affine", "channel"
    )
    assert {law.name: law.exact for law in laws} == {
        "scale 0": False,
        "affine 1": True,
        "channel 3": True,
    }
    net[1].eps = 0.0
    net.eval()
    stored = find(net, torch.zeros(2, 1, 8, 8), loss=None)
    assert "scale 0" not in [law.name for law in stored]
    assert "affine 1" in [law.name for law in stored]


def test_a_padding_row_that_is_not_zero_breaks_the_law_as_its_condition_says():
    net = nn.Sequential(nn.Embedding(3, 2, padding_idx=0), nn.ReLU(), nn.Linear(2, 1))
    ids = torch.tensor([[0, 1], [2, 0]])
    (law,) = find(net, ids, loss=None)
    assert "padding" in law.condition
    rates = []
    for padding in (0.0, 1.0):
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([[padding] * 2, [1.0, -2.0], [3.0, 4.0]]))
        net.zero_grad()
        net(ids).square().sum().backward()
        tensors = {name: p.detach() for name, p in net.named_parameters()}
        gradients = {name: p.grad for name, p in net.named_parameters()}
        rates.append(float(polar(law, tensors, gradients).abs().max()))
    assert rates[0] < 1e-5
    assert rates[1] > 1e-2


def test_cuts_are_sums_of_the_laws_between_them():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    laws = find(net, torch.zeros(2, 3), cuts=True, loss=None)
    w, b, v = (p.detach().double() for p in list(net.parameters())[:3])
    wanted = w.square().sum() + b.square().sum() - v.square().sum()
    found = evaluate(laws["cut vertex 0"], dict(net.named_parameters()))
    torch.testing.assert_close(found, wanted[None])
    assert "cut vertex 0" not in [law.name for law in find(net, loss=None)]


def test_potentials_have_the_shape_of_the_values():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found = graph(net, torch.zeros(5, 3))
    potentials = solve(found)
    by_op = {node.op: node for node in found.nodes}
    hidden = by_op["relu"]
    np.testing.assert_array_equal(potentials.classes(hidden.id), [[0, 1, 2, 3]] * 5)
    np.testing.assert_array_equal(potentials.coefficients(hidden.id), np.ones((5, 4)))
    assert (potentials.classes(by_op["output"].id) == -1).all()
    with pytest.raises(UnknownNameError, match="id of a node, got 'relu'"):
        potentials.classes("relu")


def test_wrong_arguments_are_refused():
    with pytest.raises(ArgumentTypeError, match="Module or its graph, got dict"):
        find({})
    stated = graph(nn.Sequential(nn.Linear(2, 2)), wiring=[("0", "output")])
    with pytest.raises(DomainError, match="stated links"):
        find(stated)


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    find(net, torch.zeros(5, 3))
    find(net)
    assert torch.equal(state, torch.random.get_rng_state())
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


class Halved(Wrapped):
    def forward(self, x):
        return self.inner(x) * torch.full((), 0.5)


def test_a_traced_scalar_is_a_value_like_others():
    net = nn.Sequential(Halved(nn.Linear(3, 4)), nn.Linear(4, 2))
    (law,) = find(net, torch.zeros(2, 3), loss=None)
    assert (law.name, law.shape, law.count) == ("matrix 0.inner", (4, 4), 10)


def test_a_table_that_is_written_to_in_place_has_no_law():
    # Its rows are renormalised before they are looked up.
    def build(max_norm):
        return nn.Sequential(nn.Embedding(5, 3, max_norm=max_norm), nn.Linear(3, 2))

    tokens = torch.tensor([[0, 1, 4]])
    assert "0.weight" in find(build(None), tokens, loss=None).parameters
    laws = find(build(1.0), tokens, loss=None)
    assert "0.weight" not in laws.parameters
    assert any("embedding_renorm" in item.reason for item in laws.skipped)
