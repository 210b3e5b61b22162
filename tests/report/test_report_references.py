"""References: what an ensemble has stays apart from what was measured."""

import polars as pl
import pytest

from spectrank.report import render_html
from spectrank.report._data import is_reference, scan_rows
from spectrank.report._payload import payload
from spectrank.table import Table

COLUMNS = {
    "m": pl.Int64,
    "n": pl.Int64,
    "deviation": pl.Float64,
    "z_score": pl.Float64,
}
pytestmark = pytest.mark.usefixtures("small_library")


def _table(rows):
    return Table.from_rows(rows, columns=COLUMNS)


def _measured(subject, value, **more):
    row = {"kind": "measurement", "subject": subject, "metric": "stable_rank"}
    row |= {"view": "linear", "m": 8, "n": 8, "value": value, "status": "ok"}
    return row | {"error_kind": "rounding"} | more


def _with_references():
    gaussian = {"variant": "gaussian", "error_kind": "stderr", "deviation": 0.25}
    return [
        _measured("a", 3.0),
        _measured("a", 1.5, **gaussian, z_score=6.0),
        _measured("a", 8.0, variant="orthogonal", deviation=0.0),
        _measured("a", 2.0, metric="spectral_norm"),
        _measured("b", 4.0),
        _measured("b", 1.5, **gaussian, z_score=10.0),
        _measured("b", 3.0, metric="numerical_rank", variant="rtol=0.1"),
    ]


def test_references_stand_behind_what_was_measured_with_their_z_scores():
    data = payload(scan_rows(_table(_with_references()).frame))
    assert [entry["label"] for entry in data["metrics"]] == [
        "stable rank",
        "spectral norm",
        "numerical rank (rtol=0.1)",
        "stable rank (gaussian)",
        "stable rank (orthogonal)",
    ]
    assert data["plain"] == 3
    gaussian, orthogonal = data["cells"][3:]
    assert [cell[9:] for cell in gaussian] == [[None, 0.25, 6.0], [None, 0.25, 10.0]]
    assert orthogonal[0][9:] == [None, 0.0, None]
    assert [len(cell) for cell in data["cells"][0]] == [9, 9]


def test_the_overview_is_of_what_was_measured_alone(read_page):
    _, words = read_page(render_html(_table(_with_references())))
    assert "Status of the 4 measurements: 4 ok." in words
    assert "rounding 4 a stated" in words
    assert "stderr" not in words
    # A reference with a lower stable rank is no matrix with one.
    lowest = words[words.index("of min(m, n)") :].partition("How far")[0]
    assert lowest.strip() == "of min(m, n) a 3.000 37.5 % of 8 b 4.000 50.0 % of 8"
    assert "References (3 numbers) say what an ensemble has" in words


def test_a_variant_alone_makes_no_reference(matrix, table):
    rows = scan_rows(table(matrix("w", [2.0, 1.0])).frame)
    assert [row["variant"] for row in rows if row["variant"]] == ["rtol=0.001"]
    assert not any(map(is_reference, rows))
    page = render_html(table(matrix("w", [2.0, 1.0])))
    assert 'id="references"' not in page


def test_a_page_without_spectra_does_not_speak_of_them(matrix, table, read_page):
    _, words = read_page(render_html(table(matrix("w", [2.0, 1.0])[:3])))
    assert "Numbers of a layer" in words
    assert "Spectrum" not in words
    _, words = read_page(render_html(table(matrix("w", [2.0, 1.0]))))
    assert "Spectrum of a layer" in words
