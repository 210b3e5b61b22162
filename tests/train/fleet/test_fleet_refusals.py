"""What a fleet does not take is refused before the first step, with the way out."""

import math

import pytest
import torch
from fleet_loop import class_data, perceptron
from torch import nn

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.train import SGD, Adam, batch_order, stack, train_fleet


def run(net, **options):
    x, y = class_data(shape=options.pop("shape", (7,)))
    defaults = {
        "parameters": stack([net] * 3),
        "inputs": x,
        "targets": y,
        "optimizer": SGD(learning_rate=0.1),
        "max_steps": 1,
    }
    return train_fleet(net, **{**defaults, **options})


class Counting(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.layer = nn.Linear(7, 4)
        self.register_buffer("calls", torch.zeros(()))
        self._in_place = in_place

    def forward(self, x):
        if self._in_place:
            self.calls.add_(1)
        else:
            self.calls = self.calls + 1
        return self.layer(x)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(7, 4)

    def forward(self, x):
        return self.layer(x + torch.randn_like(x))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(7, 4)

    def forward(self, x):
        return self.layer(x), x


def with_norm():
    return nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4))


def with_dropout():
    return nn.Sequential(nn.Linear(7, 4), nn.Dropout(0.1))


@pytest.mark.parametrize("route", ["auto", "vmap", "loop"])
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (with_norm, r"1 \(BatchNorm1d\) updates running statistics"),
        (with_dropout, r"1 \(Dropout\) drops units at random with probability 0.1"),
        (lambda: nn.LSTM(7, 4, num_layers=2, dropout=0.5), r"LSTM\) drops units"),
        (lambda: Counting(True), "the buffer 'calls' is changed"),
        (lambda: Counting(False), "the buffer 'calls' is changed"),
        (Noisy, "random numbers|randomness"),
        (Pair, "must return one tensor, got tuple"),
    ],
)
def test_what_cannot_be_kept_apart_is_refused(make, match, route):
    net = make().double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(DomainError, match=match):
        run(net, route=route)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[name]) for name, v in net.state_dict().items())


@pytest.mark.parametrize("make", [with_norm, with_dropout])
def test_the_same_modules_are_taken_once_they_are_still(make):
    # The template's own dtype is not that of the members.
    net = make().eval()
    stacked = {name: p.double() for name, p in stack([net] * 3).items()}
    assert run(net, parameters=stacked).num_steps.tolist() == [1, 1, 1]
    assert not net.training


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"route": "fast"}, UnknownNameError, "'fast'"),
        ({"loss": "hinge"}, UnknownNameError, "'hinge'"),
        ({"optimizer": "sgd"}, ArgumentTypeError, "got str"),
        ({"max_steps": -1}, DomainError, "max_steps"),
        ({"max_steps": [1, 2]}, ShapeError, "max_steps .* 3 members"),
        ({"smoothing": 1.0}, DomainError, "smoothing"),
        ({"record_every": 0}, DomainError, "record_every"),
        ({"batch_size": 0}, DomainError, "batch_size"),
        ({"batch_size": 5}, DomainError, "seeds=None"),
        ({"batch_size": 5, "seeds": [1, 2]}, ShapeError, "seeds has one entry"),
        ({"batch_size": 5, "seeds": [1, 2, -1]}, DomainError, "a seed must lie"),
        ({"group_size": 0}, DomainError, "group_size"),
        ({"num_threads": -1}, DomainError, "num_threads"),
        ({"observe_every": 0}, DomainError, "observe_every"),
        ({"checkpoint_every": 0, "checkpoint": "x"}, DomainError, "checkpoint_every"),
        ({"arms": ["a"]}, ShapeError, "arms has one entry"),
        ({"dataset": [0, 1, 0]}, ShapeError, "training data are"),
        ({"clip_norm": 0.0}, DomainError, "clip_norm must be positive"),
        ({"schedule": lambda step: -1.0}, DomainError, "at step 0"),
        ({"schedule": lambda step: math.nan}, DomainError, "got nan"),
        ({"inputs": torch.randn(5, 7)}, ShapeError, "as many targets"),
        ({"inputs": torch.randn(48, 6)}, DomainError, "it raised RuntimeError"),
        ({"targets": torch.zeros(48)}, ShapeError, "dtype int64"),
        ({"targets": torch.full((48,), 4)}, ShapeError, r"0 \.\.\. 3"),
        ({"targets": torch.full((48,), -1)}, ShapeError, r"got -1"),
        ({"loss": "mse"}, ShapeError, "one_hot"),
        (
            {"loss": "bce_with_logits", "targets": torch.full((48, 4), 2.0)},
            ShapeError,
            r"in \[0, 1\]",
        ),
        (
            {"evaluations": {"test": (torch.randn(3, 7), torch.tensor([0, 1, 9]))}},
            ShapeError,
            "got 0 ... 9",
        ),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(options, error, match):
    with pytest.raises(error, match=match):
        run(perceptron([7, 5, 4]), **options)


