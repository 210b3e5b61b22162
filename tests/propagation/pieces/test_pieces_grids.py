"""Kinks against grids that no longer move, circles and upper envelopes of lines."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from propagation_rows import counts
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.propagation import arc, count_pieces


class Mixed(nn.Module):
    """Convolution, BatchNorm, max pool, PReLU, a residual sum and other bends."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.first = nn.Linear(64, 12)
        self.slope = nn.PReLU()
        self.second = nn.Linear(12, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.act(self.norm(self.conv(x))))
        a = self.slope(self.first(h.flatten(1)))
        b = a + F.leaky_relu(self.second(a), 0.1)
        return self.out(F.relu6(b))

    def patterns(self, x: Tensor) -> list[Tensor]:
        z = self.norm(self.conv(x))
        h = z.relu()
        windows = F.unfold(h, 2, stride=2).reshape(len(x), 4, 4, -1)
        # A window of zeros has no winner.
        top = windows.amax(2)
        winner = torch.where(top > 0, windows.argmax(2), -1)
        u = self.first(self.pool(h).flatten(1))
        a = self.slope(u)
        v = self.second(a)
        b = a + F.leaky_relu(v, 0.1)
        return [z > 0, winner, u > 0, v > 0, (b > 0).long() + (b > 6).long()]


def mixed(seed: int) -> Mixed:
    generator = torch.Generator().manual_seed(seed)
    net = Mixed()
    with torch.no_grad():
        for x in (*net.parameters(), *net.buffers()):
            if x.is_floating_point() and x.numel() > 1:
                x.copy_(torch.randn(x.shape, generator=generator) / x[0].numel() ** 0.5)
        net.norm.running_var.abs_().add_(0.5)
        net.second.weight.mul_(3.0)
        net.first.weight.mul_(3.0)
    return net


def grid_changes(net: Mixed, line: Tensor, num: int) -> list[int]:
    totals = [0] * 5
    t = torch.linspace(0, 1, num, dtype=torch.float64)[:, None, None, None]
    for a, b in pairwise(line):
        for i, p in enumerate(net.patterns(a * (1 - t) + b * t)):
            changed = p[1:] != p[:-1]
            if i == 1:
                changed &= (p[1:] >= 0) & (p[:-1] >= 0)
            totals[i] += int(changed.sum())
    return totals


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_residual_convolutional_net_has_the_kinks_of_a_grid_that_no_longer_moves(
    seed: int,
) -> None:
    net = mixed(seed)
    line = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed + 9))
    table = count_pieces(net, line)
    exact = [int(x) for x in counts(table, "pattern_changes")]
    fine = net.double().eval()
    with torch.no_grad():
        coarse, finer = (grid_changes(fine, line.double(), n) for n in (2001, 8001))
    assert coarse == finer == exact
    assert sum(exact) > 50
    assert table.value("network", "affinity_defect") < 1e-12
    subjects = [r["subject"] for r in table if r["metric"] == "new_kinks"]
    assert subjects[::2][:4] == ["conv.weight", "pool", "first.weight", "second.weight"]


def test_an_arc_has_the_kinks_of_the_circle_it_stands_for() -> None:
    generator = torch.Generator().manual_seed(3)
    weights = [
        torch.randn(9, 9, generator=generator, dtype=torch.float64) for _ in range(3)
    ]
    net = nn.Sequential()
    for W in weights:
        linear = nn.Linear(9, 9, bias=False).double()
        linear.weight = nn.Parameter(W)
        net.extend([linear, nn.ReLU()])
    x, y = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    for angle in (1.0, math.pi, 2.0 * math.pi):
        line = arc(x, y, angle=angle)
        turn = torch.linspace(0.0, angle, 200_001, dtype=torch.float64)[:, None]
        first = x / x.norm()
        across = F.normalize(y - (y @ first) * first, dim=0)
        h = turn.cos() * first + turn.sin() * across
        seen = []
        for W in weights:
            z = h @ W.T
            seen.append(int(((z[1:] > 0) != (z[:-1] > 0)).sum()))
            h = z.relu()
        table = count_pieces(net, line)
        assert counts(table, "pattern_changes") == seen
        row = next(iter(table))
        assert row["angular_length"] == pytest.approx(angle, rel=1e-12)
    assert line.norm(dim=1).tolist() == pytest.approx([float(x.norm())] * len(line))


def upper_envelope(a: list[Fraction], b: list[Fraction]) -> int:
    """Changes of the largest of lines from a to b strictly inside (0, 1)."""
    places = {
        (p - r) / (p - r + s - q)
        for p, q in zip(a, b, strict=True)
        for r, s in zip(a, b, strict=True)
        if p - r + s - q != 0
    }
    cuts = [Fraction(0), *sorted(t for t in places if 0 < t < 1), Fraction(1)]
    slopes = []
    for left, right in pairwise(cuts):
        middle = (left + right) / 2
        top = max(
            zip(a, b, strict=True), key=lambda ab: ab[0] + middle * (ab[1] - ab[0])
        )
        slopes.append(top[1] - top[0])
    return sum(s != r for s, r in pairwise(slopes))


def test_a_max_pool_bends_where_the_upper_envelope_of_its_lines_does() -> None:
    rng = random.Random(5)
    windows = [
        [[Fraction(rng.randint(-3, 3)) for _ in range(9)] for _ in range(2)]
        for _ in range(200)
    ]
    ends = [
        torch.tensor([[float(v) for v in pair[k]] for pair in windows])
        for k in range(2)
    ]
    line = torch.stack(ends).reshape(2, 200, 3, 3)
    table = count_pieces(nn.Sequential(nn.MaxPool2d(3)).double(), line)
    expected = sum(upper_envelope(a, b) for a, b in windows)
    assert counts(table, "new_kinks") == [expected]
    assert expected > 100


def test_padding_stride_and_ceil_mode_of_a_pool_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(11)
    line = torch.randn(2, 2, 7, 6, generator=generator, dtype=torch.float64)
    options: list[dict[str, Any]] = [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3), "stride": (2, 1)},
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 2, "dilation": 2, "stride": 1},
    ]
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None, None, None]
    x = line[0] * (1 - t) + line[1] * t
    for option in options:
        _, winner = F.max_pool2d(x, return_indices=True, **option)
        changes = int((winner[1:] != winner[:-1]).sum())
        table = count_pieces(nn.Sequential(nn.MaxPool2d(**option)), line)
        assert counts(table, "new_kinks") == [changes], option
        assert changes > 5
