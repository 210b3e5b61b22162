"""Verdicts: what is true, false and undecided is told apart, and never by chance."""

import math

import numpy as np
import polars as pl
import pytest
import scipy.stats

from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.experiments import Claim, figure_point, judge, not_applicable
from spectrank.experiments.claims import COLUMNS
from spectrank.experiments.verdicts import seed_text
from spectrank.table import Table


def claim(**change):
    return Claim(
        **{
            "key": "paper2021word.some-claim",
            "statement": "It is one.",
            "whose": "ours",
            "protocol": "ten seeds",
            "quantity": "slope",
            "relation": "equals",
            "expected": 1.0,
            "tolerance": 0.2,
            "source": "this test",
        }
        | change
    )


def draws(mean, spread, num=10, seed=0):
    return np.random.default_rng(seed).normal(mean, spread, num)


PLANTED = [
    # relation, expected, tolerance, true value, spread, verdict
    ("equals", 1.0, 0.2, 1.0, 0.05, "reproduced"),
    ("equals", 1.0, 0.2, 1.1, 0.05, "reproduced"),
    ("equals", 1.0, 0.2, 1.5, 0.05, "contradicted"),
    ("equals", 1.0, 0.2, 0.5, 0.05, "contradicted"),
    ("equals", 1.0, 0.2, 1.2, 0.05, "inconclusive"),
    ("equals", 1.0, 0.2, 1.0, 3.0, "inconclusive"),
    ("at_least", 1.0, 0.0, 1.5, 0.05, "reproduced"),
    ("at_least", 1.0, 0.0, 0.5, 0.05, "contradicted"),
    ("at_least", 1.0, 0.0, 1.0, 0.05, "inconclusive"),
    ("at_least", 1.0, 0.3, 0.9, 0.05, "reproduced"),
    ("at_most", 1.0, 0.0, 0.5, 0.05, "reproduced"),
    ("at_most", 1.0, 0.0, 1.5, 0.05, "contradicted"),
    ("at_most", 1.0, 0.3, 1.1, 0.05, "reproduced"),
    ("at_most", 1.0, 0.0, 1.0, 3.0, "inconclusive"),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("relation", "expected", "tolerance", "truth", "spread", "verdict"), PLANTED
)
def test_planted_truths_and_falsehoods_are_told(
    relation, expected, tolerance, truth, spread, verdict, seed
):
    asked = claim(relation=relation, expected=expected, tolerance=tolerance)
    row = judge(asked, draws(truth, spread, seed=seed))
    assert row["verdict"] == verdict, row["reason"]
    assert row["lower"] <= row["value"] <= row["upper"]


TRENDS = [
    ("increasing", 0.0, (0.0, 1.0, 2.0, 3.0), "reproduced"),
    ("increasing", 0.0, (3.0, 2.0, 1.0, 0.0), "contradicted"),
    ("increasing", 0.0, (0.0, 2.0, 1.0, 3.0), "contradicted"),
    ("increasing", 0.0, (0.0, 1.0, 1.0, 2.0), "inconclusive"),
    ("increasing", 0.5, (0.0, 1.0, 0.9, 2.0), "reproduced"),
    ("decreasing", 0.0, (3.0, 2.0, 1.0, 0.0), "reproduced"),
    ("decreasing", 0.0, (0.0, 1.0, 2.0, 3.0), "contradicted"),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("relation", "tolerance", "means", "verdict"), TRENDS)
