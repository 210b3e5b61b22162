"""Laws of nets with x + W x: those of the net in which I + W stands for the sum."""

import numpy as np
import pytest
import torch
from invariance_oracles import Case, Layout, brute_force, compare, law_vectors, rates
from invariance_oracles.case import features, randomised
from torch import nn

from spectrank.invariance import Watch, balance_, find
from spectrank.invariance.laws import evaluate


class Skips(nn.Module):
    """c(f(a x)), f a sum of its input and a map of it."""

    def __init__(self, total, *, sizes=(2, 2, 2), bias=True, **layers):
        super().__init__()
        n, d, m = sizes
        self.a, self.c = nn.Linear(n, d, bias=bias), nn.Linear(d, m, bias=bias)
        self.w = nn.Linear(d, d, bias=bias)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.total = total

    def forward(self, x):
        return self.c(self.total(self, self.a(x)))


def case_of(build, *sizes):
    return Case("net", build, features(*sizes, batch=4), 0)


def laws_of(case):
    return find(case.module(), case.inputs(torch.Generator().manual_seed(0)), loss=None)


PLAIN = {
    "x + W x": lambda m, h: h + m.w(h),
    "W x + x": lambda m, h: m.w(h) + h,
    "x - W x / 2": lambda m, h: h - m.w(h) / 2,
    "3 x + 2 W x": lambda m, h: torch.add(3 * h, 2 * m.w(h)),
    "relu before": lambda m, h: (lambda g: g + m.w(g))(torch.relu(h)),
    "relu after": lambda m, h: torch.relu(h + m.w(h)),
    "gelu before and after": lambda m, h: nn.functional.gelu(
        (lambda g: g + m.w(g))(nn.functional.gelu(h))
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_all_linear_and_quadratic_laws_are_found(name):
    case = case_of(lambda: Skips(PLAIN[name]), 2)
    laws = laws_of(case)
    result = compare(case, laws)
    assert not result.wrong, str(result)
    assert not result.missing, str(result)
    assert result.claimed == result.brute
    for law in laws:
        if "w.weight" in law.parameters:
            assert {offset.parameter for offset in law.offsets} == {"w.weight"}


def test_two_skips_in_a_row_have_a_gap_matrix_at_each_place():
    case = case_of(
        lambda: Skips(
            lambda m, h: (lambda g: g + m.v(g))(h + m.w(h)),
            v=nn.Linear(2, 2),
            bias=False,
        ),
        2,
    )
    result = compare(case, laws_of(case))
    assert (not result.wrong, not result.missing) == (True, True), str(result)
    # Three matrices of two features, and the bias of v is no part of them.
    assert [law.shape for law in laws_of(case)] == [(2, 2)] * 3


def test_values_are_those_of_the_identity_plus_the_matrix():
    model = Skips(PLAIN["x - W x / 2"], sizes=(3, 4, 2)).double()
    laws = find(model, torch.zeros(2, 3).double(), loss=None)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    w = tensors["w.weight"] - 2 * torch.eye(4).double()
    a = torch.cat([tensors["a.weight"], tensors["a.bias"][:, None]], 1)
    below = a @ a.mT - w.mT @ w
    above = w @ w.mT - tensors["c.weight"].mT @ tensors["c.weight"]
    above += torch.outer(tensors["w.bias"], tensors["w.bias"])
    found = [evaluate(law, tensors) for law in laws]
    assert len(found) == 2
    for value, expected in zip(found, (below, above), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 2, 1)
        self.w = nn.Conv2d(2, 2, (3, 1), padding=(1, 0))
        self.c = nn.Linear(8, 1)

    def forward(self, x):
        h = self.a(x)
        return self.c((h + self.w(h)).flatten(1))


def test_the_identity_of_a_convolution_stands_at_its_middle():
    case = case_of(Images, 1, 2, 2)
    laws = laws_of(case)
    assert max(rates(laws, case).values()) < 1e-13
    result = compare(case, laws)
    assert (not result.missing, result.claimed) == (True, result.brute), str(result)
    offset = laws[0].offsets[0]
    found = np.zeros(12)
    found[offset.indices] = offset.values
    expected = np.zeros((2, 2, 3))
    expected[:, :, 1] = -np.eye(2)
    np.testing.assert_array_equal(found.reshape(2, 2, 3), expected)


OTHERS = {
    "shared": (lambda m, h: (lambda g: g + m.w(g))(h + m.w(h)), {}),
    "read elsewhere": (lambda m, h: (lambda y: h + y + torch.tanh(y))(m.w(h)), {}),
    "of another value": (lambda m, h: torch.tanh(h) + m.w(h), {}),
    "masked": (lambda m, h: h + nn.functional.dropout(m.w(h)), {}),
    "broadcast": (lambda m, h: h + m.v(h), {"v": nn.Linear(2, 1)}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_sums_stay_sums(name):
    total, layers = OTHERS[name]
    case = case_of(lambda: Skips(total, **layers), 2)
    laws = laws_of(case)
    assert not any(law.offsets for law in laws)
    assert max(rates(laws, case).values(), default=0.0) < 1e-13


def test_a_frozen_map_stays_a_fixed_edge():
    def build():
        model = Skips(PLAIN["x + W x"])
        model.w.weight.requires_grad_(False)
        return model

    assert not any(law.offsets for law in laws_of(case_of(build, 2)))


def test_shifted_weights_are_not_rescaled():
    model = Skips(PLAIN["x + W x"]).double()
    laws = find(model, torch.zeros(2, 2).double(), loss=None)
    before = [p.detach().clone() for p in model.parameters()]
    rows = balance_(model, laws).where(kind="skip").frame["reason"].to_list()
    assert rows
    assert all("shifted" in reason for reason in rows)
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_watch_explains_the_drift_of_a_shifted_matrix_law(momentum):
    generator = torch.Generator().manual_seed(3)
    model = randomised(Skips(PLAIN["x - W x / 2"], sizes=(3, 4, 2)).double(), generator)
    x, y = (torch.randn(20, n, generator=generator).double() for n in (3, 2))
    laws = find(model, x, loss=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    start = [evaluate(law, dict(model.named_parameters())) for law in laws]
    with Watch(model, laws, optimizer=optimizer, every=10) as watch:
        for _ in range(20):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
    rows = watch.table().where(step=20).frame.to_dicts()
    assert [row["subject"] for row in rows] == ["matrix a", "matrix w"]
    for law, before, row in zip(laws, start, rows, strict=True):
        drift = evaluate(law, dict(model.named_parameters())) - before
        assert row["verdict"] == "explained"
        # Of the entry that is worst; no other has moved further than the largest.
        assert 1e-5 < abs(row["drift"]) <= float(drift.abs().max()) * (1 + 1e-9)
        assert abs(row["residual"]) < 1e-11


def test_vectors_of_shifted_laws_differ_from_those_without():
    case = case_of(lambda: Skips(PLAIN["x + W x"], bias=False), 2)
    layout = Layout(case.module())
    # Negative control: the gap of W alone, without the identity, is none.
    for law in laws_of(case):
        assert rates([law.homogeneous], case)[law.name] > 1e-3
        assert len(law_vectors(law, layout)) == 3
    assert brute_force(case).num_linear == 0
