"""What is recorded of a network, against slow computations on single networks."""

import math

import numpy as np
import pytest
import torch
from tolerances import FLOAT64

from spectrank.experiments.georgiev2021stable.signal import observables
from spectrank.experiments.georgiev2021stable.signal.kinks import (
    KINKS,
    count_kinks,
    planes,
)
from spectrank.propagation.pieces import arc, count_pieces
from spectrank.random_nets import RandomMLP

# Networks run in float32; logs and ratios of a few layers lose a few of its digits.
FLOAT32 = 2e-5
NUM = 3


@pytest.fixture(scope="module")
def inputs():
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator())
    return x / x.norm(dim=1, keepdim=True)


def recorded(observe, law, inputs, num=NUM):
    """The records, and the networks they belong to, as lists of float64 weights."""
    found = observe(
        law, inputs, num_networks=num, generator=torch.Generator().manual_seed(7)
    )
    stacked = law.sample_weights(
        torch.Generator().manual_seed(7), num=num, dtype=torch.float32
    )
    assert found.dtype == torch.float64
    return found.numpy(), [[W[k].double() for W in stacked] for k in range(num)]


def relu_net(weights, x, *, last=True):
    for k, W in enumerate(weights):
        x = W @ x
        if last or k < len(weights) - 1:
            x = torch.relu(x)
    return x


LAW = RandomMLP((8, 9, 7, 6), stable_rank=(3, 2, 2.5), spectrum="slice")


def test_moments_are_means_over_the_inputs(inputs):
    found, networks = recorded(observables.MOMENTS, LAW, inputs)
    for row, weights in zip(found, networks, strict=True):
        y = [float(relu_net(weights, x).square().sum()) for x in inputs]
        truth = [np.mean(y), np.mean(np.square(y))]
        assert row == pytest.approx(truth, rel=FLOAT32)


def test_logs_are_recorded_by_layer_and_of_one_input_a_network(inputs):
    found, networks = recorded(observables.LOG_SIGNALS, LAW, inputs)
    for k, (row, weights) in enumerate(zip(found, networks, strict=True)):
        for depth in (1, 2, 3):
            logs = [
                math.log(float(relu_net(weights[:depth], x).square().sum()))
                for x in inputs
            ]
            powers = [np.mean(np.power(logs, j)) for j in range(4)]
            assert row[depth - 1] == pytest.approx([*powers, logs[k]], rel=FLOAT32)


def test_dead_signals_are_left_out_of_the_cumulants():
    y = torch.tensor([[math.e, 0.0, math.e**3, 1.0]], dtype=torch.float64)
    means = observables._log_moments(y).numpy()
    assert means[0, 0] == 0.75
    logs = np.array([1.0, 3.0, 0.0])
    third = ((logs - logs.mean()) ** 3).mean()
    found = observables.log_cumulants(means)[0]
    assert found == pytest.approx([logs.mean(), logs.var(), third], rel=FLOAT64)


def test_gram_moments_are_means_over_pairs(inputs):
    law = RandomMLP((8, 9, 7), stable_rank=(3, 2), activation="linear")
    found, networks = recorded(observables.GRAM, law, inputs)
    for row, weights in zip(found, networks, strict=True):
        h = inputs.T
        for depth, W in enumerate(weights):
            h = W @ h
            pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
            dots = [float(h[:, i] @ h[:, j]) ** 2 for i, j in pairs]
            sizes = [float(h[:, i].norm() * h[:, j].norm()) ** 2 for i, j in pairs]
            assert row[depth] == pytest.approx(
                [np.mean(dots), np.mean(sizes)], rel=FLOAT32
            )


def test_lengths_are_derivatives_along_the_sides(inputs):
    found, networks = recorded(observables.LENGTHS, LAW, inputs)
    for row, weights in zip(found, networks, strict=True):
        for depth in (1, 2, 3):
            image = length = 0.0
            for i in range(5):
                a, b = inputs[i], inputs[(i + 1) % 5]
                # A finite difference: the network is linear around the middle.
                middle, side = (a + b) / 2.0, b - a
                ends = [
                    relu_net(weights[:depth], middle + s * side) for s in (-1e-7, 1e-7)
                ]
                image += float((ends[1] - ends[0]).norm()) / 2e-7
                length += float(side.norm())
            assert row[depth - 1] == pytest.approx(image / length, rel=FLOAT32)


