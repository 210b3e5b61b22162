"""Slices, comparisons, trends and laws of a page; histograms; static figures."""

import math
import random

import numpy as np
import polars as pl
import pytest

from spectrank.errors import ArgumentTypeError, TableError, UnknownNameError
from spectrank.report import figure, render_html
from spectrank.report._data import scan_rows
from spectrank.report._laws import laws
from spectrank.report._payload import payload
from spectrank.report._slices import arranged, course, shown_slice
from spectrank.report._thinning import histogram
from spectrank.table import Table

pytestmark = pytest.mark.usefixtures("small_library")


def keys(*entries):
    return [("w", "linear", run, step) for run, step in entries]


def test_two_sides_are_a_comparison_and_two_steps_a_trend():
    assert course(keys((None, None))) is None
    assert course(keys(("a", None), ("b", None))) is None
    assert course(keys(("before", None), ("after", None))) == "comparison"
    assert course(keys((None, 0), (None, 7))) == "trend"
    # Two runs that were measured once each, at other steps, are no course of one.
    assert course(keys(("a", 0), ("b", 7))) is None
    # Both sides of different matrices are no comparison.
    assert course([("v", "x", "before", None), ("w", "x", "after", None)]) is None


def test_the_side_after_or_the_last_step_is_shown_first():
    assert shown_slice(keys(("before", None), ("after", None), ("change", None))) == (
        "after",
        None,
    )
    assert shown_slice(keys((None, 200), (None, 30), (None, 4))) == (None, 200)
    assert shown_slice(keys(("a", None), ("b", None))) is None


def test_slices_rise_by_step_and_things_are_told_by_name_and_view():
    rows = [*keys((None, 20), (None, 3)), ("w", "qkv.q", None, 3)]
    found = arranged(rows)
    assert [entry["label"] for entry in found["slices"]] == ["step 3", "step 20"]
    assert found["slice_of"] == [1, 0, 0]
    assert found["thing_of"] == [0, 0, 1]
    assert found["slice"] == 1


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_a_histogram_counts_every_value_once(scale):
    values = [scale * 2.0**-k for k in range(40)] + [0.0, 0.0]
    found = histogram(values)
    assert found is not None
    kept = [x for x in values if x > 1e-5 * scale]
    assert sum(found["counts"]) == len(kept) == 17
    assert found["below"] == 25
    assert (found["low"], found["high"]) == (min(kept), scale)
    # Bins of equal ratio: halves fall evenly, one or two to a bin.
    ratio = (found["high"] / found["low"]) ** (1 / len(found["counts"]))
    edges = [found["low"] * ratio**j for j in range(len(found["counts"]) + 1)]
    for j, count in enumerate(found["counts"]):
        inside = [x for x in kept if edges[j] * (1 + 1e-9) <= x < edges[j + 1] * 0.999]
        assert count >= len(inside)


@pytest.mark.parametrize("num", [7, 200])
def test_a_histogram_has_the_counts_of_bins_of_equal_ratio(num):
    numbers = random.Random(7)
    values = [numbers.uniform(0.01, 3.0) for _ in range(num)]
    found = histogram(values)
    assert found is not None
    edges = np.geomspace(min(values), max(values), len(found["counts"]) + 1)
    # The ends are the values themselves, which geomspace may round past.
    edges[0], edges[-1] = min(values), max(values)
    assert found["counts"] == np.histogram(values, edges)[0].tolist()


def test_what_does_not_spread_has_no_histogram():
    assert histogram([2.0, 2.0, 2.0]) is None
    assert histogram([]) is None
    assert histogram([1.0, 0.0, math.nan]) is None


def test_many_spectra_share_the_points_of_a_page(matrix, table, monkeypatch):
    rows = [
        row
        for step in range(4)
        for row in matrix("w", [1.0 / k for k in range(1, 801)], step=step)
    ]
    assert len(payload(scan_rows(table(rows).frame))["grids"][0]) == 512
    monkeypatch.setattr("spectrank.report._payload._MOST_POINTS", 400)
    data = payload(scan_rows(table(rows).frame))
    assert len(data["grids"][0]) == 100
    assert [data["grids"][0][0], data["grids"][0][-1]] == [1, 800]


