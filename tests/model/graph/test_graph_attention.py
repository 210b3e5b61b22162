"""Attention: roles of its inputs, and rows of a packed projection."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.model.graph import Graph, graph


class Does(nn.Module):
    """A module made of a function of itself and its inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if type(part) is Tensor:
                part = nn.Parameter(part)
            setattr(self, name, part)
        self.function = forward

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def ops(found: Graph) -> list[str]:
    return [n.op for n in found.nodes if n.kind not in {"input", "output"}]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


WRITTEN_OUT: dict[str, Callable[..., Tensor]] = {
    "plain": lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
    "scaled": lambda q, k, v: F.softmax(q @ k.mT / 2.0, -1) @ v,
    "masked": lambda q, k, v: (
        F.dropout((q @ k.mT + torch.ones(5, 5).triu(1) * -9).softmax(-1), 0.1) @ v
    ),
    "filled": lambda q, k, v: torch.bmm(
        torch.bmm(q * 0.5, k.transpose(1, 2))
        .masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf)
        .softmax(-1),
        v,
    ),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_an_attention_that_is_written_out_has_the_same_roles(name: str) -> None:
    model = Does(
        lambda m, x: m.o(WRITTEN_OUT[name](m.q(x), m.k(x), m.v(x))),
        **{key: nn.Linear(4, 4) for key in "qkvo"},
    )
    found = graph(model, torch.randn(2, 5, 4))
    assert found.unknowns == ()
    roles = {
        found[link.source].name: [s for s in link.through if ":" in s]
        for link in found.into(found.layers[-1])
    }
    assert roles == {"q": ["matmul:query"], "k": ["matmul:key"], "v": ["matmul:value"]}


def test_the_packed_rows_of_attention_with_weights_returned() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(3, 5, 8)
    packed = graph(model, (x, x, x)).layers[0]
    assert [(m.part, m.rows) for m in packed.matrices] == [
        (None, None),
        ("query", (0, 8)),
        ("key", (8, 16)),
        ("value", (16, 24)),
    ]


class Rotary(nn.Module):
    """Packed query, key and value, of unlike sizes, with rotated queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.out = nn.Linear(8, 16), nn.Linear(8, 8)
        self.register_buffer("cos", torch.randn(5, 4))
        self.register_buffer("sin", torch.randn(5, 4))

    def turned(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat([-right, left], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.packed(x).split([8, 4, 4], -1)
        q, k, v = [t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in (q, k, v)]
        q, k = self.turned(q), self.turned(k)
        k, v = k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


def test_packed_rows_are_followed_through_a_rotation(same: Any) -> None:
    found = same(Rotary(), torch.randn(3, 5, 8))
    packed, out = found.layers
    assert [(m.part, m.rows) for m in packed.matrices] == [
        (None, None),
        ("query", (0, 8)),
        ("key", (8, 12)),
        ("value", (12, 16)),
    ]
    # One value head serves both query heads.
    [value] = [a for a in found.into(out) if "attention:value" in " ".join(a.through)]
    assert found.columns(value) == (12, 13, 14, 15) * 2


def test_one_projection_in_two_roles_is_not_packed() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        both = m.both(x)
        return F.scaled_dot_product_attention(both, both, m.value(x))

    model = Does(forward, both=nn.Linear(8, 8), value=nn.Linear(8, 8))
    found = graph(model, torch.randn(2, 5, 8))
    assert [[m.part for m in node.matrices] for node in found.layers] == [[None]] * 2
