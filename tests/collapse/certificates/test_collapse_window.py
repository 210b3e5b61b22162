"""The window recursion against torch.optim.SGD itself."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.collapse.certificates import (
    NORMS,
    window_bound,
    window_factors,
    window_rank,
)
from spectrank.errors import DomainError, ShapeError

KINDS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.8, "dampening": 0.3},
    "nesterov": {"momentum": 0.7, "nesterov": True},
    "ascent": {"momentum": 0.5, "maximize": True},
}


def run(kind, num_steps, seed, *, rank=1, start=0, gradients=True):
    """SGD with a schedule; weights and buffers after every step."""
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    W = nn.Parameter(torch.randn(9, 12, **options))
    optimizer = torch.optim.SGD([W], lr=0.1, weight_decay=0.4, **KINDS[kind])
    states, rates = [(W.detach().clone(), None)], []
    for t in range(start + num_steps):
        optimizer.param_groups[0]["lr"] = rate = 0.2 + 0.1 * math.cos(t)
        scale = 1.0 if gradients or t < start else 0.0
        left = torch.randn(9, rank, **options)
        W.grad = scale * left @ torch.randn(rank, 12, **options)
        optimizer.step()
        buffer = optimizer.state[W].get("momentum_buffer")
        states.append((W.detach().clone(), None if buffer is None else buffer.clone()))
        rates.append(rate)
    return states, rates


def settings(kind):
    return {k: v for k, v in KINDS[kind].items() if k != "maximize"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [0, 3])
def test_without_gradients_the_factors_are_the_whole_of_sgd(kind, start):
    states, rates = run(kind, 5, 1, start=start, gradients=False)
    W, v = states[start]
    a, b = window_factors(rates[start:], 0.4, first_step=start == 0, **settings(kind))
    rest = a * W + (0.0 if v is None else b * v)
    assert float((states[-1][0] - rest).abs().max()) < 1e-14
    assert abs(a) < 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_last_minibatches_give_the_rest_and_the_bound_holds(kind, norm):
    start, num_steps, rank = 4, 3, 2
    states, rates = run(kind, num_steps, 2, rank=rank, start=start)
    (W, v), now = states[start], states[-1][0]
    found = window_bound(
        now,
        W,
        rates[start:],
        weight_decay=0.4,
        batch_rank=rank,
        buffer_before=v,
        norm=norm,
        **settings(kind),
    )
    assert found.rank == num_steps * rank
    rest = found.weight_factor * W + (0.0 if v is None else found.buffer_factor * v)
    given = np.linalg.svd((now - rest).numpy(), compute_uv=False)
    assert given[found.rank] < 1e-13 < given[found.rank - 1]
    order = {"frobenius": "fro", "spectral": 2, "nuclear": "nuc"}[norm]
    assert found.bound.value == pytest.approx(np.linalg.norm(rest, order), rel=1e-9)
    sigma = np.linalg.svd(now.numpy(), compute_uv=False)[found.rank :]
    power = {"frobenius": 2, "spectral": np.inf, "nuclear": 1}[norm]
    distance = np.linalg.norm(sigma, power)
    assert found.distance.value == pytest.approx(distance, rel=1e-9)
    assert distance <= found.bound.upper
    assert found.weight_norm.value == pytest.approx(np.linalg.norm(now, order))


def test_a_dampened_first_step_is_not_dampened():
    # A false friend: the recursion with dampening from the start.
    states, rates = run("dampened", 1, 3, gradients=False)
    W, now = states[0][0], states[1][0]
    wrong, _ = window_factors(rates, 0.4, **settings("dampened"))
    right, _ = window_factors(rates, 0.4, first_step=True, **settings("dampened"))
    assert float((now - right * W).abs().max()) < 1e-15
    assert float((now - wrong * W).abs().max()) > 1e-3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_window_of_plain_sgd_is_the_logarithm(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 3))
    sgd = torch.optim.SGD(net.parameters(), lr=0.5, weight_decay=0.5)
    rows = window_rank(sgd, net, batch_size=2, tolerance=0.02)
    m = math.ceil(math.log(0.02 / 2) / math.log(1 - 0.25))
    first, last = rows
    assert (first["subject"], first["index"], first["value"]) == (
        "0.weight",
        m,
        2.0 * m,
    )
    assert first["verdict"] == "holds"
    assert last["verdict"] == "vacuous"
    assert last["bound"] == 3.0
    counted = window_rank(sgd, net, batch_size=2, positions={"0.weight": 9})
    assert counted[0]["verdict"] == "vacuous"
    assert counted[0]["value"] == 9 * 2 * counted[0]["index"]


def test_the_window_with_momentum_is_the_first_whose_factors_are_small():
    net = nn.Linear(50, 40, bias=False).double()
    sgd = torch.optim.SGD(net.parameters(), lr=0.2, weight_decay=0.3, momentum=0.5)
    net.weight.grad = torch.ones_like(net.weight)
    sgd.step()
    v = sgd.state[net.weight]["momentum_buffer"]
    share = float(v.norm() / net.weight.detach().norm())
    (row,) = window_rank(sgd, net, batch_size=1, tolerance=0.1, norm_ratio=1.0)

    def left(m):
        a, b = window_factors([0.2] * m, 0.3, 0.5)
        return abs(a) + abs(b) * share

    assert left(row["index"]) <= 0.1 < left(row["index"] - 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.AdamW(p, weight_decay=0.1), "step of AdamW"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "step of Adam "),
        (lambda p: torch.optim.SGD(p, lr=0.1), "nothing is forgotten"),
        (
            lambda p: torch.optim.SGD(p, lr=30.0, weight_decay=0.1),
            "does not shrink the weight",
        ),
    ],
)
def test_optimizers_without_a_window_say_why(make, words):
    net = nn.Linear(4, 3)
    (row,) = window_rank(make(net.parameters()), net, batch_size=2)
    assert row["verdict"] == "not_applicable"
    assert words in row["reason"]


def test_bad_requests_are_refused():
    W = torch.eye(3)
    with pytest.raises(DomainError, match="at least one step"):
        window_bound(W, W, [], weight_decay=0.1, batch_rank=1)
    with pytest.raises(ShapeError, match="shape of the weight"):
        window_bound(W, torch.eye(2), [0.1], weight_decay=0.1, batch_rank=1)
    sgd = torch.optim.SGD([nn.Parameter(W)], lr=0.1, weight_decay=0.1)
    with pytest.raises(DomainError, match="tolerance in"):
        window_rank(sgd, nn.Linear(2, 2), batch_size=1, tolerance=2.0)
