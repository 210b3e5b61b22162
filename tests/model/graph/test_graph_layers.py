"""Layers that are not plainly linear: parametrised, looked up, recurrent, kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

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


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_parametrised_weight_is_known_by_its_module(name: str, same: Any) -> None:
    model = Does(
        lambda m, x: m.out(torch.relu(m.conv(m.fc(x)[:, None]))),
        fc=WRAPPERS[name](nn.Linear(4, 5)),
        conv=WRAPPERS[name](nn.Conv1d(1, 3, 2, bias=False)),
        out=nn.Linear(4, 2),
    ).eval()
    found = same(model, torch.randn(3, 4))
    fc, conv, _ = found.layers
    assert fc.parameters == {"weight": "fc.weight", "bias": "fc.bias"}
    assert fc.matrices == (MatrixView("fc.weight", "linear", (5, 4)),)
    assert conv.parameters == {"weight": "conv.weight"}
    assert conv.matrices == (MatrixView("conv.weight", "conv-unfolded", (3, 2)),)
    assert str(fc.note).startswith("fc.weight is computed from fc.")
    assert found.unused == ()


def test_a_learned_token_is_a_source(named_links: Any, same: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        token = m.token.expand(x.shape[0], -1, -1)
        return m.a(torch.cat([token, x], 1) + m.place)

    model = Does(
        forward,
        token=torch.randn(1, 1, 4),
        place=torch.randn(1, 3, 4),
        a=nn.Linear(4, 2),
    )
    found = same(model, torch.randn(5, 2, 4))
    assert named_links(found)[:2] == [
        ("args.0", "a", ("cat", "shift")),
        ("token", "a", ("cat", "shift")),
    ]


def test_an_index_into_a_learned_table_is_an_embedding(same: Any) -> None:
    model = Does(lambda m, i: m.table[i], table=torch.randn(7, 3))
    ids = torch.randint(0, 7, (2, 5))
    [layer] = same(model, ids).layers
    assert (layer.op, layer.name) == ("embedding", "table")
    assert layer.matrices == (MatrixView("table", "embedding", (7, 3)),)


def test_recurrent_cells_and_gru(same: Any) -> None:
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


def test_grouped_and_depthwise_convolutions(same: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4, padding="same", padding_mode="circular"),
        nn.PReLU(8),
        nn.Conv2d(8, 6, 1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )
    found = same(model, torch.randn(2, 4, 6, 6))
    first, second, head = found.layers
    assert (first.matrix_shape, second.matrix_shape) == ((8, 9), (6, 4))
    assert found.columns(found.into(second)[0]) == tuple(range(8))
    assert found.columns(found.into(head)[0]) == tuple(range(6))
    [slope] = [node for node in found.nodes if node.op == "prelu"]
    assert slope.parameters == {"slope": "1.weight"}
