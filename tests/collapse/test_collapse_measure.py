"""The table of a measured model, against dense formulas on the same rows."""

import math

import pytest
import torch
from collapse_dense import batches, mlp, pairs, wcv, within
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.collapse import measure
from spectrank.errors import DomainError

DECAY = 2e-2


def classified(num=60, dim=6, num_classes=3, seed=0, spread=0.5):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % num_classes
    y[: num // 6] = 0
    centres = 2.0 * torch.randn(num_classes, dim, generator=g, dtype=torch.float64)
    noise = torch.randn(num, dim, generator=g, dtype=torch.float64)
    return centres[y] + spread * noise, y


def trained(model, x, y, steps=300, rate=0.3):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=DECAY)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.fixture(scope="module")
def scene():
    """A trained network, its data, its dense pairs and its table."""
    x, y = classified()
    model = mlp(6, 9, 8, 3)
    optimizer = trained(model, x, y)
    dense = pairs(model, x, lambda o: F.cross_entropy(o, y, reduction="sum"))
    table = measure(
        model, batches(x, y, 16), loss="cross_entropy", weight_decay=optimizer
    )
    return model, x, y, dense, table


def value(table, subject, metric, variant=None, index=None, **more):
    """The one number of these columns."""
    wanted = {"subject": subject, "metric": metric, "variant": variant, **more}
    if index is not None:
        wanted["index"] = index
    found = [r for r in table if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]["value"]


def row(table, subject, metric, variant=None, index=None):
    return next(
        r
        for r in table
        if (r["subject"], r["metric"], r["variant"]) == (subject, metric, variant)
        and (index is None or r["index"] == index)
    )


def test_bounds_are_those_of_theorem_a_on_dense_rows(scene):
    model, x, y, dense, table = scene
    for index in (0, 2):
        W, (z, delta) = model[index].weight.detach(), dense[index]
        name, n = f"{index}.weight", len(x)
        R = within(delta, z, y) / n
        e = delta.T @ z / n + DECAY * W
        b3 = float(R.norm() + e.norm()) / DECAY
        mean_square = float(delta.square().sum()) / n
        b2 = math.sqrt(wcv(delta, y) * wcv(z, y)) / DECAY + float(e.norm()) / DECAY
        b1 = math.sqrt(mean_square * wcv(z, y)) / DECAY + float(e.norm()) / DECAY
        for variant, wanted in (("B3 frobenius", b3), ("B2", b2), ("B1", b1)):
            found = row(table, name, "rank_bound", variant, 3)
            assert found["bound"] == pytest.approx(wanted, rel=1e-10)
            assert found["cells"] == "classes"
            tail = torch.linalg.svdvals(W)[3:].norm().item()
            assert found["value"] == pytest.approx(tail, rel=1e-8)
            assert found["slack"] == pytest.approx(wanted - tail, rel=1e-8)
            assert found["verdict"] in {"holds", "vacuous"}
        found = value(table, name, "stationarity_residual", "absolute")
        assert found == pytest.approx(e.norm().item(), rel=1e-9)


def test_collapse_of_features_is_that_of_dense_formulas(scene):
    model, x, y, dense, table = scene
    for index in (0, 2, 4):
        z, name = dense[index][0], f"{index}.weight"
        assert value(table, name, "wcv", of="features") == pytest.approx(
            wcv(z, y), rel=FLOAT64
        )
        total = (z - z.mean(0)).square().sum().item() / len(z)
        found = value(table, name, "rtcv", of="features")
        assert found == pytest.approx(wcv(z, y) / total, rel=1e-11)
        means = torch.stack([z[y == c].mean(0) for c in range(3)])
        deviations = z - means[y]
        sigma_w = deviations.T @ deviations / len(z)
        centred = means - means.mean(0)
        u, s, _ = torch.linalg.svd(centred.T @ centred / 3)
        # C - 1 = 2 directions; the notebook does not divide by C.
        inverse = (u[:, :2] / s[:2]) @ u[:, :2].T
        wanted = torch.trace(sigma_w @ inverse).item()
        found = value(table, name, "nc1", "papyan")
        assert found == pytest.approx(wanted, rel=1e-9)
        nearest = torch.cdist(z, means).argmin(1)
        wanted = (nearest != model(x).argmax(1)).double().mean().item()
        assert value(table, name, "nc4") == pytest.approx(wanted, abs=1e-15)


