"""What follows a layer: the activation read from the graph, or why there is none."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from spectrank.init.follow import following
from spectrank.model import graph

X = torch.zeros(2, 4)


class Between(nn.Module):
    """A layer, a map, a layer."""

    def __init__(self, between):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def after(between):
    return following(graph(Between(between), X), ["a.weight"])


@pytest.mark.parametrize(
    ("between", "name", "gain"),
    [
        (functional.relu, "relu", math.sqrt(2)),
        (torch.tanh, "tanh", 5 / 3),
        (torch.sigmoid, "sigmoid", 1.0),
        (lambda x: functional.leaky_relu(x, 0.5), "leaky_relu", math.sqrt(1.6)),
        (lambda x: functional.relu(x.reshape(-1, 2, 2).flatten(1)), "relu", 2**0.5),
        (lambda x: functional.relu(functional.layer_norm(x, (4,))), "relu", 2**0.5),
        (lambda x: functional.dropout(functional.relu(0.5 * x)), "relu", 2**0.5),
        (lambda x: torch.tanh(functional.relu(x)), "relu", math.sqrt(2)),
        # Written out: the graph knows it by its values.
        (lambda x: x * torch.sigmoid(x), "silu", 1.6765),
    ],
)
def test_the_first_activation_decides(between, name, gain):
    found = after(between)
    assert found.activation == name
    assert found.gain == pytest.approx(gain, rel=1e-4)
    assert f"{name} follows" in found.reason


def test_the_slope_and_the_options_of_an_activation_count():
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    for between in (
        lambda x: functional.elu(x, alpha=0.3),
        lambda x: functional.hardtanh(x, -2.0, 0.5),
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda x: functional.softplus(x, beta=2.0),
    ):
        square = between(z).square()
        error = float(square.std()) / math.sqrt(len(z))
        found = after(between)
        assert abs(found.gain**-2 - float(square.mean())) <= 4 * error


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda x: x, "no activation before the next layer"),
        (lambda x: functional.layer_norm(x, (4,)), "no activation before"),
        (lambda x: functional.softmax(x, -1), "softmax follows"),
        (torch.exp, "exp follows, whose gain is not known"),
        (lambda x: torch.fft.fft(x).real, "taken as linear"),
    ],
)
def test_without_a_known_activation_the_layer_is_taken_as_linear(between, words):
    found = after(between)
    assert (found.gain, found.activation) == (1.0, "linear")
    assert words in found.reason
    assert "taken as linear" in found.reason


class Block(nn.Module):
    """A residual block with the activation after the sum, and a gated block."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.gate, self.up, self.down = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        y = self.c(x)
        x = torch.relu(y) + y
        return self.down(functional.silu(self.gate(x)) * self.up(x))


def test_residuals_gates_and_forks():
    wires = graph(Block(), X)
    found = {name: following(wires, [f"{name}.weight"]) for name in "abc"}
    assert found["a"].activation == "relu"
    assert found["b"].gain == 1.0
    assert found["b"].reason.startswith("enters a sum of branches (residual)")
    # One way on goes through relu, the other through nothing: relu decides.
    assert found["c"].gain == pytest.approx(math.sqrt(2))
    assert "relu follows" in found["c"].reason
    assert "enters a sum" in found["c"].reason
    assert following(wires, ["gate.weight"]).activation == "silu"
    up = following(wires, ["up.weight"])
    assert (up.gain, up.activation) == (1.0, "linear")
    assert up.reason.startswith("is multiplied by another branch")
    down = following(wires, ["down.weight"])
    assert down.reason == "the output of the model: taken as linear"


class Twice(nn.Module):
    """One layer used before relu and before tanh; one not used at all."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.spare = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.a(torch.relu(self.a(x))))


def test_a_layer_before_two_activations_is_taken_as_linear():
    wires = graph(Twice(), X)
    found = following(wires, ["a.weight"])
    assert (found.gain, found.activation) == (1.0, "linear")
    assert found.reason.startswith("ways differ (")
    assert "relu follows" in found.reason
    assert "tanh follows" in found.reason
    spare = following(wires, ["spare.weight"])
    assert spare.reason == "no layer of the graph uses it: taken as linear"