@pytest.mark.parametrize(
    ("optimizer", "error", "match"),
    [
        (SGD(learning_rate=-0.1), DomainError, "learning_rate must be finite and >= 0"),
        (SGD(learning_rate=[0.1, math.nan, 0.1]), DomainError, "nan for member 1"),
        (SGD(learning_rate=[0.1, 0.2]), ShapeError, "each of the 3 members"),
        (SGD(learning_rate=0.1, nesterov=True), DomainError, "Nesterov's step needs"),
        (
            SGD(learning_rate=0.1, momentum=0.9, dampening=0.1, nesterov=True),
            DomainError,
            "dampening 0.1",
        ),
        (
            Adam(learning_rate=0.1, beta2=1.0),
            DomainError,
            r"beta2 must lie in \[0, 1\)",
        ),
        (Adam(learning_rate=0.1, eps=-1.0), DomainError, "eps must be finite"),
    ],
)
def test_a_wrong_coefficient_is_an_error_that_names_it(optimizer, error, match):
    with pytest.raises(error, match=match):
        run(perceptron([7, 5, 4]), optimizer=optimizer)


def test_a_data_set_that_is_not_there_is_an_error():
    x, y = class_data()
    with pytest.raises(DomainError, match="indices below 2"):
        run(
            perceptron([7, 5, 4]),
            inputs=torch.stack([x, x]),
            targets=torch.stack([y, y]),
            dataset=[0, 2, 1],
        )


def test_members_that_do_not_fit_the_template_are_an_error():
    net = perceptron([7, 5, 4])
    stacked = stack([net] * 3)
    missing = {name: p for name, p in stacked.items() if name != "0.bias"}
    with pytest.raises(ShapeError, match=r"differing in 0.bias"):
        run(net, parameters=missing)
    with pytest.raises(ShapeError, match=r"0.bias is \(2, 5\) for 3 members"):
        run(net, parameters=stacked | {"0.bias": stacked["0.bias"][:2]})
    with pytest.raises(ShapeError, match=r"0.weight is"):
        run(net, parameters=stacked | {"0.weight": stacked["0.weight"][:, :4]})
    with pytest.raises(ArgumentTypeError, match=r"float32 on cpu, torch.float64"):
        run(net, parameters=stacked | {"0.bias": stacked["0.bias"].float()})
    with pytest.raises(ArgumentTypeError, match="bfloat16"):
        run(net, parameters={name: p.bfloat16() for name, p in stacked.items()})
    with pytest.raises(ShapeError, match=r"number 1 differs from number 0 in 0.bias"):
        stack([net, perceptron([7, 6, 4])])
    with pytest.raises(ShapeError, match="got 0 modules"):
        stack([])


def test_the_fast_route_says_why_it_does_not_take_a_module():
    cases = {
        "is a Linear, no nn.Sequential": nn.Linear(7, 4),
        "Softplus": nn.Sequential(nn.Linear(7, 4), nn.Softplus()),
        "does not follow a linear layer": nn.Sequential(nn.ReLU(), nn.Linear(7, 4)),
        "frozen": nn.Sequential(nn.Linear(7, 7).requires_grad_(False), nn.Linear(7, 4)),
    }
    for match, net in cases.items():
        with pytest.raises(DomainError, match=match):
            run(net.double(), route="mlp")
    with pytest.raises(DomainError, match=r"without nn.Flatten"):
        run(perceptron([7, 5, 4]), shape=(3, 7), route="mlp")


def test_a_frozen_fleet_is_refused():
    net = perceptron([7, 5, 4]).requires_grad_(False)
    with pytest.raises(DomainError, match="at least one parameter"):
        run(net)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_order_of_no_samples_is_an_error(size):
    with pytest.raises(DomainError, match="batch_size"):
        next(batch_order(0, 10, size))
