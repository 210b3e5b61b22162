"""Outputs are refused before the work that they would lose."""

from pathlib import Path

import pytest

from spectrank.cli.outputs import check_targets
from spectrank.errors import TableError

PROC = Path("/proc")


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
