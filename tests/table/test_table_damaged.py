"""Files that are no table: one clear TableError each, never a traceback or abort."""

import json
import math

import polars as pl
import pytest

from spectrank.errors import TableError
from spectrank.table import Table

SUFFIXES = [".parquet", ".json", ".csv"]


def measurement(subject="a", metric="stable_rank", **more):
    return {"kind": "measurement", "subject": subject, "metric": metric, **more}


@pytest.fixture
def table():
    rows = [measurement(f"layer{i}", value=i / 3, values=[2.0, 1.0]) for i in range(9)]
    return Table.from_rows(rows, provenance={"version": "0.1.0"})


@pytest.mark.parametrize("name", ["x", "x.txt", ".parquet", "x.parquet.gz"])
def test_an_unknown_suffix_names_the_three(tmp_path, name):
    message = r"a \.parquet, \.json or \.csv file, got"
    with pytest.raises(TableError, match=message):
        Table.from_rows([]).write(tmp_path / name)
    with pytest.raises(TableError, match=message):
        Table.read(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_or_folder_or_a_folder_as_file_is_a_clear_error(
    tmp_path, suffix
):
    with pytest.raises(TableError, match=r"No such file.*check the path"):
        Table.read(tmp_path / f"x{suffix}")
    with pytest.raises(TableError, match=r"No such file.*create the folder"):
        Table.from_rows([]).write(tmp_path / "no" / f"x{suffix}")
    (tmp_path / f"d{suffix}").mkdir()
    with pytest.raises(TableError, match="directory"):
        Table.read(tmp_path / f"d{suffix}")
    with pytest.raises(TableError, match="directory"):
        Table.from_rows([]).write(tmp_path / f"d{suffix}")


@pytest.mark.parametrize("side", ["x.spectra.csv", "x.meta.json"])
def test_a_missing_side_file_is_named(tmp_path, side):
    Table.from_rows([measurement()]).write(tmp_path / "x.csv")
    (tmp_path / side).unlink()
    with pytest.raises(TableError, match=rf"{side} is missing; put it there"):
        Table.read(tmp_path / "x.csv")


JUNK = {
    "empty": b"",
    "text": b"hello\n",
    "binary": bytes(range(256)) * 4,
    "magic only": b"PAR1PAR1",
    "magic around nothing": b"PAR1" + bytes(64) + b"PAR1",
    "footer longer than the file": b"PAR1" + b"\xff" * 64 + b"PAR1",
    "deep": b"[" * 100_000,
    "no object": b"[1, 2]",
    "foreign object": b'{"rows": []}',
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_no_table_is_a_table_error(tmp_path, suffix, junk):
    (tmp_path / f"x{suffix}").write_bytes(JUNK[junk])
    with pytest.raises(TableError, match=f"x{suffix}"):
        Table.read(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("side", ["x.csv", "x.spectra.csv", "x.meta.json"])
def test_a_csv_set_with_one_file_replaced_is_a_table_error(tmp_path, side, junk):
    Table.from_rows([measurement(values=[1.0])]).write(tmp_path / "x.csv")
    (tmp_path / side).write_bytes(JUNK[junk])
    with pytest.raises(TableError, match=side):
        Table.read(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.parquet", "x.json", "x.csv"])
def test_a_truncated_file_is_a_table_error_at_any_length(table, tmp_path, name):
    path = tmp_path / name
    table.write(path)
    raw = path.read_bytes()
    for length in [*range(0, len(raw) - 2, 97), len(raw) - 2]:
        path.write_bytes(raw[:length])
        with pytest.raises(TableError, match=name):
            Table.read(path)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_a_flipped_bit_is_found_by_the_checksum(table, tmp_path, name):
    path = tmp_path / name
    table.write(path)
    raw = path.read_bytes()
    for position in range(0, len(raw), 53):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(TableError, match=name):
            Table.read(path)


def test_a_parquet_of_another_program_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"a": range(100)}).write_parquet(path)
    with pytest.raises(TableError, match="another program; read it with polars"):
        Table.read(path)


def test_a_csv_of_another_program_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "x.csv").write_text("kind,subject\nlaw,a\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"is missing.*read a CSV of another program"):
        Table.read(tmp_path / "x.csv")


def test_an_edited_csv_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "x.csv"
    Table.from_rows([measurement(value=1.0)]).write(path)
    path.write_bytes(path.read_bytes().replace(b"1.0", b"2.0"))
    with pytest.raises(TableError, match=r"edited, damaged.*read it with polars"):
        Table.read(path)


def test_the_side_file_of_a_csv_read_as_table_points_to_the_csv(tmp_path):
    Table.from_rows([]).write(tmp_path / "x.csv")
    with pytest.raises(TableError, match=r"side file of a CSV.*read the \.csv instead"):
        Table.read(tmp_path / "x.meta.json")


def edit(path, **changes):
    document = json.loads(path.read_text(encoding="utf-8"))
    document.update(changes)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "has the newer version 2; upgrade spectrank"),
        (0, "has 0; no release of spectrank"),
        ("1", "has '1'; no release"),
        (True, "has True; no release"),
        (None, "has None; no release"),
    ],
)
def test_another_schema_version_is_refused_in_json_and_csv(tmp_path, version, message):
    Table.from_rows([measurement()]).write(tmp_path / "x.json")
    edit(tmp_path / "x.json", schema_version=version)
    with pytest.raises(TableError, match=rf"x\.json {message}"):
        Table.read(tmp_path / "x.json")
    Table.from_rows([measurement()]).write(tmp_path / "x.csv")
    edit(tmp_path / "x.meta.json", schema_version=version)
    with pytest.raises(TableError, match=rf"x\.meta\.json {message}"):
        Table.read(tmp_path / "x.csv")


