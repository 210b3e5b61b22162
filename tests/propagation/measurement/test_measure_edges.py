"""What is refused, what is left as it was, and numbers that are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from propagation_rows import by_key, perceptron, randn, randomised, skips
from torch import Tensor, nn

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.propagation import measure
from spectrank.random_nets import RandomMLP


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
    with pytest.raises(UnknownNameError, match="'random', 'logits' or a tensor"):
        measure(net, x, cotangents="logit")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"cotangents is .*, got int"):
        measure(net, x, cotangents=1)  # type: ignore[arg-type]
    for model, options in ((net, {}), (law, {"num_networks": 3})):
        with pytest.raises(ArgumentTypeError, match=r"torch\.Generator, got int"):
            measure(model, x, generator=4, **options)  # type: ignore[arg-type]


def test_batches_without_samples_or_without_their_axis_are_refused() -> None:
    net, x = perceptron(), randn(4, 6)
    law = RandomMLP([6, 4], spectrum="gaussian")
    for data in (x[:0], [x, x[:0]]):
        with pytest.raises(DomainError, match=r"none in shape \(0, 6\)"):
            measure(net, data)
    with pytest.raises(DomainError, match=r"none in shape \(0, 6\)"):
        measure(law, x[:0], num_networks=3)
    with pytest.raises(ShapeError, match=r"add a batch axis: x\[None\]"):
        measure(net, x[0])

    class Scalars(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 3)

        def forward(self, t: Tensor) -> Tensor:
            return self.layer(t[:, None])

    # One number to a sample has one axis, rightly.
    table = measure(randomised(Scalars()), x[0], quantities=["signal"])
    assert by_key(table)["layer.weight", "signal_gain", "pre"]["num_samples"] == 6


def test_inputs_of_another_precision_are_refused_with_the_dtype_to_pass() -> None:
    net, x = perceptron(), randn(4, 6)
    for model, data in ((net, x.float()), (perceptron().float(), x)):
        with pytest.raises(
            ArgumentTypeError, match=r"pass dtype=torch\.float"
        ) as error:
            measure(model, data)
        assert isinstance(error.value.__cause__, RuntimeError)
    assert by_key(measure(net, x.float(), dtype=torch.float64))

    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = perceptron()[0]

        def forward(self, t: Tensor) -> Tensor:
            return self.layer(t.double())

    # A model that converts on its own is not refused; its own errors are its own.
    assert by_key(measure(Casting(), x.float(), quantities=["signal"]))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure(net, x[:, :5])


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


def test_inputs_of_zeros_alone_have_no_gain_but_a_jacobian() -> None:
    net, zeros = perceptron(), torch.zeros(4, 6, dtype=torch.float64)
    for data in (zeros, [zeros, zeros]):
        with pytest.raises(DomainError, match="zeros alone"):
            measure(net, data)
    found = by_key(measure(net, zeros, quantities=["jacobian"]))
    assert found["4.weight", "jacobian_gain", None]["value"] > 0.0
    assert by_key(measure(net, [zeros, randn(4, 6)]))


def test_reasons_name_no_option_of_other_functions() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, t: Tensor) -> Tensor:
            h = self.layer(t)
            return h if float(h.detach().sum()) > 0.0 else -h

    table = measure(randomised(Branching()), randn(4, 6), quantities=["signal"])
    reason = skips(table)["layer.weight", "signal_gain", "post"]
    assert "no graph" in reason
    assert "wiring" not in reason

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, t: Tensor) -> Tensor:
            return self.layer(t.movedim(1, 0)).movedim(0, 1)

    table = measure(randomised(First()), randn(4, 3, 6), quantities=["signal"])
    reason = skips(table)["layer.weight", "signal_gain", None]
    assert "batch_axis=1" in reason
    assert "capture" not in reason
