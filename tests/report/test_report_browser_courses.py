"""Other pages in a real browser: what moves, laws, checks, claims, wiring, paper."""

import re
from urllib.parse import urlencode

import polars as pl
import pytest

from spectrank.table import Table

pytest.importorskip("selenium.webdriver")
EVIL = "</script><img src=x onerror=alert(1)>"
WIDTHS = {"wide": 1400, "narrow": 500}


def _comparison(matrix):
    rows = []
    for name, scale in (("h.0.w", 1.5), ("h.1.w", 1.0), ("h.2.w", 3.0)):
        old = matrix(name, [4.0, 2.0], run="before")
        new = matrix(name, [4.0 * scale, 2.0 * scale], run="after")
        moved = {"kind": "measurement", "subject": name, "view": "linear"}
        moved |= {"status": "ok", "run": "difference", "m": 8, "n": 4}
        rows += [*old, *new]
        if scale != 1.0:
            rows += matrix(
                name, [4.0 * (scale - 1), 2.0 * (scale - 1)], run="difference"
            )
        rows.append(moved | {"metric": "relative_change", "value": scale - 1.0})
        rows += [
            moved | {"metric": "subspace_overlap", "variant": "left,k=2", "value": 0.9},
            moved
            | {"metric": "subspace_overlap", "variant": "left,k=2", "value": 0.25}
            | {"run": "random"},
        ]
    return rows


def test_a_comparison_shows_what_moved(matrix, table, opened):
    provenance = {"input": "x/new.pt", "before": {"input": "x/old.pt"}}
    page = opened(table(_comparison(matrix), provenance))
    assert page.text("h1") == "new.pt against old.pt"
    assert "median change" in page.text("#overview")
    assert "1 of 3 identical" in page.text("#overview")
    # What moved most is chosen at first, in every chart.
    assert page.text("#card h3") == "h.2.w"
    band = "return document.getElementById('moved').layout.shapes[0]"
    assert (page.run(band)["x0"], page.run(band)["x1"]) == (1.5, 2.5)
    bars = page.traces("moved")
    assert [y for trace in bars for y in trace["y"]] == [0.5, 0.0, 2.0]
    assert page.visible("#movers tbody th button") == ["2 · w", "0 · w", "1 · w"]
    assert page.text("#movers tbody tr:nth-child(3) .badge") == "identical"
    options = page.options("#quantity")
    page.set("#quantity", str(options.index("overlap of the leading left directions")))
    assert page.traces("moved")[-1]["y"] == [0.25] * 3
    _, before, after = page.traces("sides")
    assert before["y"] == after["y"] == [1.25] * 3
    # The slice after is on view; the curve has before and difference behind it.
    assert "3 of 3 matrices (after)" in page.text("#shown")
    assert [t["name"] for t in page.traces("sigma") if t["name"]] == [
        "before",
        "difference",
    ]
    page.set("#numbers select.slice", "0")
    assert "3 of 3 matrices (before)" in page.text("#shown")
    assert (
        page.run("return document.querySelector('#layers select.slice').value") == "0"
    )


def test_a_trend_shows_every_matrix_over_the_steps(matrix, table, opened):
    rows = [
        row
        for step in (0, 10, 200)
        for block in (0, 1)
        for row in matrix(f"h.{block}.w", [4.0 + block * step, 4.0], step=step)
    ]
    page = opened(table(rows))
    every, chosen = page.traces("trend-lines")
    truth = [
        [1 + 16 / (4 + block * step) ** 2 for step in (0, 10, 200)] for block in (0, 1)
    ]
    assert chosen["y"] == [*truth[0], None]
    assert every["x"] == [0, 10, 200, None] * 2
    assert every["y"] == pytest.approx([*truth[0], None, *truth[1], None])
    grid = page.traces("trend-grid")[0]
    assert grid["z"][0] == [0, 0, 0]
    assert grid["z"][1][0] == 0
    assert 2.0 ** grid["z"][1][2] == pytest.approx(truth[1][2] / truth[1][0])
    assert "(step 200)" in page.text("#shown")
    assert page.visible("#trend-table tbody th button") == ["0 · w", "1 · w"]
    cells = page.visible("#trend-table tbody tr:nth-child(2) td")
    assert [x.replace("step", " step") for x in cells[-2:]] == [
        f"{truth[1][2]:.3f} step 200",
        "2 step 0",
    ]
    page.click("#trend-table tbody tr:nth-child(2) button")
    assert page.text("#card .remark").startswith("step 200 ·")
    assert page.text("#card h3") == "h.1.w"
    assert page.traces("trend-lines")[1]["y"] == pytest.approx([*truth[1], None])
    link = urlencode({"layer": "h.0.w", "view": "linear", "at": "step 10"})
    page.run(f"location.hash = '{link}'")
    page.wait(lambda: "(step 10)" in page.text("#shown"))
    assert page.text("#card .remark").startswith("step 10 ·")