def test_trends_are_told_step_by_step(relation, tolerance, means, verdict, seed):
    rng = np.random.default_rng(seed)
    responses = np.array(means) + rng.normal(0.0, 0.05, (10, 4))
    row = judge(claim(relation=relation, expected=None, tolerance=tolerance), responses)
    assert row["verdict"] == verdict, row["reason"]
    assert "smallest step" in row["reason"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_false_claim_is_reproduced_no_more_often_than_the_confidence_allows(seed):
    # The truth lies on the border: more than 2.5 % wrong verdicts would be dishonest.
    asked, count = claim(), 2000
    rng = np.random.default_rng(seed)
    rows = [judge(asked, x) for x in rng.normal(1.2, 0.02, (count, 6))]
    for verdict in ("reproduced", "contradicted"):
        hits = sum(row["verdict"] == verdict for row in rows)
        assert scipy.stats.binomtest(hits, count, 0.025).pvalue > 1e-4, verdict


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_interval_of_a_row_covers_the_truth_as_often_as_it_says(seed):
    asked, count = claim(confidence=0.9), 1500
    rng = np.random.default_rng(seed)
    rows = [judge(asked, x) for x in rng.normal(0.7, 0.3, (count, 5))]
    hits = sum(row["lower"] <= 0.7 <= row["upper"] for row in rows)
    assert scipy.stats.binomtest(hits, count, 0.9).pvalue > 1e-4
    assert rows[0]["failure_probability"] == pytest.approx(0.1)


def test_more_seeds_narrow_the_interval_with_their_square_root():
    widths = [
        np.mean(
            [
                (row := judge(claim(), draws(1.0, 0.3, num, seed)))["upper"]
                - row["lower"]
                for seed in range(200)
            ]
        )
        for num in (25, 100)
    ]
    # Student's quantile and the bias of s account for 4 %.
    assert widths[0] / widths[1] == pytest.approx(2.0 * 2.064 / 1.984, rel=0.05)


def test_the_effect_size_is_in_standard_errors_from_what_was_expected():
    x = draws(1.3, 0.2)
    row = judge(claim(), x)
    error = x.std(ddof=1) / math.sqrt(10)
    assert row["effect_size"] == pytest.approx((x.mean() - 1.0) / error)
    assert row["bound"] == 1.0


def test_no_seed_is_dropped_for_its_outcome():
    x = draws(1.0, 0.01)
    x[3] = math.nan
    row = judge(claim(), x, seeds=range(20, 30))
    assert (row["verdict"], row["status"]) == ("inconclusive", "nonfinite")
    assert "1 of 10 seeds" in row["reason"]
    assert "(23)" in row["reason"]
    assert row["num_seeds"] == 10
    assert row.get("value") is None


def test_one_seed_has_no_interval():
    row = judge(claim(), [1.0])
    assert row["verdict"] == "not_applicable"
    assert "1 seeds" in row["reason"]
    row = judge(claim(interval="bootstrap"), [1.0, 1.0])
    assert row["verdict"] == "not_applicable"


def test_seeds_that_agree_to_the_last_bit_are_said_to():
    row = judge(claim(), [1.0, 1.0, 1.0])
    assert row["verdict"] == "reproduced"
    assert row["effect_size"] is None
    assert "last bit" in row["reason"]


def test_the_same_seed_twice_is_refused():
    with pytest.raises(DomainError, match="got 1-2"):
        judge(claim(), [1.0, 1.1, 0.9], seeds=[1, 2, 2])
    with pytest.raises(ShapeError, match="3 seeds"):
        judge(claim(), [1.0, 1.1], seeds=[1, 2, 3])
    with pytest.raises(ShapeError, match=r"\(seeds, points\)"):
        judge(claim(relation="increasing", expected=None), [1.0, 1.1])


def test_a_median_is_judged_by_the_bootstrap():
    rng = np.random.default_rng(0)
    x = rng.lognormal(0.0, 1.0, 60)
    asked = claim(interval="bootstrap", statistic="median", tolerance=0.8)
    row = judge(asked, x)
    assert row["value"] == np.median(x)
    assert row["verdict"] == "reproduced"


def test_rows_make_a_table_with_all_that_a_reader_needs():
    rows = [
        judge(claim(), draws(1.0, 0.05), seeds=[*range(8), 11, 12]),
        not_applicable(claim(key="p2.b"), "the data is not there"),
        figure_point(
            claim(),
            metric="signal",
            series="layer 1",
            x=2.0,
            estimates=[1.0, 2.0, 3.0],
            predicted=2.1,
            seed=0,
        ),
    ]
    table = Table.from_rows(rows, columns=COLUMNS)
    first, second, point = table
    assert first["kind"] == second["kind"] == "claim"
    assert first["subject"] == "paper2021word.some-claim"
    assert first["metric"] == "slope"
    assert first["relation"] == "within 0.2 of 1"
    assert first["seeds"] == "0-7, 11-12"
    assert first["error_kind"] == "stderr"
    assert first["failure_probability"] == pytest.approx(0.05)
    for key in ("statement", "whose", "protocol", "source", "reason"):
        assert first[key], key
    assert second["verdict"] == "not_applicable"
    assert second["reason"] == "the data is not there"
    assert (point["x"], point["value"], point["predicted"]) == (2.0, 2.0, 2.1)
    half = scipy.stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert point["upper"] == pytest.approx(2.0 + half)
    assert set(COLUMNS) < set(table.columns)
    assert table.frame.schema["seed"] == pl.Int64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": "no-dot"}, DomainError, "key is lower-case"),
        ({"key": "paper.Some"}, DomainError, "key is lower-case"),
        ({"statement": " "}, DomainError, "statement"),
        ({"source": ""}, DomainError, "source"),
        ({"relation": "equal"}, UnknownNameError, "equals, at_least"),
        ({"interval": "normal"}, UnknownNameError, "student"),
        ({"expected": None}, DomainError, "expected of every claim but a trend"),
        ({"relation": "increasing"}, DomainError, "set one of them"),
        ({"tolerance": 0.0}, DomainError, "single point"),
        ({"tolerance": -0.1}, DomainError, "at least 0"),
        ({"tolerance": math.inf}, DomainError, "finite"),
        ({"confidence": 95.0}, DomainError, "write 95 % as 0.95"),
        ({"confidence": 0.0}, DomainError, "between 0 and 1"),
        ({"expected": math.nan}, DomainError, "finite"),
        ({"statistic": "median"}, DomainError, "by student"),
        (
            {"relation": "decreasing", "expected": None, "interval": "bootstrap"},
            DomainError,
            "trends",
        ),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        claim(**change)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "within 0.2 of 1"),
        ({"relation": "at_least", "tolerance": 0.0}, "at least 1"),
        ({"relation": "at_most"}, "at most 1, tolerance 0.2"),
        ({"relation": "increasing", "expected": None, "tolerance": 0.0}, "increasing"),
    ],
)
def test_relations_read_as_words(change, text):
    assert claim(**change).relation_text == text


