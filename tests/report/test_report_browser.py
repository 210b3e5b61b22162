"""The page of a scan in a real browser: charts, card and table against the numbers."""

import csv
import io
import math
from urllib.parse import urlencode

import polars as pl
import pytest
from scipy.integrate import quad

from spectrank.table import Table

webdriver = pytest.importorskip("selenium.webdriver")
EVIL = "</script><img src=x onerror=alert(1)>"


def _with_theory(rows):
    """The rows of a matrix with a noise fit and a power law that are known."""
    first = rows[0]
    known = {"mp_sigma": 0.5, "mp_edge": 2.5, "num_spikes": 2.0, "alpha": 3.0}
    more = [
        first
        | {"metric": metric, "value": value, "lower": value, "upper": value}
        | {"variant": "level=0.01" if metric == "num_spikes" else None}
        for metric, value in (known | {"xmin": 4.0, "num_tail": 2.0}).items()
    ]
    return [*rows, *more]


def test_charts_are_drawn_and_a_deep_link_opens_the_spectrum(matrix, table, opened):
    bad = {"value": None, "status": "nonfinite", "reason": "2 entries are NaN"}
    rows = [
        *matrix("h.0.attn.weight", [4.0, 2.0, 1.0]),
        *matrix("h.1.attn.weight", [3.0, 2.0, 0.0]),
        *matrix(EVIL, [5.0, 1.0]),
        *matrix("norms.weight", [2.0])[:3],
        *(row | bad for row in matrix("h.2.attn.weight", [1.0])[:3]),
    ]
    page = opened(table(rows), urlencode({"layer": EVIL, "view": "linear"}))
    # One bar each for the four sound matrices, one cross for the fifth.
    bars = [t for t in page.traces("bars") if t["type"] == "bar"]
    assert sum(len(trace["x"]) for trace in bars) == 4
    assert page.traces("bars")[-1]["x"] == [4]
    assert page.count("#heat image") == 1
    assert "A cross marks a matrix without a sound number" in page.text("#bars-caption")
    assert "All 2 values" in page.text("#sigma-caption")
    assert page.text("#card h3") == EVIL
    assert page.count("img") == 0
    assert "5 of 5 matrices" in page.text("#shown")
    assert page.text("#table .badge[title='2 entries are NaN']") == "nonfinite"
    page.set("#troubled", True)
    assert page.visible("#table tbody tr th .full") == ["h.2.attn.weight"]
    # Without values there is nothing to draw, which is said.
    page.set("#matrix", "3")
    assert "Only norms were computed" in page.text("#sigma")
    assert page.count("#sigma .js-line") == 0


def test_a_click_on_a_bar_a_cell_or_a_name_shows_the_spectrum(blocks, table, opened):
    page = opened(table(blocks))
    names = [
        f"h.{block}.{role}.weight" for block in range(3) for role in ("query", "down")
    ]
    assert page.text("#card h3") == names[0]
    # Plotly listens for the mouse over its drag layer: move there, then click.
    actions = webdriver.ActionChains(page.driver)
    for chart, place in (("bars", 4), ("heat", 2)):
        drag = page.driver.find_element("css selector", f"#{chart} .nsewdrag")
        page.show(drag)
        width = drag.size["width"]
        low, high = page.run(
            "return document.getElementById(arguments[0]).layout.xaxis.range", chart
        )
        at = int(((place - low) / (high - low) - 0.5) * width)
        height = drag.size["height"] // 2 - 12
        # A move that comes while a chart is drawn anew is lost: move until it is seen.
        for nudge in range(200):
            actions.move_to_element_with_offset(drag, at + nudge % 2, height).perform()
            page.frames(10)
            if page.count(f"#{chart} .hoverlayer text"):
                break
        actions.click().perform()
        page.wait(lambda place=place: page.text("#card h3") == names[place])
        assert f"Singular values of {names[place]}" in page.text("#sigma-caption")
    page.click("#table tbody tr:nth-child(2) button")
    assert page.text("#card h3") == names[1]
    page.run("history.back()")
    page.wait(lambda: page.text("#card h3") == names[2])
    page.click("#next")
    assert page.text("#card h3") == names[3]