def _watched():
    columns = {"drift": pl.Float64, "explained": pl.Float64, "residual": pl.Float64}
    columns |= {"num_laws": pl.Int64, "suspects": pl.List(pl.String)}
    rows = []
    for step in (0, 10, 20):
        shared = {"kind": "law", "metric": "vertex", "step": step, "bound": 1e-9}
        right = shared | {"subject": "vertex 0", "verdict": "conserved", "num_laws": 5}
        late = "broken" if step == 20 else "explained"
        wrong = shared | {"subject": EVIL, "verdict": late, "num_laws": 7}
        wrong |= {"drift": 0.1 * step, "explained": 1.0, "reason": EVIL}
        rows += [right | {"drift": 0.0, "explained": 0.0}, wrong]
    rows[-1]["suspects"] = ["2.weight"]
    return Table.from_rows(rows, columns=columns)


def test_laws_show_when_they_broke(opened):
    page = opened(_watched())
    assert page.text("h1") == "Laws of training"
    assert "1 broken" in page.text("#overview")
    assert "Nothing was measured" not in page.text("main")
    assert page.traces("law-grid")[0]["z"] == [[0, 0, 0], [1, 1, 3]]
    # The broken one is chosen: its drift, and a cross where it broke.
    drift, cross = page.traces("law-course")[2:]
    assert drift["y"] == [0.0, 1.0, 2.0]
    assert (cross["x"], cross["y"]) == ([20], [2.0])
    page.set("#law", "0")
    assert page.traces("law-course")[2]["y"] == [0.0, 0.0, 0.0]
    page.set("#law-verdict", "broken")
    assert page.text("#laws-shown") == "1 of 2 families"
    assert "2.weight" in page.visible("#law-table tbody tr")[0]
    page.set("#law-verdict", "")
    page.click("#law-table thead th:nth-child(4) button")
    order = page.visible("#law-table tbody th code")
    assert order == [EVIL, "vertex 0"]
    assert page.count("img") == 0


@pytest.mark.parametrize("course", ["comparison", "trend", "laws"])
def test_every_view_fits_its_window_in_both_schemes(course, matrix, table, opened):
    name = "a.very.long.name.of.a.layer.that.does.not.end.w"
    tables = {
        "comparison": lambda: table(_comparison(matrix)),
        "trend": lambda: table(
            [row for s in (0, 10) for row in matrix(name, [2.0, 1.0], step=s)]
        ),
        "laws": _watched,
    }
    page = opened(tables[course]())
    for width in WIDTHS.values():
        for scheme in ("light", "dark"):
            # A page that is open follows what its reader changes.
            page.look(page.driver, width, scheme)
            # Which takes a frame or two: what stays wrong fails below.
            page.settle(width)
            assert page.overflow() <= 0
            paper, ink = page.run(
                "const style = getComputedStyle(document.body);"
                "return [style.backgroundColor, style.color]"
            )
            lights = [sum(map(int, re.findall(r"\d+", x)[:3])) for x in (paper, ink)]
            # The text must stand off the paper, whatever the scheme.
            assert (lights[0] > lights[1]) == (scheme == "light")
            assert abs(lights[0] - lights[1]) > 450
            for chart in page.driver.find_elements("css selector", ".js-plotly-plot"):
                if not chart.is_displayed():
                    continue
                drawn = page.run("return arguments[0].layout.font.color", chart)
                assert chart.size["width"] == page.run(
                    "return arguments[0].layout.width", chart
                )
                assert drawn == page.run(
                    "return getComputedStyle(document.documentElement)"
                    ".getPropertyValue('--ink').trim()"
                )


