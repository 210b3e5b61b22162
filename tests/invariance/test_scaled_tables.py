"""Tables whose gradients are divided by counts are in no law."""

import torch
from invariance_oracles import Case, rates
from torch import nn

from spectrank.invariance import find


class Table(nn.Module):
    def __init__(self, *, by_counts):
        super().__init__()
        self.E = nn.Embedding(3, 2, scale_grad_by_freq=by_counts)
        self.a, self.c = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, tokens):
        return self.c(self.a(self.E(tokens)))


def case_of(by_counts):
    def given(generator):
        return (torch.randint(3, (5, 4), generator=generator),)

    return Case("table", lambda: Table(by_counts=by_counts), given, 0)


def laws_of(case):
    return find(case.module(), case.inputs(torch.Generator().manual_seed(0)), loss=None)


def test_a_gradient_that_is_divided_by_counts_has_no_law():
    plain, scaled = case_of(False), case_of(True)
    expected, found = laws_of(plain), laws_of(scaled)
    assert [law.name for law in expected] == ["matrix E", "matrix a"]
    assert [law.name for law in found] == ["matrix a"]
    assert max(rates(found, scaled).values()) < 1e-13
    # Negative control: what holds of the plain table does not hold of this one.
    assert rates([expected[0]], plain)["matrix E"] < 1e-13
    assert rates([expected[0]], scaled)["matrix E"] > 1e-3
