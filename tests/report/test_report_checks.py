"""The checks section: nothing left out, verdicts in words, references kept apart."""

import html
import math
import random
import re

import polars as pl
import pytest

from spectrank.report import _checks as checks_module
from spectrank.report import render_html
from spectrank.report._checks import MAX_REASON, NUM_KEPT, checks, cut
from spectrank.report._verdicts import verdict
from spectrank.table import Table
from spectrank.table._schema import VOCABULARY

EVIL = "</script><img src=x onerror=alert(1)>"
TIMES, MINUS, DASH = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}", "\N{EN DASH}"
LONG = "more than its stable rank: after the first singular value there is structure"
COLUMNS = {
    "m": pl.Int64,
    "n": pl.Int64,
    "state": pl.String,
}
pytestmark = pytest.mark.usefixtures("small_library")


def _check(subject, metric, word, **more):
    row = {"kind": "check", "subject": subject, "metric": metric, "verdict": word}
    return row | {"view": "linear", "status": "ok", "reason": "for a reason"} | more


def _table(rows):
    return Table.from_rows(rows, columns=COLUMNS)


def _section(page):
    """The checks section of a page."""
    begin = page.index('<section id="checks"')
    return page[begin : page.index("</section>", begin)]


def _lines(page, read_page):
    """Words of every cell of the table, line by line."""
    body = _section(page).partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [read_page(cell)[1] for cell in re.split(r"(?=<td)", line)]
        for line in body.split("<tr>")[1:]
    ]


def test_verdicts_are_counted_for_each_check_what_is_wrong_first(read_page):
    words = ["holds", "violated", "holds", "vacuous", None, "holds", "inconclusive"]
    rows = [_check(f"l{k}", "a_bound", word) for k, word in enumerate(words)]
    rows += [_check("l0", "other", "not_applicable", source="ours")]
    page = render_html(_table(rows))
    summary = _section(page).partition("</ul>")[0]
    assert read_page(summary)[1] == (
        "Checks a bound 1 ✗ violated 3 ✓ holds 1 ? inconclusive 1 ○ vacuous "
        f"1 · no verdict other 1 {DASH} not applicable Source: ours"
    )
    _, all_words = read_page(page)
    assert "checks 8 1 violated" in all_words


def test_a_matrix_has_a_line_and_a_check_a_cell(read_page):
    rows = [
        _check("z.weight", "second", "holds", m=8, n=4),
        _check("a.weight", "first", "violated", state="of_noise"),
        _check("z.weight", "first", "vacuous", status="degenerate"),
        _check("z.weight", "first", "holds", step=5),
    ]
    # A long name may break behind a dot, hence the blank that the reader sees.
    assert _lines(render_html(_table(rows)), read_page) == [
        [
            f"z. weight linear · 8 {TIMES} 4",
            "second ✓ holds for a reason",
            "first ○ vacuous degenerate for a reason",
        ],
        [
            "a. weight linear",
            "second not checked",
            "first ✗ violated of noise for a reason",
        ],
        [
            "z. weight linear · step 5",
            "second not checked",
            "first ✓ holds for a reason",
        ],
    ]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"value": 0.51948, "bound": 0.001}, "0.5195 against 0.001"),
        ({"value": 1.0436e-14, "bound": 1e-3}, f"1.044{TIMES}10⁻¹⁴ against 0.001"),
        (
            {"value": 1.0, "lower": 0.903, "upper": 1.098, "bound": 40.0, "slack": -39},
            f"1.000 [0.903, 1.098] against 40 · slack {MINUS}39",
        ),
        ({"value": math.nan}, "value NaN"),
        ({"value": math.inf, "bound": 2.0}, "∞ against 2"),
        ({"bound": 7.25}, "bound 7.25"),
        ({"slack": 0.0}, "· slack 0"),
        (
            {"value": 3.0, "failure_probability": 2e-8},
            f"value 3 · fails with probability ≤ 2{TIMES}10⁻⁸",
        ),
        ({}, ""),
    ],
)
def test_the_value_stands_against_its_bound(numbers, text, read_page):
    row = _check("w", "bound", "holds", **{k: float(v) for k, v in numbers.items()})
    line = _lines(render_html(_table([row])), read_page)[0]
    assert line[1] == f"bound ✓ holds for a reason {text}".strip()


def test_the_kind_of_error_stands_behind_the_enclosure(read_page):
    row = _check("w", "bound", "holds", value=2.0, lower=1.0, upper=3.0, bound=4.0)
    page = render_html(_table([row | {"error_kind": "certified"}]))
    assert "2.0 [1.0, 3.0] certified against 4" in _lines(page, read_page)[0][1]


def test_every_row_has_its_entry_whatever_its_key():
    generator = random.Random(0)
    word = [*VOCABULARY["verdict"], None]
    rows = [
        _check(
            generator.choice(["a", "b", "network"]),
            generator.choice(["first", "second", "third"]),
            generator.choice(word),
            view=generator.choice([None, "linear"]),
            variant=generator.choice([None, "upper", "lower"]),
            index=generator.choice([None, 0, 1]),
            reason=f"number {k}",
        )
        for k in range(200)
    ]
    page = _section(render_html(_table(rows)))
    found = re.findall(r'data-verdict="([^"]*)"', page)
    words = [str(row["verdict"] or "no verdict").replace("_", " ") for row in rows]
    assert sorted(found) == sorted(words)
    reasons = re.findall(r'<p class="why">([^<]*)</p>', page)
    assert sorted(reasons) == sorted(row["reason"] for row in rows)
    assert "upper, index 0</span>" in page


