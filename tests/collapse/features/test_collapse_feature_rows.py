"""Rows of features: which there are, what they hold, and that a Table takes them."""

import pytest
import torch

from spectrank.collapse.features import (
    alignment_rows,
    canonical_alignments,
    feature_rows,
    kept_rows,
    nc1,
    nc2,
    nc2_classifier,
    nc3,
    nc4,
    nrc,
    pca_bracket,
    regression_rows,
    subspace_angles,
    tcv,
)
from spectrank.collapse.features.summarised import class_summary
from spectrank.linalg.moments import CrossMoments
from spectrank.table import Table


@pytest.fixture
def cloud():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat_interleave(torch.tensor([6, 9, 3, 12]))
    centres = 3.0 * torch.randn(4, 5, dtype=torch.float64, generator=g)
    x = centres[y] + torch.randn(30, 5, dtype=torch.float64, generator=g)
    return x, y, torch.randn(4, 5, dtype=torch.float64, generator=g)


def by_name(rows):
    table = {(r["metric"], r["variant"]): r for r in rows}
    assert len(table) == len(rows)
    return table


def test_a_classifier_layer_has_every_metric_with_its_value(cloud):
    x, y, w = cloud
    summary = class_summary(x, y, full=True)
    rows = by_name(feature_rows(summary, weight=w, classifier=True))
    near = {"rel": 1e-10}
    for variant in ("papyan", "zhu", "pinv", "trace-ratio", "cdnv", "he-su"):
        truth = nc1(x, y, variant).value
        assert rows["nc1", variant]["value"] == pytest.approx(truth, **near)
    for variant in ("equinorm", "equiangular", "etf"):
        row = rows[f"nc2_{variant}", "features"]
        assert row["value"] == pytest.approx(nc2(x, y, variant).value, **near)
        row = rows[f"nc2_{variant}", "classifier"]
        assert row["value"] == pytest.approx(nc2_classifier(w, variant).value, **near)
    for variant in ("papyan", "zhu"):
        truth = nc3(x, y, w, variant).value
        assert rows["nc3", variant]["value"] == pytest.approx(truth, **near)
    means = [x[y == c].mean(0) for c in range(4)]
    wcv = sum(float((x[y == c] - means[c]).square().sum()) for c in range(4)) / 30
    total = float((x - x.mean(0)).square().sum()) / 30
    assert rows["wcv", None]["value"] == pytest.approx(wcv, **near)
    assert rows["rtcv", None]["value"] == pytest.approx(wcv / total, **near)
    bracket = rows["pca_bracket", "lower"]
    assert bracket["value"] == pytest.approx(pca_bracket(x, 4).value, **near)
    assert bracket["index"] == 4
    # The class partition encloses TCV_K: from the bracket to itself.
    cell = rows["tcv", "classes"]
    assert cell["index"] == 4
    assert cell["error_kind"] == "certified"
    assert cell["value"] == pytest.approx(wcv, **near)
    assert cell["lower"] == pytest.approx(bracket["value"], rel=1e-6)
    assert cell["lower"] <= tcv(x, y, seed=0).value <= cell["upper"] * (1 + 1e-12)
    angles = [a.value for a in subspace_angles(summary, w)]
    assert rows["subspace_angle", "largest"]["values"] == angles
    assert rows["subspace_angle", "largest"]["value"] == max(angles)
    assert {r["status"] for r in rows.values()} == {"ok"}
    assert [rows["nc1", v]["index"] for v in ("papyan", "cdnv")] == [3, None]


def test_a_table_takes_all_rows(cloud):
    x, y, w = cloud
    cross = CrossMoments(4, 4, 5, scatter_out="full", scatter_in="full")
    cross.update(x @ w.mT, x, y)
    summary = class_summary(x, y, full=True)
    rows = feature_rows(summary, weight=w, classifier=True)
    rows += kept_rows(summary, x, y, x @ w.mT, label_weight=1.0, seed=0)
    rows += alignment_rows(cross.compute(), w)
    rows += regression_rows(
        summary, num_directions=2, weight=w, target_covariance=torch.eye(4)
    )
    table = Table.from_rows([{"subject": "layer", **r} for r in rows])
    assert len(table.frame) == len(rows)
    assert set(table.frame["kind"]) == {"measurement"}


def test_what_a_trace_cannot_give_is_a_skipped_row_with_the_reason(cloud):
    x, y, w = cloud
    whole = by_name(feature_rows(class_summary(x, y, full=True), weight=w))
    rows = by_name(feature_rows(class_summary(x, y), weight=w))
    assert set(rows) == set(whole)
    skipped = {k for k, r in rows.items() if r["status"] == "skipped"}
    assert skipped == {
        ("pca_bracket", "lower"),
        *(("nc1", v) for v in ("papyan", "zhu", "pinv", "he-su")),
    }
    assert all("full scatter" in rows[k]["reason"] for k in skipped)
    for name in (("nc1", "trace-ratio"), ("nc1", "cdnv"), ("nc2_etf", "features")):
        assert rows[name]["value"] == pytest.approx(whole[name]["value"], rel=1e-12)
    # Without the bracket the class partition is its own value, with no certificate.
    assert rows["tcv", "classes"]["error_kind"] == "rounding"


