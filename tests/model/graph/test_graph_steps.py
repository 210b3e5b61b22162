"""What each way of writing a step becomes, and what is left unknown."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from spectrank.model.graph import Graph, MatrixView, graph


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


def same(rerun: Any, model: nn.Module, *inputs: Tensor) -> Graph:
    """The graph of a model, after its nodes gave the model's outputs."""
    found = graph(model, inputs)
    assert found.unknowns == ()
    expected = model(*inputs)
    [got] = rerun(found, model, list(inputs))
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)
    return found


W, V, B = torch.randn(5, 4), torch.randn(4, 5), torch.randn(5)
LINEAR: dict[str, tuple[Callable[..., Tensor], str]] = {
    "F.linear": (lambda m, x: F.linear(x, m.w, m.b), "linear"),
    "matmul": (lambda m, x: x @ m.w.T + m.b, "linear"),
    "bias first": (lambda m, x: m.b + x @ m.w.t(), "linear"),
    "transposed storage": (lambda m, x: x @ m.v + m.b, "linear-transposed"),
    "addmm": (lambda m, x: torch.addmm(m.b, x, m.v), "linear-transposed"),
    "einsum": (
        lambda m, x: torch.einsum("bi,oi->bo", x, m.w) + m.b[None],
        "linear",
    ),
    "einsum swapped": (
        lambda m, x: torch.einsum("io,bi->bo", m.v, x) + m.b,
        "linear-transposed",
    ),
    "inner": (lambda m, x: torch.inner(x, m.w) + m.b, "linear"),
    "in place": (lambda m, x: x.matmul(m.w.mT).add_(m.b), "linear"),
    "permute": (lambda m, x: x @ m.w.permute(1, 0) + m.b, "linear"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_is_one_however_it_is_written(name: str, rerun: Any) -> None:
    function, view = LINEAR[name]
    model = Does(function, w=W.clone(), v=V.clone(), b=B.clone())
    found = same(rerun, model, torch.randn(3, 4))
    [layer] = found.layers
    assert ops(found) == ["linear"]
    weight = "w" if view == "linear" else "v"
    assert layer.parameters == {"weight": weight, "bias": "b"}
    assert layer.matrices == (MatrixView(weight, view, (5, 4)),)
    assert layer.name == weight


def test_an_einsum_that_is_no_linear_layer_keeps_its_equation() -> None:
    model = Does(lambda m, x: torch.einsum("bi,oi->ob", x, m.w), w=W.clone())
    [layer] = graph(model, torch.randn(3, 4)).layers
    assert (layer.op, layer.matrices) == ("einsum", ())
    assert layer.attributes == {"equation": "bi,oi->ob", "place": 1}
    assert layer.note == "einsum bi,oi->ob: no view gives this map"


def test_leading_axes_are_folded_only_if_they_are_unfolded_again(rerun: Any) -> None:
    def forward(m: Any, x: Tensor, *sizes: int) -> Tensor:
        return torch.tanh(m.a(x.view(-1, 4)).view(*sizes, 5))

    folded = Does(lambda m, x: forward(m, x, 2, 3), a=nn.Linear(4, 5))
    assert ops(same(rerun, folded, torch.randn(2, 3, 4))) == ["linear", "tanh"]
    other = Does(lambda m, x: forward(m, x, 3, 2), a=nn.Linear(4, 5))
    found = same(rerun, other, torch.randn(2, 3, 4))
    assert ops(found) == ["reshape", "linear", "reshape", "tanh"]


def test_features_first_is_told_by_the_axis(rerun: Any) -> None:
    column = torch.randn(5, 1)
    model = Does(lambda m, x: m.w @ x + m.b, w=W.clone(), b=column)
    found = same(rerun, model, torch.randn(4, 3))
    [layer] = found.layers
    assert layer.attributes == {"axis": -2}
    assert layer.parameters == {"weight": "w", "bias": "b"}


def test_rows_of_a_packed_weight(rerun: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k = m.w.chunk(2)
        top, bottom = m.b.split([4, 4])
        return F.linear(torch.tanh(F.linear(x, q, top)), k, bottom)

    model = Does(forward, w=torch.randn(8, 4), b=torch.randn(8))
    found = same(rerun, model, torch.randn(3, 4))
    first, second = found.layers
    assert first.matrices == (MatrixView("w", "linear", (4, 4), (0, 4)),)
    assert second.matrices == (MatrixView("w", "linear", (4, 4), (4, 8)),)
    assert first.attributes == {"parts": {"bias": {"rows": [0, 4]}}}
    assert found.reused == {}
    both = Does(lambda m, x: forward(m, F.linear(x, m.w[2:6])), w=model.w, b=model.b)
    assert set(graph(both, torch.randn(3, 4)).reused) == {"w"}


def test_columns_of_a_weight_stored_transposed() -> None:
    model = Does(lambda m, x: x @ m.w[:, 2:5], w=torch.randn(4, 6))
    [layer] = graph(model, torch.randn(3, 4)).layers
    assert layer.matrices == (MatrixView("w", "linear-transposed", (3, 4), (2, 5)),)


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
    name: str, rerun: Any
) -> None:
    function, expected = NUMBERS[name]
    assert ops(same(rerun, Does(function), torch.randn(3, 4))) == expected


def test_a_view_of_all_is_the_value_itself() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.tanh(x)
        again = h[:]
        h.relu_()
        return again

    assert ops(graph(Does(forward), torch.randn(3, 4))) == ["tanh", "relu"]


def test_parameters_that_lie_in_one_block_of_memory_are_apart(rerun: Any) -> None:
    block = torch.randn(24)
    model = Does(lambda m, x: x @ m.a.T @ m.b.T)
    model.a = nn.Parameter(block[:12].view(3, 4))
    model.b = nn.Parameter(block[12:].view(4, 3))
    found = same(rerun, model, torch.randn(2, 4))
    assert [node.matrices[0] for node in found.layers] == [
        MatrixView("a", "linear", (3, 4)),
        MatrixView("b", "linear", (4, 3)),
    ]
    assert found.tied == {}


def test_some_columns_of_a_weight_are_no_rows_of_it() -> None:
    model = Does(lambda m, x: F.linear(x, m.w[:, :3]), w=torch.randn(5, 4))
    [layer] = graph(model, torch.randn(2, 3)).layers
    assert layer.matrices == ()


def test_a_part_that_no_view_gives_is_said_so() -> None:
    model = Does(lambda m, x: F.linear(x, m.w[:, ::2]), w=torch.randn(5, 8))
    [layer] = graph(model, torch.randn(3, 4)).layers
    assert layer.matrices == ()
    assert layer.note == "no view gives this part of w"
    assert layer.attributes == {"part": {"strides": [8, 2], "offset": 0}}


def test_a_pointwise_convolution_as_a_matrix(rerun: Any) -> None:
    model = Does(lambda m, x: F.linear(x, m.w.flatten(1)), w=torch.randn(5, 4, 1, 1))
    [layer] = same(rerun, model, torch.randn(3, 4)).layers
    assert layer.matrices == (MatrixView("w", "conv-unfolded", (5, 4)),)


def test_a_square_weight_and_its_transpose_are_told_apart(rerun: Any) -> None:
    square = torch.randn(4, 4)
    model = Does(lambda m, x: F.linear(torch.tanh(x @ m.w), m.w), w=square)
    first, second = same(rerun, model, torch.randn(3, 4)).layers
    assert first.matrices[0].view == "linear-transposed"
    assert second.matrices[0].view == "linear"


def test_a_learned_vector_scales_or_shifts(rerun: Any) -> None:
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
    found = same(rerun, model, torch.randn(2, 3, 4, 5))
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


def test_a_bias_is_not_taken_from_a_value_that_others_read(rerun: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = x @ m.w.T
        return (y + m.b) * torch.relu(y)

    found = same(rerun, Does(forward, w=W.clone(), b=B.clone()), torch.randn(3, 4))
    assert ops(found) == ["linear", "shift", "relu", "product"]


def test_a_position_table_is_no_bias(rerun: Any) -> None:
    # (5, 5): one entry per position and feature, on a square activation.
    model = Does(lambda m, x: x @ m.w.T + m.p, w=W.clone(), p=torch.randn(5, 5))
    assert ops(same(rerun, model, torch.randn(5, 4))) == ["linear", "shift"]
    column = Does(lambda m, x: x @ m.w.T + m.p, w=W.clone(), p=torch.randn(5, 1))
    assert ops(same(rerun, column, torch.randn(5, 4))) == ["linear", "shift"]


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
def test_a_norm_by_hand_is_a_norm(name: str, rerun: Any) -> None:
    model = Does(NORMS[name], g=torch.randn(5))
    found = same(rerun, model, torch.randn(2, 3, 5))
    [norm] = found.nodes[1:-1]
    assert (norm.kind, norm.op, norm.parameters) == (
        "norm",
        "rms_norm",
        {"weight": "g"},
    )
    assert norm.attributes == {"normalized_shape": [5], "eps": 1e-6}


def test_norms_of_torch(rerun: Any) -> None:
    model = nn.Sequential(
        nn.InstanceNorm1d(4, eps=1e-3, affine=True),
        nn.GroupNorm(2, 4, eps=1e-2),
        nn.LayerNorm([4, 6], elementwise_affine=False),
        nn.RMSNorm(6),
    )
    found = same(rerun, model, torch.randn(3, 4, 6))
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
def test_an_activation_by_hand_has_its_name(name: str, rerun: Any) -> None:
    function, op, attributes = ACTIVATIONS[name]
    found = same(rerun, Does(function), torch.randn(50))
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
    rerun: Any, named_links: Any
) -> None:
    model = Does(
        lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)),
        gate=nn.Linear(4, 6),
        up=nn.Linear(4, 6),
        down=nn.Linear(6, 4),
    )
    found = same(rerun, model, torch.randn(3, 4))
    assert named_links(found)[2:4] == [
        ("gate", "down", ("silu", "product")),
        ("up", "down", ("product",)),
    ]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_parametrised_weight_is_known_by_its_module(name: str, rerun: Any) -> None:
    model = Does(
        lambda m, x: m.out(torch.relu(m.conv(m.fc(x)[:, None]))),
        fc=WRAPPERS[name](nn.Linear(4, 5)),
        conv=WRAPPERS[name](nn.Conv1d(1, 3, 2, bias=False)),
        out=nn.Linear(4, 2),
    ).eval()
    found = same(rerun, model, torch.randn(3, 4))
    fc, conv, _ = found.layers
    assert fc.parameters == {"weight": "fc.weight", "bias": "fc.bias"}
    assert fc.matrices == (MatrixView("fc.weight", "linear", (5, 4)),)
    assert conv.parameters == {"weight": "conv.weight"}
    assert conv.matrices == (MatrixView("conv.weight", "conv-unfolded", (3, 2)),)
    assert str(fc.note).startswith("fc.weight is computed from fc.")
    assert found.unused == ()


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


