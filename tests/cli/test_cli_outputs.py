"""Outputs are refused before the work that they would lose."""

from pathlib import Path

import pytest
from rich.console import Console

from spectrank.cli.outputs import check_targets, counting
from spectrank.cli.scan import _ProgressBar
from spectrank.errors import TableError
from spectrank.scanning import Progress

PROC = Path("/proc")
NAME = "a[/b].in_proj_weight[qkv.q]\x1b[2J"


def test_a_folder_that_takes_no_file_is_refused_and_one_that_does_is_left_empty(
    tmp_path,
):
    check_targets([tmp_path / "t.parquet", tmp_path / "t.csv"], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "d.parquet").mkdir()
    with pytest.raises(TableError, match=r"d\.parquet \(it is a folder\); choose"):
        check_targets([tmp_path / "d.parquet"], None)


@pytest.mark.skipif(not PROC.is_dir(), reason="its permissions allow what it refuses")
@pytest.mark.parametrize(
    ("out", "html"), [([PROC / "t.parquet"], None), ([], PROC / "r.html")]
)
def test_a_folder_is_tried_not_asked(out, html):
    with pytest.raises(TableError, match="written into a writable folder, got /proc"):
        check_targets(out, html)


def test_what_stands_there_is_not_touched(tmp_path):
    path = tmp_path / "t.json"
    path.write_text("old", encoding="utf-8")
    check_targets([path], None)
    assert path.read_text(encoding="utf-8") == "old"


def test_the_name_of_a_matrix_is_no_markup_while_it_is_measured():
    console = Console(force_terminal=True, width=120, color_system=None)
    with console.capture() as capture, _ProgressBar(console, hidden=False) as bar:
        bar.update(Progress(NAME, 0, 2, 0, 10))
        bar._bar.refresh()
    assert "a[/b].in_proj_weight[qkv.q]\\x1b[2J" in capture.get()
    with console.capture() as capture, counting(console, quiet=False) as show:
        show(NAME, 0, 2)
    assert "1/2 a[/b].in_proj_weight[qkv.q]\\x1b[2J" in capture.get()