def test_gradients_have_rows_of_their_own(scene):
    _, _, y, dense, table = scene
    for index in (0, 2, 4):
        delta, name = dense[index][1], f"{index}.weight"
        found = value(table, name, "wcv", of="gradients")
        assert found == pytest.approx(wcv(delta, y), rel=1e-10)
        z = dense[index][0]
        sigma = torch.linalg.svdvals(delta[:16].T @ z[:16])
        found = row(table, name, "gradient_rank", "rtol=0.001")
        assert found["value"] == int((sigma > 1e-3 * sigma[0]).sum())
        assert (found["index"], found["bound"]) == (
            16,
            min(delta.shape[1], z.shape[1], 16),
        )


def test_outputs_are_the_last_features_and_the_model_has_its_own_rows(scene):
    model, x, y, _, table = scene
    out = model(x).detach()
    assert value(table, "outputs", "wcv") == pytest.approx(wcv(out, y), rel=FLOAT64)
    accuracy = (out.argmax(1) == y).double().mean().item()
    assert value(table, "model", "accuracy") == pytest.approx(accuracy, abs=1e-15)
    loss = F.cross_entropy(out, y).item()
    assert value(table, "model", "loss", "without penalty") == pytest.approx(loss)
    subjects = ["0.weight", "2.weight", "4.weight", "outputs"]
    law = row(table, "model", "layer_law", "rate")
    variation = [value(table, s, "nc1", "he-su") for s in subjects]
    assert law["values"] == variation
    # The slope of four points on 0..3, by hand: (-3, -1, 1, 3) / 10 to their logs.
    logs = [math.log(v) for v in variation]
    slope = sum(w * v for w, v in zip((-0.3, -0.1, 0.1, 0.3), logs, strict=True))
    assert law["value"] == pytest.approx(math.exp(slope), rel=1e-10)
    depth = row(table, "model", "effective_depth", "tolerance=0.05")
    assert depth["values"] == [value(table, s, "nc4") for s in subjects]
    first = next(i for i, share in enumerate(depth["values"]) if share <= 0.05)
    assert depth["value"] == first + 1


def test_the_last_layer_alone_is_the_classifier(scene):
    *_, table = scene
    assert {r["subject"] for r in table if r["metric"] == "nc3"} == {"4.weight"}
    # 3 x 8: rank 3 at most, so three cells promise nothing.
    found = row(table, "4.weight", "rank_bound", "B3 frobenius", 3)
    assert (found["verdict"], found["value"]) == ("not_applicable", 0.0)


def test_a_penalty_counts_twice_and_an_optimizer_speaks_for_itself(scene):
    model, x, y, _, table = scene
    wanted = row(table, "0.weight", "rank_bound", "B3 frobenius", 3)["bound"]
    for given, decay in ((DECAY, "coupled"), (DECAY / 2, "penalty")):
        found = measure(
            model,
            batches(x, y, 16),
            loss="cross_entropy",
            weight_decay=given,
            decay=decay,
            norms=("frobenius",),
        )
        r = row(found, "0.weight", "rank_bound", "B3 frobenius", 3)
        assert r["bound"] == pytest.approx(wanted, rel=FLOAT64)
        assert (r["weight_decay"], r["decay"]) == (DECAY, decay)


@pytest.mark.parametrize("kind", ["AdamW", "decoupled", "none", "part"])
def test_where_no_bound_follows_the_verdict_says_so(scene, kind):
    model, x, y, _, _ = scene
    options = {"decay": "coupled"}
    if kind == "AdamW":
        decay = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    elif kind == "part":
        decay = torch.optim.SGD(model[2:].parameters(), lr=0.1, weight_decay=0.1)
    else:
        decay = 0.1 if kind == "decoupled" else 0.0
        options["decay"] = "decoupled" if kind == "decoupled" else "coupled"
    found = measure(
        model, batches(x, y, 16), loss="cross_entropy", weight_decay=decay, **options
    )
    first = [r for r in found if r["subject"] == "0.weight"]
    verdicts = {r["verdict"] for r in first if r["metric"] == "rank_bound"}
    assert verdicts == {"not_applicable"}
    word = {"AdamW": "AdamW", "decoupled": "decoupled", "none": "no weight decay"}
    reasons = {r["reason"] for r in first if r["metric"] == "rank_bound"}
    assert any(word.get(kind, "holds no parameter") in reason for reason in reasons)
    if kind == "part":
        later = row(found, "2.weight", "rank_bound", "B3 frobenius", 3)
        assert later["verdict"] in {"holds", "vacuous"}