def test_on_paper_all_is_light_and_every_row_is_there(blocks, table, opened):
    page = opened(table(blocks), scheme="dark")
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {
            "media": "print",
            "features": [{"name": "prefers-color-scheme", "value": "dark"}],
        },
    )
    assert page.run("return getComputedStyle(document.body).backgroundColor") in {
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    }
    assert page.visible("nav") == []
    assert page.visible(".controls button") == []
    box = page.run(
        "const box = document.querySelector('#numbers .box');"
        "return [box.scrollHeight, box.clientHeight]"
    )
    assert box[0] == box[1]
    for chart in ("bars", "depth", "heat", "sigma"):
        assert page.run(f"return document.getElementById('{chart}').clientWidth") <= 680
    pages = page.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(pages["data"]) > 20_000
    page.run("window.dispatchEvent(new Event('afterprint'))")


def test_paper_has_every_column_and_unfolds_what_is_folded(table, opened):
    shared = {"kind": "measurement", "subject": "w", "m": 3, "n": 2}
    rows = [
        shared | {"metric": f"m{k:02}", "value": 1.0 + k, "status": "ok"}
        for k in range(40)
    ]
    bad = {"status": "degenerate", "reason": "no", "value": None}
    rows += [rows[0] | bad | {"subject": f"bad{k}"} for k in range(5)]
    page = opened(table(rows))
    assert page.count("#paper table") == 0
    assert page.count("details.rest[open]") == 0
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    heads = page.visible("#paper thead th")
    assert heads.count("matrix") == page.count("#paper table") == 4
    assert [x for x in heads if x.startswith("m") and x[1:].isdigit()] == [
        f"m{k:02}" for k in range(40)
    ]
    assert max(len(x) for x in page.columns("#paper table")) == 13
    assert page.visible("#paper tbody tr:first-child td")[4:7] == ["1", "2", "3"]
    assert page.count("details.rest[open]") == 1
    page.run("window.dispatchEvent(new Event('afterprint'))")
    assert page.count("#paper table") == page.count("details.rest[open]") == 0


def test_a_page_without_measurements_runs_in_peace(table, opened):
    page = opened(table([]))
    assert "Nothing was measured" in page.text("main")


def _claims():
    shared = {"status": "ok", "error_kind": "stderr"}
    claim = {"kind": "claim", "metric": "slope", "value": 1.0, "verdict": "reproduced"}
    rows = [claim | {"subject": "p.drawn"}, claim | {"subject": "p.bare"}]
    rows += [
        shared
        | {"kind": "measurement", "subject": "p.drawn", "metric": "signal"}
        | {"variant": arm, "x": x, "value": x * k, "predicted": x * k}
        | {"lower": 0.8 * x * k, "upper": 1.3 * x * k}
        for k, arm in enumerate((EVIL, "depth 8", "depth 16"), start=1)
        for x in (1.0, 10.0, 100.0, -1.0)
    ]
    columns = {"x": pl.Float64, "predicted": pl.Float64}
    axes = {"title": EVIL, "x": EVIL, "y": EVIL, "x_scale": "log", "y_scale": "log"}
    figures = {"figures": {"p.drawn": axes}}
    return Table.from_rows(rows, columns=columns, provenance=figures)


def test_figures_of_claims_are_drawn_with_error_bars_and_predictions(opened):
    page = opened(_claims())
    # Three points of each of three series; the negative ones have no logarithm.
    assert page.count("#claim-1 path.point") == 9
    assert page.count("#claim-1 path.yerror") == 9
    assert page.count("#claim-1 path.js-line") == 3
    # From 0.8 to 1.3 of the number, of three rising series.
    ends = page.run(
        "return document.querySelector('#claim-1 .js-plotly-plot').data"
        ".filter((t) => t.error_y?.array)"
        ".map((t) => [t.error_y.arrayminus[1], t.error_y.array[1]])"
    )
    assert ends == [pytest.approx([2.0 * k, 3.0 * k]) for k in (1, 2, 3)]
    caption = page.text("#claim-1 figcaption")
    assert "3 points not positive cannot stand on a logarithmic axis" in caption
    assert "Both axes are logarithmic" in caption
    legend = page.visible("#claim-1 .legend li")
    assert len(legend) == 4
    assert EVIL in legend[0]
    assert page.count("img") == 0
    assert page.count("#claim-2 .js-line") == 0


