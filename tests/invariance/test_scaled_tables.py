"""Tables whose gradients are divided by counts are in no law."""

import torch
from invariance_oracles import Case, rates
from torch import nn

from spectrank.invariance import find, polar


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


def padded(index):
    class Padded(Table):
        def __init__(self):
            super().__init__(by_counts=False)
            self.E = nn.Embedding(3, 2, padding_idx=index)

    def given(generator):
        return (torch.randint(3, (5, 4), generator=generator),)

    return Case("padded", Padded, given, 0)


def test_the_matrix_law_of_a_padded_table_asks_for_a_row_of_zeros():
    case = padded(0)
    (law,) = laws_of(case).of("E.weight")
    assert law.kind == "matrix"
    assert "the row of the padding index zero" in law.condition
    assert "padding" not in laws_of(case_of(False)).of("E.weight")[0].condition
    model = case.module().double()
    tokens = torch.tensor([[0, 1, 2, 0]])
    moved = []
    for value in (0.0, 1.0):
        with torch.no_grad():
            model.E.weight[0] = value
        model.zero_grad()
        model(tokens).square().sum().backward()
        parameters = dict(model.named_parameters())
        gradients = {n: p.grad for n, p in parameters.items()}
        moved.append(float(polar(law, parameters, gradients).abs().max()))
    assert moved[0] < 1e-14
    assert moved[1] > 1e-3
