"""The page as text: what it says, what it may not contain, how it is written."""

import os
import re

import pytest

from spectrank.errors import ArgumentTypeError, DomainError, TableError
from spectrank.report import render_html, write_html
from spectrank.table import Table

TIMES = "\N{MULTIPLICATION SIGN}"
EVIL = "</script><img src=x onerror=alert(1)>"
pytestmark = pytest.mark.usefixtures("small_library")


def _skip(name, reason, **more):
    skipped = {"kind": "skip", "subject": name, "metric": "", "status": "skipped"}
    return skipped | {"reason": reason} | more


def test_a_hostile_name_is_only_text(matrix, table, embedded, read_page):
    rows = [
        *matrix(
            EVIL, [2.0, 1.0], layer_type=EVIL, dtype=EVIL, tied_to=EVIL, route=EVIL
        ),
        matrix("bad", [1.0])[0] | {"value": None, "reason": EVIL, "view": EVIL},
        matrix("odd", [1.0])[0] | {"metric": EVIL, "variant": EVIL},
        _skip(EVIL, EVIL),
    ]
    provenance = {"input": EVIL, "command": EVIL, "settings": {EVIL: [EVIL]}, EVIL: 1}
    page = render_html(table(rows, provenance), title=EVIL)
    elements, words = read_page(page)
    assert EVIL not in page
    assert EVIL in words
    assert not [tag for tag, _ in elements if tag == "img"]
    assert not [name for _, found in elements for name in found if name[:2] == "on"]
    assert embedded(page)["matrices"][0]["name"] == EVIL


def test_a_page_names_no_address_to_load_from(matrix, table, read_page):
    elements, _ = read_page(render_html(table(matrix("w", [1.0]))))
    for tag, found in elements:
        for name in ("src", "href"):
            address = found.get(name) or "#"
            assert address[0] == "#" or address == "data:,", (tag, address)


def test_the_policy_admits_the_two_scripts_and_no_request(matrix, table, read_page):
    elements, _ = read_page(render_html(table(matrix("w", [1.0]))))
    policy = next(found["content"] for _, found in elements if "http-equiv" in found)
    assert policy.startswith("default-src 'none'")
    assert len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == 2
    script = next(part for part in policy.split(";") if "script-src" in part)
    assert "unsafe" not in script


def test_skips_are_grouped_by_reason_with_tied_weights_together(table, read_page):
    rows = [
        _skip("a.bias", "not a matrix"),
        _skip("head", "tied to wte", tied_to="wte"),
        _skip("decoder", "tied to wpe", tied_to="wpe"),
        _skip("b.bias", "not a matrix"),
        _skip("c.bias", "not a matrix"),
    ]
    _, words = read_page(render_html(table(rows)))
    assert "not a matrix 3 a.bias b.bias c.bias" in words
    assert "tied to another tensor 2 head tied to wte decoder tied to wpe" in words


def test_a_table_of_skips_says_that_nothing_was_measured(table, read_page):
    _, words = read_page(render_html(table([_skip("a.bias", "not a matrix")])))
    assert "Nothing was measured. Every tensor was skipped" in words
    assert "Layer by layer" not in words


def test_an_empty_table_says_so(table, read_page):
    _, words = read_page(render_html(table([])))
    assert "Nothing was measured. The table names no matrix at all" in words


def test_the_overview_counts_what_backs_the_numbers(matrix, table, read_page):
    rows = [*matrix("a", [2.0, 1.0]), *matrix("b", [3.0, 1.0])]
    rows[4]["failure_probability"] = 2e-8
    _, words = read_page(render_html(table(rows)))
    assert "probabilistic 4 holds" in words
    assert "rounding 2 a stated multiple" in words
    assert f"failure probability of one number: 2{TIMES}10⁻⁸" in words
    # 3 * 1e-9 + 2e-8
    assert f"except with probability at most 2.3{TIMES}10⁻⁸" in words


def test_what_is_not_ok_stands_in_the_overview_with_its_reason(
    matrix, table, read_page
):
    bad = {"value": None, "status": "nonfinite", "reason": "2 entries are NaN"}
    rows = [*matrix("fine", [1.0]), *(row | bad for row in matrix("bad", [1.0])[:3])]
    _, words = read_page(render_html(table(rows)))
    assert (
        "Needs attention 1 nonfinite 2 entries are NaN "
        "· stable rank, spectral norm, numerical rank (rtol=0.001) bad linear"
    ) in words
    assert "Status of the 6 measurements: 3 ok, 3 nonfinite." in words
    assert "matrices measured 2 1 not ok" in words


