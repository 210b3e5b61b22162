"""Rows of certificates: numbers by numpy, every verdict where it belongs."""

import numpy as np
import pytest
import torch
from certificate_nets import cross_of, dense_distance, dense_within, draw

from spectrank.collapse.certificates import (
    COLUMNS,
    Applicability,
    Caveat,
    certificate_rows,
)
from spectrank.table import Table


def stationary(seed, *, spread=0.02, m=7, n=9, K=3, decay=0.5):
    """A layer whose weight is exactly stationary, its pairs and labels."""
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    labels = torch.arange(90) % K
    z = torch.randn(K, n, **options)[labels] + spread * torch.randn(90, n, **options)
    delta = torch.randn(K, m, **options)[labels]
    delta = delta + spread * torch.randn(90, m, **options)
    return -(delta.T @ z) / 90 / decay, delta, z, labels


def rows_of(W, delta, z, labels, **options):
    given = {"divisor": 90, "weight_decay": 0.5, **options}
    cross = cross_of(delta, z, labels, int(labels.max()) + 1, scatter_in="full")
    return certificate_rows(W, cross, **given)


def pick(rows, metric, variant=None, index=None):
    (row,) = [
        r
        for r in rows
        if (r["metric"], r["variant"], r.get("index")) == (metric, variant, index)
    ]
    return row


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_collapsed_stationary_layer_holds_with_the_numbers_of_numpy(seed):
    W, delta, z, labels = stationary(seed)
    rows = rows_of(W, delta, z, labels)
    norms = {"frobenius": "fro", "spectral": 2, "nuclear": "nuc"}
    R = dense_within(delta, z, labels) / 90
    for norm, order in norms.items():
        row = pick(rows, "rank_bound", f"B3 {norm}", 3)
        assert row["value"] == pytest.approx(dense_distance(W, 3, norm), rel=1e-6)
        assert row["bound"] == pytest.approx(np.linalg.norm(R, order) / 0.5, rel=1e-6)
        assert row["slack"] == pytest.approx(row["bound"] - row["value"])
        assert row["verdict"] == "holds"
        assert "not an estimate" in row["reason"]
    relative = pick(rows, "distance_to_rank", "relative", 3)["value"]
    whole = float(W.norm())
    assert relative == pytest.approx(dense_distance(W, 3, "frobenius") / whole)
    slope = pick(rows, "distance_to_rank", "gradient relative", 3)["value"]
    # At a stationary point the weight is the gradient, up to its scale.
    assert slope == pytest.approx(relative, rel=1e-8)
    share = pick(rows, "within_gradient_share", None, 3)
    assert share["bound"] == pytest.approx(np.linalg.norm(R) / (0.5 * whole))
    assert share["verdict"] == "holds"
    levels = ("B3 frobenius", "B2", "B1")
    bounds = [pick(rows, "rank_bound", level, 3)["bound"] for level in levels]
    assert bounds == sorted(bounds)


def test_the_residual_rows_measure_the_distance_from_stationarity():
    W, delta, z, labels = stationary(4)
    rows = rows_of(1.5 * W, delta, z, labels)
    e = 0.5 * 0.5 * float(W.norm())
    R = float(np.linalg.norm(dense_within(delta, z, labels))) / 90
    truth = {"absolute": e, "relative": e / (0.75 * float(W.norm()))}
    truth["share"] = e / (e + R)
    for variant, value in truth.items():
        row = pick(rows, "stationarity_residual", variant)
        assert row["value"] == pytest.approx(value, rel=1e-9)
    row = pick(rows, "rank_bound", "B3 frobenius", 3)
    assert row["bound"] == pytest.approx((R + e) / 0.5, rel=1e-9)
    assert row["bound_at_stationarity"] == pytest.approx(R / 0.5, rel=1e-9)
    assert f"{truth['share']:.2g} of it" in row["reason"]
    assert "distance from stationarity" in row["reason"]


