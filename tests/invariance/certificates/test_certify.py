"""Certificates along real trainings: they hold, and say when nothing is certified."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.invariance.certificates import certify
from spectrank.model.graph import graph


def _filled(net, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in net.double().parameters():
        fan = p.shape[1:].numel() if p.ndim > 1 else 1
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.data = scale * noise / math.sqrt(fan)
    return net


def _points(n, d, seed=1):
    """Separable points of norm at most one, and their sides."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * n, d, generator=generator, dtype=torch.float64)
    x = x[(x[:, 0].abs() > 0.4)][:n]
    return x / x.norm(dim=1).max(), torch.where(x[:, 0] > 0, 1.0, -1.0).double()


def _train(net, loss, steps, **options):
    optimizer = torch.optim.SGD(net.parameters(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
    return optimizer


def _logistic(x, y):
    return lambda net: F.softplus(-y * net(x).reshape(-1)).mean()


def _relu_trunk(seed=0, scale=0.7):
    net = nn.Sequential(
        *(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 8)),
        *(nn.Linear(8, 6), nn.Linear(6, 1)),
    )
    return _filled(net, scale, seed)


def _rows(table, **where):
    return table.where(kind="check", **where).frame.to_dicts()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_linear_tail_on_a_relu_trunk_keeps_its_certificate(seed):
    net, (x, y) = _relu_trunk(seed), _points(40, 4)
    start, found = copy.deepcopy(net.state_dict()), graph(net)
    for _ in range(4):
        _train(net, _logistic(x, y), 100, lr=0.1)
        table = certify(found, start=start, now=net)
        # "0" reads no tail: a relu stands between.
        assert {r["subject"] for r in _rows(table)} == {"1", "2", "3", "4"}
        for row in _rows(table, metric="tail"):
            w = net.get_parameter(f"{row['subject']}.weight").detach()
            s = torch.linalg.svdvals(w).square()
            assert row["value"] == pytest.approx(float(s[1:].sum()), abs=1e-13)
            assert row["value"] <= row["bound"] + 1e-12
            assert row["bound"] == pytest.approx(row["bound_at_start"] + row["drift"])
            # What gradient flow would not have is small at this step size.
            assert abs(row["drift"]) < 0.1 * row["bound_at_start"] + 1e-12
    assert "violated" not in {r["verdict"] for r in _rows(table)}


def test_the_bound_is_the_closed_form_of_the_start_with_biases():
    net = _relu_trunk()
    start = copy.deepcopy(net.state_dict())
    w = {k: start[f"{k}.weight"] for k in "234"}
    b = {k: start[f"{k}.bias"] for k in "23"}
    expected = 0.0
    for lower, upper in (("3", "4"), ("2", "3")):
        d = w[upper].T @ w[upper] - w[lower] @ w[lower].T
        d -= torch.outer(b[lower], b[lower])
        expected += float(torch.linalg.eigvalsh(d)[-1] - d.trace())
    (row,) = _rows(certify(net, start=start), subject="2", metric="tail")
    assert row["bound"] == pytest.approx(expected, rel=1e-12)
    (row,) = _rows(certify(net, start=start), subject="2", metric="stable_rank")
    top = float(torch.linalg.svdvals(w["2"])[0]) ** 2
    assert row["bound"] == pytest.approx(1.0 + expected / top, rel=1e-12)
    assert row["limit"] == row["paper_limit"] == 1


def test_the_alignment_of_neighbours_keeps_its_certificate():
    net, (x, y) = _relu_trunk(scale=0.3), _points(40, 4)
    start = copy.deepcopy(net.state_dict())
    _train(net, _logistic(x, y), 1000, lr=0.3)
    rows = _rows(certify(net, start=start), metric="alignment")
    assert [r["subject"] for r in rows] == ["2", "3"]
    for row in rows:
        w, b = (net.get_parameter(f"{row['subject']}.{k}") for k in ("weight", "bias"))
        above = net.get_parameter(f"{int(row['subject']) + 1}.weight").detach()
        u = torch.linalg.svd(torch.cat([w, b[:, None]], 1).detach())[0][:, 0]
        v = torch.linalg.svd(above)[2][0]
        assert row["value"] == pytest.approx(abs(float(u @ v)), rel=1e-12)
        assert row["view"] == "[W b]"
        assert row["verdict"] == "holds"
        assert 0.5 < row["bound"] <= row["value"]


@pytest.mark.parametrize("seed", range(3))
def test_alignment_is_never_certified_beyond_the_truth(seed):
    """Random weights now against other random weights at the start."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    net.append(nn.Linear(4, 1, bias=False))
    found = graph(net.double())
    for _ in range(20):
        _filled(net, 1.0, int(torch.randint(10**6, (), generator=generator)))
        for layer in net[:3]:
            u, v = torch.randn(2, 4, generator=generator, dtype=torch.float64)
            layer.weight.data += 20.0 * torch.outer(u, v)
        for row in _rows(certify(found, start=net, now=net), metric="alignment"):
            assert row["value"] >= row["bound"] - 1e-10


def test_the_bound_on_alignment_is_spread_over_distance():
    """1 - c^2 <= (lambda_max - lambda_min)(D) / (lambda_1 - E), by hand."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    net = net.double()
    exact = torch.float64
    net[0].weight.data = torch.tensor([[3.0, 0.0], [0.0, 0.5]], dtype=exact)
    net[1].weight.data = torch.tensor([[3.1, 0.2]], dtype=exact)
    (row,) = _rows(certify(net, start=net, now=net), metric="alignment")
    # D of the entries 9.61 - 9, 0.62 and 0.04 - 0.25.
    mean, half = (0.61 - 0.21) / 2, (0.61 + 0.21) / 2
    root = math.hypot(half, 0.62)
    excess = (mean + root) - 2 * mean
    assert row["bound"] ** 2 == pytest.approx(1 - 2 * root / (9 - excess), rel=1e-12)
    assert row["value"] == pytest.approx(3.1 / math.hypot(3.1, 0.2), rel=1e-12)


def test_without_drift_a_training_that_is_no_flow_violates_the_certificate():
    net, (x, _) = _relu_trunk(scale=0.05), _points(40, 4)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(40, generator=generator, dtype=torch.float64).sign()
    start = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(250):
        optimizer.zero_grad()
        _logistic(x, y)(net).backward()
        optimizer.step()
    claimed = _rows(certify(net, start=start, drift=False), metric="tail")
    verdicts = {row["subject"]: row["verdict"] for row in claimed}
    assert verdicts["2"] == "violated"
    assert "Adam" in next(r["reason"] for r in claimed if r["verdict"] == "violated")
    # Told of the optimizer it does not claim it, and measured drift repairs it.
    told = certify(net, start=start, drift=False, optimizer=optimizer)
    assert {r["verdict"] for r in _rows(told)} == {"not_applicable"}
    measured = _rows(certify(net, start=start))
    assert "violated" not in {row["verdict"] for row in measured}
    (tail,) = (r for r in measured if r["metric"] == "tail" and r["subject"] == "2")
    assert "most of the bound is drift" in tail["reason"]


def test_decay_and_different_rates_void_the_bound_of_the_start():
    net = _relu_trunk()
    decayed = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-3)
    groups = [
        {"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(net.parameters())
    ]
    for optimizer, word in (
        (decayed, "decay"),
        (torch.optim.SGD(groups), "rates differ"),
    ):
        table = certify(net, start=net, now=net, drift=False, optimizer=optimizer)
        reasons = {r["reason"] for r in _rows(table, metric="stable_rank")}
        assert all(word in reason for reason in reasons)
    plain = torch.optim.SGD(net.parameters(), lr=0.1)
    table = certify(net, start=net, now=net, drift=False, optimizer=plain)
    assert "not_applicable" not in {r["verdict"] for r in _rows(table, metric="tail")}


def test_an_edited_weight_violates_the_certificate_of_the_start():
    net, (x, y) = _relu_trunk(scale=0.2), _points(40, 4)
    start = copy.deepcopy(net.state_dict())
    _train(net, _logistic(x, y), 300, lr=0.1)
    before = certify(net, start=start, drift=False)
    assert "violated" not in {r["verdict"] for r in _rows(before)}
    net[3].weight.data[:4, :4] += 2.0 * torch.eye(4).double()
    rows = _rows(certify(net, start=start, drift=False), metric="tail")
    assert [r["verdict"] for r in rows if r["subject"] == "3"] == ["violated"]


class _Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        for k in "12":
            setattr(self, f"y{k}", nn.Linear(4, 6))
            setattr(self, f"u{k}", nn.Linear(6, 4))
            setattr(self, f"z{k}", nn.Linear(4, 4, bias=False))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        h = self.u1(self.y1(h)) + self.z1(h)
        h = self.u2(self.y2(h)) + self.z2(h)
        return self.head(h)


def test_linear_blocks_double_the_limit_where_the_paper_has_eight():
    net, (x, y) = _filled(_Blocks(), 0.5, 3), _points(30, 4)
    start = copy.deepcopy(net.state_dict())
    _train(net, _logistic(x, y), 400, lr=0.05)
    table = certify(net, start=start, example_input=x)
    rows = {r["subject"]: r for r in _rows(table, metric="stable_rank")}
    limits = {k: (r["limit"], r["paper_limit"]) for k, r in rows.items()}
    assert limits == {"u1 + z1": (2, 8), "u2 + z2": (1, 1), "head": (1, 1)}
    # [U Z] is what is certified, and its gap is one of stacked matrices.
    joint = torch.cat([net.u1.weight, net.z1.weight], 1).detach()
    s = torch.linalg.svdvals(joint).square()
    first = rows["u1 + z1"]
    assert first["value"] == pytest.approx(float(s.sum() / s[0]), rel=1e-12)
    assert first["value"] <= first["bound"]
    assert first["num_blocks"] == 1
    bias = 0.0 if first["bias_term"] is None else first["bias_term"]
    # kappa is 2 when biases of the junction come in once, and 1 inside the block.
    assert bias == pytest.approx(float(net.u1.bias.detach().square().sum()), rel=1e-12)


def test_past_an_identity_skip_it_is_the_sum_that_is_balanced():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 1)

        def forward(self, x):
            h = torch.tanh(x)
            h = h + self.a(h)
            h = self.b(h) + h
            return self.head(h)

    net, (x, y) = _filled(Skips(), 0.5, 9), _points(40, 4)
    start = copy.deepcopy(net.state_dict())
    _train(net, _logistic(x, y), 300, lr=0.1)
    table = certify(net, start=start, example_input=x)
    eye = torch.eye(4).double()
    for name in "ab":
        (row,) = _rows(table, subject=name, metric="tail")
        s = torch.linalg.svdvals(eye + net.get_parameter(f"{name}.weight").detach())
        assert row["value"] == pytest.approx(float(s[1:].square().sum()), rel=1e-12)
        assert row["view"] == "I + W"
        assert row["value"] <= row["bound"]
        assert abs(row["drift"]) < 0.02
        # Negative control: the gap of the matrices alone is not conserved.
    gaps = [
        w["b.weight"].T @ w["b.weight"]
        - w["a.weight"] @ w["a.weight"].T
        - torch.outer(w["a.bias"], w["a.bias"])
        for w in (start, net.state_dict())
    ]
    assert float(torch.linalg.matrix_norm(gaps[1] - gaps[0], 2)) > 0.2