def test_missing_directions_are_said_beside_the_value():
    y = torch.arange(4).repeat(2)
    off = torch.tensor([[0.0, 1.0, 1.0], [0.0, -1.0, -1.0]]).double()
    x = torch.zeros(8, 3).double()
    x[:, 0] = y
    row = by_name(
        feature_rows(class_summary(x + off.repeat_interleave(4, 0), y, full=True))
    )
    found = row["nc1", "papyan"]
    assert found["status"] == "ok"
    assert found["index"] == 1
    assert "span 1 of 3" in found["reason"]


def test_degenerate_features_give_rows_with_reasons():
    y = torch.arange(3).repeat(2)
    rows = feature_rows(
        class_summary(torch.ones(6, 2), y, full=True), weight=torch.eye(2)
    )
    undefined = [r for r in rows if r["status"] != "ok"]
    assert {r["metric"] for r in undefined} >= {
        "nc1",
        "rtcv",
        "nc2_etf",
        "subspace_angle",
    }
    assert all(r["reason"] for r in undefined)
    assert by_name(rows)["subspace_angle", "largest"]["index"] is None
    none = feature_rows(class_summary(torch.ones(0, 2), y[:0], full=True))
    assert {r["status"] for r in none} == {"degenerate"}


def test_kept_rows_are_nc4_and_the_variation_of_clusters(cloud):
    x, y, w = cloud
    summary = class_summary(x, y)
    logits = x @ w.mT
    rows = by_name(kept_rows(summary, x, y, logits, label_weight=2.0, seed=1))
    assert rows["nc4", None]["value"] == nc4(x, y, logits).value
    assert rows["nc4", None]["error_kind"] == "certified"
    for variant, weight in (("kmeans", None), ("kmeans-labels", 2.0)):
        truth = tcv(x, y, label_weight=weight, seed=1).value
        assert rows["tcv", variant]["value"] <= truth * (1 + 1e-9)
        assert rows["tcv", variant]["index"] == 4
        assert rows["tcv", variant]["reason"] is None
    fewer = by_name(kept_rows(summary, x, y, logits, num_clusters=2, seed=1))
    assert fewer["tcv", "kmeans"]["index"] == 2
    assert fewer["tcv", "kmeans"]["value"] > rows["tcv", "kmeans"]["value"]


def test_a_sample_says_that_it_is_one(cloud):
    x, y, w = cloud
    part = torch.arange(0, 30, 2)
    rows = by_name(
        kept_rows(class_summary(x, y), x[part], y[part], x[part] @ w.mT, seed=0)
    )
    assert rows["nc4", None]["error_kind"] == "stderr"
    for row in rows.values():
        assert "sample of 15 of 30 rows" in row["reason"]
    assert "TCV of the sample" in rows["tcv", "kmeans"]["reason"]


def test_regression_and_alignment_rows_hold_the_values_or_the_reason(cloud):
    x, y, w = cloud
    targets = x[:, :4] @ w[:, :4]
    c = targets - targets.mean(0)
    flat = class_summary(x, None, full=True)
    rows = by_name(
        regression_rows(
            flat, num_directions=4, weight=w, target_covariance=c.mT @ c / 30
        )
    )
    for variant in ("nrc1", "nrc2", "nrc3"):
        truth = nrc(x, targets, w, variant).value
        assert rows[variant, None]["value"] == pytest.approx(truth, rel=1e-9, abs=1e-12)
    assert rows["nrc1", None]["index"] == 4
    bare = by_name(regression_rows(class_summary(x, None), num_directions=4, weight=w))
    assert {r["status"] for r in bare.values()} == {"skipped"}
    assert set(bare) == {("nrc1", None), ("nrc2", None)}
    cross = CrossMoments(4, 4, 5, scatter_out="full", scatter_in="full")
    cross.update(x @ w.mT, x, y)
    summary = cross.compute()
    found = by_name(alignment_rows(summary, w))
    for name, value in canonical_alignments(summary, w).items():
        assert found[f"alignment_{name}", "cosine"]["value"] == value.value
    thin = CrossMoments(4, 4, 5)
    thin.update(x @ w.mT, x, y)
    skipped = alignment_rows(thin.compute(), w)
    assert len(skipped) == 6
    assert {r["status"] for r in skipped} == {"skipped"}
