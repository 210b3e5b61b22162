"""The course of a run on terminals of any width."""

import re

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

import spectrank as sr
from spectrank.cli.compare import print_comparison
from spectrank.cli.trend import print_trend

LONG = "decoder.block.with.a.long.name.11.attention.in_proj_weight"


def state(factor):
    q, k, v = (
        torch.eye(4),
        torch.ones(4, 4),
        torch.diag(torch.tensor([factor, 1, 1, 1])),
    )
    return {LONG: torch.cat([q, k, v]), "fc.weight": torch.eye(6) * factor}


def shown(action, table, width):
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        action(table, console)
    return capture.get().splitlines()


def trend_of(metric):
    return lambda table, console: print_trend(table, metric, None, console)


trend = trend_of("stable_rank")


@pytest.fixture(scope="module")
def run():
    return sr.scan_steps(
        {100 * i: state(1.0 + i) for i in range(20)}, metrics="stable_rank"
    )


@pytest.mark.parametrize("width", [30, 40, 80])
def test_numbers_are_whole_and_names_differ_before_there_is_a_course(width):
    names = [f"encoder.layer.{i}.output.dense.weight" for i in range(4)]
    table = sr.scan_steps(
        {step: {name: torch.eye(6) * step for name in names} for step in range(1, 9)},
        metrics="spectral_norm",
    )
    shown_lines = shown(trend_of("spectral_norm"), table, width)
    lines = [line for line in shown_lines if "dense" in line]
    assert max(map(cell_len, lines)) <= width
    assert len({line.split()[0] for line in lines}) == 4
    for line in lines:
        assert line.split()[1] == "1"
        assert line.split()[-1] == "8"
    assert ("█" in lines[0]) == (width > 30)


def test_a_matrix_without_a_number_says_why_and_steps_without_one_are_dots():
    state = {"a": torch.eye(3), "bad": torch.full((2, 2), float("nan"))}
    steps = {1: state, 2: {"bad": state["bad"]}, 3: state}
    lines = shown(trend, sr.scan_steps(steps, metrics="stable_rank"), 60)
    assert "█·█" in lines[2]
    assert "···" in lines[3]
    assert "bad: nonfinite, the matrix has NaN entries" in lines


@pytest.mark.parametrize("width", [40, 80, 200])
def test_parts_of_a_tensor_are_told_apart_and_their_numbers_whole(run, width):
    lines = shown(trend, run, width)
    assert max(map(cell_len, lines)) <= width
    # 1 + 3 / factor^2: four equal values first, one of them 20 times the rest last.
    ends = {"[qkv.q]": (4, 4), "[qkv.k]": (1, 1), "[qkv.v]": (4, 1.01)}
    for view, (first, last) in ends.items():
        (line,) = [x for x in lines if view in x]
        name, start, *_, end = line.split()
        assert name.endswith(f"weight{view}") or width == 40
        assert (float(start), float(end)) == (first, last)
    (line,) = [x for x in lines if x.startswith("fc.weight")]
    assert line.split()[1::2] == ["6", "6"]
    if width == 200:
        assert any(LONG in x for x in lines)
        assert "█" * 20 in line


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_comparison_fits_its_terminal(width):
    table = sr.compare(state(1.0), state(2.0))
    lines = shown(print_comparison, table, width)
    assert max(map(cell_len, lines)) <= width
    assert sum("[qkv.v]" in x for x in lines) == 1
    assert any("2 identical" in x for x in lines)


@pytest.mark.parametrize("width", [40, 200])
def test_a_comparison_shows_the_first_metric_that_was_asked_for(width):
    before, after = torch.eye(4), torch.diag(torch.tensor([3.0, 1.0, 1.0, 0.0]))
    table = sr.compare(
        {"w": before},
        {"w": after},
        metrics="relative_distance_to_rank:k=2,stable_rank",
    )
    # sqrt(1/2) before, sqrt(1/11) after; the difference has two values.
    text = "\n".join(shown(print_comparison, table, width))
    assert "relative distance to rank[k=2]" in text
    assert "0.707 → 0.302" in text
    assert "stable rank" not in text
    assert "left" in text
    if width == 40:
        assert re.search(r"overlap left 0\.667\S*, right 0\.667", text)


def test_a_matrix_without_directions_has_no_line_for_them():
    table = sr.compare({"w": torch.zeros(3, 3)}, {"w": torch.eye(3)})
    lines = shown(print_comparison, table, 40)
    assert not any(line.rstrip().endswith("overlap") for line in lines)


def test_a_name_cannot_steer_the_terminal():
    hostile = "a\x1b[2Jb.weight"
    before, after = torch.eye(3), 2 * torch.eye(3)
    table = sr.compare({hostile: before}, {hostile: after, "c\x1b[1m": before})
    text = "\n".join(shown(print_comparison, table, 100))
    assert "\x1b" not in text
    assert "a\\x1b[2Jb.weight" in text
    run = sr.scan_steps({1: {hostile: before}, 2: {hostile: after}})
    text = "\n".join(shown(trend, run, 100))
    assert "\x1b" not in text
    assert "a\\x1b[2Jb.weight" in text
