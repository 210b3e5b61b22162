"""What is left unknown, and what runs in place or without gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

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


def test_a_weight_computed_in_another_way_is_unknown() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    model = Does(lambda m, x: F.linear(m.fc(x), 2 * m.fc.weight), fc=layer)
    found = graph(model, torch.randn(3, 4))
    assert [node.name for node in found.layers] == ["fc"]
    [unknown] = found.unknowns
    assert unknown.note is not None
    assert unknown.note.startswith("the weight of linear is computed from fc.par")
    merged = Does(
        lambda m, x: F.linear(x, m.w + m.b @ m.a),
        w=torch.randn(4, 4),
        a=torch.randn(2, 4),
        b=torch.randn(4, 2),
    )
    [unknown] = graph(merged, torch.randn(3, 4)).unknowns
    assert unknown.note == "the weight of linear is computed from a, b, w"


def test_a_weight_computed_from_another_layer_too_is_unknown() -> None:
    other = nn.Linear(4, 4)

    class Added(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight + other.weight

    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Added())
    model = Does(lambda m, x: m.fc(m.other(x)), fc=layer, other=other)
    found = graph(model, torch.randn(3, 4))
    [unknown] = found.unknowns
    assert unknown.note == (
        "the weight of linear is computed from "
        "fc.parametrizations.weight.original, other.weight"
    )


@torch.library.custom_op("spectrank_tests::mirror", mutates_args=())
def mirror(x: Tensor) -> Tensor:
    return x.flip(-1)


@mirror.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.cumsum(x, 1), "cumsum"),
        (mirror, "spectrank_tests::mirror"),
        (lambda x: torch.sort(x)[0], "sort"),
        (lambda x: torch.fft.rfft(x).abs(), "fft_rfft"),
    ],
)
def test_an_operator_that_is_not_known_is_named_and_stops_the_links(
    function: Any, name: str, named_links: Any
) -> None:
    model = Does(
        lambda m, x: m.b(function(torch.relu(m.a(x)))[:, :3]),
        a=nn.Linear(4, 6),
        b=nn.Linear(3, 2),
    )
    found = graph(model, torch.randn(5, 4))
    [unknown] = found.unknowns
    assert unknown.op == name
    assert unknown.note is not None
    assert unknown.note.endswith("is not an operator known here")
    pairs = [(a.source, a.target, a.reason) for a in found.links]
    first, second = found.layers
    assert (first.id, unknown.id, None) in pairs
    assert (unknown.id, second.id, unknown.note) in pairs
    assert all(pair[:2] != (first.id, second.id) for pair in pairs)


def test_control_flow_that_torch_keeps_is_unknown() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        pick = torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (x,))
        return m.a(pick)

    found = graph(Does(forward, a=nn.Linear(4, 2)), torch.randn(3, 4))
    [unknown] = found.unknowns
    assert (unknown.op, len(unknown.inputs)) == ("cond", 2)
    assert unknown.note == "control flow, or another operator that takes functions"


def test_a_mask_that_picks_rows_of_a_table_is_unknown() -> None:
    model = Does(lambda m, x: m.table[x > 0].sum(0), table=torch.randn(7, 3))
    found = graph(model, torch.randn(7))
    assert found.layers == ()
    [unknown] = found.unknowns
    assert unknown.op == "index"
    assert unknown.note == "the size of its result depends on the data"


def test_writes_in_place_reach_every_view_and_no_other(named_links: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        left, right = h[:, :2], h[:, 2:]
        left.mul_(m.b(x)[:, :2])
        # h has seen the write, its right half has not.
        return torch.cat([m.c(right), m.d(h), m.e(left)], 1)

    model = Does(
        forward,
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 4),
        c=nn.Linear(2, 2),
        d=nn.Linear(4, 2),
        e=nn.Linear(2, 2),
    )
    x = torch.randn(3, 4)
    found = graph(model, x)
    pairs = {(s, t) for s, t, _ in named_links(found)}
    assert {pair for pair in pairs if pair[1] in "cde"} == {
        ("a", "c"),
        ("a", "d"),
        ("b", "d"),
        ("a", "e"),
        ("b", "e"),
    }


def test_a_whole_overwritten_value_depends_on_the_new_one_alone(
    named_links: Any,
) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        view = h.view(-1)
        h.copy_(m.b(x))
        return m.c(view.view(3, 4))

    model = Does(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4))
    found = graph(model, torch.randn(3, 4))
    assert {s for s, t, _ in named_links(found) if t == "c"} == {"b"}
    assert "a.weight" in found.unused


def test_what_runs_without_gradient_is_detached() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = torch.relu(m.a(x))
        return m.b(y) + m.c(x.detach())

    model = Does(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4))
    found = graph(model, torch.randn(3, 4))
    steps = {found[a.target].name: a.through for a in found.links}
    assert steps["b"] == ("relu", "detach")
    assert steps["c"] == ("detach",)
    assert found.unknowns == ()