@pytest.mark.parametrize("factor", [1.002, 1.01])
def test_the_share_of_a_bound_in_its_reason_is_of_that_bound(factor):
    W, delta, z, labels = stationary(4)
    rows = rows_of(factor * W, delta, z, labels, ranks=(1, 3, 6))
    R = dense_within(delta, z, labels) / 90
    e = 0.5 * (factor - 1.0) * W.numpy()
    sigma = np.linalg.svd(R, compute_uv=False)
    moment = (delta**2).sum() * np.linalg.eigvalsh((z.T @ z).numpy())[::-1][3:].sum()
    truth = {  # The part that stays at a stationary point, by variant and rank.
        ("B3 frobenius", 3): float(np.linalg.norm(R)),
        ("B3 frobenius", 6): float(np.linalg.norm(sigma[3:])),
        ("B3 nuclear", 3): float(sigma.sum()),
        ("A3", 3): float(moment) ** 0.5 / 90,
    }
    words = set()
    for (variant, k), stays in truth.items():
        order = "nuc" if "nuclear" in variant else "fro"
        away = float(np.linalg.norm(e, order))
        reason = pick(rows, "rank_bound", variant, k)["reason"]
        share = away / (away + stays)
        much = ", the most," if share >= 0.5 else ""
        assert f"{share:.2g} of it{much} is due to" in reason
        words.add(f"{share:.2g}")
    assert len(words) == 4


def test_noise_makes_the_bound_vacuous_and_says_so():
    rows = rows_of(*stationary(5, spread=3.0))
    row = pick(rows, "rank_bound", "B1", 3)
    assert row["verdict"] == "vacuous"
    assert row["value"] <= row["bound"]
    assert "not below" in row["reason"]


def test_a_wrong_decay_is_a_violation_when_the_gradient_is_known_from_elsewhere():
    W, delta, z, labels = stationary(6, spread=0.3)
    truth = (delta.T @ z) / 90
    right = rows_of(W, delta, z, labels, gradient=truth)
    assert pick(right, "rank_bound", "B3 frobenius", 3)["verdict"] == "holds"
    # Statistics whose gradient is another one: half the noise is missing.
    means = torch.stack([z[labels == c].mean(0) for c in range(3)])[labels]
    wrong = rows_of(W, delta, means + 0.01 * (z - means), labels, gradient=truth)
    row = pick(wrong, "rank_bound", "B3 frobenius", 3)
    assert row["verdict"] == "violated"
    assert "not the one of the training" in row["reason"]


def test_ranks_that_every_matrix_has_are_not_applicable():
    W, delta, z, labels = stationary(7, m=3)
    row = pick(rows_of(W, delta, z, labels), "rank_bound", "B3 spectral", 3)
    assert row["verdict"] == "not_applicable"
    assert "3 x 9 matrix has rank at most 3" in row["reason"]
    W, delta, z, labels = stationary(7, m=2)
    row = pick(rows_of(W, delta, z, labels), "rank_bound", "B2", 3)
    assert row["verdict"] == "not_applicable"
    assert "2 x 9 matrix has rank at most 2" in row["reason"]
    assert "distance to rank 3 is 0" in row["reason"]
    below = pick(rows_of(W, delta, z, labels), "rank_bound", "B3 frobenius", 1)
    assert below["verdict"] in {"holds", "vacuous"}


def test_what_blocks_and_what_weakens_reaches_every_bound():
    W, delta, z, labels = stationary(8)
    known = Applicability(
        0.5, (Caveat("decay", "blocks", "AdamW it is"), Caveat("x", "note", "beware"))
    )
    rows = rows_of(W, delta, z, labels, applicability=known)
    bounds = [row for row in rows if row["metric"] == "rank_bound"]
    assert {row["verdict"] for row in bounds} == {"not_applicable"}
    assert {row["reason"] for row in bounds} == {"AdamW it is"}
    # The gradient's own distance needs no stationary point.
    assert pick(rows, "within_gradient_share", None, 3)["verdict"] == "holds"
    caveats = {
        r["variant"]: r["verdict"] for r in rows if r["metric"] == "applicability"
    }
    # A note does not say holds where nothing does.
    assert caveats == {"decay": "not_applicable", "x": "not_applicable"}
    note = pick(rows, "applicability", "x", None)
    assert note["reason"] == "beware; but no bound applies: AdamW it is"
    alone = Applicability(0.5, (Caveat("x", "note", "beware"),))
    note = pick(rows_of(W, delta, z, labels, applicability=alone), "applicability", "x")
    assert (note["verdict"], note["reason"]) == ("holds", "beware")
    weak = Applicability(0.5, (Caveat("dropout", "weakens", "masks are off"),))
    rows = rows_of(W, delta, z, labels, applicability=weak)
    row = pick(rows, "rank_bound", "B2", 3)
    assert row["verdict"] == "holds"
    assert "masks are off" in row["reason"]


