"""Thinned spectra, labels, and the JSON that the page draws from."""

import itertools
import json
import math

import polars as pl
import pytest

from spectrank.report._data import safe_json, scan_rows
from spectrank.report._names import labels, shorten
from spectrank.report._payload import payload
from spectrank.report._thinning import MAX_POINTS, thin_positions, thin_spectrum

SIZES = [*range(MAX_POINTS - 2, MAX_POINTS + 300), 1000, 4096, 65_537, 1_000_000]


@pytest.mark.parametrize("limit", [2, 3, 17, MAX_POINTS])
def test_thinned_positions_increase_strictly_and_keep_both_ends(limit):
    for size in [*range(1, 60), *SIZES]:
        positions = thin_positions(size, limit)
        assert all(a < b for a, b in itertools.pairwise(positions))
        assert positions[0] == 1
        assert positions[-1] == size
        assert len(positions) == min(size, limit)


def test_thinned_positions_are_spaced_by_a_constant_ratio_where_rounding_allows():
    positions = thin_positions(100_000)
    ratios = [b / a for a, b in itertools.pairwise(positions) if a > 2000]
    assert max(ratios) / min(ratios) < 1.002


def test_a_spectrum_up_to_the_limit_is_unchanged():
    values = [1 / k for k in range(1, MAX_POINTS + 1)]
    assert thin_spectrum(values) == (list(range(1, MAX_POINTS + 1)), values)
    assert thin_spectrum([]) == ([], [])


def test_a_thinned_spectrum_takes_the_values_at_its_positions():
    values = [math.pi / k for k in range(1, 3001)]
    positions, kept = thin_spectrum(values)
    assert kept == [values[position - 1] for position in positions]
    assert (kept[0], kept[-1]) == (values[0], values[-1])


def test_a_label_keeps_the_block_and_drops_what_all_names_share():
    names = [
        "encoder.layer.0.attention.output.dense.weight",
        "encoder.layer.0.output.dense.weight",
        "encoder.layer.11.output.dense.weight",
        "pooler.weight",
    ]
    short, roles = labels(names)
    assert short == [
        "0 · attention.output.dense",
        "0 · output.dense",
        "11 · output.dense",
        "pooler",
    ]
    assert roles[1] == roles[2] != roles[0]


@pytest.mark.parametrize(
    "names",
    [
        ["0.weight", "2.weight", "2.0.weight"],
        ["net.0.weight", "net.1.weight", "head.0.weight"],
        ["layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer1.1.conv1.weight"],
        ["a", "b.a", "c.b.a", "weight", "a.weight.weight"],
        ["h.0.mlp.experts.3.w1", "h.0.mlp.experts.4.w1", "h.1.mlp.experts.3.w1"],
    ],
)
def test_different_names_never_share_a_label(names):
    assert len(set(labels(names)[0])) == len(names)


def test_a_label_is_cut_in_the_middle():
    assert shorten("a" * 40 + "b" * 40, 11) == "aaaaa…bbbbb"
    assert shorten("short", 5) == "short"


def test_matrices_and_metrics_keep_the_order_of_the_table(matrix, table):
    rows = [*matrix("z.weight", [2.0, 1.0]), *matrix("a.weight", [3.0, 1.0])]
    data = payload(scan_rows(table(rows).frame))
    assert [entry["name"] for entry in data["matrices"]] == ["z.weight", "a.weight"]
    assert [entry["label"] for entry in data["metrics"]] == [
        "stable rank",
        "spectral norm",
        "numerical rank (rtol=0.001)",
    ]
    stable, norm, _ = data["cells"]
    assert [cell[0] for cell in stable] == [1.25, 10 / 9]
    assert norm[1][:4] == [3.0, 0.999 * 3.0, 1.001 * 3.0, 1e-9]


def test_a_long_spectrum_keeps_exact_ends_and_true_positions(matrix, table):
    values = [math.pi / k for k in range(1, 2001)]
    data = payload(scan_rows(table(matrix("w", values)).frame))
    spectrum = data["spectra"][0]
    grid = data["grids"][spectrum["grid"]]
    assert spectrum["size"] == 2000
    assert len(grid) == len(spectrum["values"]) == MAX_POINTS
    assert spectrum["values"][0] == values[0]
    assert spectrum["values"][-1] == values[-1]
    assert spectrum["values"] == pytest.approx([values[k - 1] for k in grid], rel=1e-6)


