"""Counts of laws by orbit dimension, against those that are known."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.errors import DomainError
from spectrank.invariance.counting import count_laws, jacobian_rank
from spectrank.invariance.laws import GramTerm, Law, SquareTerm


def dense(activation, *widths, bias=False):
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double()


def samples(d, n=60):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0)).double()


def formula(n, r, m):
    """Two linear layers of inner width r: laws of the rank formula."""
    rank = min(r, n + m)
    return rank * (2 * r + 1 - rank) // 2


@pytest.mark.parametrize("sizes", [(2, 2, 1), (2, 4, 1), (3, 6, 1), (2, 5, 2)])
def test_two_linear_layers_have_the_laws_of_the_rank_formula(sizes):
    found = count_laws(dense(nn.Identity, *sizes), samples(sizes[0]), num_draws=1)
    assert found.num_laws == formula(*sizes)
    assert found.settled
    # No threshold decides.
    assert found.smallest_kept > 1e-5
    assert found.largest_dropped < 1e-12


@pytest.mark.parametrize(
    ("sizes", "bias", "count"),
    [
        ((2, 3, 2, 1), False, 9),
        # One law more than the entries of both gap matrices: the function is a number.
        ((1, 2, 2, 1), False, 7),
        ((1, 1, 1, 1), False, 2),
        # The dimension rises at depths 0 to 3: 2, 3, 5, 7.
        ((1, 2, 2, 1), True, 6),
    ],
)
def test_deep_linear_nets_have_the_known_counts(sizes, bias, count):
    model = dense(nn.Identity, *sizes, bias=bias)
    found = count_laws(model, samples(sizes[0]), num_draws=1)
    assert found.num_laws == count
    assert found.settled
    assert found.dimensions == tuple(sorted(found.dimensions))
    if bias:
        assert found.dimensions == (2, 3, 5, 7, 7)


def test_leaky_units_have_one_law_each_and_smooth_ones_none():
    # The slope keeps units alive; a draw may still have units of one linear piece.
    model = dense(lambda: nn.LeakyReLU(0.3), 2, 2, 2, 1)
    found = count_laws(model, samples(2, 300))
    assert found.num_laws == min(found.draws) == 4
    model = dense(nn.Tanh, 2, 3, 2, bias=True)
    assert count_laws(model, samples(2), num_draws=1).num_laws == 0
    # A softmax loss keeps the column sums of the head, and the sum of its bias.
    assert count_laws(model, samples(2), num_draws=1, zero_sum=True).num_laws == 4


def test_weak_directions_do_not_count_twice():
    # The fields of a smooth residual net span some directions to 1e-8 only; what
    # brackets leave outside of them is not new.
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
            self.up, self.down = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            h = self.stem(x)
            h = h + self.down(nn.functional.gelu(self.up(h)))
            return self.head(h)

    found = count_laws(Block().double(), samples(2, 80), num_draws=2)
    # The stream law, d (d + 1) / 2 for d = 2.
    assert found.num_laws == 3
    assert found.draws == (3, 3)
    assert found.largest_dropped < 1e-13


def test_a_net_whose_units_are_all_dead_does_not_move():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU()).double()
    found = count_laws(model, torch.zeros(5, 1).double(), num_draws=1)
    assert (found.num_laws, found.dimensions) == (1, (0, 0, 0, 0))


def test_few_samples_have_more_laws():
    model = dense(nn.Tanh, 3, 3, 1)
    many = count_laws(model, samples(3), num_draws=1).num_laws
    # The weights move along the one sample only: 9 + 3 parameters, and of the first
    # layer just 3 directions.
    one = count_laws(model, samples(3, 1), num_draws=1).num_laws
    assert many == 0
    assert one >= 6


def test_tied_and_frozen_parameters_are_counted_as_they_move():
    model = dense(nn.Identity, 2, 2, 2)
    model[2].weight = model[0].weight
    assert count_laws(model, samples(2), num_draws=1).num_parameters == 4
    frozen = dense(nn.Identity, 2, 3, 1)
    frozen[2].weight.requires_grad_(False)
    # f = v W x with v fixed moves W along v only.
    found = count_laws(frozen, samples(2), num_draws=1)
    assert (found.num_parameters, found.num_laws) == (6, 4)


def test_known_laws_are_subtracted():
    model = dense(nn.Identity, 2, 3, 2)
    terms = (
        GramTerm("0.weight", (3, 2), (0,), None, 1.0),
        GramTerm("2.weight", (2, 3), (1,), None, -1.0),
    )
    matrix = Law("matrix", "matrix", "gram", terms, (3, 3), 6, "", "derived: by hand")
    every, one = np.arange(3), np.ones(3)
    squares = (
        SquareTerm("0.weight", (3, 2), (0,), every, every, one),
        SquareTerm("2.weight", (2, 3), (1,), every, every, -one),
    )
    vertex = Law("vertex", "vertex", "squares", squares, (3,), 3, "", "derived")
    found = count_laws(model, samples(2), laws=[vertex], num_draws=1)
    assert (found.num_laws, found.num_known, found.num_unknown) == (6, 3, 3)
    found = count_laws(model, samples(2), laws=[vertex, matrix], num_draws=1)
    assert (found.num_known, found.num_unknown) == (6, 0)
    parameters = dict(model.named_parameters())
    # Unit vectors of 2 + 2 entries: all 6 entries are independent; of 1 + 1 not.
    assert jacobian_rank([matrix], parameters) == 6
    assert jacobian_rank([], parameters) == 0
    narrow = dense(nn.Identity, 1, 4, 1)
    terms = (
        GramTerm("0.weight", (4, 1), (0,), None, 1.0),
        GramTerm("2.weight", (1, 4), (1,), None, -1.0),
    )
    law = Law("matrix", "matrix", "gram", terms, (4, 4), 7, "", "derived: by hand")
    assert jacobian_rank([law], dict(narrow.named_parameters())) == formula(1, 4, 1)


def test_the_model_and_the_random_state_are_left_as_they_were():
    model = dense(nn.Tanh, 2, 2, 1, bias=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    x = samples(2)
    first = count_laws(model, x, num_draws=2, seed=3)
    assert first == count_laws(model, x, num_draws=2, seed=3)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_table_says_what_was_counted_and_whether_it_settled():
    found = count_laws(dense(nn.Identity, 2, 2, 1), samples(2), num_draws=2)
    (row,) = found.table().frame.to_dicts()
    assert (row["metric"], row["value"], row["values"]) == ("num_laws", 3.0, [3.0, 3.0])
    assert (row["num_parameters"], row["num_known"], row["status"]) == (6, None, "ok")


def test_what_cannot_be_counted_is_refused():
    model = dense(nn.Identity, 2, 2, 1)
    with pytest.raises(DomainError, match="max_depth is at least 3"):
        count_laws(model, samples(2), max_depth=2)
    with pytest.raises(DomainError, match="at least 1, got 6, 4 and 0"):
        count_laws(model, samples(2)[:0])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(DomainError, match="learned parameters"):
        count_laws(model, samples(2))
