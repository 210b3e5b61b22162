"""False laws by their rates, networks against modules of torch, laws entry by entry."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.experiments.le2022training.conservation import (
    channels,
    controls,
    followed,
)
from spectrank.experiments.le2022training.conservation.followed import FollowedSize
from spectrank.experiments.le2022training.problems import gaussian, separable, slope

CASES = {case.name: case for case in controls.cases()}


def drawn(case, num=3):
    labels = ("false laws", case.name)
    data = separable(11, labels, num, 8, 12)
    return replace(data, forward=case.forward), gaussian(11, labels, num, case.shapes)


@pytest.mark.parametrize("name", sorted(CASES))
def test_laws_have_rate_zero_and_false_ones_have_not(name):
    problem, params = drawn(CASES[name])
    found, step = slope(problem, params).of_risk(), 1e-5
    ahead = {k: v - step * found[k] for k, v in params.items()}
    behind = {k: v + step * found[k] for k, v in params.items()}
    for quantity in CASES[name].quantities:
        rate = (quantity.of(ahead) - quantity.of(behind)) / (2 * step)
        largest = float(rate.abs().max())
        if quantity.name == "scale":
            # Up to eps over the variance.
            assert 1e-9 < largest < 1e-3
        elif quantity.conserved:
            assert largest < 1e-9, quantity.name
        elif quantity.name != "channels-absolute":
            assert largest > 1e-4, quantity.name
        else:
            # |w| is no smooth function of the weights, but it is one near these.
            assert largest > 1e-3


def loaded(module, params, r, names):
    module = module.double()
    module.load_state_dict({own: params[k][r] for own, k in names.items()})
    return module


def dense(params, r, name):
    weight = params[f"{name}.weight"][r]
    layer = nn.Linear(weight.shape[1], len(weight), bias=f"{name}.bias" in params)
    kinds = [kind for kind in ("weight", "bias") if f"{name}.{kind}" in params]
    return loaded(layer, params, r, {kind: f"{name}.{kind}" for kind in kinds})


def test_the_normalised_network_is_batch_norm_of_torch_in_training_mode():
    problem, params = drawn(CASES["normalised"])
    for r in range(3):
        norm = nn.BatchNorm1d(6, eps=1e-5, track_running_stats=False)
        norm = loaded(norm, params, r, {"weight": "gamma", "bias": "beta"})
        net = nn.Sequential(
            dense(params, r, "first"), norm, nn.ReLU(), dense(params, r, "head")
        )
        expected = net(problem.inputs[r])[:, 0]
        torch.testing.assert_close(problem.forward(params, problem.inputs)[r], expected)


@pytest.mark.parametrize(
    ("name", "act"),
    [("gelu", nn.GELU()), ("tanh", nn.Tanh()), ("biases-relu", nn.ReLU())],
)
def test_two_layer_networks_are_those_of_torch(name, act):
    problem, params = drawn(CASES[name])
    for r in range(3):
        net = nn.Sequential(dense(params, r, "first"), act, dense(params, r, "head"))
        found = problem.forward(params, problem.inputs)[r]
        torch.testing.assert_close(found, net(problem.inputs[r])[:, 0])


def test_the_gate_of_a_gated_unit_is_silu():
    problem, params = drawn(CASES["gated"])
    x = problem.inputs[0]
    z = dense(params, 0, "gate")(x)
    h = z * torch.sigmoid(z) * dense(params, 0, "up")(x)
    found = problem.forward(params, problem.inputs)[0]
    torch.testing.assert_close(found, dense(params, 0, "head")(h)[:, 0])


def conv(params, r, name):
    weight = params[f"{name}.weight"][r]
    layer = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2])
    names = {kind: f"{name}.{kind}" for kind in ("weight", "bias")}
    return loaded(layer, params, r, names)


@pytest.mark.parametrize("name", ["convolutions", "pooled-max", "pooled-average"])
def test_convolutional_networks_are_those_of_torch(name):
    problem, params = drawn(CASES[name])
    for r in range(3):
        layers = [conv(params, r, "first")]
        if name == "convolutions":
            layers += [conv(params, r, "second"), nn.Flatten()]
            layers += [dense(params, r, "dense")]
        elif name == "pooled-max":
            layers += [nn.AdaptiveMaxPool1d(1), nn.Flatten()]
        else:
            layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten()]
        net = nn.Sequential(*layers, dense(params, r, "head"))
        found = problem.forward(params, problem.inputs)[r]
        torch.testing.assert_close(found, net(problem.inputs[r][:, None])[:, 0])


def test_laws_of_channels_are_sums_over_their_edges():
    _, params = drawn(CASES["convolutions"])
    signed = channels.channel_law(params)
    absolute = channels.channel_law(params, absolute=True)
    columns = channels.columns_law(params, by_channel=True)
    mixed = channels.columns_law(params, by_channel=False)
    for r in range(3):
        p = {k: v[r].numpy() for k, v in params.items()}
        w, b, v = p["first.weight"], p["first.bias"], p["second.weight"]
        total = (w[0] * w[2]).sum() + b[0] * b[2] - (v[:, 0] * v[:, 2]).sum()
        assert float(signed[r, 0, 2]) == pytest.approx(total)
        assert float(signed[r, 1, 1]) == 0.0
        total = np.abs(w[0] * w[2]).sum() + abs(b[0] * b[2])
        total -= np.abs(v[:, 0] * v[:, 2]).sum()
        assert float(absolute[r, 0, 2]) == pytest.approx(total)
        entering = (v[1] ** 2).sum() + p["second.bias"][1] ** 2
        dense_weight = p["dense.weight"]
        # (C, positions) = (4, 4): channel 1 is columns 4 to 7.
        leaving = (dense_weight[:, 4:8] ** 2).sum()
        assert float(columns[r, 1]) == pytest.approx(entering - leaving)
        leaving = (dense_weight[:, 1::4] ** 2).sum()
        assert float(mixed[r, 1]) == pytest.approx(entering - leaving)


def test_every_claim_on_false_laws_reads_its_own_drift():
    size, cases = FollowedSize(5), list(CASES.values())
    asked = followed.questions(controls.NAME, cases, size)
    quantities = [quantity for case in cases for quantity in case.quantities]
    names = [question.claim.key.split(".")[-1] for question in asked]
    assert names == [quantity.name for quantity in quantities]
    assert len(set(names)) == len(names)
    # What fails is said by us alone.
    assert all(q.conserved or not q.place for q in quantities)
    y = np.empty((5, len(asked), len(size.times)))
    for k, quantity in enumerate(quantities):
        y[:, k] = 1e-8 if quantity.conserved else 2.0
    y *= 1.0 + 0.1 * np.arange(5)[:, None, None]
    assert {q.rows(y, 0)[0]["verdict"] for q in asked} == {"reproduced"}
    swapped = np.where(y > 1.0, 1e-8, 2.0)
    assert {q.rows(swapped, 0)[0]["verdict"] for q in asked} == {"contradicted"}
