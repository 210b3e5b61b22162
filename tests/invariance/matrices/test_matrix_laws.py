"""Matrix laws of real nets: right by the rate test, and no more than brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from invariance_oracles import ZOO, Case, Layout, brute_force, law_vectors, rates
from torch import nn
from torch.nn import functional

from spectrank.invariance.find import find, pair_candidates
from spectrank.invariance.laws import Laws, polar
from spectrank.invariance.matrices import matrix_laws
from spectrank.invariance.pairs import as_slopes, pair_laws
from spectrank.invariance.potentials import solve
from spectrank.model.graph import graph

FALSE = 1e-3


class Function(nn.Module):
    """Modules, and a function of them and of the input."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def case_of(build, inputs):
    def given(generator):
        return (torch.randn(2, *inputs, generator=generator, dtype=torch.float64),)

    return Case("net", build, given, 0)


def blocks_of(case, **options):
    model = case.module()
    found = graph(model, *case.inputs(torch.Generator().manual_seed(0)))
    return matrix_laws(solve(found), **options)


def described(blocks):
    return [(b.law.name, b.law.kind, b.law.shape[0], b.law.count) for b in blocks]


# The zoo: name to the blocks, and what brute force counts beyond the diagonal.
EXPECTED = {
    "mlp linear": [("matrix 0", "matrix", 3, 6), ("matrix 2", "matrix", 2, 3)],
    "mlp linear wide": [("matrix 0", "matrix", 4, 7)],
    "residual gelu": [("stream stem", "stream", 2, 3)],
    "residual linear": [
        ("stream stem", "stream", 2, 3),
        ("matrix Y.0", "matrix", 2, 3),
        ("matrix Y.1", "matrix", 2, 3),
    ],
    "residual free relu": [
        ("matrix stem", "matrix", 2, 3),
        ("stream Z.0", "stream", 2, 3),
    ],
    "residual free relu after": [("matrix stem", "matrix", 2, 3)],
    "cnn linear average": [("matrix 0", "matrix", 2, 3)],
    "cnn linear flatten": [("matrix 0", "matrix", 2, 3)],
    "cnn linear groups": [
        ("matrix 0 block 0", "matrix", 2, 3),
        ("matrix 0 block 1", "matrix", 2, 3),
    ],
    "attention biases": [
        ("attention.qk attn.in_proj", "attention", 2, 3),
        ("attention.vo attn.in_proj", "attention", 2, 3),
    ],
    "attention two heads of two": [
        ("attention.qk attn.in_proj head 0", "attention", 2, 3),
        ("attention.qk attn.in_proj head 1", "attention", 2, 3),
        ("attention.vo attn.in_proj head 0", "attention", 2, 3),
        ("attention.vo attn.in_proj head 1", "attention", 2, 3),
    ],
    "attention grouped queries": [
        ("attention.qk q", "attention", 2, 3),
        ("attention.vo v", "attention", 2, 3),
    ],
    "attention rotary": [("attention.vo v", "attention", 2, 3)],
    "embedding head": [("matrix E", "matrix", 2, 3)],
    "embedding tied square": [("matrix E", "matrix", 2, 3)],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_of_the_standard_nets_are_found_and_conserved(name):
    blocks = blocks_of(ZOO[name])
    assert described(blocks) == EXPECTED[name]
    for law, rate in rates([b.law for b in blocks], ZOO[name], num_draws=3).items():
        assert rate < 1e-13, law


NONE = [
    *("mlp relu", "mlp gelu", "mlp squared relu", "reglu", "bilinear"),
    *("residual relu after", "residual diagonal relu", "cnn linear max-pool"),
    *("cnn relu two convolutions", "cnn batchnorm relu", "dense layernorm"),
    *("embedding tied", "lstm", "rnn relu", "weight norm", "attention two heads"),
    "rnn relu two layers",
]


@pytest.mark.parametrize("name", NONE)
def test_no_block_where_a_step_acts_on_single_features(name):
    assert described(blocks_of(ZOO[name])) == []


def test_no_block_between_the_layers_of_a_recurrent_one():
    case = case_of(
        lambda: Function(
            lambda m, x: m.head(m.rnn(x)[0].mean(1)),
            rnn=nn.RNN(
                2, 2, 2, nonlinearity="relu", batch_first=True, bidirectional=True
            ),
            head=nn.Linear(4, 3),
        ),
        (3, 2),
    )
    assert described(blocks_of(case)) == []
    laws = find(case.module(), case.inputs(torch.Generator().manual_seed(0))[0])
    assert sum(law.count for law in laws.select("vertex")) == 8
    assert max(rates(laws.select("vertex"), case, num_draws=3).values()) < 1e-12


def stated(*layers, shape=(2, 5), loss=None):
    net = nn.Sequential(*layers)
    return [law.source for law in find(net, torch.zeros(2, *shape), loss=loss)]


def test_only_linear_layers_without_biases_are_those_of_the_paper():
    theorem = "Le & Jegelka 2022, Theorem 1 (stated)"
    kernels = [nn.Conv1d(2, 3, 2, bias=False), nn.Conv1d(3, 2, 2, bias=False)]
    assert stated(*kernels) == [theorem]
    flat = [kernels[0], nn.Flatten(), nn.Linear(12, 2)]
    assert stated(*flat) == [theorem]
    others = [
        [nn.Conv1d(2, 3, 2), kernels[1]],
        [kernels[0], nn.AvgPool1d(2), kernels[1]],
        [nn.ConvTranspose1d(2, 3, 2, bias=False), kernels[1]],
        [nn.Conv1d(2, 4, 2, groups=2, bias=False), nn.Conv1d(4, 2, 2, bias=False)],
    ]
    for layers in others:
        sources = stated(*layers)
        assert sources, layers
        assert all(source.startswith("derived") for source in sources), layers
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    (law,) = find(net, torch.zeros(2, 5, dtype=torch.long), loss=None)
    assert law.source.startswith("derived")


def _steps(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers])


