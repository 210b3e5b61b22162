"""Convolutions in a tail: blocks, transposed ones and skips; their gaps are conserved.

A gap is quadratic in the weights, so its derivative along a gradient is half the
difference of its values on both sides: exact, and zero iff gradient flow conserves it.
"""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from spectrank.invariance.certificates import (
    Inner,
    Level,
    certify,
    find_tail,
    gap,
    tail_bounds,
)
from spectrank.model.graph import graph


class ConvBlock(nn.Module):
    """U (Y x) + Z x of convolutions."""

    def __init__(self, n, h, m, *, sizes=(3, 3, 1)):
        super().__init__()
        y, u, z = ({"kernel_size": k, "padding": k // 2} for k in sizes)
        self.y, self.u = nn.Conv1d(n, h, **y), nn.Conv1d(h, m, **u)
        self.z = nn.Conv1d(n, m, **z)

    def forward(self, x):
        return self.z(x) + self.u(self.y(x))


class ConvSkip(nn.Module):
    """x + W x."""

    def __init__(self, convolution):
        super().__init__()
        self.w = convolution

    def forward(self, x):
        return x + self.w(x)


NETS = {
    "conv blocks": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 1), nn.Tanh(), ConvBlock(3, 4, 2), ConvBlock(2, 2, 3),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 1),
        ),
        (2, 5),
        ["2", "3", "6"],
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose1d(2, 3, 2, stride=2), nn.Tanh(),
            nn.ConvTranspose1d(3, 4, 3, bias=False),
            nn.ConvTranspose1d(4, 2, 2, stride=2, dilation=2),
            nn.Flatten(), nn.Linear(42, 1),
        ),
        (2, 4),
        ["2", "3", "5"],
    ),
    "skip past a convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Conv2d(3, 3, 1),
            ConvSkip(nn.Conv2d(3, 3, (3, 5), padding=(2, 2), dilation=(2, 1))),
            nn.Conv2d(3, 2, 2, stride=2), nn.Flatten(), nn.Linear(8, 1),
        ),
        (2, 4, 4),
        ["2", "3.w", "4", "6"],
    ),
}  # fmt: skip


def _net(name):
    build, shape, expected = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build().double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator).double())
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return net, x, expected


def _gaps(tail, tensors):
    levels = [stage.level(tensors) for stage in tail.stages]
    found = [gap(a, b) for a, b in pairwise(levels)]
    return found + [level.inner.gap for level in levels if level.inner is not None]


def _rates(tail, weights, direction):
    sides = [
        _gaps(tail, {n: w + sign * direction[n] for n, w in weights.items()})
        for sign in (1.0, -1.0)
    ]
    return [float((a - b).abs().max()) for a, b in zip(*sides, strict=True)]


@pytest.mark.parametrize("name", NETS)
def test_gaps_of_convolutions_are_conserved(name):
    net, x, expected = _net(name)
    tail = find_tail(graph(net, x))
    assert [stage.name for stage in tail.stages] == expected
    weights = {n: p.detach() for n, p in net.named_parameters()}
    target = torch.linspace(-1, 1, 6).double()[:, None]
    (net(x) - target).square().sum().backward()
    gradient = {n: p.grad / 30.0 for n, p in net.named_parameters()}
    rates = _rates(tail, weights, gradient)
    assert len(rates) == len(expected) - 1 + 2 * ("blocks" in name)
    assert max(rates) < 1e-12
    # Along any other direction each of them moves.
    generator = torch.Generator().manual_seed(2)
    other = {
        n: torch.randn(p.shape, generator=generator).double()
        for n, p in weights.items()
    }
    assert min(_rates(tail, weights, other)) > 1e-2


@pytest.mark.parametrize("name", NETS)
def test_a_tail_with_convolutions_keeps_its_certificate(name):
    net, x, expected = _net(name)
    start = copy.deepcopy(net.state_dict())
    sign = torch.linspace(-1, 1, 6).double().sign()[:, None]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.softplus(-sign * net(x)).mean().backward()
        optimizer.step()
    table = certify(net, start=start, example_input=x)
    rows = table.where(metric="stable_rank").frame.to_dicts()
    assert [r["subject"] for r in rows] == expected
    for row in rows:
        assert row["value"] <= row["bound"] + 1e-9, row["subject"]
        assert row["verdict"] in {"holds", "vacuous"}
    drift = [abs(r["drift"]) for r in rows]
    # 150 steps at a rate of 0.02 move the weights by one or so, the gaps by little.
    assert max(drift) < 0.3