def test_the_table_filters_and_sorts(blocks, table, opened):
    page = opened(table(blocks))
    rows = "#table tbody tr th .full"
    page.set("#filter", "H.1. query")
    assert page.visible(rows) == ["h.1.query.weight"]
    assert page.text("#shown") == "1 of 6 matrices"
    page.set("#filter", "no such")
    assert page.text("#table tbody") == "No matrix matches."
    page.set("#filter", "query")
    # sigma_1 is 4, 5, 6: the largest first, then the smallest, then as it was.
    heads = page.visible("#table thead th")
    column = heads.index("spectral norm") + 1
    order = []
    for _ in range(3):
        page.click(f"#table thead th:nth-child({column}) button")
        order.append([name.split(".")[1] for name in page.visible(rows)])
    assert order == [["2", "1", "0"], ["0", "1", "2"], ["0", "1", "2"]]
    assert page.count("#table [aria-sort]") == 0


def test_the_heat_map_colours_by_rank_and_ties_share_their_mean(blocks, table, opened):
    page = opened(table(blocks))
    labels = page.run("return document.getElementById('heat').layout.yaxis.ticktext")
    rows = dict(zip(labels, page.traces("heat")[0]["z"], strict=True))
    # Norms are 4, 3, 5, 4, 6, 5.
    assert rows["spectral norm"] == pytest.approx([0.3, 0.0, 0.7, 0.3, 1.0, 0.7])
    assert rows["numerical rank (rtol=0.001)"] == [0.5] * 6
    page.click("input[name=normal][value=log]")
    row = page.traces("heat")[0]["z"][labels.index("spectral norm")]
    logs = [math.log(x / 3.0) / math.log(2.0) for x in (4, 3, 5, 4, 6, 5)]
    assert row == pytest.approx(logs, abs=1e-12)


def test_the_csv_file_holds_every_digit_of_the_table(matrix, table, opened):
    rows = [
        *matrix("=cmd()", [math.pi, 1.0]),
        *matrix('a,"b"', [2.0, 1.0]),
        *matrix("left.out", [1.0]),
    ]
    made = table(rows)
    page = opened(made)
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "deny"})
    page.set("#filter", "linear")
    page.run(
        "const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => {"
        "blob.text().then((text) => { window.saved = text; });"
        "return make.call(URL, blob); };"
    )
    page.click("#download")
    page.wait(lambda: page.run("return window.saved ?? null"))
    saved = list(csv.DictReader(io.StringIO(page.run("return window.saved"))))
    columns = ("value", "lower", "upper", "failure_probability")
    wanted = made.frame.filter(pl.col("kind") == "measurement").to_dicts()
    # A spreadsheet must not take a name for a formula.
    names = {"=cmd()": "'=cmd()"}
    for row, found in zip(wanted, saved, strict=True):
        assert found["subject"] == names.get(row["subject"], row["subject"])
        assert (found["metric"], found["status"]) == (row["metric"], "ok")
        numbers = [None if found[x] == "" else float(found[x]) for x in columns]
        assert numbers == [row[x] for x in columns]


# Below and above 2, what is printed beside it, and the ends.
TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
ENDS = {
    "near": (1.5e-7, 1.2e-7, f"± 2{TIMES}10⁻⁷", "[1.99999985, 2.00000012]"),
    "uneven": (
        *(3.0e-7, 1.2e-8),
        f"+2{TIMES}10⁻⁸ {MINUS}3{TIMES}10⁻⁷",
        "[1.99999970, 2.00000002]",
    ),
    "none": (0.0, 0.0, "exact", "[2, 2]"),
    "wide": (0.0123, 0.01, None, "[1.987, 2.010]"),
}


def test_what_the_card_prints_of_an_enclosure_contains_it(matrix, table, opened):
    row = matrix("w", [2.0])[1] | {"value": 2.0}
    rows = [
        row | {"metric": name, "lower": 2.0 - below, "upper": 2.0 + above}
        for name, (below, above, *_) in ENDS.items()
    ]
    page = opened(table(rows))
    beside = page.run(
        "return [...document.querySelectorAll('#card td.margin')]"
        ".map((x) => [x.textContent, x.title])"
    )
    wide = page.text("#card .detail small")
    for below, above, text, printed in ENDS.values():
        assert printed == wide if text is None else [text, printed] in beside
        low, high = (float(x) for x in printed.strip("[]").split(","))
        assert low <= 2.0 - below
        assert 2.0 + above <= high


