"""Scan tables for the report, built row by row."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
import pytest

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


@pytest.fixture
def matrix() -> Callable[..., list[Row]]:
    return _matrix


@pytest.fixture
def table() -> Callable[..., Table]:
    return _table


@pytest.fixture
def embedded() -> Callable[[str], dict[str, Any]]:
    return _embedded