def test_the_same_table_whatever_the_batches(scene):
    model, x, y, _, table = scene
    found = measure(model, batches(x, y, 60), loss="cross_entropy", weight_decay=DECAY)
    # A number has no learning rate, so there are no windows of steps.
    kept = [r for r in table if r["metric"] != "window_rank"]
    assert len(table) - len(kept) == 3
    for mine, theirs in zip(found, kept, strict=True):
        key = ("subject", "metric", "variant", "index", "of", "cells")
        if mine["metric"] == "gradient_rank":
            continue
        assert [mine[k] for k in key] == [theirs[k] for k in key]
        assert mine["verdict"] == theirs["verdict"]
        assert mine["status"] == theirs["status"]
        if mine["value"] is not None and mine["metric"] != "stationarity_residual":
            wanted = pytest.approx(theirs["value"], rel=1e-9, abs=1e-12, nan_ok=True)
            assert mine["value"] == wanted


def test_sums_alone_leave_out_what_needs_a_covariance():
    model, (x, y) = mlp(6, 9, 3), classified()
    found = measure(
        model, batches(x, y, 16), loss=None, weight_decay=0.0, scatter="trace"
    )
    assert not [r for r in found if r["of"] in {"gradients", "weight"}]
    papyan = row(found, "0.weight", "nc1", "papyan")
    assert (papyan["status"], math.isnan(papyan["value"])) == ("skipped", True)
    assert "full scatter" in papyan["reason"]
    assert value(found, "0.weight", "wcv") == pytest.approx(wcv(x, y), rel=FLOAT64)


def test_single_precision_products_enclose_those_in_double():
    model, (x, y) = mlp(6, 9, 3), classified()
    tables = [
        measure(
            model,
            batches(x, y, 16),
            loss=None,
            weight_decay=0.0,
            precision=precision,
        )
        for precision in ("float32", "float64")
    ]
    single, double = (row(t, "2.weight", "nc1", "papyan") for t in tables)
    assert single["lower"] <= double["value"] <= single["upper"]
    assert single["upper"] - single["lower"] > double["upper"] - double["lower"]
    assert single["value"] == pytest.approx(double["value"], rel=1e-4)


def test_a_sample_of_rows_is_said_to_be_one():
    model, (x, y) = mlp(6, 9, 3), classified(num=400, spread=2.0)
    options = {"loss": "cross_entropy", "weight_decay": 0.1}
    whole = measure(model, batches(x, y, 50), **options)
    part = measure(model, batches(x, y, 50), keep_bytes=100 * 15 * 8, **options)
    found = row(part, "2.weight", "nc4")
    assert "uniform sample of 100 of 400 rows" in found["reason"]
    assert found["error_kind"] == "stderr"
    assert found["lower"] <= value(whole, "2.weight", "nc4") <= found["upper"]
    assert found["lower"] < found["upper"]
    none = measure(model, batches(x, y, 50), keep_bytes=0, **options)
    assert not [r for r in none if r["metric"] in {"nc4", "effective_depth"}]


def test_regression_takes_the_rank_of_its_targets_for_the_classes():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g, dtype=torch.float64)
    # Three targets on a plane.
    y = x[:, :2] @ torch.randn(2, 3, generator=g, dtype=torch.float64)
    model = mlp(6, 9, 3)
    found = measure(model, batches(x, y, 16), loss="mse", weight_decay=0.1)
    nrc1 = row(found, "2.weight", "nrc1")
    assert nrc1["index"] == 2
    z = torch.tanh(model[0](x)).detach()
    mu = torch.linalg.eigvalsh(torch.cov(z.T, correction=0)).flip(0)
    assert nrc1["value"] == pytest.approx((mu[2:].sum() / mu.sum()).item(), rel=1e-9)
    assert {r["subject"] for r in found if r["metric"] == "nrc3"} == {"2.weight"}
    bound = row(found, "0.weight", "rank_bound", "A3", 2)
    e = torch.autograd.grad(F.mse_loss(model(x), y), [model[0].weight])[0]
    residual = (e + 0.1 * model[0].weight.detach()).norm().item()
    delta = pairs(model, x, lambda o: (o - y).square().sum())[0][1]
    nu = torch.linalg.eigvalsh(x.T @ x / 40).flip(0)
    # F = N d_out, and sums of N rows: mean squares carry N / F.
    tail = math.sqrt(delta.square().sum().item() / 40 * nu[2:].sum().item()) / 3
    assert bound["bound"] == pytest.approx((tail + residual) / 0.1, rel=1e-8)
    assert not [r for r in found if r["metric"] in {"nc1", "nc4"}]