def _first_cell(data):
    cell = data["cells"][0][0]
    return cell, data["strings"][cell[5]]


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
)
def test_a_value_that_is_no_number_is_null_and_not_ok(matrix, table, value, text):
    row = matrix("w", [1.0])[0] | {"value": value, "lower": math.nan, "upper": math.inf}
    data = payload(scan_rows(table([row]).frame))
    cell, status = _first_cell(data)
    assert (cell[0], cell[1], cell[2], cell[-1]) == (None, None, "inf", text)
    assert status == "nonfinite"
    json.dumps(data, allow_nan=False)


def test_a_stated_status_is_kept(matrix, table):
    row = matrix("w", [1.0])[0] | {"value": math.inf, "status": "degenerate"}
    assert _first_cell(payload(scan_rows(table([row]).frame)))[1] == "degenerate"


def test_a_row_without_a_value_is_not_ok(matrix, table):
    row = matrix("w", [1.0])[0] | {"value": None}
    assert _first_cell(payload(scan_rows(table([row]).frame)))[1] == "skipped"


def test_nan_in_a_spectrum_is_null(matrix, table):
    data = payload(scan_rows(table(matrix("w", [2.0, math.nan, 0.0])).frame))
    assert data["spectra"][0]["values"] == [2.0, None, 0.0]


def test_spectra_of_random_twins_stand_beside_that_of_the_matrix(matrix, table):
    rows = matrix("w", [3.0, 2.0, 1.0])
    twin = rows[-1] | {"metric": "null_singular_values", "variant": "permuted"}
    # Before or behind the matrix's own: it is never taken for it.
    for order in ([*rows, twin | {"values": [2.5, 2.0]}], [twin, *rows]):
        data = payload(scan_rows(table(order).frame))
        (found,) = data["nulls"]
        assert data["repeated"] == 0
        assert found["variant"] == "permuted"
        assert data["spectra"][0]["values"] == [3.0, 2.0, 1.0]
        places = data["grids"][found["grid"]]
        assert places == list(range(1, len(found["values"]) + 1))
    assert found["values"] == [3.0, 2.0, 1.0]
    assert payload(scan_rows(table(matrix("w", [1.0])).frame))["nulls"] == [None]


def test_views_runs_and_steps_are_matrices_of_their_own(matrix, table):
    rows = [
        row
        for more in ({}, {"view": "qkv.q"}, {"run": "b"}, {"step": 5})
        for row in matrix("w", [1.0], **more)
    ]
    data = payload(scan_rows(table(rows).frame))
    assert len({(entry["short"], entry["at"]) for entry in data["matrices"]}) == 4
    assert data["repeated"] == 0


def test_the_first_of_two_rows_with_one_key_is_shown_and_the_other_counted(
    matrix, table
):
    first, second = matrix("w", [1.0])[0], matrix("w", [1.0])[0] | {"value": 9.0}
    data = payload(scan_rows(table([first, second]).frame))
    assert data["cells"][0][0][0] == 1.0
    assert data["repeated"] == 1


def test_one_metric_of_two_things_makes_two_columns_named_by_them(matrix, table):
    first, second = matrix("w", [1.0])[0], matrix("w", [1.0])[0] | {"value": 9.0}
    frame = table([first, second, matrix("w", [1.0])[1]]).frame
    told = frame.with_columns(
        of=pl.Series(["features", "gradients", "weight"]),
        cells=pl.Series([None, "classes", "classes"]),
    )
    data = payload(scan_rows(told))
    assert [cells[0][0] for cells in data["cells"]] == [1.0, 9.0, 1.0]
    assert [entry["label"] for entry in data["metrics"]] == [
        "stable rank · features",
        "stable rank · gradients · classes",
        "spectral norm",
    ]
    assert data["repeated"] == 0


def test_producer_columns_may_be_absent_or_of_another_type(matrix, table):
    core = table(matrix("w", [2.0, 1.0])).frame.drop("m", "n", "tied_to")
    data = payload(scan_rows(core))
    assert data["matrices"][0]["m"] is None
    odd = core.with_columns(m=core["subject"], tied_to=core["values"])
    assert payload(scan_rows(odd))["matrices"][0]["m"] is None


def test_json_in_a_page_can_neither_close_a_tag_nor_open_a_comment():
    text = "</script><!-- & \u2028 ]]>"
    shown = safe_json({"name": text})
    assert not set("<>&\u2028") & set(shown)
    assert json.loads(shown) == {"name": text}