def test_another_schema_version_is_refused_in_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr("spectrank.table._files.SCHEMA_VERSION", 2)
    Table.from_rows([measurement()]).write(tmp_path / "x.parquet")
    with pytest.raises(
        TableError, match=r"x\.parquet has the newer version 2; upgrade"
    ):
        Table.read(tmp_path / "x.parquet")


def test_a_sealed_parquet_without_our_note_is_a_table_error(tmp_path, monkeypatch):
    monkeypatch.setattr("spectrank.table._files._PARQUET_KEY", "other")
    Table.from_rows([measurement()]).write(tmp_path / "x.parquet")
    monkeypatch.undo()
    with pytest.raises(
        TableError, match=r"'spectrank\.table' note, .* no readable ones"
    ):
        Table.read(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": None}, "has no list of rows"),
        ({"rows": [1]}, "row 0 is 1; make it a dict"),
        ({"rows": [{"colour": 1}]}, "row 0 has 'colour'"),
        ({"rows": [measurement(value="nan")]}, "row 0 has 'nan'"),
        ({"rows": [measurement(values=["NaN", "x"])]}, "row 0 has"),
        ({"rows": [measurement(kind="x")]}, "row 0 has 'x'"),
        ({"rows": [{"kind": "law"}]}, "every row has a subject"),
        ({"columns": None}, "has none or unknown ones"),
        ({"columns": {"kind": "Date"}}, "has none or unknown ones"),
        ({"columns": {"kind": ["String"]}}, "has none or unknown ones"),
        ({"columns": {"kind": "String"}, "rows": []}, "no such column"),
        ({"provenance": [1]}, "has a provenance object"),
        ({"provenance": {"schema_version": 9}}, "newer version 9"),
    ],
)
def test_a_json_document_with_a_wrong_part_is_a_table_error(tmp_path, changes, message):
    path = tmp_path / "x.json"
    Table.from_rows([measurement()]).write(path)
    edit(path, **changes)
    with pytest.raises(TableError, match=message):
        Table.read(path)


def test_json_with_bare_nan_is_refused(tmp_path):
    path = tmp_path / "x.json"
    Table.from_rows([measurement(value=math.nan)]).write(path)
    path.write_bytes(path.read_bytes().replace(b'"NaN"', b"NaN"))
    with pytest.raises(TableError, match=r"is strict JSON.*NaN is no JSON"):
        Table.read(path)


@pytest.mark.parametrize(
    "columns", [{"colour": "String"}, {"kind": "Int64"}, {"values": "String"}]
)
def test_a_side_file_that_does_not_describe_its_csv_is_a_table_error(tmp_path, columns):
    Table.from_rows([measurement()]).write(tmp_path / "x.csv")
    edit(tmp_path / "x.meta.json", columns=columns)
    with pytest.raises(TableError, match=r"x\."):
        Table.read(tmp_path / "x.csv")