def test_a_convolution_is_certified_by_classes_and_by_positions():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv1d(4, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
        ).double()
    g = torch.Generator().manual_seed(1)
    y = torch.arange(18) % 3
    centres = torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    x = centres[y]
    found = measure(model, batches(x, y, 7), loss="cross_entropy", weight_decay=0.1)
    assert {r["cells"] for r in found if r["metric"] == "rank_bound"} == {
        "classes",
        "class-positions",
    }
    # Inputs that have collapsed: cells of a class and a position have no variation.
    exact = [r for r in found if r["cells"] == "class-positions" and r["index"] == 6]
    b3 = next(r for r in exact if r["variant"] == "B3 frobenius")
    assert b3["bound_at_stationarity"] < 1e-12
    by_class = row(found, "0.weight", "rank_bound", "B3 frobenius", 3)
    assert by_class["bound_at_stationarity"] > 1e-3
    nearest = row(found, "0.weight", "nc4")
    assert nearest["view"] == "whole-input"
    flat = x.flatten(1)
    means = torch.stack([flat[y == c].mean(0) for c in range(3)])
    wanted = torch.cdist(flat, means).argmin(1) != model(x).argmax(1)
    assert nearest["value"] == pytest.approx(wanted.double().mean().item())


def test_a_norm_after_a_layer_makes_its_bound_not_applicable():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        ).double()
    x, y = classified()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = measure(model, batches(x, y, 16), loss="cross_entropy", weight_decay=0.1)
    first = row(found, "0.weight", "rank_bound", "B3 frobenius", 3)
    assert first["verdict"] == "not_applicable"
    assert "batch_norm" in first["reason"]
    last = row(found, "3.weight", "rank_bound", "B3 frobenius", 1)
    assert last["verdict"] != "not_applicable"
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_alignments_and_k_means_come_on_request():
    pytest.importorskip("sklearn")
    model, (x, y) = mlp(6, 9, 3), classified()
    found = measure(
        model,
        batches(x, y, 16),
        loss="cross_entropy",
        weight_decay=0.1,
        alignments=True,
        clusters=True,
    )
    aligned = [r for r in found if r["metric"].startswith("alignment_")]
    assert len(aligned) == 12
    assert all(0.0 <= r["value"] <= 1.0 for r in aligned)
    kmeans = row(found, "0.weight", "tcv", "kmeans")
    bracket = row(found, "0.weight", "pca_bracket", "lower")
    assert (
        bracket["value"]
        <= kmeans["value"]
        <= value(found, "0.weight", "wcv", of="features") * (1 + FLOAT64)
    )


def test_partitions_are_searched_on_request_and_need_every_row():
    pytest.importorskip("sklearn")
    x, y = classified()
    # Two groups within each class, which the classes do not tell apart.
    x = x + 6.0 * (torch.arange(60) % 2)[:, None]
    model = mlp(6, 9, 8, 3)
    trained(model, x, y, steps=40)
    options = {"loss": "cross_entropy", "weight_decay": DECAY, "clusters": True}
    found = measure(model, batches(x, y, 16), ranks=(2, 3, 6), **options)
    z, delta = pairs(model, x, lambda o: F.cross_entropy(o, y, reduction="sum"))[2]
    e = (delta.T @ z / 60 + DECAY * model[2].weight.detach()).norm().item()
    classes = row(found, "2.weight", "rank_bound", "B3 frobenius", 3)["bound"]
    previous = math.inf
    for k in (2, 3, 6):
        best = row(found, "2.weight", "rank_bound", "partition", k)
        assert best["cells"] == "partition"
        assert k == 2 or best["bound"] <= classes * (1 + FLOAT64)
        assert best["bound"] <= previous * (1 + FLOAT64)
        previous = best["bound"]
        excess = best["bound"] - best["bound_at_stationarity"]
        assert excess == pytest.approx(e / DECAY, rel=1e-9)
        tail = torch.linalg.svdvals(model[2].weight.detach())[k:].norm().item()
        assert best["value"] == pytest.approx(tail, rel=1e-8)
        assert best["verdict"] in {"holds", "vacuous"}
    few = measure(model, batches(x, y, 16), keep_bytes=4000, **options)
    lost = row(few, "2.weight", "rank_bound", "partition")
    assert (lost["verdict"], lost["status"]) == ("not_applicable", "skipped")
    assert "not all were kept" in lost["reason"]


