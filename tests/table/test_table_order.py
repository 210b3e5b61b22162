"""Laws on a terminal: the verdict first, the last step first, equal reasons once."""

import io

import polars as pl
import pytest
from rich.console import Console

from spectrank.table import Table


def watched():
    rows = [
        {"kind": "law", "subject": f"vertex {at}", "metric": "vertex", "step": step}
        | {"variant": "squares", "index": 3, "value": 1.5, "drift": 0.25 * step}
        | {"verdict": "explained", "reason": "by the steps taken"}
        for step in (0, 10, 20)
        for at in range(5)
    ]
    return Table.from_rows(rows, columns={"drift": pl.Float64})


def show(table, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_laws_begin_with_verdict_step_and_drift_of_the_last_step():
    output = show(watched(), 80)
    lines = output.splitlines()
    head = next(line for line in lines if "subject" in line)
    assert head.split()[:4] == ["subject", "verdict", "step", "drift"]
    body = [line.split() for line in lines if line.startswith("vertex ")]
    assert [row[3] for row in body[:15]] == ["20"] * 5 + ["10"] * 5 + ["0"] * 5
    assert [float(row[4]) for row in body[:15:5]] == [5.0, 2.5, 0.0]


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_keeps_verdict_and_step_and_says_a_reason_once(width):
    output = show(watched(), width)
    assert output.count("explained") >= 15
    head = next(line for line in output.splitlines() if "subject" in line)
    assert {"verdict", "step"} <= set(head.split())
    if "reason" not in head:
        said = " ".join(output.split())
        assert said.count("by the steps taken") == 1
        assert "vertex 0, vertex 1, vertex 2 and 2 more: by the steps taken" in said
