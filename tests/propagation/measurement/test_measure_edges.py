"""What is refused, what is left as it was, and numbers that are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from propagation_rows import by_key, perceptron, randn, skips
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.propagation import measure


def test_the_model_and_the_random_state_are_left_bit_for_bit() -> None:
    net = nn.Sequential(
        *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True)),
        *(nn.Dropout(0.5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))),
    ).train()
    x = randn(12, 6).float()
    net(x).sum().backward()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    gradients = [p.grad for p in net.parameters()]
    kept = [None if g is None else g.clone() for g in gradients]
    versions = [t._version for t in (*net.parameters(), *net.buffers())]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    state = torch.get_rng_state()
    for mode in ("eval", "train"):
        kwargs: dict[str, Any] = {"mode": mode}
        if mode == "train":
            kwargs["quantities"] = ["signal", "jacobian"]
        tables = [measure(net, x, **kwargs) for _ in range(2)]
        assert tables[0].frame.equals(tables[1].frame)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    now = [p.grad for p in net.parameters()]
    assert all(a is b for a, b in zip(now, gradients, strict=True))
    for a, b in zip(now, kept, strict=True):
        assert a is b is None or (a is not None and torch.equal(a, b))
    assert [t._version for t in (*net.parameters(), *net.buffers())] == versions
    assert all(m.training for m in net.modules())
    assert hooks == [
        (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()
    ]


def test_arguments_out_of_range_are_refused() -> None:
    from spectrank.random_nets import RandomMLP

    net, x = perceptron(), randn(4, 6)
    law = RandomMLP([6, 4], spectrum="gaussian")
    with pytest.raises(ArgumentTypeError, match="Module or a RandomMLP, got dict"):
        measure({}, x)  # type: ignore[arg-type]
    with pytest.raises(DomainError, match="belongs to a RandomMLP"):
        measure(net, x, num_networks=4)
    with pytest.raises(DomainError, match="got speed"):
        measure(net, x, quantities=["speed"])  # type: ignore[list-item]
    with pytest.raises(DomainError, match="the loader gave none"):
        measure(net, [])
    with pytest.raises(ShapeError, match=r"output, \(4,\) here"):
        measure(net, x, cotangents=torch.ones(3))
    with pytest.raises(DomainError, match="finite and not zero"):
        measure(net, x, cotangents=torch.zeros(4))
    with pytest.raises(DomainError, match="pass how many"):
        measure(law, x)
    with pytest.raises(DomainError, match="at least two networks"):
        measure(law, x, num_networks=1)
    for options in ({"num_directions": 2}, {"cotangents": torch.ones(4)}):
        with pytest.raises(DomainError, match="an option of a given module"):
            measure(law, x, num_networks=3, **options)
    with pytest.raises(ShapeError, match="have 6 entries"):
        measure(law, randn(5), num_networks=3)
    with pytest.raises(DomainError, match="not zero"):
        measure(law, torch.zeros(6), num_networks=3)
    with pytest.raises(ArgumentTypeError, match="iterable of batches"):
        measure(net, 3)


def test_an_output_that_is_not_a_number_is_said_to_be_so() -> None:
    net, x = perceptron(), randn(6, 6)
    x[3, 2] = torch.nan
    found = by_key(measure(net, x))
    for metric in ("signal_gain", "log_signal_mean", "signal_second_moment"):
        row = found["2.weight", metric, "pre"]
        assert row["status"] == "nonfinite"
        assert row["value"] != row["value"]
        assert row["reason"]
    assert found["2.weight", "cosine", "pre"]["status"] == "nonfinite"


def test_samples_of_zeros_are_left_out_and_a_row_says_so() -> None:
    net, x = perceptron(), randn(6, 6)
    plain = by_key(measure(net, x[1:], quantities=["signal"]))
    x[0] = 0.0
    table = measure(net, x, quantities=["signal"])
    for metric in ("signal_gain", "log_signal_variance", "signal_second_moment"):
        row = by_key(table)["2.weight", metric, "pre"]
        assert row["value"] == pytest.approx(plain["2.weight", metric, "pre"]["value"])
        assert row["num_samples"] == 5
    assert "left out" in skips(table)["network", "signal_gain", "input"]
