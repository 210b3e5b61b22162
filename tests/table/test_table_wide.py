"""Other forms of a Table: wide, concatenated, as a pandas DataFrame."""

import math
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.errors import ArgumentTypeError, TableError
from spectrank.table import Table


def measurement(subject="a", metric="stable_rank", value=1.0, **more):
    return {
        "kind": "measurement",
        "subject": subject,
        "metric": metric,
        "value": value,
        **more,
    }


def spectrum(subject="a", values=(2.0, 1.0), **more):
    values = None if values is None else list(values)
    return {
        "kind": "spectrum",
        "subject": subject,
        "metric": "singular_values",
        "values": values,
        **more,
    }


# --- wide


def test_wide_has_a_row_per_matrix_in_first_seen_order_and_a_column_per_metric():
    rows = [
        measurement("z", "stable_rank", 1.0, view="linear"),
        measurement("a", "stable_rank", 2.0),
        measurement("a", "spectral_norm", 3.0),
        measurement("z", "stable_rank", 4.0, view="conv-unfolded"),
        spectrum("q"),
        {**measurement("c", "bound_check"), "kind": "check"},
    ]
    assert Table.from_rows(rows).wide().rows(named=True) == [
        {"subject": "z", "view": "linear", "stable_rank": 1.0, "spectral_norm": None},
        {"subject": "a", "view": None, "stable_rank": 2.0, "spectral_norm": 3.0},
        {
            "subject": "z",
            "view": "conv-unfolded",
            "stable_rank": 4.0,
            "spectral_norm": None,
        },
    ]


def test_wide_keeps_nan_apart_from_null():
    rows = [
        measurement("a", value=math.nan),
        measurement("b", value=None, status="nonfinite"),
    ]
    column = Table.from_rows(rows).wide()["stable_rank"]
    assert column.is_null().to_list() == [False, True]
    assert column.is_nan().to_list() == [True, None]


def test_wide_names_variants_only_where_a_metric_has_several():
    table = Table.from_rows(
        [
            measurement("a", "nuclear_rank", 1.0),
            measurement("a", "nuclear_rank", 2.0, variant="squared"),
            measurement("a", "effective_rank", 3.0, variant="entropy"),
        ]
    )
    assert table.wide().columns[2:] == [
        "nuclear_rank",
        "nuclear_rank[squared]",
        "effective_rank",
    ]


def test_wide_names_an_index_only_where_one_matrix_has_several():
    table = Table.from_rows(
        [
            measurement("a", "distance", 1.0, index=1),
            measurement("a", "distance", 2.0, index=2),
            measurement("a", "tail", 3.0, index=4),
            measurement("b", "tail", 5.0, index=8),
        ]
    )
    assert table.wide().columns[2:] == ["distance[1]", "distance[2]", "tail"]
    assert table.wide()["tail"].to_list() == [3.0, 5.0]


def test_wide_keeps_producer_columns_that_are_constant_on_each_matrix():
    table = Table.from_rows(
        [
            measurement("a", m=4, seconds=0.1, note=None),
            measurement("a", "spectral_norm", m=4, seconds=0.2, note=None),
            measurement("b", m=8, seconds=0.3, note="x"),
            measurement("b", "spectral_norm", m=None, seconds=0.4, note="x"),
        ],
        columns={"m": pl.Int32, "seconds": pl.Float64, "note": pl.String},
    )
    wide = table.wide()
    assert wide.columns == [
        *("subject", "view", "m", "note", "stable_rank", "spectral_norm")
    ]
    assert wide["m"].to_list() == [4, 8]
    assert wide.schema["m"] == pl.Int32
    assert wide["note"].to_list() == [None, "x"]


def test_wide_keeps_each_producer_entry_beside_its_subject_in_large_tables():
    rows = [measurement(f"s{i * 7919 % 2000}", m=i * 7919 % 2000) for i in range(2000)]
    wide = Table.from_rows(rows, columns={"m": pl.Int64}).wide()
    assert wide["subject"].to_list() == [row["subject"] for row in rows]
    assert wide["subject"].to_list() == [f"s{m}" for m in wide["m"]]


def test_wide_takes_metrics_by_name_or_column_in_the_order_asked():
    table = Table.from_rows(
        [
            measurement("a", "n", 1.0),
            measurement("a", "n", 2.0, variant="squared"),
            measurement("a", "k", 3.0),
        ]
    )
    assert table.wide(["k", "n"]).columns[2:] == ["k", "n", "n[squared]"]
    assert table.wide(["n[squared]"]).columns[2:] == ["n[squared]"]
    assert table.wide([]).columns == ["subject", "view"]


def test_wide_refuses_unknown_metrics_and_a_bare_text():
    table = Table.from_rows([measurement()])
    with pytest.raises(TableError, match="got 'rank'; it has stable_rank"):
        table.wide(["rank"])
    with pytest.raises(TableError, match=r"write metrics=\['stable_rank'\]"):
        table.wide("stable_rank")
    with pytest.raises(TableError, match="it has no measurement"):
        Table.from_rows([]).wide(["rank"])


def test_wide_refuses_several_numbers_for_one_cell():
    table = Table.from_rows([measurement(step=0), measurement(step=1)])
    with pytest.raises(TableError, match=r"'a' has several for 'stable_rank'; keep"):
        table.wide()
    assert table.where(step=1).wide().height == 1


