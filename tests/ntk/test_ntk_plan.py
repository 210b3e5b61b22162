"""The plan: every parameter once, with the algorithm that then computes it."""

import importlib
import math

import pytest
import torch
from ntk_models import MODELS, make
from torch import nn

from spectrank.ntk.assign import assign
from spectrank.ntk.cost import (
    Job,
    backward_cost,
    jacobian_cost,
    layerwise_cost,
    products_cost,
)
from spectrank.ntk.plan import plan
from spectrank.ntk.request import make_request

# The package has a function of that name.
front = importlib.import_module("spectrank.ntk.empirical")


def only(table, subject, metric):
    (row,) = table.where(subject=subject, metric=metric)
    return row


@pytest.mark.parametrize("method", ["auto", "jacobian"])
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_sums_to_all_trained_parameters(name, method):
    model, x, _ = make(name)
    table = plan(model, x, method=method)
    rows = [r for r in table if r["metric"] == "ntk_operations"]
    planned = {r["subject"]: r["numel"] for r in rows if r["kind"] == "measurement"}
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert planned == trained
    assert all(r["reason"] for r in rows)
    skipped = {r["subject"]: r["reason"] for r in rows if r["kind"] == "skip"}
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert skipped == dict.fromkeys(frozen, "frozen: it requires no gradient")


def test_parameters_that_are_not_chosen_are_skipped_with_the_reason():
    model, x, _ = make("mlp")
    table = plan(model, x, params="*.bias")
    skipped = {r["subject"]: r["reason"] for r in table if r["kind"] == "skip"}
    weights = ["0.weight", "2.weight"]
    assert skipped == dict.fromkeys(weights, "not matched by params=")


@pytest.mark.parametrize("name", ["mlp", "cnn", "encoder", "shared"])
def test_the_kernel_is_computed_as_planned(name, monkeypatch):
    model, x, _ = make(name)
    used = {}

    def note(algorithm, real):
        def wrapped(*args, params, **options):
            found = options.get("products")
            used.update(dict.fromkeys(params, "products" if found else algorithm))
            return real(*args, params=params, **options)

        return wrapped

    for algorithm in ("layerwise", "jacobian"):
        real = getattr(front, f"{algorithm}_kernel")
        monkeypatch.setattr(front, f"{algorithm}_kernel", note(algorithm, real))
    front.empirical(model, x)
    rows = plan(model, x).where(kind="measurement", metric="ntk_operations")
    assert {r["subject"]: r["route"] for r in rows} == used


def test_layers_with_a_rule_go_layerwise_and_attention_does_not():
    model, x, _ = make("encoder")
    table = plan(model, x)
    routes = {
        r["subject"]: r["route"] for r in table if r["metric"] == "ntk_operations"
    }
    assert routes["3.weight"] == "layerwise"
    assert routes["1.self_attn.in_proj_weight"] != "layerwise"
    row = only(table, "1.self_attn.in_proj_weight", "ntk_operations")
    assert "no layerwise rule" in row["reason"]


def test_nothing_but_shapes_is_computed():
    class Counted(nn.Linear):
        seen = 0

        def forward(self, x):
            Counted.seen += len(x)
            return super().forward(x)

    # 4 samples for the rules, 2 for the shapes and one of them alone.
    plan(Counted(3, 2), torch.ones(10_000, 3), method="auto")
    assert Counted.seen <= 8
    Counted.seen = 0
    plan(Counted(3, 2), torch.ones(10_000, 3), method="jacobian")
    assert Counted.seen == 3


def test_a_plan_tells_the_size_of_a_kernel_that_does_not_fit():
    table = plan(nn.Linear(3, 2), torch.ones(40_000, 3), outputs="full")
    row = only(table, "kernel", "ntk_result_bytes")
    assert row["value"] == 40_000**2 * 4 * 4
    assert "give out=" in row["reason"]
    with pytest.raises(ValueError, match="pass out="):
        front.empirical(nn.Linear(3, 2), torch.ones(40_000, 3))