def test_depth_profiles_have_a_panel_for_each_role(blocks, matrix, table, opened):
    page = opened(table([*matrix("embed.weight", [9.0, 1.0]), *blocks]))
    own = [trace for trace in page.traces("depth") if trace["mode"] == "lines+markers"]
    assert page.run("return document.getElementById('metric').value") == "0"
    # Places in the model; the embedding occurs once and has no profile.
    assert [trace["x"] for trace in own] == [[1, 3, 5], [2, 4, 6]]
    # Behind each panel the other one, in one trace with a gap.
    grey = [trace for trace in page.traces("depth") if trace["mode"] == "lines"]
    assert [trace["x"] for trace in grey] == [[2, 4, 6, None], [1, 3, 5, None]]
    assert grey[0]["y"] == [*own[1]["y"], None]
    page.set("#metric", str(page.options("#metric").index("spectral norm")))
    own = [trace for trace in page.traces("depth") if trace["mode"] == "lines+markers"]
    assert [trace["y"] for trace in own] == [[4.0, 5.0, 6.0], [3.0, 4.0, 5.0]]
    # A norm counts no dimensions; a rank does, of at most 6 in an 8 by 6 matrix.
    assert page.run("return document.getElementById('per-size').disabled")
    page.set("#metric", str(page.options("#metric").index("stable rank")))
    page.set("#per-size", True)
    ranks = [1 + 5 / 16, 1 + 13 / 25, 1 + 25 / 36]
    own = [trace for trace in page.traces("depth") if trace["mode"] == "lines+markers"]
    assert own[0]["y"] == pytest.approx([x / 6 for x in ranks], rel=1e-12)
    bars = [
        y for trace in page.traces("bars") if trace["type"] == "bar" for y in trace["y"]
    ]
    assert max(bars) == pytest.approx(max(max(t["y"]) for t in own), rel=1e-12)


def test_noise_and_power_law_are_drawn_with_the_spectrum(matrix, table, opened):
    rows = _with_theory(matrix("w", [4.0, 3.0, 1.0, 0.5, 0.25]))
    page = opened(table(rows))
    edge = page.run(
        "return document.getElementById('sigma').layout.shapes"
        ".find((x) => x.yref === 'y')"
    )
    assert edge["y0"] == edge["y1"] == 2.5
    tail = page.traces("sigma")[-1]
    # sigma_k = xmin^(1/2) (k / n)^(-1 / (2 (alpha - 1))), from k = 1 to n = 2.
    assert tail["y"][0] == pytest.approx(2.0 * 0.5 ** (-0.25), rel=1e-12)
    assert tail["y"][-1] == pytest.approx(2.0, rel=1e-12)
    assert "exponent 3 through the largest 2 eigenvalues" in page.text("#sigma-caption")
    page.click("input[name=picture][value=histogram]")
    bars, noise, law = page.traces("sigma")
    assert bars["type"] == "bar"
    assert sum(bars["y"]) == 5
    # The power law puts its two values above 2; noise keeps three below its edge
    # 0.5 (8^(1/2) + 10^(1/2)) = 3.0, but for what is under the smallest value.
    above = [y for x, y in zip(law["x"], law["y"], strict=True) if y]
    assert sum(above) == pytest.approx(2.0 * (1 - (4.0 / 2.0) ** -4.0), rel=1e-9)
    # Three of the five values are noise; x = (s / (0.5 10^(1/2)))^2 has the density.
    q = 0.8
    lowest, highest = (1 - q**0.5) ** 2, (1 + q**0.5) ** 2

    def density(x):
        return math.sqrt((highest - x) * (x - lowest)) / (2 * math.pi * q * x)

    mass, _ = quad(density, (0.25 / (0.5 * 10.0**0.5)) ** 2, highest)
    assert sum(y for y in noise["y"] if y) == pytest.approx(3.0 * mass, rel=0.01)
    page.click("input[name=picture][value=curve]")
    assert page.traces("sigma")[-1]["mode"] == "lines"


def _layout(page, chart, axis="yaxis"):
    return page.run(
        "return document.getElementById(arguments[0]).layout[arguments[1]]", chart, axis
    )