def test_wide_refuses_a_metric_named_like_another_column():
    table = Table.from_rows([measurement(metric="m", m=1)], columns={"m": pl.Int64})
    with pytest.raises(TableError, match="must differ, got 'm' twice"):
        table.wide()


def test_wide_of_no_measurement_is_an_empty_frame_with_keys():
    wide = Table.from_rows([], columns={"m": pl.Int64}).wide()
    assert wide.shape == (0, 3)
    assert wide.columns == ["subject", "view", "m"]


# --- concat


def test_concat_is_diagonal_and_keeps_the_order_of_rows():
    one = Table.from_rows([measurement("a", m=1)], columns={"m": pl.Int64})
    two = Table.from_rows([measurement("b", n="x")], columns={"n": pl.String})
    both = Table.concat([one, two])
    assert [(row["subject"], row["m"], row["n"]) for row in both] == [
        ("a", 1, None),
        ("b", None, "x"),
    ]
    assert both.provenance["columns"] == {"m": "Int64", "n": "String"}


def test_concat_keeps_equal_provenance_and_lists_the_rest_under_sources():
    tables = [
        Table.from_rows([], provenance={"version": "1", "file": "a", "seed": 1}),
        Table.from_rows([], provenance={"version": "1", "file": "b"}),
    ]
    assert Table.concat(tables).provenance == {
        "version": "1",
        "sources": [{"file": "a", "seed": 1}, {"file": "b"}],
        "schema_version": 1,
        "columns": {},
    }


def test_concat_of_equal_provenance_has_no_sources():
    table = Table.from_rows([measurement()], provenance={"seed": 1})
    both = Table.concat([table, table])
    assert len(both) == 2
    assert both.provenance == table.provenance


keys = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1), max_size=3)


@given(st.lists(keys, min_size=3, max_size=3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_concat_does_not_depend_on_the_grouping(provenances):
    a, b, c = (Table.from_rows([], provenance=p) for p in provenances)
    flat = Table.concat([a, b, c]).provenance
    assert Table.concat([Table.concat([a, b]), c]).provenance == flat
    assert Table.concat([a, Table.concat([b, c])]).provenance == flat


def test_concat_refuses_no_table_and_one_name_with_two_dtypes():
    with pytest.raises(TableError, match="at least one table, got none"):
        Table.concat([])
    tables = [Table.from_rows([], columns={"m": d}) for d in (pl.Int64, pl.Int32)]
    with pytest.raises(TableError, match="got Int64 and Int32 for 'm'"):
        Table.concat(tables)


# --- pandas


@pytest.fixture
def mixed():
    return Table.from_rows(
        [
            measurement("é", value=math.inf, index=2**53 + 1, flag=True, single=0.5),
            spectrum("b", [1.0, math.nan], step=None, view=""),
        ],
        columns={"flag": pl.Boolean, "single": pl.Float32},
        provenance={"seed": 1},
    )


def test_to_pandas_keeps_every_entry(mixed):
    frame = mixed.to_pandas()
    assert list(frame.columns) == mixed.columns
    assert frame["subject"].tolist() == ["é", "b"]
    assert frame["index"][0] == 2**53 + 1
    assert frame["index"].isna().tolist() == [False, True]
    assert frame["value"][0] == math.inf
    assert math.isnan(frame["value"][1])
    assert frame["view"].isna().tolist() == [True, False]
    assert frame["values"][0] is None
    assert frame["values"][1][0] == 1.0
    assert frame.attrs["provenance"]["seed"] == 1
    assert {
        name: str(frame[name].dtype) for name in ("flag", "single", "index", "run")
    } == {
        "flag": "boolean",
        "single": "float32",
        "index": "Int64",
        "run": "string",
    }


def test_to_pandas_needs_no_pyarrow():
    # In a process of its own: pandas looks for pyarrow once, when it is imported.
    program = """
import sys
sys.modules["pyarrow"] = None
from spectrank.table import Table
row = {"kind": "measurement", "subject": "é", "metric": "x", "values": [1.0]}
frame = Table.from_rows([row, {**row, "subject": "b", "step": 3}]).to_pandas()
print(ascii([frame["subject"].tolist(), frame["step"].isna().tolist()]))
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == r"[['\xe9', 'b'], [True, False]]", result.stderr


def test_to_pandas_of_an_empty_table_keeps_the_dtypes():
    frame = Table.from_rows([]).to_pandas()
    assert frame.shape == (0, 21)
    assert str(frame["step"].dtype) == "Int64"
    assert str(frame["value"].dtype) == "float64"


def test_to_pandas_without_pandas_names_the_extra(mixed, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(TableError, match=r"pip install 'spectrank\[pandas\]'"):
        mixed.to_pandas()


@pytest.mark.parametrize("wrong", [3, [3], [Table.from_rows([]), None], iter([])])
def test_what_is_no_list_of_tables_is_not_stacked(wrong):
    with pytest.raises(
        ArgumentTypeError, match=r"a list of tables, got .*; pass Tables"
    ):
        Table.concat(wrong)


def test_metrics_of_a_wide_table_are_a_list():
    with pytest.raises(
        ArgumentTypeError, match="list of names, got 3 of type int; lea"
    ):
        Table.from_rows([]).wide(3)
