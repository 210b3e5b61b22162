"""Steps between layers: arithmetic, moves, norms and activations, by hand or not."""

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


NUMBERS: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "from one": (lambda m, x: 1 - x, ["add"]),
    "minus one": (lambda m, x: x - 1, ["add"]),
    "weighted": (lambda m, x: torch.add(x, 3, alpha=2), ["add"]),
    "reversed": (lambda m, x: torch.rsub(x, torch.tanh(x), alpha=3), ["tanh", "sum"]),
    "difference": (lambda m, x: x - torch.tanh(x) * 2, ["tanh", "mul", "sum"]),
    "quotient": (lambda m, x: torch.tanh(x) / (x / 4), ["tanh", "div", "div"]),
    "neutral": (lambda m, x: torch.tanh(x) * 1 + 0, ["tanh"]),
    "cast": (lambda m, x: torch.tanh(x.double()).float(), ["cast", "tanh", "cast"]),
    "no cast": (lambda m, x: torch.tanh(x.float()).to(x), ["tanh"]),
    "tail": (lambda m, x: x[:, -3:-1], ["slice"]),
    "every other": (lambda m, x: x[:, 1::2], ["slice"]),
    "narrow": (lambda m, x: x.narrow(1, 1, 2), ["slice"]),
    "moved": (lambda m, x: x[None].movedim(0, 2), ["reshape", "permute"]),
    "matrix transposed": (lambda m, x: x[None].mT, ["reshape", "permute"]),
    "swapped": (lambda m, x: x.swapaxes(0, 1), ["permute"]),
    "reversed axes": (lambda m, x: x[None].permute(2, 1, 0), ["reshape", "permute"]),
    "stacked": (lambda m, x: torch.stack([x, x.relu()], 1), ["relu", "stack"]),
    "split": (lambda m, x: x.split([1, 3], 1)[1], ["slice"]),
    "taken": (lambda m, x: x.unbind(1)[2], ["select"]),
    "pooled": (lambda m, x: F.avg_pool1d(x[None], 2), ["reshape", "avg_pool1d"]),
    "padded": (lambda m, x: F.pad(x, (1, 2)), ["pad"]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_steps_without_parameters_compute_what_the_model_computes(
    name: str, same: Any
) -> None:
    function, expected = NUMBERS[name]
    assert ops(same(Does(function), torch.randn(3, 4))) == expected


def test_a_view_of_all_is_the_value_itself() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.tanh(x)
        again = h[:]
        h.relu_()
        return again

    assert ops(graph(Does(forward), torch.randn(3, 4))) == ["tanh", "relu"]


def test_a_learned_vector_scales_or_shifts(same: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x * m.gain[:, None, None] - m.channel.view(1, 3, 1, 1)
        return m.one * (m.place + x)

    model = Does(
        forward,
        gain=torch.randn(3),
        channel=torch.randn(3),
        place=torch.randn(4, 5),
        one=torch.randn(1),
    )
    found = same(model, torch.randn(2, 3, 4, 5))
    gain, channel, place, one = found.nodes[1:-1]
    assert (gain.kind, gain.parameters) == ("scale", {"scale": "gain"})
    assert gain.attributes == {"axes": [-3], "size": 3}
    assert (channel.kind, channel.attributes["coefficient"]) == ("shift", -1)
    assert (place.kind, place.attributes["axes"]) == ("shift", [-2, -1])
    assert (one.kind, one.attributes) == ("scale", {"axes": [], "size": 1})


def test_a_broadcast_activation_is_not_scaled_elementwise() -> None:
    # x (3, 1) times w (4,) is a linear map from one feature to four.
    found = graph(Does(lambda m, x: x * m.w, w=torch.randn(4)), torch.randn(3, 1))
    assert [node.kind for node in found.nodes] == [
        "input",
        "constant",
        "product",
        "output",
    ]


NORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "rsqrt of pow": lambda m, x: (
        m.g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    ),
    "division by sqrt": lambda m, x: (
        x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * m.g
    ),
    "square": lambda m, x: (
        torch.rsqrt(torch.mean(x.square(), dim=2, keepdim=True) + 1e-6) * x * m.g
    ),
    "power": lambda m, x: x * (x**2).mean(-1, True).add(1e-6).pow(-0.5) * m.g,
    "module": lambda m, x: F.rms_norm(x, (5,), m.g, 1e-6),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_by_hand_is_a_norm(name: str, same: Any) -> None:
    model = Does(NORMS[name], g=torch.randn(5))
    found = same(model, torch.randn(2, 3, 5))
    [norm] = found.nodes[1:-1]
    assert (norm.kind, norm.op, norm.parameters) == (
        "norm",
        "rms_norm",
        {"weight": "g"},
    )
    assert norm.attributes == {"normalized_shape": [5], "eps": 1e-6}


def test_norms_of_torch(same: Any) -> None:
    model = nn.Sequential(
        nn.InstanceNorm1d(4, eps=1e-3, affine=True),
        nn.GroupNorm(2, 4, eps=1e-2),
        nn.LayerNorm([4, 6], elementwise_affine=False),
        nn.RMSNorm(6),
    )
    found = same(model, torch.randn(3, 4, 6))
    facts = [(n.op, dict(n.attributes), dict(n.parameters)) for n in found.nodes[1:-1]]
    assert facts == [
        (
            "instance_norm",
            {"training": True, "eps": 1e-3},
            {"weight": "0.weight", "bias": "0.bias"},
        ),
        (
            "group_norm",
            {"num_groups": 2, "eps": 1e-2},
            {"weight": "1.weight", "bias": "1.bias"},
        ),
        ("layer_norm", {"normalized_shape": [4, 6], "eps": 1e-5}, {}),
        ("rms_norm", {"normalized_shape": [6]}, {"weight": "3.weight"}),
    ]


NOT_NORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "wrong axis": lambda m, x: x * torch.rsqrt(x.pow(2).mean(1, True) + 1e-6),
    "sum": lambda m, x: x * torch.rsqrt(x.pow(2).sum(-1, True) + 1e-6),
    "cube": lambda m, x: x * torch.rsqrt(x.pow(3).mean(-1, True) + 1e-6),
    "another value": lambda m, x: (
        x * torch.rsqrt(torch.relu(x).pow(2).mean(-1, True) + 1e-6)
    ),
    "upside down": lambda m, x: x / torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6),
    "no root": lambda m, x: x / (x.pow(2).mean(-1, True) + 1e-6),
}