def _attention(model, x):
    n, t, d = x.shape
    q, k, v = [
        f(x).view(n, t, 2, 2).transpose(1, 2) for f in (model.q, model.k, model.v)
    ]
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / 2**0.5
    h = torch.einsum("bhij,bhjd->bhid", functional.dropout(scores.softmax(-1), 0.5), v)
    return model.o(h.transpose(1, 2).reshape(n, t, d))


def _packed(model, x):
    w, b = model.all.weight, model.all.bias
    h = functional.linear(x, w[:3], b[:3])
    return functional.linear(h, w[3:6, :3]) + model.last(h)


NETS = {
    # Positions of a channel in a row, and after a permutation a channel apart.
    "flatten": (
        _steps(lambda: nn.Conv1d(2, 3, 2), nn.Flatten, lambda: nn.Linear(12, 2)),
        (2, 5),
        [3],
    ),
    "channels last": (
        lambda: Function(
            lambda m, x: m.fc(m.conv(x).transpose(1, 2).flatten(1)),
            conv=nn.Conv1d(2, 3, 2),
            fc=nn.Linear(12, 2),
        ),
        (2, 5),
        [3],
    ),
    "pooled before flatten": (
        _steps(
            lambda: nn.Conv2d(1, 3, 2, padding=1, padding_mode="circular"),
            lambda: nn.AvgPool2d(2),
            lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Flatten,
            lambda: nn.Linear(48, 2),
        ),
        (1, 4, 4),
        [3],
    ),
    "transposed convolution": (
        _steps(
            lambda: nn.ConvTranspose2d(2, 3, 2, stride=2),
            lambda: nn.Conv2d(3, 2, 3, dilation=2, stride=2),
        ),
        (2, 4, 4),
        [3],
    ),
    "groups against depthwise": (
        _steps(
            lambda: nn.Conv1d(2, 4, 1, groups=2),
            lambda: nn.Conv1d(4, 4, 2, groups=4),
            lambda: nn.Conv1d(4, 2, 1),
        ),
        (2, 4),
        [],
    ),
    "groups in one only": (
        _steps(lambda: nn.Conv1d(2, 4, 1), lambda: nn.Conv1d(4, 4, 2, groups=2)),
        (2, 3),
        [2, 2],
    ),
    "x + W x": (
        lambda: Function(
            lambda m, x: m.c((lambda h: h + m.b(h) / 2)(m.a(x))),
            a=nn.Linear(2, 3),
            b=nn.Linear(3, 3),
            c=nn.Linear(3, 2),
        ),
        (2,),
        [3],
    ),
    "a shared linear block": (
        lambda: Function(
            lambda m, x: m.o(m.down(torch.tanh(m.up(m.down(torch.tanh(m.up(x))))))),
            up=nn.Linear(3, 2),
            down=nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)),
            o=nn.Linear(3, 2),
        ),
        (3,),
        [4],
    ),
    "concatenation": (
        lambda: Function(
            lambda m, x: m.c(
                (lambda h: torch.cat([h, m.b(h), h.flip(0)[..., :0]], -1))(m.a(x))
            ),
            a=nn.Linear(2, 3),
            b=nn.Linear(3, 2),
            c=nn.Linear(5, 2),
        ),
        (2,),
        [3, 2],
    ),
    "heads by einsum with dropout": (
        lambda: Function(
            _attention, q=nn.Linear(4, 4), k=nn.Linear(4, 4), v=nn.Linear(4, 4),
            o=nn.Linear(4, 4),
        ),
        (3, 4),
        [2, 2, 2, 2],
    ),
    "a permutation of features": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).flip(-1).roll(1, -1)),
            a=nn.Linear(2, 3),
            b=nn.Linear(3, 2),
        ),
        (2,),
        [3],
    ),
    # Not translates of one another: left out, though conserved.
    "a permutation beside the features": (
        lambda: Function(
            lambda m, x: m.b((lambda h: torch.cat([h, h.flip(-1)], -1))(m.a(x))),
            a=nn.Linear(2, 3),
            b=nn.Linear(6, 2),
        ),
        (2,),
        [],
    ),
    "a permutation of positions": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).flip(-1).flatten(1)),
            a=nn.Conv1d(2, 3, 1),
            b=nn.Linear(12, 2),
        ),
        (2, 4),
        [3],
    ),
    "a mask for all features": (
        lambda: Function(
            lambda m, x: m.b(m.a(x) * (x[..., :1] > 0)),
            a=nn.Linear(2, 3),
            b=nn.Linear(3, 2),
        ),
        (4, 2),
        [3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_blocks_through_steps_that_treat_features_alike(name):
    build, inputs, sizes = NETS[name]
    case = case_of(build, inputs)
    blocks = blocks_of(case)
    assert sorted(b.law.shape[0] for b in blocks) == sorted(sizes)
    for law, rate in rates([b.law for b in blocks], case, num_draws=3).items():
        assert rate < 1e-13, law


TOUCHED = {
    "a mask per feature": lambda m, x: m.b(
        m.a(x) * (x[..., :1] > torch.linspace(-1, 1, 3).to(x))
    ),
    "dropout": lambda m, x: m.b(functional.dropout(m.a(x), 0.5)),
    "a learned scale": lambda m, x: m.b(m.scale * m.a(x)),
    "relu of one feature": lambda m, x: m.b(
        (lambda h: torch.cat([h[..., :2], h[..., 2:].relu()], -1))(m.a(x))
    ),
    "maximum over positions": lambda m, x: m.b(m.a(x).amax(1)),
}


@pytest.mark.parametrize("name", TOUCHED)
def test_features_that_a_step_tells_apart_are_in_no_block(name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 2)
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return TOUCHED[name](self, x)

    case = case_of(Net, (4, 2))
    blocks = blocks_of(case)
    expected = [2] if name == "relu of one feature" else []
    assert [b.law.shape[0] for b in blocks] == expected
    assert all(r < 1e-13 for r in rates([b.law for b in blocks], case).values())
    # The gap matrix of all three is no law: the blocks are not too cautious.
    wrong = blocks_of(
        case_of(_steps(lambda: nn.Linear(2, 3), lambda: nn.Linear(3, 2)), (4, 2))
    )
    renamed = _renamed(wrong[0].law, {"0": "a", "1": "b"})
    assert rates([renamed], case)[renamed.name] > FALSE


def _renamed(law, names):
    terms = tuple(
        replace(t, parameter=f"{names[t.parameter[0]]}{t.parameter[1:]}")
        for t in law.terms
    )
    return replace(law, terms=terms)


def test_values_without_axes_are_read():
    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 2)
            self.t = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.b(self.a(x)) * self.t.exp()

    case = case_of(Scalar, (2,))
    blocks = blocks_of(case)
    assert described(blocks) == [("matrix a", "matrix", 3, 6)]
    assert rates([blocks[0].law], case)["matrix a"] < 1e-13


def test_packed_rows_of_one_parameter_are_read_as_the_layers_they_are():
    build = lambda: Function(  # noqa: E731
        _packed, all=nn.Linear(3, 6), last=nn.Linear(3, 3)
    )
    case = case_of(build, (3,))
    blocks = blocks_of(case)
    assert described(blocks) == [("matrix all", "matrix", 3, 6)]
    assert rates([blocks[0].law], case)[blocks[0].law.name] < 1e-13


@pytest.mark.parametrize("name", ["mlp linear"])
def test_the_diagonal_and_the_blocks_are_all_quadratic_laws(name):
    case = ZOO[name]
    blocks = blocks_of(case)
    space, layout = brute_force(case), Layout(case.module())
    rows = np.concatenate([law_vectors(b.law, layout) for b in blocks])
    # Depthwise channels and the like stand alone: they are in no block.
    alone = solve(
        graph(case.module(), *case.inputs(torch.Generator().manual_seed(0)))
    ).num_solutions - sum(len(b.solutions) for b in blocks)
    assert np.linalg.matrix_rank(rows) + alone == space.dimension
    outside = rows.T - space.basis @ (space.basis.T @ rows.T)
    assert np.abs(outside).max() < 1e-6 * np.abs(rows).max()


def test_pairs_of_a_relu_layer_are_candidates_and_their_classes_conserve():
    case = ZOO["mlp relu"]
    blocks = blocks_of(case, coactive=True)
    assert described(blocks) == [("pair 0", "pair", 3, 6), ("pair 2", "pair", 2, 3)]
    candidates = Laws(tuple(b.law for b in blocks))
    found = rates(list(candidates), case)
    assert min(found.values()) > FALSE
    # Units that are on for all inputs in [0, 1]: positive weights and biases.
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight[:2].abs_()
        model[0].bias[:2] = 0.1
        model[0].bias[2:] = -0.2
        model[0].weight[2:] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    laws = pair_candidates(model, x)
    assert [law.name for law in laws] == ["pair 0"]
    classes = pair_laws(laws, {"pair 0": as_slopes(model[0](x)) > 0})
    assert [law.name for law in classes] == ["pair 0 class 0"]
    ((model(x) - 1) ** 2).mean().backward()
    weights = dict(model.named_parameters())
    gradients = {n: p.grad for n, p in weights.items()}
    assert float(polar(classes[0], weights, gradients).abs().max()) < 1e-15
    assert float(polar(laws[0], weights, gradients).abs().max()) > FALSE