def compared(matrix):
    shared = {"kind": "measurement", "view": "linear", "run": "difference"}
    still = shared | {"subject": "b.w", "m": 8, "n": 4, "metric": "stable_rank"}
    still |= {"status": "degenerate", "reason": "the matrix is zero", "value": None}
    moved = shared | {"metric": "relative_change", "status": "ok"}
    return [
        *matrix("a.w", [4.0, 2.0], run="before"),
        *matrix("a.w", [8.0, 2.0], run="after"),
        *matrix("b.w", [1.0, 1.0], run="before"),
        *matrix("b.w", [1.0, 1.0], run="after"),
        still,
        moved | {"subject": "a.w", "value": 0.75},
        moved | {"subject": "b.w", "value": 0.0},
    ]


def test_a_matrix_that_did_not_move_needs_no_attention(matrix, table, read_page):
    before = {"input": "/x/old.pt"}
    page = render_html(
        table(compared(matrix), {"input": "/x/new.pt", "before": before})
    )
    _, words = read_page(page)
    assert "new.pt against old.pt" in words
    assert "Needs attention" not in words
    assert "median change 0.375 1 of 2 identical" in words
    assert "matrices measured 2 all ok" in words
    # Lowest ranks are of the side after: 1 + 4/64 of 2 for a, 2 of 2 for b.
    assert "a.w · a 1.062 53.1 %" in words or "1.062" in words
    assert "What moved" in words


def test_a_tensor_skipped_at_every_step_is_listed_once(matrix, table, read_page):
    skip = {"kind": "skip", "subject": "bias", "metric": "scan", "reason": "no matrix"}
    rows = [
        row for s in (0, 9) for row in (*matrix("w", [1.0], step=s), skip | {"step": s})
    ]
    _, words = read_page(render_html(table(rows)))
    assert "skipped 1 tensors" in words
    assert "steps 2 0 to 9" in words
    assert "Over the steps" in words


def law(subject, **more):
    row = {"kind": "law", "subject": subject, "metric": "vertex"}
    return row | more


def test_a_law_shows_its_last_verdict_and_its_first_break(read_page):
    rows = [
        law("x", step=20, verdict="broken", drift=3.0, explained=1.0, bound=0.5),
        law("x", step=0, verdict="conserved", drift=0.0, explained=0.0, bound=0.0),
        law("x", step=10, verdict="broken", drift=2.0, explained=1.0, bound=0.5),
        law("y", step=0, verdict="conserved", drift=0.0, explained=0.0, bound=0.0),
        # The later of two looks at one step counts.
        law("y", step=0, verdict="explained", drift=0.25, explained=0.25, bound=0.0),
    ]
    columns = {"drift": pl.Float64, "explained": pl.Float64}
    table = Table.from_rows(rows, columns=columns)
    found = laws(table.frame)
    assert found is not None
    texts, data = found
    assert data["steps"] == [0, 10, 20]
    assert data["families"][0]["drift"] == [0.0, 2.0, 3.0]
    assert data["families"][0]["verdicts"] == ["conserved", "broken", "broken"]
    assert data["families"][1]["drift"] == [0.25]
    x, y = texts["lines"]
    assert (x["broken"], y["broken"]) == (10, None)
    assert [(t["count"], t["name"]) for t in texts["tally"]] == [
        (1, "broken"),
        (1, "explained"),
    ]
    _, words = read_page(render_html(table))
    assert "families of laws 2 1 broken" in words
    assert "Nothing was measured" not in words


def test_laws_that_were_only_found_show_their_condition(read_page):
    columns = {"num_laws": pl.Int64, "params_in": pl.List(pl.String)}
    rows = [law("x", num_laws=5, params_in=["a", "b"], reason="any data")]
    _, words = read_page(render_html(Table.from_rows(rows, columns=columns)))
    assert "1 family of 5 laws , found and not yet watched" in words.replace(
        "laws,", "laws ,"
    )
    assert "condition" in words
    assert "a, b" in words


def lines(table, kind, **options):
    pytest.importorskip("matplotlib")
    return figure(table, kind, **options).axes[0]


