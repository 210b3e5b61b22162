"""The claims page: counts, numbers and their rounding, what is missing or no number."""

import itertools
import math
import re

import polars as pl
import pytest

from spectrank.report import render_html
from spectrank.report._claims import claims_page, has_claims, papers
from spectrank.report._figures import MAX_LINES, MAX_POINTS, figure, figure_table
from spectrank.table import Table

EVIL = "</script><img src=x onerror=alert(1)>"
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"
COLUMNS = {
    "statement": pl.String,
    "whose": pl.String,
    "protocol": pl.String,
    "relation": pl.String,
    "tolerance": pl.Float64,
    "effect_size": pl.Float64,
    "num_seeds": pl.Int64,
    "seeds": pl.String,
    "x": pl.Float64,
    "predicted": pl.Float64,
    "seed": pl.Int64,
}
PAPER = {
    "key": "paper2021",
    "title": "A Paper",
    "authors": "A. Author, B. Author",
    "identifier": "arXiv:0000.00000",
}
pytestmark = pytest.mark.usefixtures("small_library")


def _claim(key="paper2021.slope", **more):
    return {
        "kind": "claim",
        "subject": key,
        "metric": "log_log_slope",
        "value": 0.98765,
        "lower": 0.9712,
        "upper": 1.00411,
        "error_kind": "stderr",
        "failure_probability": 0.05,
        "bound": 1.0,
        "verdict": "reproduced",
        "reason": "the interval lies inside 1 and 0.05",
        "source": "the abstract",
        "statement": f"The statement of {key}",
        "whose": "claim of the abstract; protocol ours",
        "protocol": "width 256, depth 8",
        "relation": "within 0.05 of 1",
        "tolerance": 0.05,
        "effect_size": -1.4712,
        "num_seeds": 200,
        "seeds": "0-199",
    } | more


def _point(key="paper2021.slope", **more):
    return {
        "kind": "measurement",
        "subject": key,
        "metric": "mean_signal",
        "variant": "depth 4",
        "x": 2.0,
        "value": 0.25,
        "lower": 0.2,
        "upper": 0.31,
        "error_kind": "stderr",
        "status": "ok",
        "predicted": 0.24,
    } | more


def _table(rows, provenance=None):
    return Table.from_rows(rows, columns=COLUMNS, provenance=provenance or {})


def _section(page, number):
    start = page.index(f'id="claim-{number}"')
    return page[start : page.index("</section>", start)]


def test_the_summary_counts_each_verdict(read_page):
    verdicts = ["reproduced"] * 3 + ["contradicted"] * 2 + ["inconclusive", None]
    rows = [_claim(f"p.c{k}", verdict=verdict) for k, verdict in enumerate(verdicts)]
    page = render_html(_table(rows, {"paper": PAPER}))
    _, words = read_page(page)
    assert "claims 7 200 seeds each" in words
    for text in (
        "reproduced 3 ✓",
        "contradicted 2 ✗",
        "inconclusive 1 ?",
        f"not applicable 0 {DASH}",
        "no verdict 1 ·",
    ):
        assert text in words
    assert len(re.findall(r'<section class="claim', page)) == 7


def test_every_claim_shows_all_that_is_known_of_it(read_page):
    rows = [_claim(), _point(), _claim("p.b", value=-1e-9, lower=-2e-9, upper=0.0)]
    page = render_html(_table(rows, {"paper": PAPER}))
    _, first = read_page(_section(page, 1))
    for text in (
        "The statement of paper2021.slope",
        "claim of the abstract; protocol ours",
        "✓ reproduced the interval lies inside 1 and 0.05",
        "0.988 [0.971, 1.005] log log slope, 95 % confidence interval",
        "Expected 1 Relation within 0.05 of 1 Tolerance 0.05",
        f"Effect size {MINUS}1.47 Seeds 200 0-199",
        "Protocol width 256, depth 8",
        "Source the abstract",
        "paper2021.slope",
    ):
        assert text in first
    assert "0.98765, 0.9712, 1.00411" in _section(page, 1)
    _, second = read_page(_section(page, 2))
    assert f"{MINUS}1.0{TIMES}10⁻⁹ [{MINUS}2.0{TIMES}10⁻⁹, 0.0]" in second
    assert "no rows for a figure" in second
    assert "no rows for a figure" not in first


