"""Kinks against a walk in rational arithmetic.

The walk is another algorithm: it carries value and slope of every neuron as fractions
and steps to the next zero of any of them, through all layers at once.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from propagation_rows import counts
from torch import Tensor, nn

from spectrank.propagation import count_pieces
from spectrank.table import Table

Matrix = list[list[Fraction]]
LEVELS = {"relu": [0], "leaky": [0], "abs": [0], "hardtanh": [-1, 1]}
SLOPES = {
    "relu": [Fraction(0), Fraction(1)],
    "leaky": [Fraction(1, 2), Fraction(1)],
    "abs": [Fraction(-1), Fraction(1)],
    "hardtanh": [Fraction(0), Fraction(1), Fraction(0)],
}
MODULES = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.5),
    "abs": lambda: Absolute(),
    "hardtanh": nn.Hardtanh,
}


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def value_of(kind: str, z: Fraction) -> Fraction:
    if kind == "relu":
        return max(z, Fraction(0))
    if kind == "leaky":
        return z if z > 0 else z / 2
    if kind == "abs":
        return abs(z)
    return min(max(z, Fraction(-1)), Fraction(1))


def region(kind: str, z: Fraction, slope: Fraction) -> int:
    """Number of levels below z just after this place."""
    return sum(z > level or (z == level and slope > 0) for level in LEVELS[kind])


def sign(x: Fraction) -> int:
    return (x > 0) - (x < 0)


class Walk:
    """Exact counts of a multilayer perceptron along a polyline."""

    def __init__(self, layers: list[tuple[Matrix, list[Fraction]]], kind: str) -> None:
        self.layers, self.kind = layers, kind
        depth = len(layers) - 1
        self.new_kinks = [0] * depth
        self.pattern_changes = [0] * depth
        self.length = [0.0] * (depth + 1)
        self.post = [0.0] * depth
        self.pieces = 0
        # Per neuron and level: side just before the place at hand, and whether above.
        self._before: list[list[list[int]]] | None = None

    def forms(
        self, x: list[Fraction], d: list[Fraction]
    ) -> list[list[tuple[Fraction, Fraction]]]:
        """Value and right slope of every pre-activation."""
        h = list(zip(x, d, strict=True))
        found = []
        for i, (W, b) in enumerate(self.layers):
            z = [
                (
                    sum((w * v for w, (v, _) in zip(row, h, strict=True)), c),
                    sum((w * s for w, (_, s) in zip(row, h, strict=True)), Fraction(0)),
                )
                for row, c in zip(W, b, strict=True)
            ]
            found.append(z)
            if i == len(self.layers) - 1:
                break
            h = [
                (
                    value_of(self.kind, v),
                    s * SLOPES[self.kind][region(self.kind, v, s)],
                )
                for v, s in z
            ]
        return found

    def segment(self, x: list[Fraction], y: list[Fraction]) -> None:
        d = [b - a for a, b in zip(x, y, strict=True)]
        t, slope = Fraction(0), None
        while t < 1:
            here = [a + t * s for a, s in zip(x, d, strict=True)]
            forms = self.forms(here, d)
            self._compare(forms)
            output = [s for _, s in forms[-1]]
            self.pieces += slope != output
            slope = output
            steps = [
                (level - v) / s
                for z in forms[:-1]
                for v, s in z
                for level in LEVELS[self.kind]
                if s != 0 and (level - v) / s > 0
            ]
            step = min([*steps, 1 - t])
            step = min(step, 1 - t)
            for i, z in enumerate(forms):
                self.length[i] += float(step) * math.sqrt(sum(s * s for _, s in z))
            for i, z in enumerate(forms[:-1]):
                after = [s * SLOPES[self.kind][region(self.kind, v, s)] for v, s in z]
                self.post[i] += float(step) * math.sqrt(sum(s * s for s in after))
            self._leave(forms, step)
            t += step

    def _sides(self, v: Fraction, s: Fraction) -> list[int]:
        """Side of every level in the interior of the interval that starts here."""
        return [sign(v - level) or sign(s) for level in LEVELS[self.kind]]

    def _compare(self, forms: list[list[tuple[Fraction, Fraction]]]) -> None:
        now = [[self._sides(v, s) for v, s in z] for z in forms[:-1]]
        if self._before is not None:
            for i, (old, new) in enumerate(zip(self._before, now, strict=True)):
                for a, b in zip(old, new, strict=True):
                    for p, q in zip(a, b, strict=True):
                        self.new_kinks[i] += p * q < 0
                        self.pattern_changes[i] += (p > 0) != (q > 0)

    def _leave(
        self, forms: list[list[tuple[Fraction, Fraction]]], step: Fraction
    ) -> None:
        # No zero lies inside, so the side of the interior is that seen from its end.
        self._before = [[self._sides(v, s) for v, s in z] for z in forms[:-1]]


def integer_net(
    rng: random.Random, widths: list[int], kind: str, *, biases: bool
) -> tuple[list[tuple[Matrix, list[Fraction]]], nn.Sequential]:
    layers, modules = [], []
    for n, m in pairwise(widths):
        W = [[Fraction(rng.randint(-2, 2)) for _ in range(n)] for _ in range(m)]
        b = [Fraction(rng.randint(-2, 2) if biases else 0) for _ in range(m)]
        layers.append((W, b))
        linear = nn.Linear(n, m).double()
        with torch.no_grad():
            linear.weight.copy_(torch.tensor([[float(w) for w in row] for row in W]))
            linear.bias.copy_(torch.tensor([float(c) for c in b]))
        modules += [linear, MODULES[kind]()]
    return layers, nn.Sequential(*modules[:-1])


def lengths(table: Table, site: str) -> list[float]:
    rows = [r for r in table if r["metric"] == "length_gain" and r["variant"] == site]
    return [r["value"] * r["curve_length"] for r in rows]


def vertices(rng: random.Random, num: int, dim: int) -> list[list[Fraction]]:
    found: list[list[Fraction]] = []
    while len(found) < num:
        x = [Fraction(rng.randint(-4, 4)) for _ in range(dim)]
        if not found or x != found[-1]:
            found.append(x)
    return found


# Integer weights make coincidences common: equal and opposite neurons, zeros over whole
# intervals, crossings at vertices, layers that die.
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kind", list(LEVELS))
def test_counts_lengths_and_pieces_equal_those_of_exact_arithmetic(
    kind: str, biases: bool
) -> None:
    rng = random.Random(f"{kind} {biases}")
    total = 0
    for _ in range(6):
        widths = [rng.randint(2, 3), *(rng.randint(1, 5) for _ in range(3)), 2]
        layers, net = integer_net(rng, widths, kind, biases=biases)
        line = vertices(rng, 7, widths[0])
        walk = Walk(layers, kind)
        for a, b in pairwise(line):
            walk.segment(a, b)
        table = count_pieces(net, torch.tensor([[float(c) for c in x] for x in line]))
        assert counts(table, "new_kinks") == walk.new_kinks
        assert counts(table, "pattern_changes") == walk.pattern_changes
        assert lengths(table, "pre") == pytest.approx(walk.length, rel=1e-12, abs=1e-12)
        assert lengths(table, "post") == pytest.approx(walk.post, rel=1e-12, abs=1e-12)
        pieces = table.where(metric="linear_pieces", variant="output").frame
        assert pieces["value"].item() == walk.pieces
        assert table.value("network", "affinity_defect") < 1e-13
        total += sum(walk.pattern_changes)
    assert total > 30


def test_kinks_closer_than_any_grid_are_found() -> None:
    # |x| - 1e-9 and its mirror: two kinks 2e-9 apart that a grid of 1e6 points misses.
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU())
    net = nn.Sequential(*net, nn.Linear(1, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[-1.0, -1.0]]))
        net[2].bias.fill_(1e-9)
    line = torch.tensor([[-0.3], [0.7]], dtype=torch.float64)
    table = count_pieces(net, line)
    assert counts(table, "new_kinks") == [2.0, 2.0]
    t = torch.linspace(-0.3, 0.7, 1_000_001, dtype=torch.float64)[:, None]
    seen = net[:3](t) > 0
    assert int((seen[1:] != seen[:-1]).sum()) in {0, 2}


def test_a_pair_that_dies_between_two_kinks_makes_no_kink_however_large_the_input() -> (
    None
):
    # h = relu(p - t), relu(t - q), p < q, on inputs of a million: at its own kink a
    # neuron is known to 1e-10 only. relu(p - t) - relu(t - q) is positive, zero, then
    # negative: a change of pattern, but no sign changes strictly.
    num, far = 10, 1e6
    places = [((j + 0.2) / num, (j + 0.7) / num) for j in range(num)]
    rows = [row for p, q in places for row in ([-1.0, 1.0, p], [1.0, -1.0, -q])]
    first = torch.tensor(rows, dtype=torch.float64)
    second = torch.zeros(num, 2 * num, dtype=torch.float64)
    for j in range(num):
        second[j, 2 * j], second[j, 2 * j + 1] = 1.0, -1.0
    net = nn.Sequential(
        *(nn.Linear(3, 2 * num, bias=False), nn.ReLU()),
        *(nn.Linear(2 * num, num, bias=False), nn.ReLU()),
    ).double()
    with torch.no_grad():
        net[0].weight.copy_(first)
        net[2].weight.copy_(second)
    line = torch.tensor([[far, far, 1.0], [far + 1.0, far, 1.0]], dtype=torch.float64)
    table = count_pieces(net, line)
    assert counts(table, "new_kinks") == [2.0 * num, 0.0]
    assert counts(table, "pattern_changes") == [2.0 * num, float(num)]
