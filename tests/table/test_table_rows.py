"""What a Table accepts: schema, dtypes, vocabularies, provenance."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from spectrank.errors import ArgumentTypeError, TableError
from spectrank.table import SCHEMA_VERSION, Table
from spectrank.table._rows import series

ROW = {"kind": "measurement", "subject": "fc", "metric": "stable_rank"}

CORE = [
    *("kind", "subject", "view", "metric", "variant", "index", "step", "run"),
    *("value", "values", "lower", "upper", "error_kind", "failure_probability"),
    *("bound", "slack", "verdict", "status", "reason", "route", "source"),
]


def test_core_columns_come_first_in_schema_order_whatever_the_key_order():
    table = Table.from_rows(
        [
            {
                "z": 1,
                "status": "ok",
                "metric": "x",
                "a": 2,
                "subject": "s",
                "kind": "law",
            }
        ],
        columns={"z": pl.Int64, "a": pl.Int8()},
    )
    assert table.columns == [*CORE, "z", "a"]
    assert table.provenance["columns"] == {"z": "Int64", "a": "Int8"}


def test_absent_keys_and_none_are_null_and_never_nan():
    table = Table.from_rows([{**ROW, "value": None}, {**ROW, "value": math.nan}])
    assert table.frame["value"].is_null().to_list() == [True, False]
    assert table.frame["lower"].null_count() == 2
    assert table.frame.schema["lower"] == pl.Float64
    assert table.frame.schema["values"] == pl.List(pl.Float64)


def test_a_table_of_no_rows_has_all_columns_and_dtypes():
    table = Table.from_rows([], columns={"m": pl.UInt16})
    assert len(table) == 0
    assert table.columns == [*CORE, "m"]
    assert table.frame.schema["m"] == pl.UInt16


def test_numpy_and_torch_scalars_and_arrays_keep_their_exact_value():
    table = Table.from_rows(
        [
            {
                **ROW,
                "subject": np.str_("fc"),
                "value": torch.tensor(0.1, dtype=torch.float32),
                "lower": np.float64(1e-308),
                "index": np.int32(-7),
                "values": torch.tensor([2.0, 1.0], dtype=torch.float64),
                "flag": np.bool_(True),
                "sizes": np.array([3, 4]),
            }
        ],
        columns={"flag": pl.Boolean, "sizes": pl.List(pl.Int64)},
    )
    (row,) = table
    assert row["value"] == float(np.float32(0.1))
    assert row["lower"] == 1e-308
    assert row["index"] == -7
    assert row["values"] == [2.0, 1.0]
    assert row["flag"] is True
    assert row["sizes"] == [3, 4]


def test_iteration_yields_rows_as_dicts_in_order():
    table = Table.from_rows([{**ROW, "step": 2}, {**ROW, "step": 1}])
    assert [row["step"] for row in table] == [2, 1]
    assert len(table) == 2


@pytest.mark.parametrize(
    ("entry", "column", "dtype"),
    [
        (1.5, "index", None),
        (True, "index", None),
        (2**63, "index", None),
        (True, "value", None),
        ("1.0", "value", None),
        (1j, "value", None),
        (10**400, "value", None),
        ("12", "values", None),
        ({"a": 1}, "values", None),
        (3.0, "values", None),
        ([1.0, "x"], "values", None),
        (3, "run", None),
        (b"a", "run", None),
        ("\ud800", "run", None),
        (128, "x", pl.Int8),
        (-1, "x", pl.UInt64),
        (1e39, "x", pl.Float32),
        (1, "x", pl.Boolean),
    ],
)
def test_a_value_that_a_dtype_cannot_hold_is_an_error_and_never_cast(
    entry, column, dtype
):
    columns = {} if dtype is None else {column: dtype}
    with pytest.raises(TableError, match=rf"column '{column}' holds .*, row 1 has"):
        Table.from_rows([ROW, {**ROW, column: entry}], columns=columns)


@pytest.mark.parametrize(
    ("entry", "dtype"),
    [
        (-128, pl.Int8),
        (2**64 - 1, pl.UInt64),
        (-(2**63), pl.Int64),
        (float(np.finfo(np.float32).max), pl.Float32),
        (-math.inf, pl.Float32),
    ],
)
def test_the_extreme_values_of_a_dtype_are_kept(entry, dtype):
    table = Table.from_rows([{**ROW, "x": entry}], columns={"x": dtype})
    assert table.frame["x"].to_list() == [entry]


def test_an_undeclared_key_is_an_error_that_shows_how_to_declare_it():
    with pytest.raises(
        TableError, match=r"row 1 has 'm'; declare .*columns=\{'m': pl.String\}"
    ):
        Table.from_rows([ROW, {**ROW, "m": 3}])


def test_a_row_that_is_no_mapping_is_an_error():
    with pytest.raises(TableError, match=r"row 0 is \('kind', 'law'\); make it a dict"):
        Table.from_rows([("kind", "law")])


@pytest.mark.parametrize("name", ["kind", "subject", "metric"])
def test_kind_subject_and_metric_are_required(name):
    with pytest.raises(TableError, match=rf"every row has a {name}, row 1 has none"):
        Table.from_rows([ROW, {k: v for k, v in ROW.items() if k != name}])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kind", "measurement spectrum check law claim skip"),
        ("status", "ok degenerate nonfinite not_converged skipped"),
        (
            "verdict",
            "holds violated vacuous conserved explained broken reproduced "
            "contradicted inconclusive not_applicable",
        ),
        ("error_kind", "rounding certified probabilistic stderr"),
    ],
)
def test_vocabularies_are_those_of_the_schema(name, words):
    table = Table.from_rows([{**ROW, name: word} for word in words.split()])
    assert table.frame[name].to_list() == words.split()
    with pytest.raises(TableError, match=rf"{name} is one of .*, row 1 has 'OK'"):
        Table.from_rows([ROW, {**ROW, name: "OK"}])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"value": pl.Float64}, "must not repeat a core column, got 'value'"),
        ({"layer type": pl.String}, "named by an identifier.*got 'layer type'"),
        ({3: pl.String}, "named by an identifier.*got 3"),
        ({"when": pl.Date}, "got the dtype Date"),
        ({"x": pl.List}, "got the dtype List"),
        ({"x": pl.List(pl.List(pl.Int8))}, "got the dtype List"),
        ({"x": pl.Categorical}, "got the dtype Categorical"),
    ],
)
def test_producer_columns_must_be_identifiers_of_a_dtype_that_every_format_keeps(
    columns, message
):
    with pytest.raises(TableError, match=message):
        Table.from_rows([], columns=columns)


def test_a_null_inside_values_is_an_error():
    with pytest.raises(TableError, match="entries of 'values' are numbers"):
        Table.from_rows([{**ROW, "values": [1.0, None]}])


def test_a_frame_without_a_core_column_or_with_another_dtype_is_no_table():
    frame = Table.from_rows([ROW]).frame
    with pytest.raises(TableError, match=r"core column 'slack'.*no such column"):
        Table(frame.drop("slack"), {})
    with pytest.raises(TableError, match=r"core column 'step'.*got Float64"):
        Table(frame.with_columns(pl.col("step").cast(pl.Float64)), {})


def test_a_frame_with_columns_in_another_order_is_put_in_order():
    frame = Table.from_rows([{**ROW, "m": 1}], columns={"m": pl.Int64}).frame
    assert Table(frame.select(reversed(frame.columns)), {}).columns == [*CORE, "m"]


def test_provenance_is_a_plain_json_copy_with_version_and_columns():
    mine = {"seed": 3, "shape": (2, 3), "nested": {"a": [1.5]}}
    table = Table.from_rows([ROW], provenance=mine)
    mine["nested"]["a"].append(2)
    assert table.provenance == {
        "seed": 3,
        "shape": [2, 3],
        "nested": {"a": [1.5]},
        "schema_version": SCHEMA_VERSION,
        "columns": {},
    }


def test_columns_in_provenance_follow_the_frame_and_not_the_caller():
    other = Table.from_rows([], columns={"m": pl.Int64})
    table = Table.from_rows([ROW], provenance=other.provenance)
    assert table.provenance["columns"] == {}


@pytest.mark.parametrize(
    "provenance", [{"rtol": math.inf}, {"path": object()}, {"name": {1, 2}}, {(1,): 2}]
)
def test_provenance_that_is_no_json_is_an_error(provenance):
    with pytest.raises(TableError, match="provenance must be a mapping of plain JSON"):
        Table.from_rows([ROW], provenance=provenance)


def test_provenance_of_another_schema_version_is_an_error():
    with pytest.raises(TableError, match="provenance has the newer version 2; upgrade"):
        Table.from_rows([], provenance={"schema_version": 2})
    with pytest.raises(TableError, match="provenance has True; no release"):
        Table.from_rows([], provenance={"schema_version": True})


def test_sources_in_provenance_must_be_what_concat_writes():
    for sources in ("a.pt", {}, ["a.pt"]):
        with pytest.raises(TableError, match="'sources' is the list of mappings"):
            Table.from_rows([], provenance={"sources": sources})


def test_a_table_cannot_be_reassigned():
    table = Table.from_rows([ROW])
    with pytest.raises(AttributeError, match="cannot assign"):
        table.frame = pl.DataFrame()


def test_repr_counts_kinds_and_names_the_ends():
    skip = {**ROW, "kind": "skip", "subject": "norm"}
    assert repr(Table.from_rows([ROW, ROW, skip])) == (
        "Table(2 measurements, 1 skip; 2 subjects, fc to norm)"
    )
    assert repr(Table.from_rows([ROW])) == "Table(1 measurement; subject fc)"
    assert repr(Table.from_rows([])) == "Table(no rows)"


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (pl.String(), ["", "a", "\u00e9"]),
        (pl.Float64(), [0.5, -1e300, math.inf]),
        (pl.Int64(), [0, -(2**63), 2**63 - 1]),
        (pl.UInt8(), [0, 255, 7]),
        (pl.Boolean(), [True, False, True]),
        (pl.List(pl.Float64()), [[1.0, 0.5], [], [1e-300]]),
        (pl.List(pl.String()), [["a", "b"], [], [""]]),
    ],
)
def test_plain_values_make_the_column_that_numpy_values_make(dtype, values):
    # Plain values are made into a column at once, the others one by one.
    others = [np.array(x) if isinstance(x, list) else np.array([x])[0] for x in values]
    plain = series("x", [*values, None], dtype)
    one_by_one = series("x", [*others, None], dtype)
    assert plain.dtype == one_by_one.dtype == dtype
    assert plain.to_list() == one_by_one.to_list() == [*values, None]


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        (pl.Int64(), True),
        (pl.Int64(), 2**63),
        (pl.Boolean(), 1),
        (pl.Float64(), True),
        (pl.Float32(), 1e39),
        (pl.String(), "\ud800"),
        (pl.List(pl.Float64()), [0.5, True]),
        (pl.List(pl.Float64()), "0.5"),
    ],
)
def test_one_value_that_does_not_fit_among_plain_ones_is_named(dtype, bad):
    with pytest.raises(TableError, match=r"column .x. .*row 1"):
        series("x", [None, bad], dtype)


def test_what_holds_no_rows_is_refused_by_its_type():
    with pytest.raises(
        ArgumentTypeError, match=r"rows are mappings .*got 3 of type int"
    ):
        Table.from_rows(3)
    assert len(Table.from_rows(iter([]))) == 0
