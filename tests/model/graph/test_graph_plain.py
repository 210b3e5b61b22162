"""A graph as JSON, as a table, as text; read without an input."""

import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from spectrank.errors import DomainError, UnknownNameError
from spectrank.model.graph import Graph, Link, graph
from spectrank.table import Table


class Odd(nn.Module):
    """A skip, an unknown, a learned token, a reused layer, an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.token = nn.Parameter(torch.ones(1, 4))
        self.spare = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token, x])
        x = self.norm(x + self.a(torch.relu(self.b(x))))
        return self.b(torch.cumsum(x, 0))


def odd() -> Graph:
    torch.manual_seed(0)
    return graph(Odd(), torch.randn(3, 4))


def test_the_condensed_form_is_the_one_that_reports_read() -> None:
    found = odd()
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["version"] == 1
    assert {tuple(sorted(node)) for node in data["nodes"]} == {
        ("id", "kind", "name", "note", "op", "parameters", "shape")
    }
    assert [(n["kind"], n["name"], n["op"], n["shape"]) for n in data["nodes"]] == [
        ("input", "x", "input", None),
        ("constant", "token", "parameter", None),
        ("layer", "b", "linear", [4, 4]),
        ("layer", "a", "linear", [4, 4]),
        ("unknown", "", "cumsum", None),
        ("layer", "b", "linear", [4, 4]),
        ("output", "output", "output", None),
    ]
    assert data["nodes"][2]["parameters"] == {"weight": "b.weight", "bias": "b.bias"}
    names = {node["id"]: node["name"] or node["op"] for node in data["nodes"]}
    assert {
        (names[a["source"]], names[a["target"]], *a["through"]) for a in data["links"]
    } == {
        ("x", "b", "cat"),
        ("token", "b", "cat"),
        ("b", "a", "relu"),
        ("x", "cumsum", "cat", "sum:identity", "layer_norm"),
        ("token", "cumsum", "cat", "sum:identity", "layer_norm"),
        ("a", "cumsum", "sum", "layer_norm"),
        ("cumsum", "b"),
        ("b", "output"),
    }
    reasons = [a["reason"] for a in data["links"] if a["reason"]]
    assert reasons == ["aten.cumsum.default is not an operator known here"]
    assert all(
        set(a) == {"source", "target", "through", "reason"} for a in data["links"]
    )


def test_json_and_back_loses_nothing() -> None:
    found = odd()
    again = Graph.from_dict(json.loads(json.dumps(found.as_dict(), allow_nan=False)))
    assert again == found
    assert again.links == found.links
    assert again.signature() == found.signature()
    assert again.junctions == found.junctions
    assert again.as_dict() == found.as_dict()
    assert found.unused == ("spare.weight", "spare.bias")


@pytest.mark.parametrize("data", [{}, {"version": 2, "full": {}}, {"version": 1}])
def test_other_json_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(DomainError, match=r"version 1 returned, got version .* again"):
        Graph.from_dict(data)


def test_the_table_has_a_row_per_unknown_and_carries_the_graph() -> None:
    found = odd()
    table = found.table()
    assert isinstance(table, Table)
    [row] = list(table)
    assert (row["kind"], row["metric"], row["status"]) == ("skip", "graph", "skipped")
    assert row["variant"] == "cumsum"
    assert row["reason"] == "aten.cumsum.default is not an operator known here"
    assert Graph.from_dict(table.provenance["graph"]) == found
    assert len(graph(nn.Sequential(nn.Linear(2, 2))).table()) == 0


def printed(found: Graph, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(found)
    return stream.getvalue()


def test_the_layers_are_printed_with_what_feeds_them() -> None:
    text = printed(odd(), 100)
    assert text.splitlines() == [
        "Odd: 3 layers, 8 links",
        "b  linear  4 x 4  use 1 of 2",
        "  <- token via cat",
        "  <- x via cat",
        "a  linear  4 x 4",
        "  <- b via relu",
        "n8  cumsum  unknown",
        "  <- a via sum, layer_norm",
        "  <- token via cat, sum:identity, layer_norm",
        "  <- x via cat, sum:identity, layer_norm",
        "  aten.cumsum.default is not an operator known here",
        "b  linear  4 x 4  use 2 of 2",
        "  <- n8",
        "output",
        "  <- b",
        "no output depends on: spare.weight, spare.bias",
    ]


def test_a_narrow_terminal_loses_no_word() -> None:
    wide, narrow = printed(odd(), 200), printed(odd(), 24)
    assert max(map(len, narrow.splitlines())) <= 24
    assert narrow.split() == wide.split()


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential()
    model.add_module("[red]", nn.Linear(2, 2))
    found = graph(model)
    assert "[red]  linear  2 x 2" in printed(found, 80)
    assert found.show() is None  # type: ignore[func-returns-value]
    assert "[red]  linear" in capsys.readouterr().out
    assert repr(found) == "Graph(Sequential: 1 layers, 2 links, 0 unknown)"


def test_a_layer_with_many_sources_shows_the_nearest() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.ModuleList([nn.Linear(2, 2) for _ in range(10)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.maps:
                x = x + torch.tanh(layer(x))
            return x

    lines = printed(graph(Deep(), torch.randn(1, 2)), 200).splitlines()
    last = lines.index("output")
    assert lines[last + 1] == "  <- maps.9 via tanh, sum"
    assert lines[last + 6].startswith("  <- maps.4 via tanh, sum, sum:identity x5")
    assert lines[last + 7] == "     and 5 more"


def test_nodes_are_found_by_name_parameter_and_id() -> None:
    found = odd()
    first, second = found.find("b")
    assert found.find("b.weight") == (first, second)
    assert found[first.id] is first
    assert found.find("nothing") == ()
    assert [link.target for link in found.out_of("n0")] == [
        link.target for link in found.links if link.source == "n0"
    ]
    with pytest.raises(UnknownNameError, match=r"got 'b'; ids are n0 to n\d+, and"):
        found["b"]
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    assert len(graph(tied).find("1.weight")) == 2


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, dilation=2),
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)),
        nn.Identity(),
        nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16, 6),
        nn.GroupNorm(2, 6),
        nn.PReLU(6),
        nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Softsign()),
        nn.Linear(6, 2),
        nn.LogSoftmax(-1),
    )


@pytest.mark.parametrize("training", [True, False])
def test_a_sequential_reads_the_same_without_an_input(training: bool) -> None:
    torch.manual_seed(0)
    model = sequential().train(training)
    traced, read = graph(model, torch.randn(2, 3, 32, 32)), graph(model)
    assert read.signature() == traced.signature()
    assert [(a.source, a.target, a.through) for a in read.links] == [
        (a.source, a.target, a.through) for a in traced.links
    ]
    assert [n.parameters for n in read.nodes] == [n.parameters for n in traced.nodes]
    assert all(node.shape is None for node in read.nodes)


def test_a_layer_that_stands_twice_in_a_sequential_is_reused() -> None:
    layer = nn.Linear(4, 4)
    found = graph(nn.Sequential(layer, nn.ReLU(), layer))
    assert len(found.layers) == 2
    assert set(found.reused) == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.TransformerEncoderLayer(2, 1)), "1 is a T"),
        (Odd(), "got Odd"),
        (nn.Sequential(nn.Sequential(nn.Flatten(0))), "0.0 is a Flatten"),
    ],
)
def test_without_an_input_other_models_are_refused(model: nn.Module, what: str) -> None:
    with pytest.raises(DomainError, match=f"{what}.*; pass an example_input, or .*wir"):
        graph(model)


def test_a_stated_wiring_is_taken_as_it_is() -> None:
    model = Odd()
    found = graph(
        model,
        wiring=[
            ("a", "b", ["relu", "sum"]),
            ("x", "a"),
            ("token", "a", ["cat"]),
            ("b", "output.logits"),
        ],
    )
    names = [(n.kind, n.op, n.name, n.matrix_shape) for n in found.nodes]
    assert names == [
        ("input", "input", "x", None),
        ("layer", "linear", "token", (1, 4)),
        ("layer", "linear", "a", (4, 4)),
        ("layer", "linear", "b", (4, 4)),
        ("output", "output", "output.logits", None),
    ]
    reason = "stated, not traced"
    assert found.links[0] == Link("n2", "n3", ("relu", "sum"), reason=reason)
    assert found.unused == ("spare.weight", "spare.bias", "norm.weight", "norm.bias")
    assert Graph.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    assert "  <- a via relu, sum" in printed(found, 80).splitlines()
    with pytest.raises(DomainError, match="make it with an example_input"):
        found.signature()
    with pytest.raises(DomainError, match="make it with an example_input"):
        found.norms_after("n1")


@pytest.mark.parametrize(
    ("wiring", "error", "message"),
    [
        ([], DomainError, "at least one link"),
        ([("a",)], DomainError, r"got \('a',\); the steps are a list"),
        ([("a", "b", "relu")], DomainError, "the steps are a list"),
        ([("a", "b"), ("b", "a")], DomainError, "without a circle.*among a, b"),
        ([("a", "c")], UnknownNameError, r"got 'c' as target"),
        ([("aa", "b")], UnknownNameError, r"got 'aa' as source; did you mean 'a'"),
        ([("output", "b")], UnknownNameError, "got 'output' as source"),
        ([("a", "x")], UnknownNameError, "got 'x' as target"),
    ],
)
def test_a_wiring_that_does_not_fit_the_model_is_refused(
    wiring: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        graph(Odd(), wiring=wiring)


def test_each_use_of_a_layer_is_told_from_the_others() -> None:
    layer, last = nn.Linear(4, 4), nn.Linear(4, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer, last)
    lines = printed(graph(model, torch.ones(1, 4)), 100).splitlines()
    heads = [line for line in lines if "  linear  " in line]
    assert [line.partition("use ")[2] for line in heads] == ["1 of 2", "2 of 2", ""]
