"""Settings of an optimizer against what one of its steps does to a weight."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64
from torch import nn

from spectrank.errors import ArgumentTypeError, UnknownNameError
from spectrank.model.optimizer import read_optimizer

RATE, DECAY, STEPS = 0.03, 0.2, 8

# Every optimizer of the table with its options, as its documentation names them.
COUPLED = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.8, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "maximize": True}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Adamax", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("Adadelta", {}),
    ("ASGD", {"lambd": 0.0}),
]
DECOUPLED = [
    ("AdamW", {}),
    ("Adam", {"decoupled_weight_decay": True}),
    ("NAdam", {"decoupled_weight_decay": True}),
    ("RAdam", {"decoupled_weight_decay": True}),
    ("Adafactor", {}),
]
if hasattr(torch.optim, "Muon"):
    DECOUPLED += [("Muon", {}), ("Muon", {"nesterov": False, "momentum": 0.5})]
WITHOUT = [("Rprop", {}), ("SparseAdam", {}), ("LBFGS", {})]


def weight():
    generator = torch.Generator().manual_seed(5)
    return nn.Parameter(torch.randn(4, 3, dtype=torch.float64, generator=generator))


def gradients(count=STEPS):
    generator = torch.Generator().manual_seed(6)
    return [
        torch.randn(4, 3, dtype=torch.float64, generator=generator)
        for _ in range(count)
    ]


def make(name, parameter, **options):
    return getattr(torch.optim, name)([parameter], lr=RATE, **options)


def one_step(optimizer, parameter, gradient):
    parameter.grad = gradient.clone()
    optimizer.step()
    return parameter.detach().clone()


@pytest.mark.parametrize(("name", "options"), COUPLED)
def test_coupled_decay_is_a_term_of_the_gradient(name, options):
    # The meaning of coupled: the same optimizer without decay, fed g + d w, moves
    # alike. Eight steps: RAdam is plain momentum for the first five.
    a, b = weight(), weight()
    with_decay = make(name, a, weight_decay=DECAY, **options)
    without = make(name, b, weight_decay=0.0, **options)
    (read,) = read_optimizer(with_decay)
    assert (read.decay_kind, read.weight_decay) == ("coupled", DECAY)
    assert read_optimizer(without)[0].decay_kind == "none"
    sign = -1.0 if read.maximize else 1.0
    for g in gradients():
        fed = g + sign * read.weight_decay * b.detach()
        assert torch.allclose(
            one_step(with_decay, a, g), one_step(without, b, fed), atol=FLOAT64, rtol=0
        )


@pytest.mark.parametrize(("name", "options"), DECOUPLED)
def test_decoupled_decay_shrinks_the_weight_beside_the_step(name, options):
    # The step depends on the gradients alone (Adafactor's on the weight's norm too:
    # its first step only), so a twin without decay shows it. Eight steps, since RAdam
    # is plain momentum for five.
    decayed, twin, fed_twin = weight(), weight(), weight()
    with_decay = make(name, decayed, weight_decay=DECAY, **options)
    without = make(name, twin, weight_decay=0.0, **options)
    coupled = make(name, fed_twin, weight_decay=0.0, **options)
    (read,) = read_optimizer(with_decay)
    assert (read.decay_kind, read.weight_decay) == ("decoupled", DECAY)
    shrink = 1.0 - read.learning_rate * read.weight_decay
    for g in gradients(1 if name == "Adafactor" else STEPS):
        before, twin_before = decayed.detach().clone(), twin.detach().clone()
        expected = shrink * before + (one_step(without, twin, g) - twin_before)
        moved = one_step(with_decay, decayed, g)
        assert torch.allclose(moved, expected, atol=FLOAT64, rtol=0)
        fed = g + read.weight_decay * fed_twin.detach()
        as_coupled = one_step(coupled, fed_twin, fed)
    assert not torch.allclose(moved, as_coupled, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "options"), COUPLED + DECOUPLED + WITHOUT)
def test_no_decay_leaves_a_weight_without_gradient_where_it_is(name, options):
    if name not in {"Rprop", "SparseAdam", "LBFGS"}:
        options = options | {"weight_decay": 0.0}
    parameter = weight()
    before = parameter.detach().clone()
    optimizer = make(name, parameter, **options)
    (read,) = read_optimizer(optimizer)
    assert (read.decay_kind, read.weight_decay) == ("none", 0.0)
    zero = torch.zeros(4, 3, dtype=torch.float64)
    parameter.grad = zero.to_sparse() if name == "SparseAdam" else zero
    optimizer.step((lambda: zero.sum()) if name == "LBFGS" else None)
    assert torch.equal(parameter.detach(), before)


def test_asgd_shrinks_by_lambd_even_without_weight_decay():
    # The false friend: weight_decay=0, the default lambd, and yet the weight decays.
    parameter = weight()
    optimizer = make("ASGD", parameter, weight_decay=0.1, lambd=0.05, alpha=0.75)
    for step in range(3):
        (read,) = read_optimizer(optimizer)
        # The documented rate: eta_0 (1 + lambd eta_0 t)^-alpha.
        # torch keeps it in float32, whatever the weight is.
        rate = RATE / (1.0 + 0.05 * RATE * step) ** 0.75 if step else RATE
        assert read.learning_rate == pytest.approx(rate, rel=1e-7)
        assert read.weight_decay == pytest.approx(0.15, rel=FLOAT64)
        before = parameter.detach().clone()
        moved = one_step(optimizer, parameter, torch.zeros_like(before))
        shrink = 1.0 - read.learning_rate * read.weight_decay
        assert torch.allclose(moved, shrink * before, atol=1e-9, rtol=0)
    default = make("ASGD", weight())
    assert read_optimizer(default)[0].decay_kind == "coupled"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    momentum=st.sampled_from([0.0, 0.3, 0.9]),
    dampening=st.sampled_from([0.0, 0.4]),
    nesterov=st.booleans(),
    maximize=st.booleans(),
    decay=st.sampled_from([0.0, 0.2]),
    rate=st.sampled_from([1e-3, 0.1]),
)
def test_sgd_follows_the_conventions_of_the_module(
    momentum, dampening, nesterov, maximize, decay, rate
):
    nesterov = nesterov and momentum > 0.0
    dampening = 0.0 if nesterov else dampening
    parameter = weight()
    optimizer = torch.optim.SGD(
        [parameter],
        lr=rate,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        weight_decay=decay,
    )
    w = parameter.detach().clone()
    v = None
    for g in gradients():
        (read,) = read_optimizer(optimizer)
        assert not read.adaptive
        g_here = (-g if read.maximize else g) + read.weight_decay * w
        fresh = (1.0 - read.dampening) * g_here
        v = g_here if v is None else read.momentum * v + fresh
        w = w - read.learning_rate * (
            g_here + read.momentum * v if read.nesterov else v
        )
        assert torch.allclose(
            one_step(optimizer, parameter, g), w, atol=FLOAT64, rtol=0
        )


@pytest.mark.parametrize(("name", "options"), COUPLED + DECOUPLED + WITHOUT[:2])
def test_adaptive_means_that_a_doubled_gradient_does_not_double_the_step(name, options):
    moves = []
    for factor in (1.0, 2.0):
        parameter = weight()
        optimizer = make(name, parameter, **options)
        if name not in {"Rprop", "SparseAdam"}:
            optimizer.param_groups[0]["weight_decay"] = 0.0
        before = parameter.detach().clone()
        for g in gradients():
            parameter.grad = factor * (g.to_sparse() if name == "SparseAdam" else g)
            optimizer.step()
        moves.append(parameter.detach() - before)
    linear = torch.allclose(moves[1], 2.0 * moves[0], atol=FLOAT64, rtol=1e-9)
    assert read_optimizer(optimizer)[0].adaptive is not linear


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax"])
def test_betas_weigh_the_running_average_of_the_gradient(name):
    parameter = weight()
    optimizer = make(name, parameter, betas=(0.7, 0.95), weight_decay=0.0)
    first, second = gradients(2)
    one_step(optimizer, parameter, first)
    one_step(optimizer, parameter, second)
    (read,) = read_optimizer(optimizer)
    b = read.betas[0]
    expected = b * (1.0 - b) * first + (1.0 - b) * second
    assert torch.allclose(optimizer.state[parameter]["exp_avg"], expected, atol=FLOAT64)
    assert read.betas == (0.7, 0.95)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_the_momentum_buffer_of_muon_is_dampened_by_its_momentum():
    parameter = weight()
    optimizer = make("Muon", parameter, momentum=0.6)
    first, second = gradients(2)
    one_step(optimizer, parameter, first)
    one_step(optimizer, parameter, second)
    (read,) = read_optimizer(optimizer)
    m, kept = read.momentum, 1.0 - read.dampening
    expected = m * kept * first + kept * second
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert torch.allclose(buffer, expected, atol=FLOAT64)


def test_the_learning_rate_of_adagrad_is_that_of_the_next_step():
    # Two equal gradients of one: the accumulators are 1 and 2, the steps rate / sqrt.
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make("Adagrad", parameter, lr_decay=0.5, eps=0.0)
    for step in range(3):
        (read,) = read_optimizer(optimizer)
        before = parameter.item()
        one_step(optimizer, parameter, torch.ones(1, dtype=torch.float64))
        moved = before - parameter.item()
        expected = read.learning_rate / math.sqrt(step + 1)
        assert moved == pytest.approx(expected, rel=FLOAT64)


def test_groups_tensor_rates_and_schedules_are_read_as_they_are_now():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[0].weight, model[2].weight], "weight_decay": 0.1},
            {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0},
        ],
        lr=torch.tensor(0.25),
        foreach=False,
    )
    optimizer.param_groups[1]["lr"] = 0.5
    read = read_optimizer(optimizer, model)
    assert [(s.name, s.group, s.learning_rate, s.decay_kind) for s in read] == [
        ("0.weight", 0, 0.25, "decoupled"),
        ("2.weight", 0, 0.25, "decoupled"),
        ("0.bias", 1, 0.5, "none"),
        ("2.bias", 1, 0.5, "none"),
    ]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, step_size=1, gamma=0.1)
    sgd.step()
    schedule.step()
    assert {s.learning_rate for s in read_optimizer(sgd)} == {0.1}


def test_a_parameter_without_a_model_is_named_by_the_optimizer_or_its_place():
    layer = nn.Linear(3, 2)
    named = torch.optim.SGD(layer.named_parameters(), lr=0.1)
    assert [s.name for s in read_optimizer(named)] == ["weight", "bias"]
    bare = torch.optim.SGD(layer.parameters(), lr=0.1)
    assert [s.name for s in read_optimizer(bare, nn.Linear(3, 2))] == [
        "group 0, parameter 0",
        "group 0, parameter 1",
    ]


class HalfRate(torch.optim.SGD):
    """Inherits every setting of SGD and moves half as far."""


class Foreign(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "weight_decay": 0.1})

    def step(self, closure=None):
        return None


def test_an_unknown_optimizer_is_named_and_not_guessed():
    (foreign,) = read_optimizer(Foreign([weight()]))
    assert not foreign.known
    assert foreign.algorithm.endswith("Foreign")
    assert foreign.decay_kind == "unknown"
    assert foreign.learning_rate is foreign.weight_decay is foreign.adaptive is None
    assert "as_type" in foreign.reason
    (half,) = read_optimizer(HalfRate([weight()], lr=0.1))
    assert not half.known
    assert "subclass of SGD" in half.reason
    assert half.learning_rate is None
    (declared,) = read_optimizer(HalfRate([weight()], lr=0.1), as_type=torch.optim.SGD)
    assert (declared.known, declared.learning_rate) == (True, 0.1)


def test_wrong_arguments_are_told_what_to_pass():
    with pytest.raises(ArgumentTypeError, match="a wrapper holds"):
        read_optimizer(nn.Linear(2, 2))
    optimizer = torch.optim.SGD([weight()], lr=0.1)
    with pytest.raises(UnknownNameError, match="as_type must be one of SGD"):
        read_optimizer(optimizer, as_type=Foreign)


def test_reading_changes_nothing_in_the_optimizer():
    parameter = weight()
    optimizer = make("Adam", parameter)
    assert len(optimizer.state) == 0
    read_optimizer(optimizer)
    # A defaultdict would have grown an entry, which Adam takes for a started state.
    assert len(optimizer.state) == 0