def test_limits_of_convolutional_blocks_are_ours_alone():
    net, x, _ = _net("conv blocks")
    start = net.state_dict()
    table = certify(net, start=start, now=start, example_input=x)
    rows = {r["subject"]: r for r in table.where(metric="stable_rank").frame.to_dicts()}
    # Above block 2 stands block 3: Y (2 x 2 x 3), U (3 x 2 x 3), Z (3 x 2 x 1). Twice
    # the larger of min(2, 3) min(2, 3) and 1; but [U Z] has no more than two rows.
    assert (rows["6"]["limit"], rows["3"]["limit"]) == (1, 1)
    assert rows["2"]["limit"] == 2
    assert rows["2"]["paper_limit"] is None
    assert rows["3"]["paper_limit"] == 1


def _kernel(generator, *shape):
    scale = 2.0 ** float(torch.randint(-2, 3, (), generator=generator))
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _by_hand(kernel):
    """(out, in, k) as (out k) x in."""
    out, _, k = kernel.shape
    return torch.stack([kernel[o, :, i] for o in range(out) for i in range(k)])


def _conv_block(generator, features, outputs, biases):
    h, *k = (int(torch.randint(1, 5, (), generator=generator)) for _ in range(4))
    y = _kernel(generator, h, features, k[0])
    u = _kernel(generator, outputs, h, k[1])
    z = _kernel(generator, outputs, features, k[2])
    c = _kernel(generator, h, int(biases))
    inner = Inner(y.reshape(h, -1), c, _by_hand(u), min(h, k[1]))
    factor = max(min(h, k[1]) * min(features, k[0]), min(features, k[2]))
    entering = torch.cat([u.reshape(outputs, -1), z.reshape(outputs, -1)], 1)
    leaving = torch.cat([_by_hand(y), _by_hand(z)])
    bias = _kernel(generator, outputs, 2 * int(biases))
    return Level(entering, bias, leaving, factor, inner)


@pytest.mark.parametrize("biases", [False, True])
def test_ratios_of_random_convolutional_blocks_never_exceed_their_bound(biases):
    generator = torch.Generator().manual_seed(20 + biases)
    tight = 0
    for _ in range(300):
        sizes = [int(torch.randint(1, 6, (), generator=generator)) for _ in range(3)]
        levels = [_conv_block(generator, n, m, biases) for n, m in pairwise(sizes)]
        top = _kernel(generator, 1, sizes[-1])
        levels.append(Level(top, top.new_zeros(1, 0), top))
        for level, bound in zip(levels, tail_bounds(levels), strict=True):
            squares = torch.linalg.svdvals(level.entering).square()
            bounded = bound.kappa * float(squares[0]) + bound.excess
            scale = 1.0 + bound.kappa * float(squares.sum()) + abs(bound.excess)
            assert float(squares.sum()) <= bounded + 1e-12 * scale
            tight += bounded < 1.5 * float(squares.sum())
    # A bound far above all of them would test nothing.
    assert tight > 30


def test_the_inner_gap_counts_as_often_as_the_kernel_of_u_has_values():
    generator = torch.Generator().manual_seed(9)
    y, z = (torch.randn(n, 8, generator=generator).double() for n in (3, 8))
    u = torch.randn(8, 3, 2, generator=generator).double()
    w = torch.randn(8, 8, generator=generator).double()
    top = torch.randn(1, 8, generator=generator).double()
    none = [torch.zeros(n, 0).double() for n in (8, 3, 1)]
    inner = Inner(y, none[1], _by_hand(u), 2)
    block = Level(torch.cat([u.flatten(1), z], 1), none[0], torch.cat([y, z]), 2, inner)
    levels = [Level(w, none[0], w), block, Level(top, none[2], top)]
    found = tail_bounds(levels)[0]
    # kappa is 2 max(2 * 1, 1); gaps at the top, in the block and below it.
    above = top.mT @ top - block.entering @ block.entering.mT
    own = _by_hand(u).mT @ _by_hand(u) - y @ y.mT
    below = block.leaving.mT @ block.leaving - w @ w.mT
    expected = 0.0
    for factor, matrix in ((1, above), (2, own), (4, below)):
        values = torch.linalg.eigvalsh(matrix)
        expected += factor * float(values[-1]) - float(values.sum())
    assert found.kappa == 4
    assert found.excess == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape", "word"),
    [
        (ConvSkip(nn.Conv1d(3, 3, 2, padding="same")), (2, 5), "sum"),
        (ConvSkip(nn.Conv1d(3, 3, 3, padding=1, groups=3)), (2, 5), "grouped"),
        (nn.Conv1d(3, 3, 1, groups=3), (2, 5), "within groups"),
        (nn.ConvTranspose1d(3, 3, 2, groups=3), (2, 5), "within groups"),
    ],
)
def test_convolutions_that_end_a_tail(layer, shape, word):
    net = nn.Sequential(
        *(nn.Conv1d(2, 3, 1), layer, nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(3, 1)),
    )
    tail = find_tail(graph(net, torch.zeros(1, *shape)))
    assert [stage.name for stage in tail.stages] == ["4"]
    assert word in tail.stopped