def test_a_long_list_names_first_what_was_not_reproduced(read_page):
    verdicts = ["reproduced"] * 20 + ["contradicted"]
    rows = [_claim(f"p.c{k}", verdict=verdict) for k, verdict in enumerate(verdicts)]
    _, words = read_page(render_html(_table(rows)))
    named = "Not reproduced 1 Claim 21 ✗ contradicted p.c20 0.988 against within 0.05"
    assert words.index(named) < words.index("The statement of p.c0")
    assert "Not reproduced" not in read_page(render_html(_table(rows[1:])))[1]


def test_one_statement_of_several_data_sets_is_told_apart_by_key(read_page):
    rows = [_claim(f"p.c{k}", statement="The same.") for k in range(2)]
    rows.append(_claim("p.c2", statement="Another."))
    page = render_html(_table(rows))
    glance = read_page(page[page.index("glance") : page.index("</table>")])[1]
    assert "The same. p.c0 0.988" in glance
    assert "The same. p.c1 0.988" in glance
    assert "Another. 0.988" in glance


def test_claims_stand_in_the_order_of_the_table_whatever_their_verdict(read_page):
    names = ["p.z", "p.a", "p.m"]
    verdicts = ["contradicted", "reproduced", "inconclusive"]
    rows = [_claim(n, verdict=v) for n, v in zip(names, verdicts, strict=True)]
    page = render_html(_table(rows))
    for number, (name, verdict) in enumerate(zip(names, verdicts, strict=True), 1):
        assert f"The statement of {name}" in _section(page, number)
        assert f" {verdict} the interval" in read_page(_section(page, number))[1]
    # The glance at the top and the sections below agree.
    glance = page[page.index("glance") : page.index("</table>")]
    assert re.findall(r'href="#claim-(\d)">The statement of (p\.\w)', glance) == [
        (str(at), name) for at, name in enumerate(names, 1)
    ]


def test_the_paper_and_the_run_are_named(read_page):
    provenance = {
        "paper": PAPER,
        "mode": "quick",
        "command": "spectrank reproduce paper2021 --quick",
        "started": "2021-01-01T00:00:00+00:00",
        "seconds": 41.257,
        "seed": 0,
        "versions": {"torch": "2.13.0"},
        "figures": {"paper2021.slope": {"title": "in the figure only"}},
    }
    _, words = read_page(render_html(_table([_claim()], provenance)))
    for text in (
        "A Paper",
        "A. Author, B. Author arXiv:0000.00000",
        "A quick run.",
        "Command spectrank reproduce paper2021 --quick Mode quick",
        "Seconds 41.3",
        "Seed 0",
        "Versions torch 2.13.0",
    ):
        assert text in words
    assert "in the figure only" not in words
    full = read_page(render_html(_table([_claim()], provenance | {"mode": "full"})))[1]
    assert "A quick run" not in full


def test_papers_and_figures_of_a_concatenation_are_all_found(read_page):
    parts = [
        _table(
            [_claim(f"{key}.c"), _point(f"{key}.c")],
            {
                "paper": PAPER | {"title": f"Paper {key}"},
                "figures": {f"{key}.c": {"title": f"Figure {key}"}},
            },
        )
        for key in ("one", "two")
    ]
    both = Table.concat(parts)
    page = render_html(both)
    _, words = read_page(page)
    assert "<h1>Claims of 2 papers</h1>" in page
    assert [paper["title"] for paper in papers(both.provenance)] == [
        "Paper one",
        "Paper two",
    ]
    assert "Figure one" in words
    assert "Figure two" in words


MISSING = [
    *("bound", "lower", "upper", "effect_size", "num_seeds", "seeds", "tolerance"),
    *("statement", "whose", "protocol", "relation", "source", "reason", "verdict"),
    *("error_kind", "failure_probability", "value"),
]


def test_a_claim_may_lack_any_field(read_page):
    rows = [_claim(f"p.without-{name}", **{name: None}) for name in MISSING]
    page = render_html(_table(rows))
    for number, name in enumerate(MISSING, 1):
        words = read_page(_section(page, number))[1]
        assert "None" not in words
        assert f"p.without-{name}" in words


