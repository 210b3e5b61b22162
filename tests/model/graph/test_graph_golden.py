"""Golden graphs: the links of known architectures, written down by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.model.graph import MatrixView, graph

MOVES = ("reshape", "permute", "flatten", "select", "slice", "expand")


def close(got: list[Tensor], expected: Any) -> None:
    outputs = expected if isinstance(expected, tuple | list) else [expected]
    assert len(got) == len(outputs)
    for a, b in zip(got, outputs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_mlp(named_links: Any, rerun: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2))
    x = torch.randn(3, 4)
    found = graph(model, x)
    assert named_links(found) == [
        ("input", "0", ()),
        ("0", "2", ("relu",)),
        ("2", "3", ()),
        ("3", "output", ()),
    ]
    assert [node.matrix_shape for node in found.layers] == [(8, 4), (6, 8), (2, 6)]
    assert found.layers[1].parameters == {"weight": "2.weight", "bias": "2.bias"}
    close(rerun(found, model, [x]), model(x))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, 5),
    )


@pytest.mark.parametrize("training", [True, False])
def test_cnn_with_pooling_and_batch_norm(
    training: bool, named_links: Any, rerun: Any
) -> None:
    model = cnn().train(training)
    x = torch.randn(2, 3, 20, 20)
    found = graph(model, x)
    assert named_links(found) == [
        ("input", "0", ()),
        ("0", "3", ("batch_norm", "relu")),
        ("3", "7", ("relu", "max_pool2d", "flatten")),
        ("7", "output", ()),
    ]
    first, second, head = found.layers
    assert (first.op, first.matrix_shape) == ("conv2d", (4, 27))
    assert first.attributes == {
        "stride": [2, 2],
        "padding": [1, 1],
        "kernel_size": [3, 3],
    }
    assert (second.op, second.matrix_shape) == ("conv2d", (6, 18))
    assert second.attributes == {
        "groups": 2,
        "dilation": [2, 2],
        "kernel_size": [3, 3],
    }
    assert second.parameters == {"weight": "3.weight"}
    assert second.matrices == (MatrixView("3.weight", "conv-unfolded", (6, 18)),)
    [norm] = [node for node in found.nodes if node.kind == "norm"]
    assert norm.attributes == {"training": training, "eps": 1e-5}
    assert norm.parameters == {"weight": "1.weight", "bias": "1.bias"}
    # (C, H, W) order: nine columns of the head per channel.
    [link] = found.into(head)
    assert found.columns(link) == tuple(c for c in range(6) for _ in range(9))
    got = rerun(found, model, [x])
    close(got, model(x))


class Residual(nn.Module):
    """Two blocks relu(U relu(Y x) + S x) with the three skips of the theory."""

    def __init__(self, skip: str) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.y = nn.ModuleList([nn.Linear(8, 6) for _ in range(2)])
        self.u = nn.ModuleList([nn.Linear(6, 8) for _ in range(2)])
        self.skip = skip
        if skip == "diagonal":
            self.d = nn.ParameterList([torch.randn(8) for _ in range(2)])
        if skip == "learned":
            self.z = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(2)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in range(2):
            skip = x
            if self.skip == "diagonal":
                skip = self.d[i] * x
            if self.skip == "learned":
                skip = self.z[i](x)
            x = torch.relu(self.u[i](torch.relu(self.y[i](x))) + skip)
        return self.head(x)


def test_residual_mlp_with_identity_skips(
    named_links: Any, rerun: Any, check_direct: Any
) -> None:
    model, x = Residual("identity"), torch.randn(4, 5)
    found = graph(model, x)
    keep = ("sum:identity", "relu")
    assert set(named_links(found)) == {
        ("x", "stem", ()),
        ("stem", "y.0", ()),
        ("y.0", "u.0", ("relu",)),
        ("u.0", "y.1", ("sum", "relu")),
        ("stem", "y.1", keep),
        ("y.1", "u.1", ("relu",)),
        ("u.1", "head", ("sum", "relu")),
        ("u.0", "head", ("sum", "relu", *keep)),
        ("stem", "head", (*keep, *keep)),
        ("head", "output", ()),
    }
    assert len(found.links) == 10
    for junction in found.junctions:
        kinds = {branch.kind: branch for branch in junction.branches}
        assert set(kinds) == {"block", "identity"}
        assert (kinds["identity"].skip, kinds["block"].skip) == (True, False)
        assert kinds["identity"].input == junction.fork
        assert len(kinds["block"].layers) == 2
    close(rerun(found, model, [x]), model(x))
    check_direct(found, model, x)


def test_residual_mlp_with_diagonal_skips(named_links: Any, rerun: Any) -> None:
    model, x = Residual("diagonal"), torch.randn(4, 5)
    found = graph(model, x)
    keep = ("scale", "sum:diagonal", "relu")
    assert set(named_links(found)) == {
        ("x", "stem", ()),
        ("stem", "y.0", ()),
        ("y.0", "u.0", ("relu",)),
        ("u.0", "y.1", ("sum", "relu")),
        ("stem", "y.1", keep),
        ("y.1", "u.1", ("relu",)),
        ("u.1", "head", ("sum", "relu")),
        ("u.0", "head", ("sum", "relu", *keep)),
        ("stem", "head", (*keep, *keep)),
        ("head", "output", ()),
    }
    scales = [node for node in found.nodes if node.kind == "scale"]
    assert [node.parameters for node in scales] == [{"scale": "d.0"}, {"scale": "d.1"}]
    assert all(node.attributes == {"axes": [-1], "size": 8} for node in scales)
    close(rerun(found, model, [x]), model(x))


def test_residual_mlp_with_learned_skips(named_links: Any, rerun: Any) -> None:
    model, x = Residual("learned"), torch.randn(4, 5)
    found = graph(model, x)
    assert set(named_links(found)) == {
        ("x", "stem", ()),
        ("stem", "y.0", ()),
        ("stem", "z.0", ()),
        ("y.0", "u.0", ("relu",)),
        ("u.0", "y.1", ("sum", "relu")),
        ("u.0", "z.1", ("sum", "relu")),
        ("z.0", "y.1", ("sum:learned", "relu")),
        ("z.0", "z.1", ("sum:learned", "relu")),
        ("y.1", "u.1", ("relu",)),
        ("u.1", "head", ("sum", "relu")),
        ("z.1", "head", ("sum:learned", "relu")),
        ("head", "output", ()),
    }
    [first, _] = found.junctions
    [learned] = [branch for branch in first.branches if branch.skip]
    assert [found[id_].name for id_ in learned.layers] == ["z.0"]
    close(rerun(found, model, [x]), model(x))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4, padding_idx=0)
        self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        output, _ = self.lstm(self.embed(tokens))
        return self.head(output[:, -1])


def test_lstm_classifier(named_links: Any, rerun: Any) -> None:
    model, tokens = Classifier(), torch.randint(0, 11, (3, 5))
    found = graph(model, tokens)
    assert named_links(found) == [
        ("tokens", "embed", ()),
        ("embed", "lstm", ()),
        ("lstm", "head", ("getitem", "select")),
        ("head", "output", ()),
    ]
    lstm = found.find("lstm")[0]
    assert lstm.op == "lstm"
    assert lstm.attributes == {
        "num_layers": 2,
        "bidirectional": True,
        "batch_first": True,
    }
    assert lstm.parameters == {
        role: f"lstm.{role}" for role, _ in model.lstm.named_parameters()
    }
    first = [m for m in lstm.matrices if m.parameter == "lstm.weight_ih_l0"]
    assert first == [
        MatrixView("lstm.weight_ih_l0", "linear", (24, 4)),
        MatrixView("lstm.weight_ih_l0", "linear", (6, 4), (0, 6), "gate.i"),
        MatrixView("lstm.weight_ih_l0", "linear", (6, 4), (6, 12), "gate.f"),
        MatrixView("lstm.weight_ih_l0", "linear", (6, 4), (12, 18), "gate.g"),
        MatrixView("lstm.weight_ih_l0", "linear", (6, 4), (18, 24), "gate.o"),
    ]
    assert {m.parameter for m in lstm.matrices} == {
        f"lstm.{role}" for role in lstm.parameters if role.startswith("weight")
    }
    close(rerun(found, model, [tokens]), model(tokens))


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(7, 4)
        self.bias = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.T, self.bias)


def test_tied_autoencoder(named_links: Any, rerun: Any) -> None:
    model, x = Autoencoder(), torch.randn(3, 7)
    found = graph(model, x)
    assert named_links(found) == [
        ("x", "encoder", ()),
        ("encoder", "encoder", ("relu",)),
        ("encoder", "output", ()),
    ]
    down, up = found.layers
    assert down.matrices == (MatrixView("encoder.weight", "linear", (4, 7)),)
    assert up.matrices == (MatrixView("encoder.weight", "linear-transposed", (7, 4)),)
    assert up.parameters == {"weight": "encoder.weight", "bias": "bias"}
    assert found.reused == {"encoder.weight": (down.id, up.id)}
    close(rerun(found, model, [x]), model(x))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.alias = self.a
        self.c = nn.Linear(6, 6)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(torch.tanh(self.alias(torch.relu(self.a(x))))))


def test_shared_module_and_shared_weight(named_links: Any, rerun: Any) -> None:
    model, x = Shared(), torch.randn(3, 6)
    found = graph(model, x)
    first, second, third, fourth = found.layers
    assert found.reused == {
        "a.weight": (first.id, second.id),
        "a.bias": (first.id, second.id),
        "b.weight": (third.id, fourth.id),
    }
    assert found.tied == {
        "a.weight": ("a.weight", "alias.weight"),
        "a.bias": ("a.bias", "alias.bias"),
        "b.weight": ("b.weight", "c.weight"),
    }
    assert fourth.name == "c"
    assert fourth.parameters == {"weight": "b.weight", "bias": "c.bias"}
    assert [link.through for link in found.links] == [(), ("relu",), ("tanh",), (), ()]
    close(rerun(found, model, [x]), model(x))


class Dense(nn.Module):
    """DenseNet-like: every convolution reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 3, 3, padding=1)
        self.one = nn.Conv1d(3, 2, 3, padding="same")
        self.two = nn.Conv1d(5, 2, 1)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([x, F.relu(self.one(x))], 1)
        x = torch.cat([x, F.relu(self.two(x))], 1)
        return self.head(x.mean(-1))


def test_dense_concatenation_says_which_columns_read_whom(
    named_links: Any, rerun: Any, check_direct: Any
) -> None:
    model, x = Dense(), torch.randn(2, 2, 9)
    found = graph(model, x)
    assert named_links(found) == [
        ("x", "stem", ()),
        ("stem", "one", ("relu",)),
        ("stem", "two", ("relu", "cat")),
        ("one", "two", ("relu", "cat")),
        ("stem", "head", ("relu", "cat", "cat", "mean")),
        ("one", "head", ("relu", "cat", "cat", "mean")),
        ("two", "head", ("relu", "cat", "mean")),
        ("head", "output", ()),
    ]
    names = {found[link.source].name: link for link in found.into(found.layers[-1])}
    assert found.columns(names["stem"]) == (0, 1, 2, -1, -1, -1, -1)
    assert found.columns(names["one"]) == (-1, -1, -1, 0, 1, -1, -1)
    assert found.columns(names["two"]) == (-1, -1, -1, -1, -1, 0, 1)
    assert found.layers[0].op == "conv1d"
    assert found.layers[1].attributes["padding"] == "same"
    close(rerun(found, model, [x]), model(x))
    check_direct(found, model, x)
