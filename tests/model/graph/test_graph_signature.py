"""One net, written in many ways, has one signature; another net has another."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.model.graph import graph


class Modules(nn.Module):
    """The plain way: h = stem(x); h + up(relu(down(h))); head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Linear(5, 8), nn.Linear(8, 6)
        self.up, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + self.up(self.relu(self.down(h)))
        return self.head(h)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


class Bare(nn.Module):
    """The same with functions on parameters, in several spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.zeta, self.a0 = parameter(5, 8), parameter(8)
        self.alpha, self.a1 = parameter(6, 8), parameter(1, 6)
        self.w2 = parameter(8, 6)
        self.w3, self.a3 = parameter(8, 3), parameter(3)

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.zeta + self.a0
        inner = torch.relu(self.a1 + torch.einsum("bi,oi->bo", h, self.alpha))
        h = F.linear(inner, self.w2) + h
        return torch.addmm(self.a3, h, self.w3)


class InPlace(nn.Module):
    """The same with writes in place and copies between."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Modules()

    def forward(self, x: Tensor) -> Tensor:
        net = self.inner
        h = net.stem(x)
        z = net.down(h).view(-1, 6)
        z.relu_()
        out = net.up(z)
        out += h
        return net.head(out.contiguous().clone())


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"only": inner})
        self.extra = nn.Linear(9, 9)

    def forward(self, batch: Tensor, unused: Any = None) -> Tensor:
        y = F.dropout(self.layers["only"](batch), 0.5, training=False)
        return y.to(torch.float32) * 1 + 0


def signature(model: nn.Module, *shape: int) -> str:
    return graph(model, torch.randn(*(shape or (4, 5)))).signature()


SAME: dict[str, Callable[[], nn.Module]] = {
    "bare parameters": Bare,
    "wrapped": lambda: Wrapper(Modules()),
    "wrapped twice": lambda: Wrapper(Wrapper(Modules())),
    "bare, wrapped twice": lambda: Wrapper(Wrapper(Bare())),
    "other seed": Modules,
    "in place": InPlace,
}


@pytest.mark.parametrize("name", SAME)
def test_one_net_in_many_spellings_has_one_signature(name: str) -> None:
    assert signature(SAME[name]()) == signature(Modules())


def test_the_size_of_the_batch_does_not_count() -> None:
    assert signature(Modules(), 7, 5) == signature(Modules(), 2, 5)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert signature(encoder, 2, 5, 8) == signature(encoder, 3, 7, 8)


class Variant(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        width = 7 if kind == "wider" else 6
        self.stem, self.down = nn.Linear(5, 8), nn.Linear(8, width)
        self.up = nn.Linear(width, 8, bias=kind == "bias")
        self.head = nn.Linear(8, 3)
        self.d = nn.Parameter(torch.ones(8))
        self.norm = nn.LayerNorm(8)

    def skip(self, h: Tensor) -> Any:
        return {
            "no skip": 0.0,
            "scaled": 0.5 * h,
            "diagonal": self.d * h,
            "subtracted": -1.0 * h,
            "skip of the relu": torch.relu(h),
            "detached": h.detach(),
        }.get(self.kind, h)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        act = torch.tanh if self.kind == "tanh" else torch.relu
        if self.kind == "leaky":
            act = F.leaky_relu
        if self.kind == "leaky 0.2":
            act = lambda z: F.leaky_relu(z, 0.2)  # noqa: E731
        z = self.down(h)
        z = z if self.kind == "linear" else act(z)
        out = self.up(z)
        if self.kind == "dropout":
            out = F.dropout(out, 0.1)
        if self.kind == "minus":
            h = h - out
        elif self.kind == "minus the other way":
            h = out - h
        else:
            h = out + self.skip(h)
        if self.kind == "norm":
            h = self.norm(h)
        return self.head(h)


DIFFERENT = [
    "plain",
    "wider",
    "bias",
    "no skip",
    "scaled",
    "diagonal",
    "subtracted",
    "minus",
    "minus the other way",
    "skip of the relu",
    "detached",
    "tanh",
    "leaky",
    "leaky 0.2",
    "linear",
    "dropout",
    "norm",
]


def test_different_nets_have_different_signatures() -> None:
    found = {kind: signature(Variant(kind)) for kind in DIFFERENT}
    assert found["plain"] == signature(Modules())
    assert len(set(found.values())) == len(DIFFERENT)


class Order(nn.Module):
    """Two maps of the same size in either order, or one of them twice."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = torch.tanh(getattr(self, name)(x))
        return x


def test_the_order_of_layers_counts() -> None:
    found = [signature(Order(order), 3, 6) for order in ("ab", "ba", "aa", "bb")]
    assert len(set(found)) == 4


class Two(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        if kind == "tied":
            self.b.weight = self.a.weight
        if kind == "shared":
            self.b = self.a
        self.c = nn.Linear(6, 6)
        if kind == "tied elsewhere":
            self.c.weight = self.a.weight
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "swapped":
            return self.c(self.b(x) + torch.relu(self.a(x)))
        if self.kind == "one path":
            h = self.a(x)
            return self.c(torch.relu(h) + h)
        return self.c(torch.relu(self.a(x)) + self.b(x))


def test_sharing_counts_and_the_order_of_a_sum_does_not() -> None:
    kinds = ["apart", "tied", "shared", "tied elsewhere", "one path"]
    found = {kind: signature(Two(kind), 3, 6) for kind in kinds}
    assert len(set(found.values())) == len(kinds)
    assert signature(Two("swapped"), 3, 6) == found["apart"]


class Attend(nn.Module):
    def __init__(self, order: str, heads: int = 2) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({key: nn.Linear(8, 8) for key in "qkv"})
        self.order, self.heads = order, heads

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.maps[key](x) for key in "qkv"]
        b, t, _ = x.shape
        q, k, v = [
            part.view(b, t, self.heads, -1).transpose(1, 2)
            for part in (parts["qkv".index(key)] for key in self.order)
        ]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.heads == 4)
        return y.transpose(1, 2).reshape(b, t, 8)


def test_roles_of_attention_are_ordered_but_their_names_do_not_count() -> None:
    x = (2, 5, 8)
    assert signature(Attend("qkv"), *x) == signature(Attend("vqk"), *x)
    assert signature(Attend("qkv"), *x) != signature(Attend("qkk"), *x)
    assert signature(Attend("qkv"), *x) != signature(Attend("qkv", 4), *x)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_names_and_the_order_of_registration_do_not_count(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(4, generator=generator).tolist()

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = [(5, 8, True), (8, 6, True), (6, 8, False), (8, 3, True)]
            for i in order:
                n, m, bias = sizes[i]
                self.add_module(f"x{order[i]}{i}", nn.Linear(n, m, bias=bias))

        def forward(self, x: Tensor) -> Tensor:
            stem, down, up, head = [getattr(self, f"x{order[i]}{i}") for i in range(4)]
            h = stem(x)
            return head(up(torch.relu(down(h))) + h)

    assert signature(Renamed()) == signature(Modules())
