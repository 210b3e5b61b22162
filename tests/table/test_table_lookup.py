"""Finding rows of a Table: where, spectrum, value."""

import math

import polars as pl
import pytest

from spectrank.errors import TableError
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


# --- where


def test_where_joins_all_predicates_and_equalities_and_keeps_the_provenance():
    rows = [
        measurement("a", value=1.0, step=0),
        measurement("a", value=3.0, step=1),
        measurement("b", value=3.0, step=0),
    ]
    table = Table.from_rows(rows, provenance={"seed": 1})
    kept = table.where(pl.col("value") > 2, step=0)
    assert [row["subject"] for row in kept] == ["b"]
    assert kept.provenance == table.provenance
    assert kept.columns == table.columns
    assert len(table.where()) == 3


def test_where_none_means_null_and_nan_equals_nan():
    table = Table.from_rows(
        [
            measurement("a", value=None, view="linear"),
            measurement("b", value=math.nan),
        ]
    )
    assert [row["subject"] for row in table.where(value=None)] == ["a"]
    assert [row["subject"] for row in table.where(value=math.nan)] == ["b"]
    assert [row["subject"] for row in table.where(view=None)] == ["b"]


def test_where_takes_text_as_a_value_and_never_as_a_column():
    table = Table.from_rows([measurement("metric", metric="metric"), measurement("a")])
    assert len(table.where(subject="metric")) == 1


def test_where_names_the_columns_when_one_does_not_exist():
    with pytest.raises(TableError, match="got 'layer'; it has kind, subject"):
        Table.from_rows([]).where(layer="a")


def test_where_with_a_bad_expression_or_type_is_a_table_error():
    table = Table.from_rows([measurement()])
    with pytest.raises(TableError, match=r"where\(\) takes polars predicates"):
        table.where(pl.col("absent") > 2)
    with pytest.raises(TableError, match=r"where\(\) takes polars predicates"):
        table.where(step="first")


# --- spectrum and value


def test_spectrum_returns_the_values_of_the_one_row():
    table = Table.from_rows(
        [
            measurement("a", metric="singular_values"),
            spectrum("a", [3.0, 1e-200]),
            spectrum("b", []),
        ]
    )
    assert table.spectrum("a") == [3.0, 1e-200]
    assert table.spectrum("b") == []


def test_spectrum_of_an_unknown_subject_suggests_close_names():
    table = Table.from_rows([spectrum("encoder.layer.0.weight"), measurement("zz")])
    with pytest.raises(TableError, match=r"did you mean 'encoder\.layer\.0\.weight'"):
        table.spectrum("encoder.layer.0.wieght")
    with pytest.raises(TableError, match="got 'zz'; there is 'encoder"):
        table.spectrum("zz")
    with pytest.raises(TableError, match="there is none"):
        Table.from_rows([]).spectrum("a")


def test_an_absent_name_lists_at_most_five_and_counts_the_rest():
    table = Table.from_rows([spectrum(f"layer{i}") for i in range(8)])
    with pytest.raises(TableError, match="'layer4' and 3 more"):
        table.spectrum("?")


def test_spectrum_of_several_views_is_ambiguous_until_one_is_named():
    table = Table.from_rows(
        [
            spectrum("a", [2.0], view="linear"),
            spectrum("a", [3.0], view="conv-unfolded"),
        ]
    )
    with pytest.raises(TableError, match=r"2 have subject='a'; they differ in view"):
        table.spectrum("a")
    assert table.spectrum("a", "conv-unfolded") == [3.0]
    with pytest.raises(TableError, match="view must be among the spectrum rows of 'a'"):
        table.spectrum("a", "conv-operator")


def test_a_row_without_number_says_its_status_and_reason():
    table = Table.from_rows(
        [
            spectrum("a", None, status="nonfinite", reason="3 NaN entries"),
            measurement("a", value=None, status="degenerate"),
            measurement("b", value=None),
        ]
    )
    with pytest.raises(TableError, match=r"has none \(nonfinite, 3 NaN entries\)"):
        table.spectrum("a")
    with pytest.raises(TableError, match=r"has none \(degenerate\)"):
        table.value("a", "stable_rank")
    with pytest.raises(TableError, match=r"has none \(no status\)"):
        table.value("b", "stable_rank")


def test_value_takes_the_plain_metric_before_its_variants():
    table = Table.from_rows(
        [
            measurement("a", "nuclear_rank", 7.0, variant="squared"),
            measurement("a", "nuclear_rank", 5.0),
        ]
    )
    assert table.value("a", "nuclear_rank") == 5.0
    assert table.value("a", "nuclear_rank", variant="squared") == 7.0


def test_value_of_a_metric_with_variants_only_is_ambiguous_unless_there_is_one():
    two = [measurement(value=x, variant=v) for x, v in ((1.0, "p"), (2.0, "q"))]
    with pytest.raises(TableError, match=r"they differ in variant \('p', 'q'\)"):
        Table.from_rows(two).value("a", "stable_rank")
    assert Table.from_rows(two[1:]).value("a", "stable_rank") == 2.0


def test_value_never_prefers_a_plain_row_of_another_view():
    table = Table.from_rows(
        [
            measurement(value=1.0, view="linear", variant="p"),
            measurement(value=2.0, view="conv-unfolded"),
        ]
    )
    with pytest.raises(TableError, match=r"they differ in view \("):
        table.value("a", "stable_rank")


def test_value_reads_measurements_only():
    check = {**measurement(), "kind": "check"}
    with pytest.raises(TableError, match="measurement rows, got 'a'; there is none"):
        Table.from_rows([check]).value("a", "stable_rank")


def test_value_may_be_nan_and_names_the_metrics_when_one_is_absent():
    table = Table.from_rows([measurement(value=math.nan)])
    assert math.isnan(table.value("a", "stable_rank"))
    with pytest.raises(
        TableError, match=r"metric must be .*did you mean 'stable_rank'"
    ):
        table.value("a", "stabel_rank")


def test_identical_rows_are_said_to_be_alike():
    with pytest.raises(TableError, match="all alike"):
        Table.from_rows([measurement(), measurement()]).value("a", "stable_rank")
