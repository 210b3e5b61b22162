"""A member's run is its own: others, groups, threads and bad luck do not reach it."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from fleet_loop import class_data, order, perceptron
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64
from torch import nn

from spectrank.train import SGD, Adam, batch_order, stack, train_fleet
from spectrank.train.fleet import run as fleet_run

OPTIMIZERS = {
    "sgd": lambda m: SGD(
        learning_rate=np.linspace(0.01, 0.3, m), momentum=0.9, weight_decay=1e-3
    ),
    "adam": lambda m: Adam(learning_rate=np.linspace(0.001, 0.03, m)),
}


def run(nets, x, y, *, rule="sgd", seeds=None, **options):
    defaults = {
        "optimizer": OPTIMIZERS[rule](len(nets)),
        "batch_size": 8,
        "seeds": range(len(nets)) if seeds is None else seeds,
        "max_steps": 10,
    }
    return train_fleet(nets[0], stack(nets), x, y, **{**defaults, **options})


def assert_equal_bits(a, b, members):
    members = list(members)
    for name, value in a.parameters.items():
        assert torch.equal(value[members], b.parameters[name][members]), name
    assert np.array_equal(a.losses[:, members], b.losses[:, members], equal_nan=True)


@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("planted", "route"),
    [(math.nan, "mlp"), (math.inf, "mlp"), (math.nan, "vmap"), (math.nan, "loop")],
)
def test_nan_planted_in_one_member_leaves_the_others_bit_identical(
    planted, route, dtype, rule
):
    nets = [perceptron([7, 9, 5, 4], seed=i, dtype=dtype) for i in range(6)]
    x, y = class_data(dtype=dtype)
    options = {"rule": rule, "group_size": 3, "route": route, "batch_size": 9}
    whole = run(nets, x, y, **options)
    with torch.no_grad():
        nets[4][2].weight[1, 2] = planted
    hurt = run(nets, x, y, **options)
    assert hurt.status == ("max_steps",) * 4 + ("nonfinite", "max_steps")
    assert hurt.num_steps.tolist() == [10, 10, 10, 10, 0, 10]
    assert_equal_bits(hurt, whole, [0, 1, 2, 3, 5])
    # Frozen as it was found.
    for name, value in hurt.parameters.items():
        given = nets[4].get_parameter(name).detach()
        assert torch.equal(value[4].nan_to_num(), given.nan_to_num())


def test_a_member_that_diverges_on_the_way_leaves_the_others_bit_identical():
    nets = [perceptron([7, 9, 4], seed=i) for i in range(5)]
    x, y = class_data()
    x = x * 10
    rates = np.array([0.01, 0.02, 1e200, 0.03, 0.04])
    hurt = run(nets, x, y, optimizer=SGD(learning_rate=rates), max_steps=20)
    rates[2] = 0.01
    whole = run(nets, x, y, optimizer=SGD(learning_rate=rates), max_steps=20)
    assert hurt.status[2] == "nonfinite"
    assert 1 <= hurt.num_steps[2] < 20
    assert_equal_bits(hurt, whole, [0, 1, 3, 4])
    # Kept as it was when its loss was no number, before that step's update.
    rates[2] = 1e200
    upto = int(hurt.num_steps[2])
    short = run(nets, x, y, optimizer=SGD(learning_rate=rates), max_steps=upto)
    for name, value in hurt.parameters.items():
        assert torch.equal(value[2], short.parameters[name][2])


@pytest.mark.parametrize("route", ["mlp", "vmap", "loop"])
def test_fleets_of_one_three_and_sixty_four_agree(route):
    nets = [perceptron([7, 9, 4], seed=i) for i in range(64)]
    x, y = class_data()
    rates = np.linspace(0.01, 0.3, 64)

    def fleet(members, group_size):
        return run(
            [nets[i] for i in members],
            x,
            y,
            optimizer=SGD(learning_rate=rates[members], momentum=0.9),
            seeds=members,
            group_size=group_size,
            route=route,
        )

    whole = fleet(list(range(64)), 16)
    parts = [([7], 1), ([3, 40, 63], 3)]
    parts += [(list(range(64)), 1)] if route == "mlp" else []
    for members, size in parts:
        part = fleet(members, size)
        for name, value in part.parameters.items():
            assert float((value - whole.parameters[name][members]).abs().max()) <= (
                FLOAT64
            )
        assert np.abs(part.losses - whole.losses[:, members]).max() <= FLOAT64


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 19), min_size=1, max_size=3),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    rule=st.sampled_from(list(OPTIMIZERS)),
    batch_size=st.integers(1, 20),
    size=st.integers(2, 5),
)
def test_groups_of_any_size_but_one_give_the_same_bits_on_a_cpu(
    widths, activation, dtype, rule, batch_size, size
):
    # Odd widths: entries left over by vector instructions and matrices that start off
    # an aligned address are rounded otherwise.
    nets = [
        perceptron([7, *widths, 4], activation=activation, seed=i, dtype=dtype)
        for i in range(7)
    ]
    x, y = class_data(dtype=dtype)
    options = {"rule": rule, "batch_size": batch_size, "clip_norm": 0.5}
    # One after the other stops: groups shrink, and are put together anew.
    options |= {"max_steps": [1, 9, 2, 3, 9, 4, 9]}
    with mock.patch.object(fleet_run, "STRIDE", 4):
        whole = run(nets, x, y, group_size=7, **options)
        parts = run(nets, x, y, group_size=size, **options)
    assert_equal_bits(parts, whole, range(7))


def test_one_unit_in_a_layer_and_one_member_left_give_the_same_bits():
    nets = [
        perceptron([7, 20, 1, 20, 1], seed=i, dtype=torch.float32) for i in range(4)
    ]
    x, _ = class_data(dtype=torch.float32)
    y = (x[:, :1] > 0).float()
    options = {"loss": "bce_with_logits", "batch_size": 20, "group_size": 4}
    with mock.patch.object(fleet_run, "STRIDE", 4):
        whole = run(nets, x, y, max_steps=12, **options)
        last = run(nets, x, y, max_steps=[1, 2, 12, 6], **options)
    assert_equal_bits(last, whole, [2])
    # Nor is a fleet cut into groups of one.
    pairs = run(nets, x, y, max_steps=12, **{**options, "num_threads": 3})
    assert_equal_bits(pairs, whole, range(4))


def test_threads_change_nothing_and_are_given_back():
    nets = [perceptron([7, 9, 4], seed=i) for i in range(9)]
    x, y = class_data()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        beside = run(nets, x, y, group_size=2, num_threads=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    in_turn = run(nets, x, y, group_size=2, num_threads=1)
    assert_equal_bits(beside, in_turn, range(9))


def test_an_error_in_a_thread_is_raised_and_threads_are_given_back():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(7, 4)

        def forward(self, x):
            # The trial has 32 samples at the most.
            if len(x) > 32:
                raise ArithmeticError("planted")
            return self.layer(x)

    nets = [Failing().double() for _ in range(4)]
    x, y = class_data(num_samples=80)
    before = torch.get_num_threads()
    for threads in (1, 2):
        with pytest.raises(ArithmeticError, match="planted"):
            run(nets, x, y, batch_size=40, group_size=1, num_threads=threads)
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_the_batch_order_depends_on_the_seed_alone(seed):
    ours, truth = batch_order(seed, 23, 5), order(seed, 23, 5)
    for _ in range(11):
        assert torch.equal(next(ours), next(truth))
    whole = batch_order(seed, 23)
    assert torch.equal(next(whole), torch.arange(23))
    assert torch.equal(next(whole), torch.arange(23))


def test_equal_members_with_equal_seeds_stay_equal_and_with_others_do_not():
    net = perceptron([7, 9, 4])
    x, y = class_data()
    result = run([net] * 3, x, y, optimizer=SGD(learning_rate=0.1), seeds=[5, 5, 6])
    assert np.array_equal(result.losses[:, 0], result.losses[:, 1])
    assert not np.array_equal(result.losses[:, 0], result.losses[:, 2])


def test_the_global_generator_and_what_is_given_stay_as_they_were():
    nets = [perceptron([7, 9, 4], seed=i) for i in range(2)]
    stacked = stack(nets)
    before = {name: p.clone() for name, p in stacked.items()}
    x, y = class_data()
    held = x.clone()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for route in ("mlp", "vmap", "loop"):
        train_fleet(
            nets[0],
            stacked,
            x,
            y,
            optimizer=SGD(learning_rate=0.1),
            batch_size=8,
            seeds=[0, 1],
            max_steps=2,
            route=route,
        )
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(held, x)
    assert all(torch.equal(p, before[name]) for name, p in stacked.items())


def test_stopped_members_are_frozen_and_the_others_go_on_bit_for_bit():
    nets = [perceptron([7, 9, 4], seed=i) for i in range(6)]
    x, y = class_data()
    steps = [3, 10, 0, 7, 20, 1]
    mixed = run(nets, x, y, max_steps=steps, group_size=4)
    assert mixed.num_steps.tolist() == steps
    for upto in sorted(set(steps)):
        alone = run(nets, x, y, max_steps=upto, group_size=6)
        members = [i for i, count in enumerate(steps) if count == upto]
        for name, value in alone.parameters.items():
            assert torch.equal(value[members], mixed.parameters[name][members])


def test_the_fast_route_keeps_nothing_for_autograd():
    # No (M, B, ...) graph: nothing is saved for a backward pass.
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    nets = [perceptron([7, 9, 4], seed=i) for i in range(3)]
    x, y = class_data()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(nets, x, y, num_threads=1)
        assert not saved
        run(nets, x, y, num_threads=1, route="loop")
    assert saved