def test_figures_draw_the_numbers_of_the_table(matrix, table):
    compared_table = table(compared(matrix))
    axes = lines(compared_table, "bars")
    # Ranks after: 1 + 4/64 and 2.
    assert sorted(bar.get_height() for bar in axes.patches) == [1.0625, 2.0]
    axes = lines(compared_table, "comparison", metric="spectral_norm")
    before, after = (points.get_offsets()[:, 1].tolist() for points in axes.collections)
    assert (before, after) == ([4.0, 1.0], [8.0, 1.0])
    steps = table([r for s in (5, 0) for r in matrix("w", [4.0, 1.0 + s], step=s)])
    line = lines(steps, "trend", metric="stable_rank").get_lines()[0]
    assert list(line.get_xdata()) == [0, 5]
    assert list(line.get_ydata()) == [1 + 1 / 16, 1 + 36 / 16]
    curve = lines(steps, "spectrum").get_lines()[0]
    assert list(curve.get_ydata()) == [4.0, 6.0]
    heat = lines(compared_table, "heat").images[0].get_array()
    # Norms after: 8 and 1; ranks 1.06 and 2; the numerical ranks are equal.
    assert heat.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]


def test_a_figure_of_a_spectrum_draws_twins_and_leaves_out_what_is_not_resolved(
    matrix,
):
    rows = matrix("w", [4.0, 2.0, 1e-30], num_resolved=2)
    twin = rows[-1] | {"metric": "null_singular_values", "variant": "permuted"}
    columns = {"m": pl.Int64, "n": pl.Int64, "num_resolved": pl.Int64}
    made = Table.from_rows([*rows, twin | {"values": [3.0, 2.5, 1.0]}], columns=columns)
    curve, twins = lines(made, "spectrum").get_lines()
    assert list(curve.get_ydata()) == [4.0, 2.0]
    assert list(twins.get_xdata()) == [1, 2, 3]
    assert list(twins.get_ydata()) == [3.0, 2.5, 1.0]


def test_roles_that_occur_once_share_the_grey_where_colours_are_few(matrix, table):
    single = [f"one{chr(97 + k)}.w" for k in range(8)]
    names = [*single, "h.0.up.w", "h.1.up.w"]
    made = table([row for name in names for row in matrix(name, [1.0])])
    groups = {
        bars.get_label(): len(bars.patches) for bars in lines(made, "bars").containers
    }
    assert groups == {"up.w": 2, "others": 8}
    grey = lines(made, "bars").containers[1].patches[0].get_facecolor()
    assert grey[:3] == pytest.approx([0x80 / 255, 0x88 / 255, 0x92 / 255])
    few = table([row for name in names[-4:] for row in matrix(name, [1.0])])
    labels = [bars.get_label() for bars in lines(few, "bars").containers]
    assert labels == ["oneg.w", "oneh.w", "up.w"]


def test_a_figure_of_laws_draws_the_residual_against_rounding():
    columns = {"drift": pl.Float64, "explained": pl.Float64}
    rows = [
        law("x", step=s, verdict="broken", drift=-2.0 * s, explained=0.0, bound=0.5)
        for s in (1, 2)
    ]
    axes = lines(Table.from_rows(rows, columns=columns), "laws")
    residual, rounding = axes.get_lines()
    assert list(residual.get_ydata()) == [2.0, 4.0]
    assert list(rounding.get_ydata()) == [0.5, 0.5]


def test_what_cannot_be_drawn_is_said(matrix, table):
    pytest.importorskip("matplotlib")
    plain = table(matrix("w", [2.0, 1.0]))
    with pytest.raises(ArgumentTypeError, match="a figure shows a Table"):
        figure([], "bars")
    with pytest.raises(UnknownNameError, match="bars, heat"):
        figure(plain, "pie")
    with pytest.raises(UnknownNameError, match="it has stable_rank"):
        figure(plain, "bars", metric="beauty")
    with pytest.raises(UnknownNameError, match="got 'v'"):
        figure(plain, "spectrum", subject="v")
    with pytest.raises(TableError, match=r"spectrank\.compare"):
        figure(plain, "comparison")
    with pytest.raises(TableError, match="several steps"):
        figure(plain, "trend")
    with pytest.raises(TableError, match="watched"):
        figure(plain, "laws")
    with pytest.raises(TableError, match="needs measurements"):
        figure(table([]), "bars")
