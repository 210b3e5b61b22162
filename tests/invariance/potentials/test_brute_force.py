"""The finder's diagonal laws against brute force: every c with sum c w grad = 0.

The oracle shares nothing with the finder: it draws weights, data and cotangents, and
takes the null space of the rows w * grad R. Parameters whose gradient is always zero
are left out on both sides; any square of theirs is constant.
"""

import numpy as np
import pytest
import torch
from invariance_oracles import Case, Layout, draws, law_vectors
from invariance_oracles.case import features, tokens
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from spectrank.invariance.potentials import directed_weights, families, solve
from spectrank.model.graph import graph

EPS = 1e-12


def stack(*layers):
    return lambda: nn.Sequential(*layers)


class Function(nn.Module):
    """Several named layers and a function of them and the input."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def made(function, **layers):
    return lambda: Function(function, **{name: made() for name, made in layers.items()})


def dense(n, m, **options):
    return lambda: nn.Linear(n, m, **options)


def weight(*shape):
    return lambda: nn.Parameter(torch.ones(shape))


def frozen(build, *names):
    def frozen_build():
        model = build()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in names)
        return model

    return frozen_build


def with_statistics(build):
    def filled():
        model = build()
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
        return model

    return filled


def chain(activation):
    return stack(
        nn.Linear(2, 3), activation, nn.Linear(3, 2), nn.LeakyReLU(), nn.Linear(2, 2)
    )


def gated(activation):
    return made(
        lambda net, x: net.down(activation(net.gate(x)) * net.up(x)),
        gate=dense(2, 3),
        up=dense(2, 3),
        down=dense(3, 2),
    )


def loop(net, x):
    hidden = torch.zeros(x.shape[0], 3, dtype=x.dtype)
    for t in range(x.shape[1]):
        hidden = F.relu(net.enter(x[:, t]) + net.again(hidden))
    return net.leave(hidden)


def mixer(net, x):
    mixed = net.back(F.relu(net.over(F.relu(net.enter(x)).transpose(1, 2))))
    return net.leave(mixed.transpose(1, 2))


def written_out(net, x):
    q, k, v = net.qkv(x).chunk(3, -1)
    scores = (q @ k.transpose(-1, -2) / 2**0.5).masked_fill(
        torch.ones(3, 3, dtype=torch.bool).triu(1), float("-inf")
    )
    return net.out(torch.softmax(scores, -1) @ v)


def case(name, build, inputs, *, train=True):
    return Case(name, build, inputs, 0, train=train)


def embedded(net, ids):
    x = net.table(ids) + net.positions[: ids.shape[1]]
    return F.linear(net.square(x), net.table.weight)


CASES = [
    case("relu", chain(nn.ReLU()), features(2)),
    case("prelu", chain(nn.PReLU()), features(2)),
    case("gelu", chain(nn.GELU()), features(2)),
    case("abs", chain(Function(lambda _, x: x.abs())), features(2)),
    case("squared relu", chain(Function(lambda _, x: F.relu(x) ** 2)), features(2)),
    case("clamp from zero", chain(Function(lambda _, x: x.clamp(min=0))), features(2)),
    case("clamp from one", chain(Function(lambda _, x: x.clamp(min=1))), features(2)),
    case("hardtanh", chain(nn.Hardtanh()), features(2)),
    case(
        "where", chain(Function(lambda _, x: torch.where(x > 0, x, x / 3))), features(2)
    ),
    case(
        "detached",
        made(
            lambda net, x: net.b(F.relu(net.a(x))) + net.c(F.relu(net.a(x)).detach()),
            a=dense(2, 3),
            b=dense(3, 1),
            c=dense(3, 1),
        ),
        features(2),
    ),
    case(
        "columns of one matrix",
        made(
            lambda net, x: F.leaky_relu(x @ net.w[:, :2].T) @ net.w[:, 1:3].T @ net.u,
            w=weight(2, 4),
            u=weight(2, 1),
        ),
        features(2),
    ),
    case("swiglu", gated(F.silu), features(2)),
    case("reglu", gated(F.relu), features(2)),
    case("glu", stack(nn.Linear(2, 6), nn.GLU(), nn.Linear(3, 2)), features(2)),
    case(
        "maxout",
        made(
            lambda net, x: net.b(net.a(x).view(-1, 2, 3).amax(-1)),
            a=dense(2, 6),
            b=dense(2, 2),
        ),
        features(2),
    ),
    case(
        "concatenation",
        made(
            lambda net, x: net.c(
                torch.cat([F.relu(net.a(x)), net.b(F.relu(net.a(x)))], 1)
            ),
            a=dense(2, 2),
            b=dense(2, 2),
            c=dense(4, 1),
        ),
        features(2),
    ),
    case(
        "diagonal skip",
        made(
            lambda net, x: net.c(F.relu(net.b(F.relu(net.a(x))) + net.d * net.a(x))),
            a=dense(2, 3),
            b=dense(3, 3),
            c=dense(3, 1),
            d=weight(3),
        ),
        features(2),
    ),
    case(
        "learned scalar",
        made(
            lambda net, x: net.c(F.relu(net.a(x)) + net.s * F.relu(net.b(x))),
            a=dense(2, 2),
            b=dense(2, 2),
            c=dense(2, 1),
            s=weight(1),
        ),
        features(2),
    ),
    case(
        "bilinear",
        made(
            lambda net, x: net.d(F.relu(net.c(F.relu(net.a(x)), net.b(x)))),
            a=dense(2, 2),
            b=dense(2, 3),
            c=lambda: nn.Bilinear(2, 3, 2),
            d=dense(2, 2),
        ),
        features(2),
    ),
    case(
        "one matrix twice",
        made(
            lambda net, x: net.v(F.leaky_relu(net.w(F.leaky_relu(net.w(x))))),
            w=dense(3, 3, bias=False),
            v=dense(3, 2, bias=False),
        ),
        features(3),
    ),
    case(
        "one matrix and its transpose",
        made(
            lambda net, x: F.leaky_relu(net.a(x) @ net.w) @ net.w.T @ net.v,
            a=dense(2, 3, bias=False),
            w=weight(3, 2),
            v=weight(3, 1),
        ),
        features(2),
    ),
    case(
        "rows of one matrix",
        made(
            lambda net, x: F.leaky_relu(x @ net.w[:2].T) @ net.w[1:3],
            w=weight(4, 2),
        ),
        features(2),
    ),
    case(
        "recurrent",
        made(loop, enter=dense(2, 3), again=dense(3, 3), leave=dense(3, 2)),
        features(3, 2),
    ),
    case(
        "recurrent layer",
        made(
            lambda net, x: net.leave(net.units(x)[0][:, -1]),
            units=lambda: nn.RNN(2, 3, nonlinearity="relu", batch_first=True),
            leave=dense(3, 2),
        ),
        features(3, 2),
    ),
    case(
        "recurrent layers, two directions, last states",
        made(
            lambda net, x: net.leave(net.units(x)[1][1:].transpose(0, 1).flatten(1)),
            units=lambda: nn.RNN(
                1, 2, 2, nonlinearity="relu", batch_first=True, bidirectional=True
            ),
            leave=dense(6, 1),
        ),
        features(3, 1),
    ),
    case(
        "recurrent cell from a learned state",
        made(
            lambda net, x: net.leave(
                net.cell(x[:, 1], net.cell(x[:, 0], net.start(x[:, 0])))
            ),
            cell=lambda: nn.RNNCell(2, 3, nonlinearity="relu"),
            start=dense(2, 3),
            leave=dense(3, 2),
        ),
        features(2, 2),
    ),
    case(
        "weight normalisation",
        stack(
            weight_norm(nn.Linear(2, 3)),
            nn.LeakyReLU(),
            weight_norm(nn.Linear(3, 2)),
            nn.LeakyReLU(),
            nn.Linear(2, 1),
        ),
        features(2),
    ),
    case(
        "weight normalisation of groups",
        stack(
            nn.Conv1d(2, 4, 1),
            nn.LeakyReLU(),
            weight_norm(nn.Conv1d(4, 4, 2, groups=2)),
            nn.LeakyReLU(),
            nn.Conv1d(4, 1, 1),
        ),
        features(2, 3),
    ),
    case("frozen bias", frozen(chain(nn.ReLU()), "2.bias"), features(2)),
    case("frozen matrix", frozen(chain(nn.ReLU()), "2.weight"), features(2)),
    case(
        "cnn",
        stack(
            nn.Conv2d(2, 3, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 2, 2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2, 2),
        ),
        features(2, 4, 4),
    ),
    case(
        "flattened positions",
        stack(nn.Conv1d(2, 3, 2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(9, 2)),
        features(2, 4),
    ),
    case(
        "groups",
        stack(
            nn.Conv1d(2, 4, 1, groups=2),
            nn.LeakyReLU(),
            nn.ConvTranspose1d(4, 6, 2, groups=2),
            nn.LeakyReLU(),
            nn.Conv1d(6, 2, 2),
        ),
        features(2, 4),
    ),
    case(
        "zero-padded channels",
        made(
            lambda net, x: net.c(
                F.relu(net.b(net.a(x)) + F.pad(net.a(x), (0, 0, 1, 0)))
            ),
            a=lambda: nn.Conv1d(2, 2, 1),
            b=lambda: nn.Conv1d(2, 3, 1),
            c=lambda: nn.Conv1d(3, 1, 1),
        ),
        features(2, 3),
    ),
    case(
        "batch norm",
        stack(
            nn.Conv1d(2, 3, 2, bias=False),
            nn.BatchNorm1d(3, eps=EPS),
            nn.ReLU(),
            nn.Conv1d(3, 2, 2),
        ),
        features(2, 4),
    ),
    case(
        "stored batch norm",
        with_statistics(
            stack(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.Conv1d(3, 2, 2))
        ),
        features(2, 4),
        train=False,
    ),
    *(
        case(
            type(norm).__name__,
            stack(nn.Conv1d(2, 4, 2), norm, nn.LeakyReLU(), nn.Conv1d(4, 2, 2)),
            features(2, 4),
        )
        for norm in (
            nn.GroupNorm(2, 4, eps=EPS),
            nn.InstanceNorm1d(4, affine=True, eps=EPS),
        )
    ),
    *(
        case(
            type(norm).__name__,
            stack(nn.Linear(2, 3), norm, nn.LeakyReLU(), nn.Linear(3, 2)),
            features(2),
        )
        for norm in (nn.LayerNorm(3, eps=EPS), nn.RMSNorm(3, eps=EPS))
    ),
    case(
        "attention written out",
        made(written_out, qkv=dense(2, 6), out=dense(2, 2)),
        features(3, 2),
    ),
    case(
        "cross attention, two heads",
        made(
            lambda net, x: net.m(x, x[:, :2], x[:, :2], need_weights=False)[0],
            m=lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        ),
        features(3, 4),
    ),
    *(
        case(
            f"encoder layer, norm first {first}",
            lambda first=first: nn.TransformerEncoderLayer(
                3, 1, 2, 0.0, batch_first=True, norm_first=first, layer_norm_eps=EPS
            ),
            features(3, 3),
        )
        for first in (True, False)
    ),
    *(
        case(
            f"mixer, biases {bias}",
            made(
                mixer,
                enter=dense(2, 2),
                over=dense(3, 2, bias=bias),
                back=dense(2, 3, bias=bias),
                leave=dense(2, 2),
            ),
            features(3, 2),
        )
        for bias in (True, False)
    ),
    case(
        "tied table and positions",
        made(
            embedded,
            table=lambda: nn.Embedding(3, 2),
            positions=weight(4, 2),
            square=dense(2, 2, bias=False),
        ),
        tokens(3, 2),
    ),
]


def brute(case_):
    """Rows w * grad R over draws, and which parameters ever have a gradient."""
    layout = Layout(case_.module())
    rows, live = [], 0.0
    source = draws(case_, torch.Generator().manual_seed(3))
    while len(rows) < layout.total + 20:
        weights, gradient = next(source)
        w, g = layout.flat(weights).numpy(), layout.flat(gradient).numpy()
        size = np.linalg.norm(w * g)
        if size > 0:
            rows.append(w * g / size)
            live = np.maximum(live, np.abs(g) / np.linalg.norm(g))
    return np.array(rows), live > 1e-10, layout


def diagonals(laws, layout):
    vectors = [law_vectors(law, layout) for law in laws]
    empty = np.zeros((0, layout.num_unknowns))
    found = np.concatenate([empty, *vectors])
    squares = layout.monomial[np.arange(layout.total), np.arange(layout.total)]
    rest = np.delete(found, squares, axis=1)
    assert not rest.any()
    return found[:, squares]


def found_in(case_):
    model = case_.module()
    inputs = case_.inputs(torch.Generator().manual_seed(0))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    directed = directed_weights(model)
    found = families(solve(graph(model, inputs), shapes=shapes, directed=directed))
    return [family.law for family in found]


@pytest.mark.parametrize("case_", CASES, ids=lambda case_: case_.name)
def test_diagonal_laws_are_all_there_are(case_):
    rows, live, layout = brute(case_)
    laws = diagonals(found_in(case_), layout)
    assert np.abs(rows @ laws.T).max(initial=0.0) < 1e-8
    _, s, _ = np.linalg.svd(rows[:, live])
    rank = int((s > 1e-7 * s[0]).sum())
    # A clear gap: the rank is no matter of the threshold.
    assert not ((s > 1e-9 * s[0]) & (s < 1e-5 * s[0])).any()
    assert np.linalg.matrix_rank(laws[:, live]) == live.sum() - rank