def test_seed_text_shortens_runs():
    assert seed_text([3, 1, 2, 7]) == "1-3, 7"
    assert seed_text([]) == ""


def test_a_flat_line_neither_rises_nor_falls():
    for relation in ("increasing", "decreasing"):
        row = judge(trend(relation), [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
        assert row["verdict"] == "inconclusive", relation
    rising = judge(trend("increasing"), [[1, 2, 3], [1.1, 2.1, 3.1], [1, 2, 3.2]])
    assert rising["verdict"] == "reproduced"
    # One step differs between the seeds, so there is a standard error to speak of.
    assert "no standard error" not in rising["reason"]


def test_a_mean_outside_float64_is_no_number():
    row = judge(claim(), [1e308, 1e308, -1e308])
    assert (row["verdict"], row["status"]) == ("inconclusive", "nonfinite")
    assert "leaves the range of float64" in row["reason"]


def trend(relation):
    return claim(relation=relation, expected=None, tolerance=0.0)


def test_a_seed_without_a_number_leaves_the_point_of_a_figure_without_one():
    point = figure_point(
        claim(), metric="signal", series="a", x=2.0, estimates=[1.0, float("nan")]
    )
    assert point["status"] == "nonfinite"
    assert point["reason"] == "1 of 2 seeds gave no finite value"
    assert "value" not in point
    assert Table.from_rows([point], columns=COLUMNS).frame["value"].to_list() == [None]
