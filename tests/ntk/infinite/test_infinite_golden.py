"""Kernels of whole nets against neural-tangents 0.6.5, in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spectrank.ntk.infinite import infinite_width

_GOLDEN: dict[str, Any] = json.loads(
    Path(__file__).with_name("golden.json").read_text()
)
_WIDTH = _GOLDEN["width"]


class Step(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Skip(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _dense(inputs: int = _WIDTH, outputs: int = _WIDTH) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def _conv(inputs: int = _WIDTH, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, _WIDTH, 3, **{"padding": 1, **options})


def _circular(inputs: int = _WIDTH) -> nn.Conv2d:
    return _conv(inputs, padding_mode="circular")


def _end(positions: int) -> tuple[nn.Module, ...]:
    return nn.Flatten(), _dense(_WIDTH * positions, 1)


def _everywhere() -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), _dense(outputs=1)


def _mlp(phi: Callable[[], nn.Module]) -> tuple[nn.Module, ...]:
    return _dense(3), phi(), _dense(), phi(), _dense(outputs=1)


def _erf() -> nn.Module:
    return Step(torch.erf)


# Layers of each net of generate_golden.py.
_NETS: dict[str, tuple[nn.Module, ...]] = {
    "fc_relu": _mlp(nn.ReLU),
    "fc_leaky_relu": _mlp(lambda: nn.LeakyReLU(0.2)),
    "fc_abs": _mlp(lambda: Step(torch.abs)),
    "fc_erf": _mlp(_erf),
    "fc_gelu": _mlp(nn.GELU),
    "fc_sin": _mlp(lambda: Step(torch.sin)),
    "fc_cos": _mlp(lambda: Step(torch.cos)),
    "fc_residual": (
        _dense(3),
        Skip(nn.ReLU(), _dense()),
        Skip(_erf(), _dense(), nn.GELU(), _dense()),
        nn.ReLU(),
        _dense(outputs=1),
    ),
    "fc_layer_norm": (
        _dense(3),
        nn.LayerNorm(_WIDTH, elementwise_affine=False),
        nn.ReLU(),
        _dense(),
        nn.LayerNorm(_WIDTH, elementwise_affine=False),
        _erf(),
        _dense(outputs=1),
    ),
    "conv_flatten": (_conv(2), nn.ReLU(), _conv(stride=2), nn.GELU(), *_end(9)),
    "conv_circular": (_circular(2), nn.ReLU(), _circular(), *_end(25)),
    "conv_valid": (_conv(2, padding=0), _erf(), *_end(9)),
    "conv_avg_pool": (
        _conv(2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        _conv(),
        nn.ReLU(),
        *_end(4),
    ),
    "conv_global": (
        _conv(2),
        nn.ReLU(),
        _conv(stride=2),
        nn.ReLU(),
        *_everywhere(),
    ),
    "conv_circular_global": (
        _circular(2),
        nn.GELU(),
        _circular(),
        _erf(),
        Step(lambda x: x.mean((2, 3))),
        _dense(outputs=1),
    ),
    "conv_residual": (
        _conv(2),
        Skip(nn.ReLU(), _conv(), nn.ReLU(), _conv()),
        nn.ReLU(),
        *_everywhere(),
    ),
    "conv_layer_norm": (
        _conv(2),
        Step(
            lambda x: functional.layer_norm(x.movedim(1, -1), (_WIDTH,)).movedim(-1, 1)
        ),
        nn.ReLU(),
        _conv(),
        nn.LayerNorm((_WIDTH, 5, 5), elementwise_affine=False),
        nn.ReLU(),
        *_end(25),
    ),
}


def test_every_golden_net_is_compared() -> None:
    names = {key.rpartition("-")[0] for key in _GOLDEN["kernels"]}
    assert names == set(_NETS)


@pytest.mark.parametrize("name", sorted(_NETS))
def test_kernels_equal_those_of_neural_tangents(name: str) -> None:
    inputs = _GOLDEN["inputs"][name.partition("_")[0]]
    x, y = (torch.tensor(inputs[k], dtype=torch.float64) for k in ("x", "y"))
    read = infinite_width(
        nn.Sequential(*_NETS[name]),
        x.float(),
        weight_variance=_GOLDEN["W_std"] ** 2,
        bias_variance=_GOLDEN["b_std"] ** 2,
    )
    for kind in ("standard", "ntk"):
        kernel = replace(read, parametrisation=kind)
        golden = _GOLDEN["kernels"][f"{name}-{kind}"]
        for other, pair in ((None, "xx"), (y, "xy")):
            for got, which in zip(kernel(x, other), ("nngp", "ntk"), strict=True):
                expected = torch.tensor(golden[pair][which], dtype=torch.float64)
                _compare(got, expected, same=other is None)


def _compare(got: Tensor, expected: Tensor, *, same: bool) -> None:
    """Two implementations of one formula in float64, nets of up to five layers."""
    if same:
        # The angle of a point with itself is rounding there, up to 1e-8; here it is 0.
        torch.testing.assert_close(
            got.diagonal(), expected.diagonal(), rtol=2e-9, atol=1e-12
        )
        got, expected = (t - torch.diag(t.diagonal()) for t in (got, expected))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
