"""The page in a real browser: charts drawn, controls obeyed, nothing complained of.

One browser for the whole file, driven over the network of this machine alone; every
other address is unreachable to it.
"""

import csv
import io
import math
import re
import shutil
from urllib.parse import urlencode

import polars as pl
import pytest

from spectrank.report import render_html
from spectrank.table import Table

webdriver = pytest.importorskip("selenium.webdriver")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
DRIVER = shutil.which("chromedriver")
EVIL = "</script><img src=x onerror=alert(1)>"
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no chromium or no chromedriver"
)
WIDTHS = {"wide": 1400, "narrow": 500}


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("no-first-run", "hide-scrollbars"),
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_page_load_timeout(120)
    yield browser
    browser.quit()


class Page:
    """One opened page and what a reader does with it."""

    def __init__(self, driver, path, fragment=""):
        self.driver = driver
        # A fragment alone would not load anew.
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(path.as_uri() + (f"#{fragment}" if fragment else ""))
        self.wait(lambda: self.run("return document.documentElement.dataset.ready"))

    def wait(self, condition):
        """Until something holds that the browser does in its own time."""
        WebDriverWait(self.driver, 60).until(lambda _: condition())

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self, selector):
        return self.run(
            "return document.querySelector(arguments[0]).textContent", selector
        )

    def count(self, selector):
        return self.run(
            "return document.querySelectorAll(arguments[0]).length", selector
        )

    def visible(self, selector):
        return self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter((x) => x.getClientRects().length).map((x) => x.textContent)",
            selector,
        )

    def columns(self, selector):
        """Heads of each of some tables."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((x) => [...x.tHead.rows[0].cells].map((head) => head.textContent))",
            selector,
        )

    def options(self, selector):
        return self.run(
            "return [...document.querySelector(arguments[0]).options]"
            ".map((x) => x.textContent)",
            selector,
        )

    def set(self, selector, value):
        """Sets a control as a user would, who is told of by an event."""
        self.run(
            """const node = document.querySelector(arguments[0]);
            if (typeof arguments[1] === "boolean") node.checked = arguments[1];
            else node.value = arguments[1];
            node.dispatchEvent(new Event(node.type === "search" ? "input" : "change"));
            """,
            selector,
            value,
        )

    def click(self, selector):
        node = self.driver.find_element("css selector", selector)
        self.show(node)
        node.click()

    def show(self, node):
        self.run(
            "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node
        )

    def traces(self, chart):
        """What the chart was told to draw."""
        return self.run(
            "return document.getElementById(arguments[0]).data.map((trace) => ({"
            "type: trace.type, mode: trace.mode ?? null, x: trace.x ?? null,"
            "y: trace.y ?? null, z: trace.z ?? null, name: trace.name ?? null}))",
            chart,
        )

    def settle(self, width):
        """Until the page has been laid out anew, and drawn twice after that."""
        self.wait(lambda: self.run("return window.innerWidth") == width)
        self.driver.execute_async_script(
            "const frame = requestAnimationFrame;"
            "frame(() => frame(() => frame(() => arguments[0]())));"
        )

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def overflow(self):
        """Pixels that the page is wider than its window."""
        return self.run(
            "return document.documentElement.scrollWidth - window.innerWidth"
        )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "page.html"


def _aligned(page):
    """The page with its library on one line of the file, whatever stands before it.

    At one address and one line a browser compiles a script once, which takes longer
    than all else that a test does: 1.1 s of 1.5 s. Blank lines are no part of a script.
    """
    start = page.index("<script>", page.index('id="data"'))
    return page[:start] + "\n" * (20_000 - page.count("\n", 0, start)) + page[start:]


@pytest.fixture
def opened(driver, path):
    """Writes the page of a table and opens it; nothing may be complained of."""
    pages = []

    def open_(table, fragment="", width=1400, scheme="light", media="screen"):
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media, "features": features}
        )
        path.write_text(_aligned(render_html(table)), "utf-8")
        pages.append(Page(driver, path, fragment))
        return pages[-1]

    yield open_
    path.unlink(missing_ok=True)
    for page in pages[-1:]:
        assert page.complaints() == []


def _blocks(matrix, num_blocks=3):
    roles = [("query", [4.0, 2.0, 1.0]), ("down", [3.0, 1.0, 0.5])]
    return [
        row
        for block in range(num_blocks)
        for role, values in roles
        for row in matrix(f"h.{block}.{role}.weight", [x + block for x in values])
    ]


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
    # Without values there is nothing to draw, which is said.
    page.set("#matrix", "3")
    assert "Only norms were computed" in page.text("#sigma")
    assert page.count("#sigma .js-line") == 0


def test_a_click_on_a_bar_a_cell_or_a_name_shows_the_spectrum(matrix, table, opened):
    page = opened(table(_blocks(matrix)))
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
        actions.move_to_element_with_offset(drag, at, height).perform()
        page.wait(lambda chart=chart: page.count(f"#{chart} .hoverlayer text"))
        actions.click().perform()
        page.wait(lambda place=place: page.text("#card h3") == names[place])
        assert f"Singular values of {names[place]}" in page.text("#sigma-caption")
    page.click("#table tbody tr:nth-child(2) button")
    assert page.text("#card h3") == names[1]
    page.run("history.back()")
    page.wait(lambda: page.text("#card h3") == names[2])
    page.click("#next")
    assert page.text("#card h3") == names[3]


def test_the_table_filters_and_sorts(matrix, table, opened):
    page = opened(table(_blocks(matrix)))
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


def test_the_heat_map_colours_by_rank_and_ties_share_their_mean(matrix, table, opened):
    page = opened(table(_blocks(matrix)))
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


def test_depth_profiles_have_a_panel_for_each_role(matrix, table, opened):
    page = opened(table([*matrix("embed.weight", [9.0, 1.0]), *_blocks(matrix)]))
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
    assert 2.0 < sum(y for y in noise["y"] if y) < 3.0
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


def _look(driver, width, scheme):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "screen", "features": features}
    )


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
            _look(page.driver, width, scheme)
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


def test_on_paper_all_is_light_and_every_row_is_there(matrix, table, opened):
    page = opened(table(_blocks(matrix)), scheme="dark")
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
