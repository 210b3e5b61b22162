"""Laws of a list are independent: their number is the rank of their Jacobian."""

import pytest
import torch
from invariance_oracles import Case, rates
from torch import nn
from torch.nn import functional

from spectrank.errors import UnknownNameError
from spectrank.invariance import find, polar


class Function(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def numbers(*shape):
    return lambda generator: (
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def tokens(*shape):
    return lambda generator: (torch.randint(5, shape, generator=generator),)


def bag(mode, **options):
    return Case(
        f"bag {mode}",
        lambda: Function(
            lambda m, x: m.b(m.e(x)),
            e=nn.EmbeddingBag(5, 3, mode=mode, **options),
            b=nn.Linear(3, 2),
        ),
        tokens(4, 3),
        0,
    )


NETS = {
    # One feature is read; no gradient reaches the others.
    "one feature": Case(
        "one feature",
        lambda: Function(
            lambda m, x: m.b(m.a(x)[:, :1].expand(6, 5)),
            a=nn.Linear(4, 5),
            b=nn.Linear(5, 3),
        ),
        numbers(6, 4),
        0,
    ),
    "two features after a ReLU": Case(
        "two features",
        lambda: Function(
            lambda m, x: m.b(m.a(x).relu()[:, 1:3]),
            a=nn.Linear(4, 5),
            b=nn.Linear(2, 3),
        ),
        numbers(6, 4),
        0,
    ),
    "bag sum": bag("sum"),
    "bag mean": bag("mean"),
    "bag max": bag("max"),
}
NUMBER = {
    "one feature": 16 + 4 + 1,
    # No gradient reaches three units; behind a ReLU it is their norms that are told.
    "two features after a ReLU": 5,
    "bag sum": 6,
    "bag mean": 6,
    "bag max": 3,
}


@pytest.mark.parametrize("name", NETS)
def test_the_number_of_laws_is_the_rank_of_their_jacobian(name):
    case = NETS[name]
    model = case.module()
    laws = find(model, case.inputs(torch.Generator().manual_seed(0)), loss=None)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    rows = []
    for name_, parameter in parameters.items():
        for i in range(parameter.numel()):
            unit = {n: torch.zeros_like(p) for n, p in parameters.items()}
            unit[name_].view(-1)[i] = 1.0
            rows.append(
                torch.cat([polar(law, parameters, unit).flatten() for law in laws])
            )
    rank = int(torch.linalg.matrix_rank(torch.stack(rows)))
    assert laws.num_laws == rank == NUMBER[name]
    others = [law for law in laws if law.kind != "constant"]
    assert max(rates(others, case, num_draws=3).values()) < 1e-12


def test_a_division_by_a_norm_with_a_floor_has_the_law_of_scale():
    def net(function):
        return Case(
            "cosine",
            lambda: Function(
                lambda m, x: m.b(function(m.a(x))), a=nn.Linear(4, 5), b=nn.Linear(5, 3)
            ),
            numbers(6, 4),
            0,
        )

    case = net(lambda h: functional.normalize(h, dim=-1))
    x = case.inputs(torch.Generator().manual_seed(0))
    (law,) = find(case.module(), x, loss=None)
    assert (law.kind, law.count, law.exact) == ("scale", 1, False)
    assert law.parameters == ("a.weight", "a.bias")
    assert max(rates([law], case, num_draws=3).values()) < 1e-12
    # False friend: a floor of the values themselves is no map of degree one.
    other = net(lambda h: h.clamp(min=0.1))
    assert len(find(other.module(), x, loss=None)) == 0
    assert max(rates([law], other, num_draws=3).values()) > 1e-3


def test_cuts_are_sums_of_laws_of_units():
    net = nn.Sequential(
        *(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4, bias=False)),
        *(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2)),
    )
    added = find(net, torch.zeros(2, 3), loss=None, cuts=True).select("cut")
    assert [law.name for law in added] == ["cut vertex 0"]
    assert added[0].source.startswith("derived")


def test_a_kind_that_does_not_exist_is_refused():
    laws = find(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.zeros(2, 2))
    with pytest.raises(UnknownNameError, match="'vertx'"):
        laws.select("vertx")