def test_a_learned_token_is_a_source(named_links: Any, rerun: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        token = m.token.expand(x.shape[0], -1, -1)
        return m.a(torch.cat([token, x], 1) + m.place)

    model = Does(
        forward,
        token=torch.randn(1, 1, 4),
        place=torch.randn(1, 3, 4),
        a=nn.Linear(4, 2),
    )
    found = same(rerun, model, torch.randn(5, 2, 4))
    assert named_links(found)[:2] == [
        ("args.0", "a", ("cat", "shift")),
        ("token", "a", ("cat", "shift")),
    ]


def test_an_index_into_a_learned_table_is_an_embedding(rerun: Any) -> None:
    model = Does(lambda m, i: m.table[i], table=torch.randn(7, 3))
    ids = torch.randint(0, 7, (2, 5))
    [layer] = same(rerun, model, ids).layers
    assert (layer.op, layer.name) == ("embedding", "table")
    assert layer.matrices == (MatrixView("table", "embedding", (7, 3)),)


def test_a_mask_that_picks_rows_of_a_table_is_unknown() -> None:
    model = Does(lambda m, x: m.table[x > 0].sum(0), table=torch.randn(7, 3))
    found = graph(model, torch.randn(7))
    assert found.layers == ()
    [unknown] = found.unknowns
    assert unknown.op == "index"
    assert unknown.note == "the size of its result depends on the data"


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


def test_packed_rows_are_followed_through_a_rotation(rerun: Any) -> None:
    found = same(rerun, Rotary(), torch.randn(3, 5, 8))
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


def test_recurrent_cells_and_gru(rerun: Any) -> None:
    found = graph(nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3))
    [gru] = found.layers
    parts = [m.part for m in gru.matrices if m.parameter == "weight_hh_l0"]
    assert parts == [None, "gate.r", "gate.z", "gate.n"]
    assert gru.matrices[3].rows == (8, 12)

    def forward(m: Any, x: Tensor) -> Tensor:
        state = m.cell(x)
        return m.cell(x, state)[0]

    twice = graph(Does(forward, cell=nn.LSTMCell(3, 4)), torch.randn(2, 3))
    first, second = twice.layers
    assert set(twice.reused) == {f"cell.{role}" for role in first.parameters}
    assert (len(first.inputs), len(second.inputs)) == (1, 3)
    given = graph(nn.LSTM(3, 4), (torch.randn(5, 2, 3), (torch.zeros(1, 2, 4),) * 2))
    assert {given[link.source].name for link in given.into(given.layers[0])} == {
        "input",
        "hx.0",
    }


def test_transposed_convolutions_and_bilinear_maps_have_no_matrix() -> None:
    up = graph(nn.ConvTranspose2d(3, 5, 2, stride=2), torch.randn(1, 3, 4, 4))
    [layer] = up.layers
    assert (layer.op, layer.matrices) == ("conv_transpose2d", ())
    assert layer.note == "transposed convolution: no view gives (outputs, inputs)"
    two = graph(nn.Bilinear(3, 4, 5), (torch.randn(2, 3), torch.randn(2, 4)))
    assert [link.position for link in two.into(two.layers[0])] == [0, 1]


def test_grouped_and_depthwise_convolutions(rerun: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4, padding="same", padding_mode="circular"),
        nn.PReLU(8),
        nn.Conv2d(8, 6, 1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )
    found = same(rerun, model, torch.randn(2, 4, 6, 6))
    first, second, head = found.layers
    assert (first.matrix_shape, second.matrix_shape) == ((8, 9), (6, 4))
    assert found.columns(found.into(second)[0]) == tuple(range(8))
    assert found.columns(found.into(head)[0]) == tuple(range(6))
    [slope] = [node for node in found.nodes if node.op == "prelu"]
    assert slope.parameters == {"slope": "1.weight"}
