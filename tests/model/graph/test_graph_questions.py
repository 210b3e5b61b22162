"""Questions to a graph: norms after a layer, kinds of skips, columns of a link."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.model.graph import graph


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({key: nn.Linear(6, 6) for key in "abcdefg"})
        self.norm, self.gain = nn.LayerNorm(6), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        m, norm = self.maps, self.norm
        return (
            norm(F.dropout(2 * m["a"](x), 0.1).view(-1, 3, 2).flatten(1)),
            norm(torch.relu(m["b"](x))),
            norm(x + m["c"](x)),
            norm(y := m["d"](x)) + y,
            m["e"](x),
            norm(self.gain * m["f"](x)),
            norm(m["g"](x) + self.gain),
        )


def test_norms_after_a_layer() -> None:
    torch.manual_seed(0)
    found = graph(Normed().train(), torch.randn(4, 6))

    def after(name: str) -> list[tuple[tuple[str, ...], bool]]:
        return [
            (tuple(found[i].op for i in item.path), item.alone)
            for item in found.norms_after(found.find(f"maps.{name}")[0])
        ]

    assert after("a") == [(("mul", "dropout", "reshape", "flatten"), True)]
    assert after("b") == []
    assert after("c") == [(("sum",), False)]
    assert after("d") == [((), False)]
    assert after("e") == []
    assert after("f") == [(("scale",), True)]
    assert after("g") == [(("shift",), False)]
    [item] = found.norms_after(found.find("maps.d")[0].id)
    assert found[item.norm].op == "layer_norm"


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
        self.d = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        block = self.b(torch.tanh(self.a(x)))
        return (
            block + x,
            block + 2 * x,
            block + self.d * x,
            block + x.flip(-1),
            block + torch.relu(x),
            block + self.c(x),
            self.c(x) + self.a(x),
            x + torch.relu(x),
            block + torch.ones(6),
            block + self.c(torch.ones(6)),
        )


def test_kinds_of_branches() -> None:
    torch.manual_seed(0)
    found = graph(Branches(), torch.randn(4, 6))
    kinds = [
        [(branch.kind, branch.skip) for branch in item.branches]
        for item in found.junctions
    ]
    block = ("block", False)
    assert kinds == [
        [block, ("identity", True)],
        [block, ("scaled", True)],
        [block, ("diagonal", True)],
        [block, ("reshaped", True)],
        [block, ("elementwise", True)],
        [block, ("learned", True)],
        # Two alike bypass nothing, and beside an elementwise map there is no layer.
        [("learned", False), ("learned", False)],
        [("identity", False), ("elementwise", False)],
        [("separate", False), ("constant", False)],
        [("separate", False), ("constant", False)],
    ]
    assert {item.fork for item in found.junctions[:8]} == {"n0"}


def test_columns_follow_the_order_in_which_channels_are_flattened() -> None:
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self, order: tuple[int, ...]) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 1), nn.Linear(12, 2)
            self.order = order

        def forward(self, x: Tensor) -> Tensor:
            y = F.max_pool2d(torch.relu(self.conv(x)), 2)
            return self.head(y.permute(self.order).flatten(1))

    x = torch.randn(2, 1, 4, 4)
    first = graph(Last((0, 1, 2, 3)), x)
    assert first.columns(first.links[1]) == (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)
    last = graph(Last((0, 2, 3, 1)), x)
    assert last.columns(last.links[1]) == (0, 1, 2) * 4
    # The features of the input are not those of one axis that the kernel reads.
    assert first.columns(first.links[2]) is None


def test_columns_are_not_told_where_features_mix() -> None:
    torch.manual_seed(0)

    class Mixed(nn.Module):
        def __init__(self, mix: Any) -> None:
            super().__init__()
            self.a, self.b, self.mix = nn.Linear(4, 4), nn.Linear(4, 2), mix

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.mix(self.a(x)))

    x = torch.randn(2, 4, 4)

    def columns(mix: Any) -> Any:
        found = graph(Mixed(mix), x)
        return found.columns(found.links[1])

    assert columns(lambda y: y.flip(-1)) == (3, 2, 1, 0)
    assert columns(lambda y: torch.roll(y, 1, -1)) is None
    assert columns(lambda y: y.transpose(1, 2)) is None
    assert columns(lambda y: y.mean(-1, keepdim=True).expand(-1, -1, 4)) is None
    assert columns(lambda y: y.mean(1)) == (0, 1, 2, 3)
    assert columns(lambda y: torch.cumsum(y, 1)) is None
    padded = Mixed(lambda y: F.pad(y[..., :2], (1, 1)))
    found = graph(padded, x)
    assert found.columns(found.links[1]) is None