def test_the_wiring_is_drawn_and_marks_the_layer_of_the_address(matrix, table, opened):
    names = ["fc1", EVIL, "fc3"]
    rows = [row for name in names for row in matrix(name, [3.0, 1.0])]
    kinds = ["layer", "layer", "unknown"]
    graph = {
        "version": 1,
        "nodes": [
            {"id": str(at), "kind": kind, "name": name, "op": "linear"}
            | {"parameters": {"weight": name}, "shape": [8, 4], "note": EVIL}
            for at, (name, kind) in enumerate(zip(names, kinds, strict=True))
        ],
        "links": [
            {"source": "0", "target": "1", "through": ["relu"]},
            {"source": "0", "target": "2", "through": ["relu", "sum"]},
            {"source": "1", "target": "2", "through": ["sum"]},
        ],
    }
    link = urlencode({"layer": EVIL, "view": "linear"})
    page = opened(table(rows, {"graph": graph}), link)
    assert page.count("#wiring .node.layer") == 2
    assert page.count("#wiring .node.unknown") == 1
    assert page.count("#wiring .joint") == 1
    chosen = page.run(
        "return [...document.querySelectorAll('#wiring a[aria-current=true]')]"
        ".map((x) => x.getAttribute('href'))"
    )
    assert chosen == [f"#{link}"]
    assert "All 2 values" in page.text("#sigma-caption")
    assert page.count("img") == 0


def _checked(subject, metric, word, **more):
    row = {"kind": "check", "subject": subject, "metric": metric, "verdict": word}
    return row | {"view": "linear", "reason": f"{EVIL} stands here; " * 3} | more


def test_checks_are_filtered_and_references_stay_in_the_table(opened):
    measured = {"kind": "measurement", "view": "linear", "status": "ok"}
    names = ["first.weight", EVIL, "third.weight"]
    words = [("holds", "violated"), ("violated", "holds"), ("not_applicable", "holds")]
    rows = [
        _checked(name, metric, word)
        for name, pair in zip(names, words, strict=True)
        for metric, word in zip(("bound_one", "bound_two"), pair, strict=True)
    ]
    for at, name in enumerate(names):
        row = measured | {"subject": name, "metric": "stable_rank", "value": 2.0 + at}
        reference = {"variant": "gaussian", "deviation": 0.5, "z_score": -2.5 * at}
        rows += [row, row | {"value": 9.0} | reference]
    columns = {"deviation": pl.Float64, "z_score": pl.Float64}
    page = opened(Table.from_rows(rows, columns=columns))

    def shown():
        return [names.index(name) for name in page.visible(".checks tbody th code")]

    assert shown() == [0, 1, 2]
    page.set("#check-verdict", "violated")
    assert shown() == [0, 1]
    page.set("#check-of", "1")
    assert shown() == [0]
    page.set("#check-verdict", "not applicable")
    assert shown() == []
    page.set("#check-of", "")
    assert shown() == [2]
    page.set("#check-verdict", "")
    page.set("#check-filter", "THIRD")
    assert shown() == [2]
    assert page.text("#checks-shown") == "1 of 3 matrices"
    before = len(page.visible("#table thead th"))
    page.set("#references", True)
    assert len(page.visible("#table thead th")) == before + 1
    # References are sorted by z, 0 to -5, though all their numbers are 9.
    column = page.visible("#table thead th").index("stable rank (gaussian)") + 1
    orders = []
    for _ in range(2):
        page.click(f"#table thead th:nth-child({column}) button")
        found = page.visible("#table tbody tr th .full")
        orders.append([names.index(name) for name in found])
    assert orders == [[0, 1, 2], [2, 1, 0]]
    for opened_too in (True, False):
        page.set("#check-reasons", opened_too)
        assert page.count("details.why[open]") == 6 * opened_too
    bars = [trace for trace in page.traces("bars") if trace["type"] == "bar"]
    assert sum(len(trace["x"]) for trace in bars) == 3
    assert "stable rank" in page.text("#layers")
    assert "gaussian" not in page.text("#layers")
    assert "gaussian" not in page.text("#spectrum")
    assert "z \N{MINUS SIGN}2.50" in page.text("#numbers")
    assert page.count("img") == 0