def test_what_is_missing_is_said(read_page):
    bare = dict.fromkeys(MISSING)
    words = read_page(render_html(_table([_claim(**bare)])))[1]
    for text in (
        "no verdict no reason given",
        "not measured",
        "Expected no number stated",
    ):
        assert text in words
    assert "confidence interval" not in words
    core = _table([_claim()]).frame.drop(COLUMNS)
    assert "paper2021.slope" in read_page(render_html(Table(core, {})))[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_shown_with_its_status(value, read_page, embedded):
    claim = _claim(value=value, lower=math.nan, upper=math.inf, status="nonfinite")
    rows = [claim, _point(value=value, lower=value, upper=value, x=math.nan)]
    page = render_html(_table(rows))
    words = read_page(_section(page, 1))[1]
    assert {"nan": "NaN", "inf": "∞", "-inf": f"{MINUS}∞"}[str(value)] in words
    assert "nonfinite" in words
    # Without a finite point there is no figure, but its table.
    assert embedded(page)["figures"] == [None]
    assert 'data-figure="' not in page
    assert "nonfinite" in page[page.index("<details>") :]


def test_hostile_text_is_only_text(read_page, embedded):
    evil = dict.fromkeys(("statement", "whose", "protocol", "relation"), EVIL)
    evil |= dict.fromkeys(("seeds", "source", "reason", "metric"), EVIL)
    rows = [
        _claim(EVIL, **evil),
        _point(EVIL, variant=EVIL, metric=EVIL),
        _point(EVIL, variant=EVIL, metric="bad", value=None, reason=EVIL),
    ]
    provenance = {
        "paper": dict.fromkeys(PAPER, EVIL),
        "figures": {EVIL: dict.fromkeys(("title", "x", "y", "x_scale"), EVIL)},
        "mode": EVIL,
        "command": EVIL,
        "versions": {EVIL: EVIL},
    }
    page = render_html(_table(rows, provenance))
    elements, words = read_page(page)
    assert EVIL not in page
    assert words.count(EVIL) > 12
    assert not [tag for tag, _ in elements if tag == "img"]
    assert not [name for _, found in elements for name in found if name[:2] == "on"]
    assert embedded(page)["figures"][0]["y"] == EVIL


def test_provenance_of_unexpected_types_does_no_harm(read_page):
    for odd in (
        {"paper": 3, "figures": [1], "mode": ["quick"], "seconds": "long"},
        {"paper": {"title": 5, "authors": ["A", "B"]}, "figures": {"p": 1}},
        {"figures": {"paper2021.slope": "title"}},
    ):
        words = read_page(render_html(_table([_claim(), _point()], odd)))[1]
        assert "0.988 [0.971, 1.005]" in words


def test_the_policy_and_the_library_are_those_of_every_page(read_page):
    page = render_html(_table([_claim(), _point()]))
    elements, _ = read_page(page)
    policy = next(found["content"] for _, found in elements if "http-equiv" in found)
    assert policy.startswith("default-src 'none'")
    assert len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == 2
    assert page.count("/* charts */") == 1
    for tag, found in elements:
        for name in ("src", "href"):
            address = found.get(name) or "#"
            assert address[0] == "#" or address == "data:,", (tag, address)


def test_every_link_on_the_page_has_its_target(read_page):
    elements, _ = read_page(render_html(_table([_claim(), _claim("p.b"), _point()])))
    ids = {found["id"] for _, found in elements if "id" in found}
    aimed = {found["href"][1:] for tag, found in elements if tag == "a"}
    named = {found.get("aria-labelledby") for _, found in elements} - {None}
    assert aimed | named <= ids


def test_a_title_that_repeats_the_statement_is_said_once():
    for title, count in (("The statement of paper2021.slope", 0), ("A figure", 1)):
        provenance = {"figures": {"paper2021.slope": {"title": title}}}
        section = _section(render_html(_table([_claim(), _point()], provenance)), 1)
        assert section.count("<h3") == count
        assert section.count(f">{title}</h") == 1


def test_only_claims_make_a_claims_page(matrix, table):
    assert has_claims(_table([_claim()]).frame)
    assert not has_claims(_table([_point()]).frame)
    assert not has_claims(table([]).frame)
    assert "Layer by layer" in render_html(table(matrix("w", [1.0])))


def test_rows_of_no_claim_are_counted_not_hidden(read_page):
    rows = [_claim(), _point(), _point("elsewhere"), _point("elsewhere")]
    words = read_page(render_html(_table(rows)))[1]
    assert "2 rows of the table belong to no claim" in words


# Figures


def test_a_figure_holds_the_points_of_its_own_claim_and_run():
    rows = [
        _claim(run="a"),
        _claim(run="b"),
        _point(run="a", value=1.0),
        _point(run="b", value=2.0),
        _point("other", value=3.0),
    ]
    figures = claims_page(_table(rows).frame, {})[1]["figures"]
    assert [entry["series"][0]["value"] for entry in figures] == [[1.0], [2.0]]
    # Points without a run serve a claim that has one.
    rows = [_claim(run="a"), _point(value=1.0)]
    figures = claims_page(_table(rows).frame, {})[1]["figures"]
    assert figures[0]["series"][0]["value"] == [1.0]


def _rows(points):
    return _table([_point(**point) for point in points]).frame.to_dicts()


def test_series_keep_their_order_and_take_the_metric_where_there_are_several():
    arms = [{"variant": arm, "x": float(k)} for k, arm in enumerate("bab")]
    series = figure(_rows(arms), {})["series"]
    assert [entry["name"] for entry in series] == ["b", "a"]
    assert [entry["x"] for entry in series] == [[0.0, 2.0], [1.0]]
    mixed = figure(_rows([*arms, {"metric": "m_2", "variant": None}]), {})["series"]
    names = ["mean signal: b", "mean signal: a", "m 2"]
    assert [entry["name"] for entry in mixed] == names


def test_one_predicted_line_where_the_series_agree_else_one_for_each():
    def lines(values):
        points = [
            {"variant": arm, "x": x, "predicted": predicted}
            for arm, x, predicted in values
        ]
        return figure(_rows(points), {})["lines"]

    same = [("a", 4.0, 1.0), ("a", 2.0, 0.5), ("b", 2.0, 0.5), ("b", 8.0, 2.0)]
    assert lines(same) == [{"series": None, "x": [2.0, 4.0, 8.0], "y": [0.5, 1.0, 2.0]}]
    apart = [*same, ("b", 4.0, 7.0)]
    assert lines(apart) == [
        {"series": 0, "x": [2.0, 4.0], "y": [0.5, 1.0]},
        {"series": 1, "x": [2.0, 4.0, 8.0], "y": [0.5, 7.0, 2.0]},
    ]
    assert lines([("a", 1.0, None), ("a", 2.0, math.nan)]) == []


def test_rows_that_are_not_drawn_are_counted_by_reason():
    rows = _rows(
        [
            {"x": 1.0},
            {"x": -1.0},
            {"x": 3.0, "value": -2.0},
            {"x": 4.0, "value": math.nan},
            {"x": None},
            {"x": 5.0, "status": "not_converged"},
        ]
    )
    log = figure(rows, {"x_scale": "log", "y_scale": "log"})
    assert (log["num_hidden"], log["num_unsound"], log["num_thinned"]) == (2, 3, 0)
    linear = figure(rows, {"x_scale": "cubic"})
    assert (linear["num_hidden"], linear["x_scale"]) == (0, "linear")
    assert linear["series"][0]["x"] == [1.0, -1.0, 3.0]


def test_a_figure_of_many_points_is_thinned_evenly_and_its_table_cut():
    size = 3 * MAX_POINTS
    rows = _rows([{"x": float(k)} for k in range(size)])
    drawn = figure(rows, {})
    x = drawn["series"][0]["x"]
    steps = {b - a for a, b in itertools.pairwise(x)}
    assert len(x) == MAX_POINTS
    assert (x[0], x[-1]) == (0.0, size - 1.0)
    assert steps <= {3.0, 4.0}
    assert drawn["num_thinned"] == size - MAX_POINTS
    numbers = figure_table(rows)
    assert len(numbers["lines"]) == MAX_LINES
    assert numbers["num_left_out"] == size - MAX_LINES


def test_the_table_under_a_figure_has_a_line_for_every_row(read_page):
    rows = [
        _claim(),
        _point(x=2.0, value=0.25, lower=0.2, upper=0.31, predicted=None),
        _point(variant="depth 8", x=4.0, value=None, status="skipped", reason="late"),
    ]
    section = _section(render_html(_table(rows)), 1)
    numbers = read_page(section[section.index("<details>") :])[1]
    assert "series x value lower upper predicted status" in numbers
    assert f"depth 4 2 0.25 0.2 0.31 {DASH} ok" in numbers
    assert f"depth 8 4 {DASH} 0.2 0.31 0.24 skipped: late" in numbers


def test_sixty_claims_with_figures_stay_under_two_megabytes_of_data():
    rows = []
    for k in range(60):
        rows.append(_claim(f"p.c{k}"))
        rows += [
            _point(f"p.c{k}", x=float(x), variant=arm)
            for arm in ("a", "b", "c")
            for x in range(40)
        ]
    assert len(render_html(_table(rows)).encode()) < 2e6