@pytest.mark.parametrize("name", NOT_NORMS)
def test_what_is_nearly_a_norm_is_left_in_steps(name: str) -> None:
    found = graph(Does(NOT_NORMS[name]), torch.randn(2, 3, 5))
    assert all(node.kind != "norm" for node in found.nodes)
    assert found.unknowns == ()


ACTIVATIONS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, dict[str, Any]]] = {
    "gelu by tanh": (
        lambda m, x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))),
        "gelu",
        {"approximate": "tanh"},
    ),
    "gelu by erf": (
        lambda m, x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)),
        "gelu",
        {},
    ),
    "silu": (lambda m, x: x * torch.sigmoid(x), "silu", {}),
    "quick gelu": (lambda m, x: x * torch.sigmoid(1.702 * x), "quick_gelu", {}),
    "mish": (lambda m, x: x * torch.tanh(F.softplus(x)), "mish", {}),
    "softsign": (lambda m, x: F.softsign(x), "softsign", {}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_by_hand_has_its_name(name: str, same: Any) -> None:
    function, op, attributes = ACTIVATIONS[name]
    found = same(Does(function), torch.randn(50))
    [node] = found.nodes[1:-1]
    assert (node.kind, node.op, dict(node.attributes)) == (
        "elementwise",
        op,
        attributes,
    )


def test_an_activation_with_another_constant_keeps_its_steps() -> None:
    model = Does(lambda m, x: x * torch.sigmoid(1.7 * x))
    assert ops(graph(model, torch.randn(3))) == ["mul", "sigmoid", "product"]
    read_twice = Does(lambda m, x: (x * (s := torch.sigmoid(x)), s))
    assert ops(graph(read_twice, torch.randn(3))) == ["sigmoid", "product"]


def test_a_gate_is_a_product_and_both_branches_lead_through_it(
    same: Any, named_links: Any
) -> None:
    model = Does(
        lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)),
        gate=nn.Linear(4, 6),
        up=nn.Linear(4, 6),
        down=nn.Linear(6, 4),
    )
    found = same(model, torch.randn(3, 4))
    assert named_links(found)[2:4] == [
        ("gate", "down", ("silu", "product")),
        ("up", "down", ("product",)),
    ]


def test_columns_of_a_gate_and_of_its_linear_branch() -> None:
    model = Does(
        lambda m, x: m.down(torch.sigmoid(m.gate(x)) * m.up(x)),
        gate=nn.Linear(4, 3),
        up=nn.Linear(4, 3),
        down=nn.Linear(3, 4),
    )
    found = graph(model, torch.randn(2, 4))
    assert [found.columns(a) for a in found.into(found.layers[-1])] == [(0, 1, 2)] * 2
    halves = Does(lambda m, x: m.b(F.glu(m.a(x))), a=nn.Linear(4, 6), b=nn.Linear(3, 2))
    found = graph(halves, torch.randn(2, 4))
    assert found.columns(found.links[1]) is None