def test_a_long_reason_is_there_in_full_without_a_pointer(read_page):
    page = render_html(_table([_check("w", "bound", "holds", reason=LONG)]))
    section = _section(page)
    details = re.search(r"<details class=.why.>.*?</details>", section, re.DOTALL)
    assert f'<span class="all">{LONG}</span>' in details[0]
    assert f'<span class="cut">{cut(LONG)}</span>' in details[0]
    assert f'title="{LONG}' not in section
    # A short one needs no opening.
    page = _section(render_html(_table([_check("w", "bound", "holds")])))
    assert '<p class="why">for a reason</p>' in page
    assert "<details" not in page


def test_a_reason_is_cut_at_the_end_of_a_word():
    generator = random.Random(1)
    for _ in range(300):
        num = generator.randrange(1, 40)
        text = " ".join("x" * generator.randrange(1, 12) for _ in range(num))
        short = cut(text)
        if len(text) <= MAX_REASON:
            assert short is None
            continue
        assert NUM_KEPT // 2 < len(short) <= NUM_KEPT
        assert short[-1] == "…"
        assert text.startswith(f"{short[:-1]} ")
    assert cut("y" * 100) == "y" * (NUM_KEPT - 1) + "…"


def test_each_verdict_has_a_word_and_a_mark_beside_its_colour(read_page):
    looks = [verdict(word) for word in [*VOCABULARY["verdict"], None, "of another"]]
    assert len({look["name"] for look in looks}) == len(looks)
    tones: dict[str, set[str]] = {}
    for look in looks:
        tones.setdefault(look["tone"], set()).add(look["mark"])
    # No mark is shared between two colours.
    assert set(tones) == {"good", "bad", "open", "calm"}
    assert sum(map(len, tones.values())) == len(set().union(*tones.values()))
    for word in VOCABULARY["verdict"]:
        page = render_html(_table([_check("w", "bound", word)]))
        assert word.replace("_", " ") in _lines(page, read_page)[0][1]


def test_hostile_texts_of_a_check_are_only_text(read_page):
    row = _check(EVIL, EVIL, "holds", view=EVIL, reason=EVIL * 3, source=EVIL)
    row |= {"variant": EVIL, "state": EVIL, "run": EVIL, "route": EVIL}
    page = render_html(_table([row, _check(EVIL, "plain", "holds")]))
    elements, _ = read_page(page)
    assert EVIL not in page
    assert not [tag for tag, _ in elements if tag == "img"]
    assert not [name for _, found in elements for name in found if name[:2] == "on"]
    text = html.unescape(re.sub(r"<[^>]*>", "", _section(page)))
    # Matrix, view, run, head, summary, source, filter, state, variant, reason.
    assert text.count(EVIL) >= 10


def test_a_page_of_checks_and_skips_alone_says_what_it_holds(read_page):
    skip = {"kind": "skip", "subject": "b.bias", "metric": "", "reason": "no matrix"}
    page = render_html(_table([_check("w", "bound", "holds"), skip]))
    _, words = read_page(page)
    assert "Nothing was measured. The table holds checks, which stand below" in words
    assert "checks 1 none violated" in words
    assert "no matrix 1 b.bias" in words
    assert "rows of other kinds" not in words
    for name in ("layers", "spectrum", "numbers"):
        assert f'id="{name}"' not in page
    assert "<a" not in _section(page)


def test_a_matrix_whose_numbers_are_shown_is_linked_to_them(matrix):
    rows = [*matrix("w", [2.0, 1.0]), _check("w", "bound", "holds")]
    rows += [_check("other", "bound", "holds"), _check("w", "bound", "holds", view="q")]
    section = _section(render_html(Table.from_rows(rows, columns=COLUMNS)))
    assert re.findall(r'href="([^"]*)"', section) == ["#layer=w&amp;view=linear"]


@pytest.mark.parametrize("num", [4, 5, 9])
def test_a_cell_of_many_entries_folds_all_but_what_is_worst(num, read_page):
    words = ["holds"] * num
    words[2], words[-1] = "vacuous", "violated"
    rows = [_check("w", "bound", word, index=k) for k, word in enumerate(words)]
    cell = checks(_table(rows).frame)["lines"][0]["cells"][0]
    every = [entry["mark"] for part in ("open", "folded") for entry in cell[part]]
    order = [num - 1, *(k for k in range(num - 1) if k != 2), 2]
    assert every == [f"index {k}" for k in order]
    # Where four are all, one more line is no longer than the words that would fold it.
    assert len(cell["folded"]) == (0 if num == 4 else num - 3)
    section = read_page(_section(render_html(_table(rows))))[1]
    fold = f"{num - 3} more: {num - 4} holds, 1 vacuous"
    assert (fold in section) == (num > 4)


def test_a_table_without_checks_has_no_such_section(matrix, table):
    page = render_html(table(matrix("w", [1.0])))
    assert 'id="checks"' not in page
    assert 'href="#checks"' not in page


def test_what_is_left_out_of_a_long_list_is_said(monkeypatch, read_page):
    monkeypatch.setattr(checks_module, "MAX_LINES", 3)
    rows = [_check(f"l{k}", "bound", "holds") for k in range(5)]
    page = render_html(_table(rows))
    _, words = read_page(_section(page))
    assert "5 ✓ holds" in words
    assert "2 of 5 matrices are not listed; the counts above are of all." in words
    assert [line[0] for line in _lines(page, read_page)] == [
        f"l{k} linear" for k in range(3)
    ]


def test_producer_columns_of_a_check_may_be_absent_or_of_another_type():
    frame = Table.from_rows([_check("w", "bound", "holds")]).frame
    assert checks(frame)["lines"][0]["remark"] == "linear"
    odd = frame.with_columns(m=frame["subject"], state=pl.lit(3.5))
    entry = checks(odd)["lines"][0]["cells"][0]["open"][0]
    assert (entry["state"], entry["verdict"]["name"]) == ("", "holds")
