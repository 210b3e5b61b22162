"""Rebalancing keeps every output and brings laws to zero, to the known minimum."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.invariance.balance import balance_
from spectrank.invariance.laws import GramTerm, Law, Laws, LinearTerm, SquareTerm


def _law(name, form, terms, n, kind="vertex", exact=True):
    shape = (n, n) if form == "gram" else (n,)
    return Law(name, kind, form, tuple(terms), shape, n, "always", "derived", exact)


def _square(parameter, view, axes, n, c):
    every = np.arange(n)
    return SquareTerm(parameter, view, axes, every, every, np.full(n, float(c)))


def _vertex(lower, upper, sizes, k=1):
    """In minus k out of the units between two linear layers, biases included."""
    inputs, n, outputs = sizes
    return _law(
        f"vertex {lower}",
        "squares",
        [
            _square(f"{lower}.weight", (n, inputs), (0,), n, 1),
            _square(f"{lower}.bias", (n,), (0,), n, 1),
            _square(f"{upper}.weight", (outputs, n), (1,), n, -k),
        ],
        n,
    )


def _net(*sizes, activation=nn.ReLU, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for m, n in pairwise(sizes):
        layers += [nn.Linear(m, n).double(), activation()]
    net = nn.Sequential(*layers[:-1])
    for p in net.parameters():
        # Units of very different sizes.
        scale = torch.exp(3.0 * torch.randn(len(p), generator=generator).double())
        values = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.data = values * scale.view([-1] + [1] * (p.ndim - 1))
    return net


def _inputs(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _change(net, before, x):
    with torch.no_grad():
        after = net(x)
    return float((after - before).abs().max() / before.abs().max())


def test_a_unit_is_multiplied_by_the_root_of_out_over_in():
    net, x = _net(3, 4, 2), _inputs(5, 3)
    old, before = copy.deepcopy(net.state_dict()), net(x).detach()
    balance_(net, [_vertex("0", "2", (3, 4, 2))])
    for unit in range(4):
        entering = torch.cat([old["0.weight"][unit], old["0.bias"][unit : unit + 1]])
        factor = (old["2.weight"][:, unit].norm() / entering.norm()).sqrt()
        expected = old["0.weight"][unit] * factor
        assert torch.allclose(net[0].weight[unit], expected, rtol=1e-13)
        assert net[0].bias[unit].item() == pytest.approx(
            float(old["0.bias"][unit] * factor), rel=1e-13
        )
        out = old["2.weight"][:, unit] / factor
        assert torch.allclose(net[2].weight[:, unit], out, rtol=1e-13)
    assert torch.equal(net[2].bias, old["2.bias"])
    assert _change(net, before, x) < 1e-14


def test_deep_networks_are_balanced_in_all_layers_together():
    net, x = _net(3, 6, 5, 4, 2), _inputs(7, 3)
    before = net(x).detach()
    laws = [
        _vertex("0", "2", (3, 6, 5)),
        _vertex("2", "4", (6, 5, 4)),
        _vertex("4", "6", (5, 4, 2)),
    ]
    table = balance_(net, laws, example_input=x, max_sweeps=2000)
    for lower, upper in ((0, 2), (2, 4), (4, 6)):
        w, b, v = net[lower].weight, net[lower].bias, net[upper].weight
        entering = w.square().sum(1) + b.square()
        leaving = v.square().sum(0)
        assert torch.allclose(entering, leaving, rtol=1e-8)
    assert _change(net, before, x) < 1e-12
    assert table.value("model", "output_change") < 1e-12
    norms = [
        table.value("model", "norm_squared", variant=v) for v in ("before", "after")
    ]
    assert norms[1] < norms[0]


def test_a_squared_relu_needs_its_degree():
    class Squared(nn.Module):
        def forward(self, x):
            return x.relu().square()

    net, x = _net(3, 4, 2, activation=Squared), _inputs(5, 3)
    before = net(x).detach()
    wrong = copy.deepcopy(net)
    balance_(net, [_vertex("0", "2", (3, 4, 2), k=2)], example_input=x)
    entering = net[0].weight.square().sum(1) + net[0].bias.square()
    assert torch.allclose(entering, 2.0 * net[2].weight.square().sum(0), rtol=1e-9)
    assert _change(net, before, x) < 1e-13
    # Negative control: in - out is no law here, and the outputs would show it.
    kept = copy.deepcopy(wrong.state_dict())
    with pytest.raises(DomainError, match="weights were put back"):
        balance_(wrong, [_vertex("0", "2", (3, 4, 2))], example_input=x)
    assert all(torch.equal(v, kept[k]) for k, v in wrong.state_dict().items())


def test_a_law_of_a_gelu_is_refused_by_its_outputs():
    net, x = _net(3, 4, 2, activation=nn.GELU), _inputs(5, 3)
    with pytest.raises(DomainError, match="not those of this model"):
        balance_(net, [_vertex("0", "2", (3, 4, 2))], example_input=x)


def test_channels_through_flatten_are_balanced():
    generator = torch.Generator().manual_seed(2)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    net = net.double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = _inputs(4, 2, 5, 5)
    before = net(x).detach()
    law = _law(
        "channel",
        "squares",
        [
            _square("0.weight", (3, 18), (0,), 3, 1),
            _square("0.bias", (3,), (0,), 3, 1),
            _square("3.weight", (2, 3, 9), (1,), 3, -1),
        ],
        3,
        kind="channel",
    )
    balance_(net, [law])
    entering = net[0].weight.square().sum((1, 2, 3)) + net[0].bias.square()
    leaving = net[3].weight.view(2, 3, 9).square().sum((0, 2))
    assert torch.allclose(entering, leaving, rtol=1e-12)
    assert _change(net, before, x) < 1e-13


def test_a_recurrent_unit_is_balanced_without_its_loop():
    """W_hh enters one unit and leaves another: units go one after the other."""
    net = nn.RNN(2, 3, nonlinearity="relu", bias=False, batch_first=True).double()
    head = nn.Linear(3, 1, bias=False).double()
    model = nn.ModuleDict({"rnn": net, "head": head})
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = _inputs(4, 5, 2)
    before = head(net(x)[0]).detach()
    off = np.array([j * 3 + k for j in range(3) for k in range(3) if j != k])
    hh = "rnn.weight_hh_l0"
    law = _law(
        "unit",
        "squares",
        [
            _square("rnn.weight_ih_l0", (3, 2), (0,), 3, 1),
            SquareTerm(hh, (3, 3), (0, 1), off // 3, off, np.ones(6)),
            SquareTerm(hh, (3, 3), (0, 1), off % 3, off, -np.ones(6)),
            _square("head.weight", (1, 3), (1,), 3, -1),
        ],
        3,
        kind="tied",
    )
    balance_(model, [law], max_sweeps=2000)
    hidden = net.weight_hh_l0.detach()
    loop = hidden - torch.diag(hidden.diag())
    entering = net.weight_ih_l0.square().sum(1) + loop.square().sum(1)
    leaving = loop.square().sum(0) + head.weight.square().sum(0)
    assert torch.allclose(entering, leaving, rtol=1e-8)
    assert float((head(net(x)[0]).detach() - before).abs().max()) < 1e-11


def test_several_coefficients_are_balanced_by_their_common_root():
    """Three parts, c = 2, 1, -1: the root of 2 P e^4t + Q e^2t = N e^-2t."""
    model = nn.ParameterDict({n: nn.Parameter(torch.ones(1).double()) for n in "pqr"})
    model["p"].data *= 0.7
    model["r"].data *= 9.0
    terms = [_square(n, (1,), (0,), 1, c) for n, c in (("p", 2), ("q", 1), ("r", -1))]
    balance_(model, [_law("three", "squares", terms, 1)])
    p, q, r = (float(model[n].detach()) for n in "pqr")
    assert 2 * p**2 + q**2 == pytest.approx(r**2, rel=1e-12)
    # All lie on one curve: p = 0.7 e^2t, q = e^t, r = 9 e^-t.
    assert p == pytest.approx(0.7 * q**2, rel=1e-12)
    assert r == pytest.approx(9.0 / q, rel=1e-12)


def test_weights_of_any_size_are_balanced():
    net, x = _net(3, 4, 2), _inputs(5, 3)
    with torch.no_grad():
        net[0].weight *= 1e-200
        net[0].bias *= 1e-200
        net[2].weight *= 1e200
    before = net(x).detach()
    table = balance_(net, [_vertex("0", "2", (3, 4, 2))])
    assert table.value("vertex 0", "imbalance", variant="after") < 1e-12
    assert 1e-3 < float(net[0].weight.detach().abs().max()) < 1e3
    assert _change(net, before, x) < 1e-12


@pytest.mark.parametrize("units", [(1e-200, 1e200), (1e-180, 1e-120)])
def test_matrices_of_any_size_are_balanced(units):
    net = _net(3, 4, 2, activation=nn.Identity)
    with torch.no_grad():
        net[0].weight *= units[0]
        net[0].bias *= units[0]
        net[2].weight *= units[1]
    w, v = net[0].weight.detach() / units[0], net[2].weight.detach() / units[1]
    table = balance_(net, [_matrix("0", "2", (3, 4, 2))], matrices=True)
    assert table.value("matrix 0", "imbalance", variant="after") < 1e-12
    unit = units[0] ** 0.5 * units[1] ** 0.5
    found = (net[2].weight.detach() / unit) @ (net[0].weight.detach() / unit)
    assert torch.allclose(found, v @ w, rtol=1e-11)


def test_units_of_one_side_stay_and_are_counted():
    net = _net(3, 4, 2)
    with torch.no_grad():
        net[2].weight[:, 1] = 0.0
    old = copy.deepcopy(net.state_dict())
    table = balance_(net, [_vertex("0", "2", (3, 4, 2))])
    row = table.where(variant="after").frame.row(0, named=True)
    assert row["status"] == "degenerate"
    assert row["reason"].startswith("1 units")
    assert torch.equal(net[0].weight[1], old["0.weight"][1])
    assert not torch.equal(net[0].weight[0], old["0.weight"][0])


def _matrix(lower, upper, sizes):
    inputs, n, outputs = sizes
    return _law(
        f"matrix {lower}",
        "gram",
        [
            GramTerm(f"{lower}.weight", (n, inputs), (0,), None, 1.0),
            GramTerm(f"{lower}.bias", (n, 1), (0,), None, 1.0),
            GramTerm(f"{upper}.weight", (outputs, n), (1,), None, -1.0),
        ],
        n,
        kind="matrix",
    )


@pytest.mark.parametrize("sizes", [(5, 3, 4), (2, 6, 3)])
def test_a_linear_pair_is_balanced_as_a_whole(sizes):
    net, x = _net(*sizes, activation=nn.Identity), _inputs(5, sizes[0])
    before = net(x).detach()
    diagonal = copy.deepcopy(net)
    balance_(net, [_matrix("0", "2", sizes)], matrices=True, example_input=x)
    w = torch.cat([net[0].weight, net[0].bias[:, None]], 1).detach()
    v = net[2].weight.detach()
    scale = float(w.square().sum())
    assert float((w @ w.T - v.T @ v).abs().max()) < 1e-12 * scale
    assert _change(net, before, x) < 1e-11
    # The least sum of squares of all factorisations: twice the nuclear norm.
    product = before - net[2].bias.detach()
    basis = torch.linalg.lstsq(torch.cat([x, torch.ones(5, 1).double()], 1), product)
    if sizes[0] + 1 <= 5:
        nuclear = float(torch.linalg.svdvals(basis.solution).sum())
        assert scale == pytest.approx(nuclear, rel=1e-9)
    # Its diagonal alone balances units, not directions.
    balance_(diagonal, [_matrix("0", "2", sizes)], example_input=x)
    w = torch.cat([diagonal[0].weight, diagonal[0].bias[:, None]], 1).detach()
    gap = w @ w.T - diagonal[2].weight.detach().T @ diagonal[2].weight.detach()
    assert float(gap.diagonal().abs().max()) < 1e-10 * scale
    assert float(gap.abs().max()) > 1e-3 * scale


def test_queries_and_keys_of_one_packed_parameter_are_balanced_per_head():
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double()
    generator = torch.Generator().manual_seed(5)
    for p in attention.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = _inputs(2, 3, 4)
    before = attention(x, x, x)[0].detach()
    laws = []
    for head in range(2):
        q, k = np.arange(2) + 2 * head, np.arange(2) + 2 * head + 4
        terms = [
            GramTerm(name, view, (0,), rows, sign)
            for rows, sign in ((q, 1.0), (k, -1.0))
            for name, view in (("in_proj_weight", (12, 4)), ("in_proj_bias", (12, 1)))
        ]
        laws.append(_law(f"qk {head}", "gram", terms, 2, kind="attention"))
    balance_(attention, laws, matrices=True)
    full = torch.cat(
        [attention.in_proj_weight, attention.in_proj_bias[:, None]], 1
    ).detach()
    for head in range(2):
        q, k = full[2 * head : 2 * head + 2], full[4 + 2 * head : 6 + 2 * head]
        assert float((q @ q.T - k @ k.T).abs().max()) < 1e-12
    after = attention(x, x, x)[0].detach()
    assert float((after - before).abs().max()) < 1e-11 * float(before.abs().max())


def test_single_precision_is_balanced_to_what_it_holds():
    net = _net(3, 4, 2).float()
    table = balance_(
        net, [_vertex("0", "2", (3, 4, 2))], example_input=torch.ones(1, 3)
    )
    row = table.where(metric="imbalance", variant="after").frame.row(0, named=True)
    assert row["status"] == "ok"
    assert row["value"] < 1e-5
    assert net[0].weight.dtype == torch.float32


def test_what_has_no_exact_rescaling_is_left_with_the_reason():
    net = _net(3, 4, 2)
    old = copy.deepcopy(net.state_dict())
    ones = np.arange(4)
    linear = LinearTerm("0.bias", (4,), (0,), ones, ones, np.ones(4))
    laws = [
        _law("sum", "linear", [linear], 4, kind="sum"),
        _law(
            "scale", "squares", [_square("0.bias", (4,), (0,), 4, 1)], 4, kind="scale"
        ),
        _law("one", "squares", [_square("0.bias", (4,), (0,), 4, 1)], 4),
        _law("eps", "squares", _vertex("0", "2", (3, 4, 2)).terms, 4, exact=False),
    ]
    table = balance_(net, laws)
    assert table.where(kind="skip").frame["subject"].to_list() == [
        *("sum", "scale", "one", "eps")
    ]
    assert all(torch.equal(v, old[k]) for k, v in net.state_dict().items())


def test_wrong_models_and_laws_are_refused_before_anything_is_changed():
    net = _net(3, 4, 2)
    with pytest.raises(ArgumentTypeError, match="got dict"):
        balance_(dict(net.state_dict()), [])
    with pytest.raises(UnknownNameError, match=r"got '9\.weight'"):
        balance_(net, [_vertex("9", "2", (3, 4, 2))])
    with pytest.raises(DomainError, match="not negative"):
        balance_(net, [], tolerance=-1.0)
    net[0].bias.data[0] = torch.nan
    old = copy.deepcopy(net[2].weight.data)
    with pytest.raises(DomainError, match="finite"):
        balance_(net, [_vertex("0", "2", (3, 4, 2))])
    assert torch.equal(old, net[2].weight.data)


class _Named(nn.Module):
    """Takes its input, and a factor, by name only."""

    def __init__(self):
        super().__init__()
        self.net = _net(3, 4, 2)

    def forward(self, *, x, factor=1.0):
        return self.net(x) * factor


def test_examples_are_given_as_to_find():
    x = _inputs(5, 3)
    law = _vertex("net.0", "net.2", (3, 4, 2))
    for given in (
        {"example_input": {"x": x}},
        {"kwargs": {"x": x, "factor": 2.0}},
        {"example_input": {"x": x}, "kwargs": {"factor": 0.5}},
    ):
        table = balance_(_Named(), [law], **given)
        assert table.value("model", "output_change") < 1e-13
    # A wrong law is refused by the outputs, whatever way the input went in.
    wrong = _vertex("net.0", "net.2", (3, 4, 2), k=2)
    squared = _Named()
    squared.net[1] = nn.GELU()
    with pytest.raises(DomainError, match="weights were put back"):
        balance_(squared, [wrong], example_input={"x": x})


def test_what_is_no_law_is_refused_and_what_is_not_balanced_says_why():
    net = _net(3, 4, 2)
    table = Laws((_vertex("0", "2", (3, 4, 2)),)).table()
    with pytest.raises(ArgumentTypeError, match=r"got dict in a Table; .*from_table"):
        balance_(net, table)
    before = copy.deepcopy(net.state_dict())
    norm = _law("scale 0", "squares", [_square("0.weight", (4, 3), (0,), 4, 1)], 4)
    laws = [replace(norm, kind="scale"), replace(norm, name="cut", kind="cut")]
    rows = balance_(net, laws).where(kind="skip").frame.to_dicts()
    assert "a normalisation divides by" in rows[0]["reason"]
    assert "sum of laws of other families" in rows[1]["reason"]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
