"""Views of a Table: terminals of any width and HTML."""

import html
import re

import polars as pl
import pytest
from rich.cells import cell_len
from rich.console import Console

from spectrank.table import Table

METRICS = [
    *("stable_rank", "participation_ratio", "effective_rank", "numerical_rank"),
    *("energy_rank", "nuclear_rank", "spectral_norm", "frobenius_norm"),
    *("nuclear_norm", "condition_number", "spectral_gap", "relative_distance"),
]
KINDS = ("attention.self.query", "attention.self.key", "attention.output.dense")


def show(table, width):
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def measurement(subject="a", metric="stable_rank", value=1.0, **more):
    return {
        "kind": "measurement",
        "subject": subject,
        "metric": metric,
        "value": value,
        "status": "ok",
        **more,
    }


def skip(subject, reason):
    return {
        "kind": "skip",
        "subject": subject,
        "metric": "matrix",
        "status": "skipped",
        "reason": reason,
    }


@pytest.fixture
def scan():
    names = [f"encoder.layer.{i}.{k}.weight" for i in range(13) for k in KINDS]
    rows = []
    for name in names:
        bad = name == names[4]
        state = {"status": "nonfinite", "reason": "3 NaN entries"} if bad else {}
        rows += [
            measurement(name, metric, None if bad else 30.5, m=384, n=1536, **state)
            for metric in METRICS
        ]
    rows += [skip(f"encoder.layer.{i}.bias", "a vector") for i in range(3)]
    rows += [skip("position_ids", "an integer buffer")]
    return Table.from_rows(rows, columns={"m": pl.Int64, "n": pl.Int64})


# --- the terminal