def test_squared_norms_are_capped_by_the_loss_of_the_zero_network(scene):
    model, x, y, _, table = scene
    found = row(table, "model", "norm_cap", "all")
    squares = sum(model[i].weight.detach().square().sum().item() for i in (0, 2, 4))
    assert found["value"] == pytest.approx(squares, rel=FLOAT64)
    with torch.no_grad():
        nothing = F.cross_entropy(0.0 * model(x), y).item()
    assert found["bound"] == pytest.approx(2.0 * nothing / DECAY, rel=FLOAT64)
    loss = F.cross_entropy(model(x), y).item()
    below = loss + 0.5 * DECAY * squares <= nothing
    assert found["verdict"] == ("holds" if below else "not_applicable")
    weighted = nn.CrossEntropyLoss(torch.ones(3, dtype=torch.float64))
    none = measure(model, [(x, y)], loss=weighted, weight_decay=DECAY)
    assert not [r for r in none if r["metric"] == "norm_cap"]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_zero_network_of_a_regression_has_the_second_moment_of_its_targets(
    reduction,
):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(30, 6, generator=g, dtype=torch.float64)
    y = 1.0 + torch.randn(30, 3, generator=g, dtype=torch.float64)
    loss = nn.MSELoss(reduction=reduction)
    # A sum over the loader is that of one step where the loader is one batch.
    size = 30 if reduction == "sum" else 7
    found = measure(mlp(6, 9, 3), batches(x, y, size), loss=loss, weight_decay=0.1)
    wanted = 2.0 * loss(torch.zeros_like(y), y).item() / 0.1
    bound = row(found, "model", "norm_cap", "all")["bound"]
    assert bound == pytest.approx(wanted, rel=FLOAT64)


def test_the_optimizer_tells_the_rank_of_its_last_minibatches(scene):
    model, x, y, *_ = scene
    rate, decay = 0.5, 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)
    table = measure(
        model, batches(x, y, 1), loss="cross_entropy", weight_decay=optimizer
    )
    # Without momentum (1 - rate decay)^m is 1/200 of a weight that was twice as large.
    steps = math.ceil(math.log(0.005) / math.log(1 - rate * decay))
    found = row(table, "0.weight", "window_rank")
    assert (found["index"], found["value"], found["bound"]) == (steps, steps, 6.0)
    more = measure(
        model, batches(x, y, 16), loss="cross_entropy", weight_decay=optimizer
    )
    assert row(more, "0.weight", "window_rank")["value"] == 16 * steps
    subjects = [r["subject"] for r in more if r["metric"] == "window_rank"]
    assert subjects == ["0.weight", "2.weight", "4.weight"]


def test_layers_without_statistics_are_rows_with_a_reason():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)
            self.idle = nn.Linear(4, 4)

        def forward(self, x):
            return self.head(self.embed(x))

    model = Model().double()
    y = torch.arange(12) % 3
    with pytest.warns(match="never ran: idle"):
        found = measure(
            model, [(torch.arange(12) % 5, y)], loss="cross_entropy", weight_decay=0.1
        )
    skips = {r["subject"]: r["reason"] for r in found if r["kind"] == "skip"}
    assert skips.keys() == {"embed.weight", "idle.weight"}
    assert "not called" in skips["idle.weight"]
    assert "Embedding" in skips["embed.weight"]


def test_the_table_says_what_was_measured(scene):
    *_, table = scene
    known = table.provenance
    assert (known["num_samples"], known["divisor"], known["num_batches"]) == (60, 60, 4)
    assert (known["loss"], known["targets"]) == ("cross_entropy", "classes")
    first = row(table, "0.weight", "rank_bound", "B2", 3)
    assert (first["m"], first["n"], first["num_classes"]) == (9, 6, 3)


def test_soft_labels_are_refused():
    model, (x, _) = mlp(6, 3), classified()
    soft = torch.full((60, 3), 1 / 3, dtype=torch.float64)
    with pytest.raises(DomainError, match="soft labels"):
        measure(model, [(x, soft)], loss="cross_entropy", weight_decay=0.1)
