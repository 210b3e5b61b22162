"""Dense nets, gated nets and residual nets."""

import itertools

import torch
from torch import nn

from invariance_oracles.case import Case, features


def mlp(activation, *widths, bias=True):
    def build():
        layers = []
        for n, m in itertools.pairwise(widths):
            layers += [nn.Linear(n, m, bias=bias), activation()]
        return nn.Sequential(*layers[:-1])

    return build


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def flipped():
    """Two linear layers with the order of the features turned between them."""
    turn = Apply(lambda x: x.flip(-1))
    return nn.Sequential(nn.Linear(2, 2), turn, nn.Linear(2, 2))


class SquaredReLU(nn.Module):
    def forward(self, x):
        return torch.relu(x) ** 2


class Maxout(nn.Module):
    """Two pieces a unit: both are in-edges."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(2, 6)
        self.down = nn.Linear(3, 2)

    def forward(self, x):
        return self.down(self.up(x).unflatten(-1, (3, 2)).amax(-1))


class Gated(nn.Module):
    """down(activation(gate x) * up x)."""

    def __init__(self, activation, hidden=2, size=2):
        super().__init__()
        self.gate = nn.Linear(size, hidden)
        self.up = nn.Linear(size, hidden)
        self.down = nn.Linear(hidden, size)
        self.activation = activation()

    def forward(self, x):
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Residual(nn.Module):
    """Stem, blocks x + U activation(Y x) with or without a map after, head."""

    def __init__(self, activation, *, after=nn.Identity, blocks=2, size=2, skip=None):
        super().__init__()
        self.stem = nn.Linear(2, size)
        self.Y = nn.ModuleList([nn.Linear(size, 2) for _ in range(blocks)])
        self.U = nn.ModuleList([nn.Linear(2, size) for _ in range(blocks)])
        self.activation, self.after = activation(), after()
        self.head = nn.Linear(size, 2)
        self.Z, self.d = None, None
        if skip == "free":
            self.Z = nn.ModuleList([nn.Linear(size, size) for _ in range(blocks)])
        if skip == "diagonal":
            self.d = nn.ParameterList([torch.ones(size) for _ in range(blocks)])

    def forward(self, x):
        h = self.stem(x)
        for k, (Y, U) in enumerate(zip(self.Y, self.U, strict=True)):
            skip = h
            if self.Z is not None:
                skip = self.Z[k](h)
            if self.d is not None:
                skip = self.d[k] * h
            h = self.after(skip + U(self.activation(Y(h))))
        return self.head(h)


def _case(name, build, count, sums=0, **rest):
    return Case(name, build, features(2), count, sums, **rest)


DENSE = [
    _case("mlp relu", mlp(nn.ReLU, 2, 3, 2, 2), 5, 3),
    _case("mlp relu softmax", mlp(nn.ReLU, 2, 3, 2, 2), 5, 3, softmax=True),
    _case("mlp relu no bias", mlp(nn.ReLU, 2, 3, 2, 2, bias=False), 5, 2),
    _case("mlp leaky", mlp(nn.LeakyReLU, 2, 3, 2, 2), 5, 3),
    _case("mlp prelu", mlp(nn.PReLU, 2, 3, 2, 2), 5, 3),
    _case("mlp maxout", Maxout, 3, 4),
    _case("mlp linear", mlp(nn.Identity, 2, 3, 2, 2), 9, 3),
    # Unit vectors 4, of in- and out-edges 2: rank formula 2 (2 * 4 + 1 - 2) / 2.
    Case("mlp linear wide", mlp(nn.Identity, 1, 4, 1, bias=False), features(1), 7, 4),
    _case("mlp linear flipped", flipped, 3, 3),
    _case("mlp squared relu", mlp(SquaredReLU, 2, 3, 2, 2), 5, 3),
    *[
        _case(f"mlp {activation.__name__.lower()}", mlp(activation, 2, 3, 2, 2), 0, 3)
        for activation in (nn.GELU, nn.Tanh, nn.SiLU, nn.ELU, nn.Hardtanh, nn.Softplus)
    ],
    _case("mlp tanh softmax", mlp(nn.Tanh, 2, 3, 2, 2), 0, 3, softmax=True),
    _case("swiglu", lambda: Gated(nn.SiLU), 2, 3),
    _case("reglu", lambda: Gated(nn.ReLU), 4, 3),
    _case("bilinear", lambda: Gated(nn.Identity), 4, 3),
    _case("residual relu", lambda: Residual(nn.ReLU), 7, 3),
    _case("residual gelu", lambda: Residual(nn.GELU), 3, 3),
    _case("residual linear", lambda: Residual(nn.Identity), 9, 3),
    _case("residual linear one block", lambda: Residual(nn.Identity, blocks=1), 6, 3),
    _case(
        "residual free relu",
        lambda: Residual(nn.ReLU, blocks=1, skip="free"),
        10,
        3,
        linear=2,
    ),
    # The stem enters the block without an activation: its junction is a full matrix.
    _case(
        "residual free relu after",
        lambda: Residual(nn.ReLU, blocks=1, skip="free", after=nn.ReLU),
        9,
        3,
        linear=2,
    ),
    _case(
        "residual diagonal relu",
        lambda: Residual(nn.ReLU, blocks=1, skip="diagonal"),
        6,
        3,
    ),
    _case(
        "residual diagonal relu after",
        lambda: Residual(nn.ReLU, blocks=1, skip="diagonal", after=nn.ReLU),
        6,
        3,
    ),
    _case("residual relu after", lambda: Residual(nn.ReLU, after=nn.ReLU), 6, 3),
]
