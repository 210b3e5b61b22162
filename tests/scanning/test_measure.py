"""Settings travel as plain values; what they ask for comes out of one function."""

import pickle

import pytest
import torch

import spectrank as sr
from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.metrics.registry import register, unregister
from spectrank.model import iter_matrices
from spectrank.scanning.measure import Settings, measure_matrix
from spectrank.scanning.null_rows import NULL_METRICS
from spectrank.scanning.weightwatcher import COLUMNS


def weight():
    W = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    return next(iter_matrices({"w": W})), W


def test_settings_survive_a_pickle_with_their_metrics():
    made = Settings.of(
        "energy_rank:q=0.9,effective_rank:variant=squared", seed=3, null="gaussian"
    )
    back = pickle.loads(pickle.dumps(made))
    assert back == made
    assert [r.text for r in back.requests] == [r.text for r in made.requests]
    assert back.needs == made.needs
    assert Settings(**made.as_dict() | {"metrics": made.metrics}) == made


def test_a_metric_that_was_handed_over_is_the_one_that_is_used():
    @register(
        needs=["sigma_max"],
        formula="7",
        source="a test",
        range=lambda k: (0.0, 9.0),
        invariances=[],
    )
    def seven(s):
        """Seven."""
        return sr.Value.exact(7.0)

    unregister("seven")
    rows = measure_matrix(weight()[0], Settings.of(seven))
    assert [r["value"] for r in rows if r["metric"] == "seven"] == [7.0]


def test_what_is_needed_is_the_union_of_all_that_is_asked_for():
    assert Settings.of("stable_rank").needs == {"frobenius", "sigma_max"}
    assert "sigma" in Settings.of("stable_rank", null="permuted").needs
    assert "small_end" in Settings.of("stable_rank", compat="weightwatcher").needs


def test_the_rows_are_metrics_then_spectrum_then_twins_then_the_other_tool():
    matrix, W = weight()
    settings = Settings.of(
        "stable_rank", null="permuted", num_null=3, compat="weightwatcher"
    )
    rows = measure_matrix(matrix, settings)
    names = [row["metric"] for row in rows]
    assert names == [
        "stable_rank",
        "singular_values",
        *NULL_METRICS,
        "null_singular_values",
        *COLUMNS,
    ]
    values = torch.linalg.svdvals(W.double())
    assert rows[0]["value"] == pytest.approx(
        float(values.square().sum() / values[0] ** 2), rel=1e-12
    )
    by_name = {
        row["metric"]: row["value"]
        for row in rows
        if row.get("variant") and "value" in row
    }
    assert by_name["norm"] == pytest.approx(float(W.double().square().sum()))
    # Three twins: p is a multiple of a quarter.
    assert by_name["null_p"] in {0.25, 0.5, 0.75, 1.0}


def test_a_scan_says_what_twins_and_other_names_are():
    table = sr.scan(
        {"w": weight()[1]},
        metrics="stable_rank",
        null="gaussian",
        compat="weightwatcher",
    )
    definitions = table.provenance["definitions"]
    assert definitions["null_p"]["formula"] == NULL_METRICS["null_p"]
    assert "frobenius" not in definitions["stable_rank"]["formula"]
    assert table.provenance["compat_definitions"] == dict(COLUMNS)
    assert table.provenance["settings"]["null"] == "gaussian"
    assert table.value("w", "stable_rank") == pytest.approx(
        table.value("w", "stable_rank", variant="weightwatcher")
    )


def test_the_same_matrix_has_the_same_rows_whatever_came_before():
    matrix, W = weight()
    settings = Settings.of(None, null="permuted")
    alone = measure_matrix(matrix, settings)
    others = {"a": torch.eye(9), "w": W, "z": torch.ones(3, 2)}
    table = sr.scan(others, null="permuted")
    rows = [row for row in table if row["subject"] == "w"]
    for mine, row in zip(alone, rows, strict=True):
        # A scan measures small matrices as batches: the same but for rounding.
        assert mine["metric"] == row["metric"]
        if mine.get("value") is not None:
            assert row["value"] == pytest.approx(mine["value"], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rtol": 0.0}, DomainError, "rtol must lie in"),
        ({"failure_probability": 2.0}, DomainError, "failure_probability must lie"),
        ({"seed": 0.5}, ArgumentTypeError, "seed is a whole number"),
        ({"certify": "maybe"}, UnknownNameError, "certify is 'probabilistic'"),
        ({"null": "shuffled"}, UnknownNameError, "one of permuted, gaussian"),
        ({"compat": "diffract"}, UnknownNameError, "one of weightwatcher"),
        ({"num_null": 0}, DomainError, "num_null is at least 1"),
        ({"num_null": 1.5}, ArgumentTypeError, "num_null is a whole number"),
        ({"workers": 0}, DomainError, "workers is at least 1"),
        ({"workers": 1.5}, ArgumentTypeError, "workers is a whole number"),
        ({"memory": 0}, DomainError, "memory is at least 1"),
        ({"device": "abacus"}, DomainError, "one that torch can use here"),
        ({"device": "cpu", "workers": 2}, DomainError, "with workers=2; leave"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_read(
    monkeypatch, options, error, match
):
    def operand(self):
        raise AssertionError("read")

    monkeypatch.setattr(sr.WeightMatrix, "operand", operand)
    with pytest.raises(error, match=match):
        # Small enough for a batch, which takes none of these.
        sr.scan({"w": torch.eye(3)}, **options)


def test_draws_of_a_null_that_was_not_asked_for_are_refused():
    with pytest.raises(DomainError, match="got 3 and no null; add null='permuted'"):
        Settings.of(None, num_null=3)
    assert Settings.of(None, null="gaussian", num_null=3).num_null == 3


def test_an_option_that_is_given_twice_is_refused():
    with pytest.raises(DomainError, match=r"got q twice .* 'energy_rank:q=0\.9,energ"):
        Settings.of("energy_rank:q=0.9:q=0.5")
