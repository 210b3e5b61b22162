"""A Sequential without an input: equal layers share a trace, unequal ones do not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from spectrank.model.graph import graph, sequential, tracing


def num_traces(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> int:
    calls: list[nn.Module] = []

    def counted(module: nn.Module, *more: Any) -> tracing.Trace:
        calls.append(module)
        return tracing.trace(module, *more)

    with monkeypatch.context() as patched:
        patched.setattr(sequential, "trace", counted)
        graph(model)
    return len(calls)


def test_equal_layers_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(nn.Linear(8, 8), nn.ReLU()) for _ in range(20)]
    model = nn.Sequential(*[layer for pair in pairs for layer in pair])
    assert num_traces(monkeypatch, model) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Linear(4, 4), nn.Linear(4, 4, bias=False)),
        (nn.Linear(4, 4), nn.Linear(4, 4).double()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.Dropout(0.1).train(), nn.Dropout(0.1).eval()),
        # Its options are not in extra_repr.
        (nn.AvgPool2d(2), nn.AvgPool2d(2, count_include_pad=False)),
        (nn.Linear(4, 4), spectral_norm(nn.Linear(4, 4))),
    ],
)
def test_layers_that_differ_are_traced_each(
    first: nn.Module, second: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert num_traces(monkeypatch, nn.Sequential(first, second)) == 2


@pytest.mark.parametrize("training", [True, False])
def test_a_shared_trace_reads_as_one_of_each_layer(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(4, 4, 3, groups=2),
        lambda: nn.BatchNorm2d(4),
        # Writes in place into what the layer before made.
        lambda: nn.ReLU(inplace=True),
        lambda: nn.MaxPool2d(2),
        lambda: nn.PReLU(),
        lambda: nn.Dropout(0.2),
    ]
    made = [make() for _ in range(3) for make in block]
    model = nn.Sequential(*made, nn.Flatten(), nn.Linear(4, 4)).train(training)
    shared = graph(model)
    monkeypatch.setattr(sequential, "_kind", lambda *_: None)
    assert graph(model).nodes == shared.nodes
