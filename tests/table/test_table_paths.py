"""What is no path is refused before anything is opened."""

from pathlib import Path

import pytest

from spectrank.errors import ArgumentTypeError, DomainError, TableError
from spectrank.table import Table, as_path, check_target

EMPTY = Table.from_rows([])


class Place:
    """As a path of another library: os.fspath knows it."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.mark.parametrize("wrong", [3, None, b"t.csv", ["t.csv"], object()])
@pytest.mark.parametrize("use", [EMPTY.write, Table.read, check_target])
def test_what_is_no_path_is_refused_by_name(use, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = rf"a table is a path, got .*{type(wrong).__name__}; e\.g\. 'scan\.parquet'"
    with pytest.raises(ArgumentTypeError, match=told):
        use(wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", [EMPTY.write, Table.read, check_target])
def test_no_file_system_takes_a_null_byte(use):
    with pytest.raises(DomainError, match=r"without null bytes, got 'a\\x00\.csv'"):
        use("a\0.csv")


@pytest.mark.parametrize("use", [EMPTY.write, Table.read])
def test_a_loop_of_links_and_a_name_too_long_are_refused_with_the_reason(use, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "loop/t.json", tmp_path / ("a" * 300 + ".json")):
        with pytest.raises(TableError, match=r"(?i)too (many|long)"):
            use(path)


def test_text_paths_and_what_fspath_knows_are_one_path(tmp_path):
    path = tmp_path / "t.json"
    for given in (str(path), path, Place(path)):
        found = as_path(given, name="x", example="y")
        assert found == path
        assert isinstance(found, Path)
        assert EMPTY.write(given) == [path]
        assert Table.read(given).frame.equals(EMPTY.frame)
        path.unlink()
