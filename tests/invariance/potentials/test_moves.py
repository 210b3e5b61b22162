"""Potentials move as torch moves the values."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.invariance.potentials import solve
from spectrank.invariance.potentials.moves import groups, regrouped
from spectrank.invariance.potentials.potential import Potential
from spectrank.model.graph import graph


class Moved(nn.Module):
    """A parameter, moved, as a vector that a head reads."""

    def __init__(self, shape, move):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(shape))
        self.move = move

    def forward(self, x):
        # The product with the input makes the value no constant and keeps it apart.
        return self.move(self.value * x)


MOVES = {
    "reshape": lambda x: x.reshape(6, 4),
    "split and join": lambda x: x.reshape(2, 3, 2, 2).permute(0, 2, 1, 3).flatten(1),
    "permute": lambda x: x.permute(2, 0, 1),
    "slice": lambda x: x[:, 1:, ::2],
    "select": lambda x: x[:, 2],
    "expand": lambda x: x.unsqueeze(1).expand(2, 5, 3, 4),
    "concatenation": lambda x: torch.cat([x[..., 1:], x[..., :1]], -1),
    "stack": lambda x: torch.stack([x[..., 0], x[..., 3]], 1),
    "flip": lambda x: x.flip(1, 2),
    "roll": lambda x: x.roll(2, -1),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "interleaved": lambda x: x.repeat_interleave(2, 1),
    "chunk": lambda x: x.chunk(2, -1)[1],
    "unbind": lambda x: x.unbind(1)[1],
    "windows": lambda x: x.unfold(2, 2, 1),
    "diagonal": lambda x: x.diagonal(dim1=1, dim2=2),
    "nothing": lambda x: x.unsqueeze(0).squeeze(0) + 0,
}


@pytest.mark.parametrize("name", MOVES)
def test_entries_keep_their_potentials(name):
    model = Moved((2, 3, 4), MOVES[name])
    found = graph(model, torch.zeros(2, 3, 4))
    # The solution before the output asks for zero: potentials of the raw unknowns.
    raw = solve(found).nodes
    source = next(n for n in found.nodes if n.kind in {"scale", "product"})
    last = found[next(n for n in found.nodes if n.kind == "output").inputs[0]]
    start = np.broadcast_to(raw[source.id].classes, (2, 3, 4))
    assert len(np.unique(start)) == 24
    wanted = MOVES[name](torch.tensor(start.copy())).numpy()
    np.testing.assert_array_equal(
        np.broadcast_to(raw[last.id].classes, last.shape), wanted
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 3, 4), (6, 4)),
        ((2, 3, 4), (2, 12)),
        ((2, 1, 6), (2, 2, 3)),
        ((1, 6), (3, 2)),
        ((6,), (1, 6, 1)),
        ((4, 6), (2, 3, 4)),
        ((2, 1, 1, 3), (2, 3)),
        ((1,), (1, 1, 1)),
    ],
)
def test_regrouping_is_reshape_also_where_axes_do_not_change(before, after):
    rng = np.random.default_rng(0)
    for mask in range(2 ** len(before)):
        sizes = [1 if mask >> i & 1 else n for i, n in enumerate(before)]
        classes = rng.permutation(100)[: math.prod(sizes)].reshape(sizes)
        potential = Potential(np.ones(sizes), classes)
        found = regrouped(potential, before, after)
        np.testing.assert_array_equal(
            np.broadcast_to(found.classes, after),
            np.broadcast_to(classes, before).reshape(after),
        )


def test_axes_that_do_not_change_stay_short_through_a_split_of_heads():
    potential = Potential(np.ones((1, 1, 6)), np.arange(6).reshape(1, 1, 6))
    assert regrouped(potential, (8, 5, 6), (8, 5, 2, 3)).shape == (1, 1, 2, 3)
    assert groups((8, 5, 6), (8, 5, 2, 3))[-1] == ([2], [2, 3])
