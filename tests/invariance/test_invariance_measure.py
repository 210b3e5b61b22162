"""Values, imbalance and alignment of laws, against sums by hand and dense SVDs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import watched_nets as nets
from torch import nn

from spectrank.errors import ArgumentTypeError
from spectrank.invariance import find
from spectrank.invariance.laws import GramTerm, Law, Laws
from spectrank.invariance.measure import measure


def _row(table, subject: str, metric: str) -> dict:
    return table.where(subject=subject, metric=metric).frame.row(0, named=True)


def test_values_are_those_by_hand_and_the_largest_is_named() -> None:
    model = nets.network()
    table = measure(model, nets.laws())
    for name, expected in nets.by_hand(dict(model.named_parameters())).items():
        row = _row(table, name, "law_value")
        assert row["index"] == int(expected.abs().argmax())
        assert row["value"] == pytest.approx(float(expected[row["index"]]), rel=1e-13)
        if row["values"] is not None:
            assert row["values"] == pytest.approx(expected.tolist(), rel=1e-12)


def test_imbalance_is_the_difference_of_both_sides_over_their_sum() -> None:
    model = nets.network()
    p = {name: t.detach() for name, t in model.named_parameters()}
    table = measure(p, nets.laws())
    rows = (p["2.weight"] ** 2).sum(1) + p["2.bias"] ** 2
    columns = (p["4.weight"] ** 2).sum(0)
    expected = (rows - columns).norm() / (rows.norm() + columns.norm())
    found = _row(table, "vertex 2", "relative_imbalance")
    assert found["value"] == pytest.approx(float(expected), rel=1e-12)
    assert found["lower"] <= float(expected) <= found["upper"]
    gram = p["4.weight"] @ p["4.weight"].T + torch.outer(p["4.bias"], p["4.bias"])
    after = p["5.weight"].T @ p["5.weight"]
    expected = (gram - after).norm() / (gram.norm() + after.norm())
    found = _row(table, "matrix 4", "relative_imbalance")
    assert found["value"] == pytest.approx(float(expected), rel=1e-12)
    assert len(table.where(subject="softmax 5").frame) == 1


def test_alignment_is_of_first_singular_vectors_without_biases() -> None:
    model = nets.network()
    p = {name: t.detach() for name, t in model.named_parameters()}
    table = measure(model, nets.laws())
    for name, here, after in (("matrix 4", "4", "5"), ("vertex 0", "0", "2")):
        u = torch.linalg.svd(p[f"{here}.weight"]).U[:, 0]
        v = torch.linalg.svd(p[f"{after}.weight"]).Vh[0]
        found = _row(table, name, "alignment")
        assert found["value"] == pytest.approx(float((u @ v).abs()), abs=1e-12)
        assert found["lower"] <= float((u @ v).abs()) <= found["upper"]
    assert table.where(subject="cut", metric="alignment").frame.is_empty()


def test_layers_of_one_output_or_input_are_aligned_with_their_neighbours() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(1, 5), nn.Linear(5, 4), nn.Linear(4, 1)).double()
    table = measure(net, find(net, torch.randn(6, 1).double(), loss=None))
    p = {name: t.detach() for name, t in net.named_parameters()}
    middle = torch.linalg.svd(p["1.weight"])
    first, last = p["0.weight"][:, 0], p["2.weight"][0]
    for name, cosine in (
        ("matrix 0", middle.Vh[0] @ first / first.norm()),
        ("matrix 1", middle.U[:, 0] @ last / last.norm()),
    ):
        found = _row(table, name, "alignment")["value"]
        assert found == pytest.approx(float(cosine.abs()), abs=1e-12)


def test_several_matrices_of_a_side_stand_side_by_side() -> None:
    torch.manual_seed(0)
    p = {n: torch.randn(3, 3).double() for n in ("U", "Z", "Y")}
    terms = (
        GramTerm("U", (3, 3), (0,), None, 1.0),
        GramTerm("Z", (3, 3), (0,), None, 1.0),
        GramTerm("Y", (3, 3), (1,), None, -1.0),
    )
    law = Law("stream", "stream", "gram", terms, (3, 3), 6, "", "derived")
    u = torch.linalg.svd(torch.cat([p["U"], p["Z"]], 1)).U[:, 0]
    v = torch.linalg.svd(p["Y"]).Vh[0]
    found = _row(measure(p, Laws((law,))), "stream", "alignment")
    assert found["value"] == pytest.approx(float((u @ v).abs()), abs=1e-12)


def test_what_has_no_alignment_or_imbalance_says_so() -> None:
    terms = (
        GramTerm("a", (2, 2), (0,), None, 1.0),
        GramTerm("b", (2, 2), (1,), None, -1.0),
    )
    laws = Laws((Law("m", "matrix", "gram", terms, (2, 2), 3, "", "derived"),))
    both = measure({"a": torch.eye(2), "b": torch.diag(torch.tensor([2.0, 1.0]))}, laws)
    assert _row(both, "m", "alignment")["status"] == "degenerate"
    assert "agree" in _row(both, "m", "alignment")["reason"]
    # diag(1, 1) - diag(4, 1) over sqrt(2) + sqrt(17).
    expected = 3 / (np.sqrt(2) + np.sqrt(17))
    assert _row(both, "m", "relative_imbalance")["value"] == pytest.approx(expected)
    zero = measure({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, laws)
    assert _row(zero, "m", "relative_imbalance")["status"] == "degenerate"
    nan = measure({"a": torch.full((2, 2), torch.nan), "b": torch.eye(2)}, laws)
    assert _row(nan, "m", "law_value")["status"] == "nonfinite"
    with pytest.raises(ArgumentTypeError, match="laws are a Laws, got list"):
        measure(nn.Linear(2, 2), [])
