"""Linear layers: every spelling is one layer with its matrix, and no other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
def test_a_linear_layer_is_one_however_it_is_written(name: str, same: Any) -> None:
    function, view = LINEAR[name]
    model = Does(function, w=W.clone(), v=V.clone(), b=B.clone())
    found = same(model, torch.randn(3, 4))
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


def test_leading_axes_are_folded_only_if_they_are_unfolded_again(same: Any) -> None:
    def forward(m: Any, x: Tensor, *sizes: int) -> Tensor:
        return torch.tanh(m.a(x.view(-1, 4)).view(*sizes, 5))

    folded = Does(lambda m, x: forward(m, x, 2, 3), a=nn.Linear(4, 5))
    assert ops(same(folded, torch.randn(2, 3, 4))) == ["linear", "tanh"]
    other = Does(lambda m, x: forward(m, x, 3, 2), a=nn.Linear(4, 5))
    found = same(other, torch.randn(2, 3, 4))
    assert ops(found) == ["reshape", "linear", "reshape", "tanh"]


def test_features_first_is_told_by_the_axis(same: Any) -> None:
    column = torch.randn(5, 1)
    model = Does(lambda m, x: m.w @ x + m.b, w=W.clone(), b=column)
    found = same(model, torch.randn(4, 3))
    [layer] = found.layers
    assert layer.attributes == {"axis": -2}
    assert layer.parameters == {"weight": "w", "bias": "b"}


def test_rows_of_a_packed_weight(same: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k = m.w.chunk(2)
        top, bottom = m.b.split([4, 4])
        return F.linear(torch.tanh(F.linear(x, q, top)), k, bottom)

    model = Does(forward, w=torch.randn(8, 4), b=torch.randn(8))
    found = same(model, torch.randn(3, 4))
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


def test_some_columns_of_a_weight_are_no_rows_of_it() -> None:
    model = Does(lambda m, x: F.linear(x, m.w[:, :3]), w=torch.randn(5, 4))
    [layer] = graph(model, torch.randn(2, 3)).layers
    assert layer.matrices == ()


def test_parameters_that_lie_in_one_block_of_memory_are_apart(same: Any) -> None:
    block = torch.randn(24)
    model = Does(lambda m, x: x @ m.a.T @ m.b.T)
    model.a = nn.Parameter(block[:12].view(3, 4))
    model.b = nn.Parameter(block[12:].view(4, 3))
    found = same(model, torch.randn(2, 4))
    assert [node.matrices[0] for node in found.layers] == [
        MatrixView("a", "linear", (3, 4)),
        MatrixView("b", "linear", (4, 3)),
    ]
    assert found.tied == {}


def test_a_part_that_no_view_gives_is_said_so() -> None:
    model = Does(lambda m, x: F.linear(x, m.w[:, ::2]), w=torch.randn(5, 8))
    [layer] = graph(model, torch.randn(3, 4)).layers
    assert layer.matrices == ()
    assert layer.note == "no view gives this part of w"
    assert layer.attributes == {"part": {"strides": [8, 2], "offset": 0}}


def test_a_pointwise_convolution_as_a_matrix(same: Any) -> None:
    model = Does(lambda m, x: F.linear(x, m.w.flatten(1)), w=torch.randn(5, 4, 1, 1))
    [layer] = same(model, torch.randn(3, 4)).layers
    assert layer.matrices == (MatrixView("w", "conv-unfolded", (5, 4)),)


def test_a_square_weight_and_its_transpose_are_told_apart(same: Any) -> None:
    square = torch.randn(4, 4)
    model = Does(lambda m, x: F.linear(torch.tanh(x @ m.w), m.w), w=square)
    first, second = same(model, torch.randn(3, 4)).layers
    assert first.matrices[0].view == "linear-transposed"
    assert second.matrices[0].view == "linear"


def test_a_bias_is_not_taken_from_a_value_that_others_read(same: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = x @ m.w.T
        return (y + m.b) * torch.relu(y)

    found = same(Does(forward, w=W.clone(), b=B.clone()), torch.randn(3, 4))
    assert ops(found) == ["linear", "shift", "relu", "product"]


def test_a_position_table_is_no_bias(same: Any) -> None:
    # (5, 5): one entry per position and feature, on a square activation.
    model = Does(lambda m, x: x @ m.w.T + m.p, w=W.clone(), p=torch.randn(5, 5))
    assert ops(same(model, torch.randn(5, 4))) == ["linear", "shift"]
    column = Does(lambda m, x: x @ m.w.T + m.p, w=W.clone(), p=torch.randn(5, 1))
    assert ops(same(column, torch.randn(5, 4))) == ["linear", "shift"]