def test_positions_are_what_a_weight_is_applied_to():
    model, x, _ = make("cnn")
    table = plan(model, x, method="jacobian")
    positions = {
        r["subject"]: r["positions"] for r in table if r["metric"] == "ntk_operations"
    }
    assert positions["0.weight"] == 3 * 3
    assert positions["3.weight"] == 3 * 3
    assert positions["7.weight"] == 1
    model, x, _ = make("twice")
    assert make_request(model, x, None, "full", None).probe.positions == {
        "inner.weight": 2,
        "inner.bias": 2,
        "last.weight": 1,
        "last.bias": 1,
    }
    model, x, _ = make("parametrised")
    positions = make_request(model, x, None, "full", None).probe.positions
    assert positions["0.parametrizations.weight.original"] == 1


def test_costs_are_the_counted_operations():
    job = Job(3, 5, 2, "full", symmetric=False, forward=100.0)
    # 3 * 2 rows meet 5 * 2 rows, two operations an entry.
    assert jacobian_cost(job, 7) == 2 * 7 * 60
    # Gram of inputs 2 * 4 * 15 pairs of samples, of gradients 2 * 6 * 60.
    assert layerwise_cost(job, (6, 4), 1) == 2 * 4 * 15 + 2 * 6 * 60
    # A bias has the gradients alone.
    assert layerwise_cost(job, (6,), 1) == 2 * 6 * 60
    # 9 positions: 81 times; forming gradients 2 * 24 * (9 * 16 rows + 60) is cheaper.
    assert layerwise_cost(job, (6, 4), 9) == 2 * 24 * (9 * 16 + 60)
    assert backward_cost(job) == 100 * (2 * 16 + 8)
    assert products_cost(job) == 10 * 3 * 200 + backward_cost(job)
    trace = Job(4, 4, 2, "trace", symmetric=True, forward=100.0)
    # Ten of sixteen pairs of samples, two outputs each.
    assert jacobian_cost(trace, 7) == 2 * 7 * 20
    assert jacobian_cost(Job(4, 4, 2, "sum_logits", True, 1.0), 7) == 2 * 7 * 10


@pytest.mark.parametrize("name", ["mlp", "cnn", "shared", "twice"])
def test_a_model_of_supported_layers_needs_no_jacobian(name):
    model, x, _ = make(name)
    rows = plan(model, x).where(kind="measurement", metric="ntk_operations")
    assert {r["route"] for r in rows} == {"layerwise"}


def test_auto_takes_products_where_they_count_less():
    # Many outputs, each parameter used once: a pair of rows costs 2 P by contraction,
    # a forward-mode pass gives c of them for about 4 P.
    class Opaque(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.w = nn.Parameter(torch.randn(c, 6))

        def forward(self, x):
            return x @ self.w.T

    wide = make_request(Opaque(50), torch.ones(30, 6), None, "full", None)
    narrow = make_request(Opaque(50), torch.ones(30, 6), None, "trace", None)
    assert assign(wide, "auto", None, None, 0).names("products") == ("w",)
    assert assign(narrow, "auto", None, None, 0).names("jacobian") == ("w",)


@pytest.mark.parametrize("outputs", ["full", "trace", "sum_logits"])
@pytest.mark.parametrize("method", ["jacobian", "products"])
def test_blocks_stay_below_the_ceiling(outputs, method):
    model = nn.Linear(100, 10)
    request = make_request(model, torch.ones(500, 100), None, outputs, None)
    for memory in (50_000, 10**6, 10**8):
        found = assign(request, method, None, memory, 0)
        layout = found.layout
        rows = layout.samples_per_block * layout.outputs_per_block
        blocks = 2 if method == "jacobian" else 1
        assert found.working <= memory
        assert blocks * rows * 1010 * 4 <= memory
        assert math.isfinite(sum(found.shared_cost.values()))