def test_convolutions_multiply_the_limit_by_channels_or_positions():
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 2), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(24, 30), nn.Linear(30, 1)),
    )
    net, generator = _filled(net, 1.0, 5), torch.Generator().manual_seed(6)
    x = torch.randn(8, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.where(x.mean((1, 2, 3)) > 0, 1.0, -1.0).double()
    start = copy.deepcopy(net.state_dict())
    _train(net, _logistic(x, y), 200, lr=0.05)
    rows = {
        r["subject"]: r
        for r in _rows(certify(net, start=start, example_input=x), metric="stable_rank")
    }
    # Flatten: min(6 channels, 4 positions); kernel of 4 positions on 4 channels: 4,
    # but four channels have no more than four singular values.
    assert [rows[k]["limit"] for k in ("5", "4", "1", "0")] == [1, 1, 4, 4]
    assert rows["0"]["verdict"] == "vacuous"
    # The drift term is that of the channels: without regrouping it would be wrong.
    assert abs(rows["1"]["drift"]) < 0.1
    assert all(row["value"] <= row["bound"] + 1e-12 for row in rows.values())


@pytest.mark.parametrize("softmax", [False, True])
def test_classes_leave_as_many_growing_values_or_one_less(softmax):
    net = nn.Sequential(
        nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(7, 6), nn.Linear(6, 3)
    )
    net, generator = _filled(net, 0.5, 7), torch.Generator().manual_seed(8)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    classes = x[:, :3].argmax(1)
    start = copy.deepcopy(net.state_dict())
    _train(net, lambda n: F.cross_entropy(n(x), classes), 600, lr=0.1)
    table = certify(net, start=start, softmax=softmax)
    rank = 2 if softmax else 3
    for row in _rows(table, metric="tail"):
        s = torch.linalg.svdvals(net.get_parameter(f"{row['subject']}.weight").detach())
        assert row["index"] == rank
        assert row["value"] == pytest.approx(float(s[rank:].square().sum()), abs=1e-12)
        assert row["value"] <= row["bound"] + 1e-12
        assert abs(row["drift"]) < 0.05
    for row in _rows(table, metric="next_singular_value"):
        s = torch.linalg.svdvals(net.get_parameter(f"{row['subject']}.weight").detach())
        assert row["index"] == rank + 1
        assert row["value"] == pytest.approx(float(s[rank]), abs=1e-12)
        assert row["value"] <= row["bound"] + 1e-9
    head = start["3.weight"].sum(0)
    (top,) = _rows(table, subject="3", metric="tail")
    expected = float(head @ head) / 3 if softmax else 0.0
    assert top["bound_at_start"] == pytest.approx(expected, rel=1e-12)


def test_units_of_one_pattern_inherit_a_bounded_tail():
    """Units 0 to 4 stay active on all points; the whole relu layer has no bound."""
    drifts = []
    for rate, steps in ((0.1, 150), (0.05, 300)):
        net, (x, y) = _relu_trunk(scale=0.3), _points(40, 4)
        net[0].bias.data[:5] = 3.0
        start = copy.deepcopy(net.state_dict())
        _train(net, _logistic(x, y), steps, lr=rate)
        z = F.linear(x, net[0].weight, net[0].bias)
        assert bool((z[:, :5] > 0).all())
        table = certify(net, start=start, blocks={"0": [[0, 1, 2, 3, 4], [2]]})
        first, second = _rows(table, metric="block_tail")
        s = torch.linalg.svdvals(net[0].weight.detach()[:5]).square()
        assert first["value"] == pytest.approx(float(s[1:].sum()), rel=1e-12)
        assert first["value"] <= first["bound"]
        values = table.where(kind="spectrum", variant="block 0").frame["values"][0]
        assert values.to_list() == pytest.approx(s.sqrt().tolist(), rel=1e-12)
        drifts.append(first["drift"])
    # Flow would not move it: the drift is of the order of the step size.
    assert drifts[1] == pytest.approx(drifts[0] / 2.0, rel=0.05)
    assert 0.0 < drifts[0] < 1e-5 * first["bound_at_start"]
    assert (second["verdict"], second["value"]) == ("vacuous", 0.0)
    with pytest.raises(UnknownNameError, match="here that is '0'"):
        certify(net, start=start, blocks={"2": [[0]]})
    with pytest.raises(ValueError, match="distinct units"):
        certify(net, start=start, blocks={"0": [[0, 0]]})


def test_ratios_do_not_depend_on_the_unit_and_squares_scale_with_it():
    net = _relu_trunk(scale=0.5)
    start, now = (copy.deepcopy(_relu_trunk(s).state_dict()) for s in (1, 2))
    tables = []
    for unit in (1.0, 1e-150, 1e140):
        moved = [{k: v * unit for k, v in w.items()} for w in (start, now)]
        tables.append(certify(net, start=moved[0], now=moved[1]))
    for other, unit in zip(tables[1:], (1e-150, 1e140), strict=True):
        for a, b in zip(_rows(tables[0]), _rows(other), strict=True):
            assert a["verdict"] == b["verdict"]
            if a["metric"] in {"stable_rank", "alignment"}:
                assert b["value"] == pytest.approx(a["value"], rel=1e-10)
                assert b["bound"] == pytest.approx(a["bound"], rel=1e-10)
            if a["metric"] == "next_singular_value":
                assert b["value"] == pytest.approx(a["value"] * unit, rel=1e-10)


def test_a_model_without_a_tail_has_one_row_that_says_why():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    table = certify(net, start=net, now=net, example_input=torch.zeros(2, 3).double())
    (row,) = _rows(table)
    assert row["verdict"] == "not_applicable"
    assert "batch_norm" in row["reason"]


def test_weights_that_are_not_finite_bound_nothing():
    net = _relu_trunk()
    start = copy.deepcopy(net.state_dict())
    net[3].weight.data[0, 0] = torch.inf
    (row,) = _rows(certify(net, start=start))
    assert (row["subject"], row["status"]) == ("3", "nonfinite")
    assert "3.weight is not finite now" in row["reason"]
    # The trunk is no part of the tail.
    net.load_state_dict(start)
    net[0].weight.data[0, 0] = torch.nan
    assert len(_rows(certify(net, start=start), metric="tail")) == 3


def test_graphs_and_state_dicts_say_the_same_and_nothing_is_changed():
    net, (x, y) = _relu_trunk(), _points(40, 4)
    start = copy.deepcopy(net.state_dict())
    _train(net, _logistic(x, y), 20, lr=0.1)
    before = copy.deepcopy(net.state_dict())
    whole = certify(net, start=start)
    other = certify(graph(net), start=start, now=net.state_dict())
    assert whole.frame.equals(other.frame)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_wrong_arguments_are_refused_in_words():
    net = _relu_trunk()
    with pytest.raises(ArgumentTypeError, match="pass now="):
        certify(graph(net), start=net)
    with pytest.raises(ArgumentTypeError, match="got int"):
        certify(net, start=3)
    with pytest.raises(ArgumentTypeError, match="got str"):
        certify("net", start=net)
    with pytest.raises(UnknownNameError, match="none named"):
        certify(net, start={})
    other = {k: torch.zeros(3, 7) for k in net.state_dict()}
    with pytest.raises((ShapeError, RuntimeError)):
        certify(net, start=other)


def test_a_start_that_went_along_with_the_training_is_refused():
    net = _relu_trunk()
    alias, view = net.state_dict(), {k: v.detach() for k, v in net.named_parameters()}
    for start in (alias, net, view):
        with pytest.raises(DomainError, match=r"'\w+\.weight' with the model"):
            certify(net, start=start)
        with pytest.raises(DomainError, match="deepcopy"):
            certify(net, start=start, now=net.state_dict())
    with pytest.raises(DomainError, match="with the model"):
        certify(graph(net), start=net, now=alias)
    with pytest.raises(DomainError, match="with the model"):
        certify(graph(net), start=alias, now=net)
    # One matrix alone, and the trunk, of which nothing is certified, alone.
    start = copy.deepcopy(alias)
    certify(net, start=start | {"0.weight": alias["0.weight"]})
    last = [name for name in alias if name.endswith("weight")][-1]
    with pytest.raises(DomainError, match=f"'{last}'"):
        certify(net, start=start | {last: alias[last]})
    # Mappings alone may be the same at the start; a start itself is asked for by name.
    assert len(certify(graph(net), start=alias, now=view).frame)
    rows = _rows(certify(net, start=alias, now=alias))
    assert {row["drift"] for row in rows if row["drift"] is not None} == {0.0}
