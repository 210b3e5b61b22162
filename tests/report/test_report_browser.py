"""The page in a real browser: charts drawn, links followed, nothing complained of."""

import re
import shutil
import subprocess
from urllib.parse import urlencode

import polars as pl
import pytest

from spectrank.report import write_html
from spectrank.table import Table

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
EVIL = "</script><img src=x onerror=alert(1)>"
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")


def _load(path, profile, fragment=""):
    """DOM after the scripts ran, and what the page wrote to the console."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        "--disable-dev-shm-usage --window-size=1400,1000 --virtual-time-budget=8000 "
        "--enable-logging=stderr --v=0 --dump-dom"
    )
    assert BROWSER is not None
    command = [BROWSER, *flags.split(), f"--user-data-dir={profile}"]
    address = path.as_uri() + (f"#{fragment}" if fragment else "")
    done = subprocess.run(
        [*command, address], capture_output=True, text=True, timeout=240, check=True
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The first script of the library alone is 5 MB of noise in a failure message.
    dom = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    return dom, console


def _section(dom, name):
    return dom[dom.index(f'id="{name}"') :].partition("</section>")[0]


def test_charts_are_drawn_and_a_deep_link_opens_the_spectrum(matrix, table, tmp_path):
    bad = {"value": None, "status": "nonfinite", "reason": "2 entries are NaN"}
    rows = [
        *matrix("h.0.attn.weight", [4.0, 2.0, 1.0]),
        *matrix("h.1.attn.weight", [3.0, 2.0, 0.0]),
        *matrix(EVIL, [5.0, 1.0]),
        *matrix("norms.weight", [2.0])[:3],
        *(row | bad for row in matrix("h.2.attn.weight", [1.0])[:3]),
    ]
    page = write_html(table(rows), tmp_path / "page.html")
    link = urlencode({"layer": EVIL, "view": "linear"})
    dom, console = _load(page, tmp_path / "profile", link)
    assert console == []
    assert 'data-ready="true"' in dom
    layers = _section(dom, "layers")
    # One bar each for the four sound matrices, one cross for the fifth.
    assert len(re.findall(r'<g class="point"><path[^>]* d="M(?!0,0Z)', layers)) == 4
    assert "<image" in layers
    assert "A cross marks a matrix without a sound number" in layers
    spectrum = _section(dom, "spectrum")
    assert 'class="js-line"' in spectrum
    assert "All 2 values" in spectrum
    assert "<h3>&lt;/<wbr>script" in spectrum
    assert not re.search(r"<img\b", dom)
    numbers = _section(dom, "numbers")
    assert "5 of 5 matrices" in numbers
    assert 'title="2 entries are NaN">nonfinite</span>' in numbers


def test_without_a_spectrum_the_page_says_that_only_norms_were_computed(
    matrix, table, tmp_path
):
    rows = [*matrix("full", [2.0, 1.0]), *matrix("norms", [2.0])[:3]]
    page = write_html(table(rows), tmp_path / "page.html")
    dom, console = _load(page, tmp_path / "profile", "layer=norms")
    assert console == []
    spectrum = _section(dom, "spectrum")
    assert "Only norms were computed" in spectrum
    assert "js-line" not in spectrum


def test_a_page_without_measurements_runs_in_peace(table, tmp_path):
    page = write_html(table([]), tmp_path / "page.html")
    dom, console = _load(page, tmp_path / "profile")
    assert console == []
    assert 'data-ready="true"' in dom
    assert "Nothing was measured" in dom


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


def test_figures_of_claims_are_drawn_with_error_bars_and_predictions(tmp_path):
    page = write_html(_claims(), tmp_path / "page.html")
    dom, console = _load(page, tmp_path / "profile")
    assert console == []
    assert 'data-ready="true"' in dom
    drawn = _section(dom, "claim-1")
    # Three points of each of three series; the negative ones have no logarithm.
    assert len(re.findall(r'<path class="point"', drawn)) == 9
    assert len(re.findall(r'<path class="yerror"', drawn)) == 9
    assert len(re.findall(r'<path class="js-line"', drawn)) == 3
    assert "3 points not positive cannot stand on a logarithmic axis" in drawn
    assert "Both axes are logarithmic" in drawn
    legend = drawn[drawn.index('class="legend"') :].partition("</ul>")[0]
    assert len(re.findall("<li>", legend)) == 4
    assert "&lt;/script&gt;" in legend
    assert not re.search(r"<img\b", dom)
    assert "js-line" not in _section(dom, "claim-2")


def test_the_wiring_is_drawn_and_marks_the_layer_of_the_address(
    matrix, table, tmp_path
):
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
    page = write_html(table(rows, {"graph": graph}), tmp_path / "page.html")
    link = urlencode({"layer": EVIL, "view": "linear"})
    dom, console = _load(page, tmp_path / "profile", link)
    assert console == []
    wiring = _section(dom, "wiring")
    assert len(re.findall(r'class="node (layer|unknown)"', wiring)) == 3
    assert len(re.findall(r'class="joint"', wiring)) == 1
    chosen = re.findall(r'<a href="([^"]*)" aria-current="true">', wiring)
    assert [address.replace("&amp;", "&") for address in chosen] == [f"#{link}"]
    assert "All 2 values" in _section(dom, "spectrum")
    assert not re.search(r"<img\b", dom)


def _checked(subject, metric, word, **more):
    row = {"kind": "check", "subject": subject, "metric": metric, "verdict": word}
    return row | {"view": "linear", "reason": f"{EVIL} stands here; " * 3} | more


def test_checks_are_filtered_and_references_stay_in_the_table(tmp_path):
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
    # What a reader does, done by a script that the policy of the page would stop.
    acts = """<script>
    const set = (id, value) => {
      const node = document.getElementById(id);
      if (typeof value === "boolean") node.checked = value; else node.value = value;
      node.dispatchEvent(new Event(id === "check-filter" ? "input" : "change"));
    };
    const shown = () => [...document.querySelectorAll(".checks tbody tr")]
      .flatMap((row, at) => (row.getClientRects().length ? [at] : [])).join("");
    const visible = () => [...document.querySelectorAll("#table thead th")]
      .filter((head) => head.getClientRects().length).length;
    const seen = [shown()];
    set("check-verdict", "violated"); seen.push(shown());
    set("check-of", "1"); seen.push(shown());
    set("check-verdict", "not applicable"); seen.push(`none${shown()}`);
    set("check-of", ""); seen.push(shown());
    set("check-verdict", ""); set("check-filter", "THIRD"); seen.push(shown());
    const before = visible();
    set("references", true);
    seen.push(visible() - before);
    const open = () => document.querySelectorAll("details.why[open]").length;
    set("check-reasons", true); seen.push(open());
    set("check-reasons", false); seen.push(open());
    document.title = seen.join(" ");
    </script></body>"""
    page = write_html(Table.from_rows(rows, columns=columns), tmp_path / "page.html")
    text = page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x-no")
    page.write_text(text.replace("</body>", acts), encoding="utf-8")
    dom, console = _load(page, tmp_path / "profile")
    assert console == []
    title = re.search(r"<title>([^<]*)</title>", dom)
    assert title
    assert title[1] == "012 01 0 none 2 2 1 6 0"
    assert "1 of 3 matrices" in _section(dom, "checks")
    layers = _section(dom, "layers")
    assert len(re.findall(r'<g class="point"><path[^>]* d="M(?!0,0Z)', layers)) == 3
    assert "stable rank" in layers
    assert "gaussian" not in layers
    assert "gaussian" not in _section(dom, "spectrum")
    assert "z \N{MINUS SIGN}2.50" in _section(dom, "numbers")
    assert not re.search(r"<img\b", dom)