def test_what_has_no_shape_is_not_counted_among_matrices(matrix, table, read_page):
    depth = {"kind": "measurement", "subject": "model", "metric": "effective_depth"}
    bad = depth | {"status": "degenerate", "reason": "no layer is that near"}
    rows = [*matrix("a", [1.0], m=3, n=2), *matrix("b", [1.0], m=2, n=2), bad]
    _, words = read_page(render_html(table(rows)))
    assert "matrices measured 2 all ok entries measured 10" in words
    assert "1 degenerate" in words
    _, words = read_page(render_html(table([bad])))
    assert "matrices measured 1 1 not ok" in words


def test_the_lowest_stable_ranks_are_taken_relative_to_the_size(
    matrix, table, read_page
):
    big = matrix("big", [1.0, 1.0, 1.0], m=300, n=300)
    small = matrix("small", [1.0, 1.0], m=4, n=4)
    _, words = read_page(render_html(table([*small, *big])))
    assert "big 3.000 1.0 % of 300 small 2.000 50.0 % of 4" in words


def test_provenance_gives_title_size_share_and_settings(matrix, table, read_page):
    provenance = {
        "input": "models/mini/model.safetensors",
        "num_parameters": 22_713_216,
        "num_parameters_measured": 22_500_000,
        "seconds": 1.874,
        "device": "cpu",
        "settings": {"rtol": 1e-4, "metrics": ["stable_rank"]},
        "versions": {"torch": "2.13.0"},
    }
    page = render_html(table(matrix("w", [1.0]), provenance))
    _, words = read_page(page)
    assert "<h1>model.safetensors</h1>" in page
    assert "parameters 22.7 M 22,713,216 in all" in words
    assert "of the parameters 99.1 % 22,500,000 measured" in words
    assert "seconds 1.87 on cpu" in words
    assert "Rtol 0.0001 Metrics stable_rank" in words
    assert "Versions torch 2.13.0" in words


def test_provenance_of_unexpected_types_does_no_harm(matrix, table, read_page):
    odd = {"num_parameters": "many", "seconds": [1], "settings": 3, "versions": "x"}
    _, words = read_page(render_html(table(matrix("w", [1.0]), odd)))
    assert "matrices measured 1 all ok" in words


def test_laws_stand_beside_what_was_measured(matrix, table, read_page):
    law = {"kind": "law", "subject": "w", "metric": "balance", "verdict": "conserved"}
    _, words = read_page(render_html(table([*matrix("w", [1.0]), law])))
    assert "Laws of training" in words
    assert "balance" in words[words.index("Laws of training") :]
    assert "families of laws 1 none broken" in words
    assert "matrices measured 1 all ok" in words


def test_writing_returns_the_path_and_replaces_the_old_page(matrix, table, tmp_path):
    target = tmp_path / "report.html"
    target.write_text("old")
    assert write_html(table(matrix("w", [1.0])), str(target), title="new") == target
    assert "<h1>new</h1>" in target.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_write_leaves_the_old_page_and_no_rest(
    matrix, table, tmp_path, monkeypatch
):
    target = tmp_path / "report.html"
    target.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TableError, match="No space left"):
        write_html(table(matrix("w", [1.0])), target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_folder_is_one_clear_error(matrix, table, tmp_path):
    with pytest.raises(TableError, match="existing, writable folder"):
        write_html(table(matrix("w", [1.0])), tmp_path / "no" / "report.html")


def test_four_hundred_matrices_with_spectra_stay_under_ten_megabytes_of_data(
    matrix, table
):
    values = [3.14159265358979 / k**0.7 for k in range(1, 4097)]
    rows = [row for k in range(400) for row in matrix(f"h.{k}.attn.weight", values)]
    # The chart library adds 4.8 MB: 15 MB in all.
    assert len(render_html(table(rows)).encode()) < 10e6


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(ArgumentTypeError, match="a page shows a Table, got dict"):
        write_html({"value": 1.0}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [3, None, b"r.html"])
def test_what_is_no_path_takes_no_page(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ArgumentTypeError, match=r"a page is a path, got .*report\.html"
    ):
        write_html(Table.from_rows([]), wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_page_needs_a_name_and_its_title_is_text(tmp_path):
    empty = Table.from_rows([])
    with pytest.raises(DomainError, match="without null bytes"):
        write_html(empty, "a\0.html")
    for nameless in ("", "/"):
        with pytest.raises(TableError, match=r"writable folder, .*another path"):
            write_html(empty, nameless)
    with pytest.raises(
        ArgumentTypeError, match="title of a page is text, got 3; leave"
    ):
        write_html(empty, tmp_path / "r.html", title=3)
    assert list(tmp_path.iterdir()) == []