def test_gradients_are_those_of_autograd(inputs):
    found, networks = recorded(observables.GRADIENTS, LAW, inputs)
    for row, weights in zip(found, networks, strict=True):
        y = []
        for x in inputs:
            leaf = x.clone().requires_grad_()
            relu_net(weights, leaf, last=False)[0].backward()
            y.append(float(leaf.grad.square().sum()))
        logs = np.log(y)
        truth = [1.0, *(np.mean(logs**j) for j in (1, 2, 3))]
        truth += [np.mean(y), np.mean(np.square(y))]
        assert row == pytest.approx(truth, rel=FLOAT32)


# ------------------------------------------------------------------------- kinks


def test_planes_are_orthonormal_and_hold_two_inputs(inputs):
    found = planes(inputs, 7)
    gram = found @ found.transpose(0, 2, 1)
    assert np.abs(gram - np.eye(2)).max() < FLOAT64
    for k in range(7):
        for x in (inputs[k % 5], inputs[(k + 1) % 5]):
            inside = found[k].T @ (found[k] @ x.numpy())
            assert np.abs(inside - x.numpy()).max() < FLOAT64


@pytest.mark.parametrize(
    ("spectrum", "rank"), [("flat", 2.0), ("spike", 1.5), ("orthogonal", None)]
)
def test_kinks_are_those_of_the_general_counter(inputs, spectrum, rank):
    law = RandomMLP((8, 12, 6, 10, 3), stable_rank=rank, spectrum=spectrum)
    generator = torch.Generator().manual_seed(3)
    # The output layer of a module has no ReLU; the recorder's last one has.
    stacked = law.sample_weights(generator, num=6)
    hidden = [W.numpy() for W in stacked[:-1]]
    found = count_kinks(hidden, planes(inputs, 6))
    for k in range(6):
        modules = []
        for W in stacked:
            m, n = W.shape[1:]
            linear = torch.nn.Linear(n, m, bias=False, dtype=torch.float64)
            linear.weight = torch.nn.Parameter(W[k])
            modules += [linear, torch.nn.ReLU()]
        net = torch.nn.Sequential(*modules[:-1])
        curve = arc(inputs[k % 5], inputs[(k + 1) % 5])
        table = count_pieces(net, curve)
        peer = [
            table.value(f"{2 * layer}.weight", "new_kinks", variant="count")
            for layer in range(3)
        ]
        assert found[k].tolist() == peer


def test_kinks_are_the_sign_changes_on_a_fine_grid(inputs):
    law = RandomMLP((8, 9, 7, 6), stable_rank=(3, 3, 3), spectrum="spike")
    found, networks = recorded(KINKS, law, inputs)
    angles = torch.linspace(0.0, math.pi, 200_001, dtype=torch.float64)
    for k, weights in enumerate(networks):
        p, q = torch.from_numpy(planes(inputs, NUM)[k])
        h = torch.cos(angles) * p[:, None] + torch.sin(angles) * q[:, None]
        for depth, W in enumerate(weights):
            z = W @ h
            changes = ((z[:, 1:] > 0) != (z[:, :-1] > 0)).sum()
            assert found[k, depth] == int(changes)
            h = torch.relu(z)


def test_the_first_layer_has_one_kink_for_each_unit_and_a_dead_one_has_none():
    planes_ = np.eye(3)[None, :2]
    W = np.random.default_rng(0).normal(size=(1, 4, 3))
    # One unit after it that is never active: what follows is 0 throughout.
    dead = -np.ones((1, 1, 4))
    found = count_kinks([W, dead, np.ones((1, 5, 1))], planes_)
    assert found.tolist() == [[4, 0, 0]]