@pytest.mark.parametrize("width", [25, 40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(scan, width):
    assert max(map(cell_len, show(scan, width).splitlines())) <= width


@pytest.mark.parametrize(("width", "num_metrics"), [(60, 2), (80, 4), (200, 12)])
def test_the_metrics_that_fit_are_a_prefix_and_the_rest_is_named(
    scan, width, num_metrics
):
    output = " ".join(show(scan, width).split())
    line = next(x for x in show(scan, width).splitlines() if "30.50" in x)
    assert line.split()[1:] == ["384x1536", *["30.50"] * num_metrics]
    if num_metrics < 12:
        assert f"{12 - num_metrics} more columns in a wider terminal or" in output
        assert f"(table.write): {', '.join(METRICS[num_metrics:])}" in output
    else:
        assert "more columns" not in output


def test_a_narrow_metric_never_overtakes_one_that_does_not_fit():
    rows = [measurement("a", metric) for metric in ("k", "participation" * 3, "n")]
    output = show(Table.from_rows(rows), 30)
    assert next(x for x in output.splitlines() if x.startswith("matrix")).split() == [
        "matrix",
        "k",
    ]
    assert "2 more columns" in output


@pytest.mark.parametrize("width", [60, 80, 200])
def test_matrices_stay_apart_at_any_usual_width(scan, width):
    lines = [x.split()[0] for x in show(scan, width).splitlines() if "384x1536" in x]
    assert len(lines) == len(set(lines)) == 39
    assert all(line.endswith("weight") for line in lines)


def test_a_status_stands_in_place_of_the_number_and_is_explained(scan):
    output = show(scan, 200)
    line = next(x for x in output.splitlines() if "layer.1.attention.self.key" in x)
    assert line.split()[2:] == ["nonfinite"] * 12
    assert (
        "nonfinite: 12 numbers of encoder.layer.1.attention.self.key.weight "
        "(3 NaN entries)" in output
    )


def test_what_to_beware_of_stands_below_the_numbers():
    row = {"kind": "measurement", "metric": "alpha", "value": 2.0, "status": "ok"}
    doubt = "fits no better"
    rows = [
        {**row, "subject": "a", "reason": doubt},
        {**row, "subject": "b", "reason": doubt},
        {**row, "subject": "b", "metric": "xmin", "reason": None},
        *(
            {**row, "subject": "c", "metric": f"m{i}", "reason": f"r{i}"}
            for i in range(6)
        ),
    ]
    text = str(Table.from_rows(rows, provenance={}))
    assert "alpha of 2 matrices: fits no better" in text
    assert "m0 of c: r0" in text
    assert "2 more such notes" in text
    assert "xmin of" not in text


def test_what_was_skipped_is_counted_by_reason_the_commonest_first(scan):
    assert "4 skipped: a vector (3); an integer buffer (1)" in show(scan, 80)


def test_rare_reasons_of_skips_are_counted_together():
    rows = [measurement(), *(skip(f"s{i}", f"reason {i}") for i in range(7))]
    output = show(Table.from_rows([*rows, skip("t", None)]), 200)
    assert "8 skipped: reason 0 (1);" in output
    assert "reason 4 (1); 3 more reasons" in output


def test_a_skip_without_reason_says_so():
    rows = [measurement(), skip("t", None)]
    assert "1 skipped: no reason given" in show(Table.from_rows(rows), 80)


def test_a_long_table_shows_forty_rows_and_counts_the_rest():
    table = Table.from_rows([measurement(f"layer{i}") for i in range(45)])
    output = show(table, 80)
    assert "45 matrices, 1 metric" in output
    assert "layer39 " in output
    assert "layer40" not in output
    assert "… and 5 more matrices" in output
    assert "more matrices" not in show(table.where(pl.col("subject") < "layer5"), 80)


def test_a_column_is_whole_only_if_all_its_rows_are_also_those_not_shown():
    rows = [measurement(f"layer{i}", value=float(i)) for i in range(40)]
    assert re.search(r"layer7\s+7\n", show(Table.from_rows(rows), 30))
    rows.append(measurement("last", value=0.5))
    assert re.search(r"layer7\s+7\.000\n", show(Table.from_rows(rows), 30))


def test_the_view_is_shown_only_if_it_differs():
    rows = [measurement("a", view="linear"), measurement("b", view="linear")]
    assert "linear" not in show(Table.from_rows(rows), 80)
    rows.append(measurement("b", view="conv-unfolded"))
    assert "conv-unfolded" in show(Table.from_rows(rows), 80)


def test_the_shape_is_outputs_by_inputs_and_absent_without_both():
    rows = [measurement("a", m=3, n=5), measurement("b", m=7)]
    table = Table.from_rows(rows, columns={"m": pl.Int64, "n": pl.Int64})
    assert "3x5" in show(table, 80)
    assert "7x" not in show(table, 80)
    assert "shape" not in show(Table.from_rows([measurement()]), 80)


def test_numbers_stay_in_line_beside_a_wide_enclosure():
    rows = [
        measurement("a", value=10.5),
        measurement("b", value=20.5, lower=19.5, upper=21.0),
    ]
    lines = show(Table.from_rows(rows), 60).splitlines()
    a, b = (next(x for x in lines if x.startswith(c)) for c in "ab")
    assert b.rstrip().endswith("20.50 ±1")
    assert a.index("10.50") == b.index("20.50")


def test_a_null_number_is_a_dash_and_an_unmeasured_one_is_blank():
    rows = [
        measurement("a", "k", None),
        measurement("a", "n", 2.5),
        measurement("b", "k", 3.5),
    ]
    lines = show(Table.from_rows(rows), 60).splitlines()
    assert next(x for x in lines if x.startswith("a ")).split() == ["a", "-", "2.500"]
    assert next(x for x in lines if x.startswith("b ")).split() == ["b", "3.500"]


def test_several_steps_are_shown_in_the_long_form():
    table = Table.from_rows([measurement(step=i, value=i / 3) for i in range(2)])
    output = show(table, 80)
    assert "2 measurements" in output
    assert "step" in output
    assert "0.3333" in output


@pytest.fixture
def claims():
    return Table.from_rows(
        [
            {
                "kind": "claim",
                "subject": "S1",
                "metric": "signal_growth",
                "value": 1.25,
                "verdict": "contradicted",
                "reason": "the third layer breaks the bound of 0.2 under AdamW",
                "source": "ours",
                "seeds": [1, 2],
                "paired": True,
            },
            {
                "kind": "law",
                "subject": "fc1",
                "metric": "balancedness",
                "verdict": "conserved",
            },
        ],
        columns={"seeds": pl.List(pl.Int64), "paired": pl.Boolean},
    )


def test_claims_and_laws_show_their_non_null_columns_and_count_verdicts(claims):
    output = show(claims, 200)
    assert "1 claim: 1 contradicted" in output
    assert "1 law: 1 conserved" in output
    assert "1, 2" in output
    assert "yes" in output
    head = next(x for x in output.splitlines() if x.startswith("subject"))
    assert head.split() == [
        *("subject", "metric", "verdict", "value", "reason"),
        *("seeds", "paired", "source"),
    ]


@pytest.mark.parametrize("width", [30, 45, 60, 200])
def test_a_verdict_is_never_shown_without_its_reason(claims, width):
    output = " ".join(show(claims, width).split())
    assert output.count("third") == 1
    assert not re.search(r"more column.*\breason\b", output)
    assert "AdamW" in output


def test_spectra_are_counted_beside_measurements_and_listed_alone():
    spectrum = {
        "kind": "spectrum",
        "subject": "a",
        "metric": "singular_values",
        "values": [3.0, 2.0, 0.5],
    }
    bad = {**spectrum, "values": [], "status": "nonfinite"}
    rows = [measurement(), spectrum, bad]
    assert "2 spectra (1 nonfinite)" in show(Table.from_rows(rows), 80)
    alone = show(Table.from_rows(rows[1:]), 80)
    assert "3.000 … 0.5000 (3)" in alone
    assert "(0)" in alone


def test_an_empty_table_says_so():
    empty = Table.from_rows([])
    assert show(empty, 60).strip() == "no rows"
    assert "no rows" in empty._repr_html_()


def test_a_hostile_name_neither_steers_the_terminal_nor_the_markup():
    table = Table.from_rows([measurement("a\x1b[2J[red]b\nc")])
    assert r"a\x1b[2J[red]b\nc" in show(table, 80)
    assert "\x1b" not in show(table, 80)
    assert "\x1b" not in repr(table)


def test_wide_characters_keep_the_columns_in_line():
    rows = [measurement("重み.0", value=1.5), measurement("ab", value=2.5)]
    lines = [x for x in show(Table.from_rows(rows), 40).splitlines() if ".500" in x]
    assert len({cell_len(line.rstrip()) for line in lines}) == 1


# --- HTML


def test_html_has_every_metric_and_the_same_notes(scan):
    page = scan._repr_html_()
    assert all(f">{metric}</th>" in page for metric in METRICS)
    assert page.count("<tr>") == 1 + 39
    assert "4 skipped: a vector (3); an integer buffer (1)" in page
    assert page.count("<b>nonfinite</b>") == 12


def test_html_rows_are_capped_and_the_rest_counted():
    page = Table.from_rows([measurement(f"s{i}") for i in range(50)])._repr_html_()
    assert page.count("<tr>") == 1 + 40
    assert "… and 10 more matrices" in page


def test_html_escapes_every_text():
    evil = "<script>alert('x')</script>&"
    rows = [
        measurement(evil, evil, view=evil),
        measurement("b", value=None, status="nonfinite", reason=evil),
        skip(evil, evil),
        {"kind": "claim", "subject": evil, "metric": evil, "reason": evil},
    ]
    page = Table.from_rows(rows)._repr_html_()
    assert "<script" not in page
    assert page.count(html.escape(evil)) >= 7


def test_printing_shows_what_a_terminal_shows(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "70")
    table = Table.from_rows([measurement(value=2.5), skip("b", "no matrix")])
    print(table)  # noqa: T201
    printed = capsys.readouterr().out
    lines = [line.rstrip() for line in show(table, 70).rstrip().splitlines()]
    assert [line.rstrip() for line in printed.splitlines()] == lines
    assert "2.5" in printed
    assert repr(table) == "Table(1 measurement, 1 skip; 2 subjects, a to b)"


def test_the_narrowest_terminal_shows_a_number_of_every_matrix():
    rows = [
        measurement(f"encoder.{i}.weight", metric, 30.5, view=view, m=100, n=10_000)
        for i, view in enumerate(["conv-transposed-unfolded", "linear", "qkv.q"])
        for metric in METRICS
    ]
    table = Table.from_rows(rows, columns={"m": pl.Int64, "n": pl.Int64})
    for width in (25, 40, 60):
        output = show(table, width)
        assert output.count("30.50") >= 3, width
        assert max(map(cell_len, output.splitlines())) <= width
    # What gave way is named.
    assert "view" in show(table, 40).partition("more columns")[2]


def test_names_stay_different_while_a_number_fits_beside_them():
    names = [
        f"block.{side}.{kind}_projection.weight.quantised"
        for side in ("encoder", "decoder")
        for kind in ("in", "out")
    ]
    rows = [
        measurement(name, metric, 30.5, m=8, n=8)
        for name in names
        for metric in METRICS
    ]
    table = Table.from_rows(rows, columns={"m": pl.Int64, "n": pl.Int64})
    for width in (56, 60, 70):
        lines = [x for x in show(table, width).splitlines() if "30.50" in x]
        assert len({line.split()[0] for line in lines}) == 4, width
    assert max(map(cell_len, show(table, 56).splitlines())) <= 56
