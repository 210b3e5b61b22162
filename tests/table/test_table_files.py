"""Files of a Table: lossless, and written whole or not at all."""

import json
import math
import os
import struct

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.errors import TableError
from spectrank.table import Table

SUFFIXES = [".parquet", ".json", ".csv"]
HARD = [
    math.nan,
    math.inf,
    -math.inf,
    -0.0,
    5e-324,
    1e-308,
    0.1,
    1.7976931348623157e308,
]


def measurement(subject="a", metric="stable_rank", **more):
    return {"kind": "measurement", "subject": subject, "metric": metric, **more}


def bits(value):
    """Floats by their bits, since -0.0 == 0.0 and NaN != NaN."""
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    return value


def assert_same(one, two):
    assert two.frame.schema == one.frame.schema
    assert list(two.frame.columns) == list(one.frame.columns)
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            assert bits(value) == bits(b[name]), name
    assert two.provenance == one.provenance


@pytest.fixture
def table():
    rows = [
        measurement(
            "encoder.été.重み", value=x, values=[], note="NaN", flags=[True, None]
        )
        for x in HARD
    ]
    rows += [
        measurement("", value=None, values=HARD, note="", numbers=HARD, step=-(2**63)),
        measurement('a,"b"\r\n;\t', values=None, note=None, big=2**64 - 1, on=False),
        measurement("nul\x00", run="\r", note="null", numbers=[], on=True, single=0.1),
        measurement("  padded ", view="#", names=["", "a,b", None, "é"], on=None),
    ]
    return Table.from_rows(
        rows,
        columns={
            "note": pl.String,
            "on": pl.Boolean,
            "big": pl.UInt64,
            "small": pl.Int8,
            "single": pl.Float32,
            "flags": pl.List(pl.Boolean),
            "numbers": pl.List(pl.Float64),
            "names": pl.List(pl.String),
        },
        provenance={
            "version": "0.1.0",
            "command": "scan é",
            "nested": {"a": [1, None]},
        },
    )


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".CSV"])
def test_a_file_gives_back_the_same_table(table, tmp_path, suffix):
    path = tmp_path / f"scan.v1{suffix}"
    table.write(path)
    assert_same(table, Table.read(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_table_survives_a_file_with_its_dtypes(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    empty = Table.from_rows(
        [], columns={"m": pl.Int32, "on": pl.Boolean, "names": pl.List(pl.String)}
    )
    empty.write(path)
    assert_same(empty, Table.read(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_spectrum_is_not_a_null_spectrum(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    rows = [measurement(values=x) for x in ([], None, [1.0], [], None)]
    Table.from_rows(rows).write(path)
    assert [row["values"] for row in Table.read(path)] == [[], None, [1.0], [], None]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sources_of_a_concatenation_survive_a_file(tmp_path, suffix):
    both = Table.concat(
        [Table.from_rows([measurement(x)], provenance={"file": x}) for x in "ab"]
    )
    both.write(tmp_path / f"x{suffix}")
    assert Table.read(tmp_path / f"x{suffix}").provenance == both.provenance


text = st.text(st.characters(codec="utf-8"), max_size=5)
floats = st.floats() | st.sampled_from(HARD)
hard_rows = st.lists(
    st.fixed_dictionaries(
        {"kind": st.just("spectrum"), "subject": text, "metric": text},
        optional={
            "value": floats,
            "values": st.lists(floats, max_size=3),
            "view": text,
            "step": st.integers(-(2**63), 2**63 - 1),
            "note": text,
            "single": st.floats(width=32),
            "on": st.booleans(),
            "names": st.lists(text | st.none(), max_size=2),
        },
    ),
    max_size=4,
)


@given(rows=hard_rows, suffix=st.sampled_from(SUFFIXES), note=text)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_table_survives_any_format(tmp_path_factory, rows, suffix, note):
    table = Table.from_rows(
        rows,
        columns={
            "note": pl.String,
            "single": pl.Float32,
            "on": pl.Boolean,
            "names": pl.List(pl.String),
        },
        provenance={"note": note},
    )
    path = tmp_path_factory.mktemp("any") / f"x{suffix}"
    table.write(path)
    assert_same(table, Table.read(path))


# --- what stands in the files


def test_json_is_one_strict_document_with_texts_for_nan_and_infinities(tmp_path):
    path = tmp_path / "x.json"
    row = measurement("é", value=math.nan, values=[math.inf, -math.inf, 0.1])
    assert Table.from_rows([row]).write(path) == [path]

    def refuse(constant):
        raise AssertionError(constant)

    text = path.read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=refuse)
    assert list(document) == ["schema_version", "provenance", "columns", "rows"]
    assert document["schema_version"] == 1
    assert document["columns"]["values"] == "List(Float64)"
    assert document["rows"][0]["value"] == "NaN"
    assert document["rows"][0]["values"] == ["Infinity", "-Infinity", 0.1]
    assert document["rows"][0]["view"] is None
    assert '"é"' in text


def test_csv_is_three_files_with_spectra_in_long_form(tmp_path):
    path = tmp_path / "x.csv"
    rows = [
        measurement("a", value=1.5),
        measurement("b", view="linear", values=[2.0, 1.0]),
        measurement("c", values=[]),
    ]
    written = Table.from_rows(rows, provenance={"seed": 7}).write(path)
    assert [p.name for p in written] == ["x.csv", "x.spectra.csv", "x.meta.json"]
    main = pl.read_csv(path)
    assert main["subject"].to_list() == ["a", "b", "c"]
    assert "values" not in main.columns
    assert pl.read_csv(tmp_path / "x.spectra.csv").rows() == [
        (1, "b", "linear", "stable_rank", 0, 2.0),
        (1, "b", "linear", "stable_rank", 1, 1.0),
        (2, "c", None, "stable_rank", None, None),
    ]
    meta = json.loads((tmp_path / "x.meta.json").read_text(encoding="utf-8"))
    assert meta["provenance"]["seed"] == 7


def test_parquet_opens_in_polars_and_pyarrow_with_the_provenance_as_json(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    table = Table.from_rows(
        [measurement(value=math.nan, values=[1.0])], provenance={"seed": 7}
    )
    assert table.write(path) == [path]
    note = json.loads(pl.read_parquet_metadata(path)["spectrank.table"])
    assert note["schema_version"] == 1
    assert note["provenance"]["seed"] == 7
    assert pl.read_parquet(path).equals(table.frame)
    assert parquet.read_table(path).column("values").to_pylist() == [[1.0]]


def test_glob_characters_in_a_path_are_taken_literally(tmp_path):
    for name in ("x[1].parquet", "x*.csv", "a=1"):
        folder = tmp_path / name
        folder.mkdir()
        for suffix in SUFFIXES:
            Table.from_rows([measurement(name)]).write(folder / f"{name}{suffix}")
            assert Table.read(str(folder / f"{name}{suffix}")).columns[-1] == "source"


# --- atomic


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_that_dies_leaves_the_old_file_and_no_rest(
    tmp_path, suffix, monkeypatch
):
    path = tmp_path / f"x{suffix}"
    old = Table.from_rows([measurement("old", values=[1.0])])
    old.write(path)
    names = sorted(tmp_path.iterdir())

    def die(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(TableError, match=r"x.*No space left on device.*another path"):
        Table.from_rows([measurement("new", values=[2.0])]).write(path)
    assert sorted(tmp_path.iterdir()) == names
    assert_same(old, Table.read(path))


@pytest.mark.parametrize("moves", [1, 2])
def test_a_csv_set_cut_between_its_files_is_recognised(tmp_path, monkeypatch, moves):
    path = tmp_path / "x.csv"
    Table.from_rows([measurement("old", values=[1.0])]).write(path)
    real, done = os.replace, []

    def die_later(source, target, **options):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        real(source, target, **options)

    monkeypatch.setattr("pathlib.os.replace", die_later)
    with pytest.raises(KeyboardInterrupt):
        Table.from_rows([measurement("new", values=[2.0])]).write(path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(TableError, match="edited, damaged or belongs to another table"):
        Table.read(path)


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    Table.from_rows([]).write(tmp_path / "x.json")
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
