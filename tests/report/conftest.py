"""Scan tables for the report, built row by row."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spectrank.report import _page as page_module
from spectrank.table import Table

PRODUCERS = {
    "m": pl.Int64,
    "n": pl.Int64,
    "dtype": pl.String,
    "layer_type": pl.String,
    "tied_to": pl.String,
    "inferred": pl.Boolean,
}
Row = dict[str, Any]


def _matrix(name: str, values: Sequence[float], **more: Any) -> list[Row]:
    """The rows of one matrix: three metrics with enclosures, and its spectrum."""
    key = {"subject": name, "view": "linear", "m": 8, "n": 2 * len(values)} | more
    shared = key | {"status": "ok", "route": "gram"}
    squares = math.fsum(value * value for value in values)
    numbers = {"stable_rank": squares / values[0] ** 2, "spectral_norm": values[0]}
    rows = [
        shared
        | {"kind": "measurement", "metric": metric, "value": value}
        | {"lower": 0.999 * value, "upper": 1.001 * value}
        | {"error_kind": "probabilistic", "failure_probability": 1e-9}
        for metric, value in numbers.items()
    ]
    count = shared | {"kind": "measurement", "metric": "numerical_rank"}
    rows.append(
        count | {"variant": "rtol=0.001", "value": 3.0, "error_kind": "rounding"}
    )
    return [
        *rows,
        shared | {"kind": "spectrum", "metric": "singular_values", "values": values},
    ]


def _table(rows: Sequence[Row], provenance: Mapping[str, Any] | None = None) -> Table:
    return Table.from_rows(rows, provenance=provenance or {}, columns=PRODUCERS)


def _embedded(page: str) -> dict[str, Any]:
    """The JSON that a page carries, as a browser would read it."""
    start = '<script type="application/json" id="data">'
    text = page[page.index(start) + len(start) :]

    def reject(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    data: dict[str, Any] = json.loads(
        text[: text.index("</script>")], parse_constant=reject
    )
    return data


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _read(page: str) -> tuple[list[tuple[str, dict[str, str | None]]], str]:
    """Elements and the visible words of a page, without its scripts and styles."""
    parser = _Elements()
    parser.feed(page)
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
    words = _Elements()
    words.feed(body)
    return parser.seen, " ".join(" ".join(words.text).split())


@pytest.fixture
def read_page() -> Callable[..., Any]:
    return _read


@pytest.fixture(scope="module")
def small_library() -> Iterator[None]:
    """Quick pages: no chart library (5 MB that few tests look into), templates kept."""
    patch = pytest.MonkeyPatch()
    patch.setattr(page_module, "_environment", cache(page_module._environment))
    patch.setattr(page_module, "get_plotlyjs", lambda: "/* charts */")
    yield
    patch.undo()


@pytest.fixture
def matrix() -> Callable[..., list[Row]]:
    return _matrix


@pytest.fixture
def blocks() -> list[Row]:
    """Three blocks of two roles."""
    roles = [("query", [4.0, 2.0, 1.0]), ("down", [3.0, 1.0, 0.5])]
    return [
        row
        for block in range(3)
        for role, values in roles
        for row in _matrix(f"h.{block}.{role}.weight", [x + block for x in values])
    ]


@pytest.fixture
def table() -> Callable[..., Table]:
    return _table


@pytest.fixture
def embedded() -> Callable[[str], dict[str, Any]]:
    return _embedded


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """The one browser of all tests."""
    pytest.importorskip("selenium.webdriver")
    from browser_page import BROWSER, DRIVER, start_browser

    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium or no chromedriver")
    browser = start_browser()
    yield browser
    browser.quit()


@pytest.fixture(scope="session")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "page.html"


@pytest.fixture
def opened(driver: Any, page_path: Path) -> Iterator[Callable[..., Any]]:
    """Writes the page of a table and opens it; nothing may be complained of."""
    from browser_page import Page, aligned

    pages: list[Page] = []

    def open_(
        table: Table,
        fragment: str = "",
        width: int = 1400,
        scheme: str = "light",
        media: str = "screen",
    ) -> Page:
        Page.look(driver, width, scheme, media)
        page_path.write_text(aligned(page_module.render_html(table)), "utf-8")
        pages.append(Page(driver, page_path, fragment))
        return pages[-1]

    yield open_
    page_path.unlink(missing_ok=True)
    for page in pages[-1:]:
        assert page.complaints() == []