def test_twins_are_drawn_and_what_is_not_resolved_has_no_depth(matrix, table, opened):
    values = [4.0, 1.0, 0.5, 1e-30]
    own = [row | {"num_resolved": 3} for row in matrix("h.0.w", values)]
    other = [
        row | {"num_resolved": 3} for row in matrix("h.1.w", [8.0, 1.0, 0.25, 1e-20])
    ]
    twin = {"metric": "null_singular_values", "variant": "permuted"}
    tools = [
        own[0] | {"metric": name, "variant": "permuted", "value": 7.0}
        for name in ("p_one", "p_two", "p_three", "p_four", "p_five")
    ]
    rows = [*own, own[-1] | twin | {"values": [2.0, 1.5, 1.0, 0.75]}, *tools, *other]
    columns = {"m": pl.Int64, "n": pl.Int64, "num_resolved": pl.Int64}
    page = opened(Table.from_rows(rows, columns=columns))
    shown = [trace["y"] for trace in page.traces("sigma")]
    assert [2.0, 1.5, 1.0, 0.75] in shown
    assert [4.0, 1.0, 0.5, None] in shown
    assert "random twins, the same entries in other places" in page.text(
        "#sigma-caption"
    )
    # Behind it the other matrix of its role, as far as it is known.
    ghost = page.traces("sigma")[0]["y"]
    assert ghost == [8.0, 1.0, 0.25, None, None]
    low, high = _layout(page, "sigma")["range"]
    assert -2.0 < low < math.log10(0.5)
    assert math.log10(4.0) < high < 1.0
    # Five metrics of one variant are a list of their own, closed until asked for.
    assert page.text("#card details summary") == "permuted 5"
    assert page.count("#card details[open]") == 0
    assert "p five" not in page.text("#card > table")
    assert "p five7" in page.text("#card details table")
    page.click("#card details summary")
    page.wait(lambda: page.count("#card details[open]"))


def test_enclosures_that_reach_zero_leave_a_logarithmic_axis(matrix, table, opened):
    rows = [row for k in (1, 2) for row in matrix(f"h.{k}.w", [2.0 * k, 1.0])[:1]]
    rows[0] |= {"lower": -1.0, "upper": 4.0, "value": 2.0}
    rows[1] |= {"lower": 10.0, "upper": 30.0, "value": 20.0}
    page = opened(table(rows))
    error = (
        "const t = document.getElementById('bars').data.find((t) => t.error_y);"
        "return [t.error_y.arrayminus, t.error_y.array]"
    )
    assert page.run(error) == [[3.0, 10.0], [2.0, 10.0]]
    assert "reaches zero" not in page.text("#bars-caption")
    page.click("input[name=scale][value=log]")
    minus, plus = page.run(error)
    low, high = _layout(page, "bars")["range"]
    # All that is positive fits, and the first bar goes out of the picture below.
    assert 0.0 < 2.0 - minus[0] < 10.0**low < 2.0
    assert 30.0 < 10.0**high < 40.0
    assert (minus[1], plus) == (10.0, [2.0, 10.0])
    assert "one that leaves the axis below reaches zero" in page.text("#bars-caption")
    # Two columns are as wide as two of nine.
    assert _layout(page, "bars", "xaxis")["range"][1] > 8
    assert _layout(page, "bars", "xaxis")["tickangle"] == 0


def test_a_long_table_lays_out_what_is_asked_for(table, opened):
    shared = {"kind": "measurement", "metric": "stable_rank", "status": "ok"}
    rows = [shared | {"subject": f"w{k:04}", "value": 1.0 + k} for k in range(600)]
    page = opened(table(rows))
    assert page.count("#table tbody tr") == 501
    assert "600 of 600 matrices" in page.text("#shown")
    page.set("#filter", "w05")
    assert page.count("#table tbody tr") == 100
    page.set("#filter", "")
    assert page.text("#table tbody tr:last-child button") == "Show 100 more"
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    assert page.count("#table tbody tr") == 600
    page.run("window.dispatchEvent(new Event('afterprint'))")
    assert page.count("#table tbody tr") == 501
    page.click("#table tbody tr:last-child button")
    assert page.count("#table tbody tr") == 600