def test_no_decay_no_data_and_a_zero_weight_say_why_there_is_no_bound():
    W, delta, z, labels = stationary(9)
    free = pick(rows_of(W, delta, z, labels, weight_decay=0.0), "rank_bound", "B2", 3)
    assert free["verdict"] == "not_applicable"
    assert "no weight decay" in free["reason"]
    assert free["bound"] is None
    zero = pick(rows_of(0 * W, delta, z, labels), "rank_bound", "B3 frobenius", 3)
    assert zero["verdict"] == "not_applicable"
    assert zero["reason"] == "the weight is zero"
    z[3, 2] = torch.nan
    lost = pick(rows_of(W, delta, z, labels), "rank_bound", "B3 frobenius", 3)
    assert lost["verdict"] == "not_applicable"
    assert "not finite" in lost["reason"]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_softmax_takes_one_rank_and_the_row_appears_for_it_alone(smoothing):
    generator = torch.Generator().manual_seed(10)
    options = {"dtype": torch.float64, "generator": generator}
    labels = torch.arange(90) % 4
    z = torch.randn(90, 9, **options)
    a = torch.randn(90, 4, **options).requires_grad_()
    weight = torch.tensor([0.3, 1.0, 2.0, 0.7], dtype=torch.float64)
    loss = torch.nn.CrossEntropyLoss(weight, label_smoothing=smoothing, reduction="sum")
    loss(a, labels).backward()
    delta = a.grad
    W = -(delta.T @ z) / 90 / 0.5
    exact = pick(rows_of(W, delta, z, labels), "rank_bound", "softmax", 3)
    assert exact["verdict"] == "holds"
    assert exact["value"] < 1e-14
    assert exact["bound"] < 1e-14
    # Away from the point the column sums of e = 0.5 C are what is left.
    C = torch.randn(4, 9, **options)
    row = pick(rows_of(W + C, delta, z, labels), "rank_bound", "softmax", 3)
    truth = float(np.linalg.norm(C.numpy().sum(0))) / 2
    assert row["bound"] == pytest.approx(truth, rel=1e-10)
    sigma = np.linalg.svd((W + C).numpy(), compute_uv=False)
    assert row["value"] == pytest.approx(sigma[3], rel=1e-9)
    assert sigma[3] <= truth
    other = rows_of(W, delta + 0.1, z, labels)
    assert not [r for r in other if r["variant"] == "softmax"]


@pytest.mark.parametrize("skip", [False, True])
def test_a_layer_norm_takes_one_rank_too(skip):
    generator = torch.Generator().manual_seed(11)
    options = {"dtype": torch.float64, "generator": generator}
    z, x = torch.randn(90, 9, **options), torch.randn(90, 4, **options)
    W = torch.randn(4, 9, **options)
    a = (z @ W.T).requires_grad_()
    scale, target = torch.randn(4, **options), torch.randn(90, 4, **options)
    out = torch.nn.functional.layer_norm(a + x if skip else a, (4,), scale)
    (out - target).square().sum().backward()
    row = pick(rows_of(W, a.grad, z, torch.arange(90) % 3), "rank_bound", "softmax", 3)
    truth = float(np.linalg.norm(W.numpy().sum(0))) / 2
    assert row["bound"] == pytest.approx(truth, rel=1e-10)
    assert row["value"] <= truth
    assert "LayerNorm" in row["reason"]


def test_the_rows_make_a_table():
    net = draw(3)
    cross = cross_of(net.delta, net.z, net.labels, net.num_classes)
    rows = certificate_rows(net.weight, cross, divisor=30, weight_decay=0.1)
    table = Table.from_rows([{"subject": "w", **r} for r in rows], columns=COLUMNS)
    assert len(table) == len(rows)
