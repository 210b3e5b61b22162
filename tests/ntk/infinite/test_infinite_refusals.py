"""What has no infinite-width limit is refused by name, with the way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from spectrank import RandomMLP
from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.ntk.infinite import infinite_width

_X = torch.zeros(1, 4)


class Net(nn.Module):
    """Two layers with a function of them between."""

    def __init__(self, step: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.norm = nn.LayerNorm(6)
        self.gate = nn.Parameter(torch.ones(6))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.step(self, self.a(x)))


_STEPS: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "softmax": (lambda net, h: torch.softmax(h, -1), "softmax.*a softmax"),
    "gate": (lambda net, h: h * torch.sigmoid(net.b(h)), "leave gates out"),
    "scale": (lambda net, h: h * net.gate, "leave learned scales out"),
    "shift": (lambda net, h: h + net.gate, "leave learned shifts out"),
    "reused": (lambda net, h: net.b(net.b(h)), "b.weight in 2 steps"),
    "same": (lambda net, h: h + torch.relu(h), "depend on one layer"),
    "kink": (lambda net, h: functional.relu6(h), "closed form or is smooth.*relu6"),
    "elu": (lambda net, h: functional.elu(h), "closed form or is smooth.*elu"),
    "after": (lambda net, h: torch.tanh(torch.relu(h)), "stands alone"),
    "before": (lambda net, h: torch.relu(h - 1.0), "stands alone"),
    "mixed": (
        lambda net, h: torch.relu(torch.relu(h) + net.b(h)),
        "reads a Gaussian field",
    ),
    "channels": (lambda net, h: h - h.mean(-1, keepdim=True), "averages channels"),
    "cut": (lambda net, h: functional.pad(h[:, :3], [0, 3]), "along the channels"),
    "dropout": (lambda net, h: functional.dropout(h, 0.5), "call model.eval"),
}


@pytest.mark.parametrize("name", sorted(_STEPS))
def test_a_step_without_a_limit_is_refused_by_name(name: str) -> None:
    step, match = _STEPS[name]
    with pytest.raises(DomainError, match=match) as caught:
        infinite_width(Net(step), _X)
    assert "spectrank.ntk.empirical" in str(caught.value)


_LAYERS: dict[str, tuple[list[nn.Module], Tensor, str]] = {
    "batch_norm": ([nn.Linear(4, 6), nn.BatchNorm1d(6)], _X, "use LayerNorm"),
    "max_pool": (
        [nn.Conv1d(2, 6, 1), nn.MaxPool1d(4), nn.Flatten()],
        torch.zeros(1, 2, 4),
        "max_pool1d.*use average pooling",
    ),
    "groups": (
        [nn.Conv1d(2, 6, 4, groups=2), nn.Flatten()],
        torch.zeros(1, 2, 4),
        "one group, got groups=2",
    ),
    "transposed": (
        [nn.ConvTranspose1d(2, 6, 1), nn.Flatten(), nn.Linear(24, 6)],
        torch.zeros(1, 2, 4),
        "conv_transpose1d",
    ),
    "parametrised": (
        [weight_norm(nn.Linear(4, 6))],
        _X,
        "remove the parametrization",
    ),
    "embedding": (
        [nn.Embedding(5, 6), nn.Flatten(), nn.Linear(24, 6)],
        torch.zeros(1, 4, dtype=torch.int64),
        "embedding.*another layer",
    ),
}


@pytest.mark.parametrize("name", sorted(_LAYERS))
def test_a_layer_without_a_limit_is_refused_by_name(name: str) -> None:
    layers, x, match = _LAYERS[name]
    net = nn.Sequential(*layers, nn.Linear(6, 1)).eval()
    with pytest.raises(DomainError, match=match):
        infinite_width(net, x)


def test_a_layer_norm_that_has_learned_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 1))
    with torch.no_grad():
        net[1].bias[2] = 0.5
    with pytest.raises(DomainError, match="its bias is not 0 throughout"):
        infinite_width(net)
    norm = nn.LayerNorm(4)
    with pytest.raises(DomainError, match="trained before the first layer"):
        infinite_width(nn.Sequential(norm, nn.Linear(4, 1)), _X)
    norm.requires_grad_(False)
    infinite_width(nn.Sequential(norm, nn.Linear(4, 1)), _X)


def test_an_output_whose_kernel_stays_random_is_refused() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(x)

    for net in (
        nn.Sequential(nn.Linear(4, 6), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)),
        nn.Sequential(nn.ReLU()).append(nn.Linear(4, 4)).append(nn.Tanh()),
        Beside(),
    ):
        with pytest.raises(DomainError, match=r"end the model with a layer"):
            infinite_width(net, _X)
    with pytest.raises(DomainError, match=r"must be \(batch, classes\)"):
        infinite_width(nn.Linear(4, 2), torch.zeros(1, 3, 4))


def test_options_that_name_nothing_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(UnknownNameError, match="parametrisation"):
        infinite_width(net, parametrisation="mup")
    with pytest.raises(UnknownNameError, match=r"'7\.\*' matches none of 0.weight"):
        infinite_width(net, weight_variance={"7.*": 1.0})
    with pytest.raises(DomainError, match=r"not negative, got -1\.0"):
        infinite_width(net, weight_variance=-1.0)
    with pytest.raises(ArgumentTypeError, match="mapping of patterns"):
        infinite_width(net, bias_variance=[1.0])
    with pytest.raises(ArgumentTypeError, match="or a RandomMLP, got dict"):
        infinite_width({})
    with pytest.raises(DomainError, match="states its variances"):
        infinite_width(RandomMLP([4, 1], spectrum="orthogonal"), weight_variance=2.0)


def test_inputs_of_another_size_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(ShapeError, match="an output of 0 reads 4 numbers, got 3"):
        infinite_width(net)(torch.ones(2, 3))
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(24, 2))
    assert infinite_width(net)(torch.ones(1, 2, 4, 4))[0].isfinite().all()
    with pytest.raises(ShapeError, match="an output of 0 reads 18 numbers, got 27"):
        infinite_width(net)(torch.ones(1, 3, 4, 4))
    with pytest.raises(ShapeError, match="an output of 2 reads 24 numbers, got 54"):
        infinite_width(net)(torch.ones(1, 2, 5, 5))
    with pytest.raises(ArgumentTypeError, match="block must be an integer"):
        infinite_width(net)(torch.ones(1, 2, 4, 4), block="2")
