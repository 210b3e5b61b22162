"""Rows of a matrix beside its random twins."""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from matrices import with_spectrum
from tolerances import STANDARD_ERRORS

from spectrank.linalg import spectrum
from spectrank.linalg.null import null_spectrum
from spectrank.scanning.null_rows import (
    NULL_METRICS,
    NULL_NEEDS,
    _excess,
    null_rows,
)
from spectrank.table import Table


@dataclass(frozen=True)
class Asked:
    null: str | None = "permuted"
    num_null: int = 1
    seed: int = 0


# What one twin does not tell.
OF_SEVERAL = {"null_sigma_max_highest", "null_excess"}
KEY = {"subject": "fc.weight", "view": "linear", "m": 1, "n": 1}


def gaussian(m, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, dtype=torch.float64, generator=generator)


def measured(W, **asked):
    """Return metric -> row, the spectrum row among them."""
    rows = null_rows(KEY, W, spectrum(W, NULL_NEEDS), Asked(**asked))
    metrics = [row["metric"] for row in rows if row["kind"] == "measurement"]
    several = asked.get("num_null", 1) > 1
    assert metrics == [x for x in NULL_METRICS if several or x not in OF_SEVERAL]
    return {row["metric"]: row for row in rows}


@pytest.mark.parametrize("null", ["permuted", "gaussian"])
def test_noise_looks_like_its_twins(null):
    rows = measured(gaussian(90, 60), null=null, num_null=19)
    assert rows["null_softrank"]["value"] == pytest.approx(1.0, abs=0.1)
    assert rows["null_distance"]["value"] < 0.02
    assert rows["num_above_null"]["value"] <= 1
    assert rows["null_num_spikes"]["value"] < 0.2
    assert rows["null_p"]["value"] > 0.04


@pytest.mark.parametrize("null", ["permuted", "gaussian"])
def test_structure_sticks_out_of_its_twins(null):
    spikes = torch.zeros(60, dtype=torch.float64)
    spikes[:4] = 60.0
    W = gaussian(90, 60) + with_spectrum(spikes, 90, 60, seed=1)
    rows = measured(W, null=null, num_null=9)
    assert rows["num_above_null"]["value"] == 4
    assert rows["null_p"]["value"] == pytest.approx(0.1)
    assert rows["null_softrank"]["value"] < 0.6
    assert rows["null_distance"]["value"] > 0.1


def test_a_single_large_entry_is_a_trap_that_only_the_permuted_twin_shares():
    W = gaussian(90, 60)
    W[7, 8] = 60.0
    permuted = measured(W, null="permuted", num_null=3)
    assert permuted["null_num_spikes"]["value"] == 1.0
    assert permuted["num_above_null"]["value"] <= 1
    assert permuted["null_softrank"]["value"] == pytest.approx(1.0, abs=0.05)
    normal = measured(W, null="gaussian", num_null=3)
    assert normal["null_num_spikes"]["value"] < 0.5
    assert normal["num_above_null"]["value"] == 1.0
    assert normal["null_p"]["value"] == 0.25


def test_the_numbers_are_those_of_the_definition():
    # A permutation of equal entries changes nothing: every twin is the matrix itself.
    rows = measured(torch.full((6, 4), 0.5, dtype=torch.float64), num_null=3)
    top = 0.5 * math.sqrt(24)
    assert rows["null_sigma_max"]["value"] == pytest.approx(top)
    assert rows["null_softrank"]["value"] == pytest.approx(1.0)
    assert rows["null_distance"]["value"] == pytest.approx(0.0, abs=1e-9)
    # Against twins with one singular value: sums of differences over the root mean
    # square, sigma = (1, 1), t = (sqrt 2, 0), (sqrt 2 - 1 + 1) / 2.
    W = torch.eye(2, dtype=torch.float64)
    found = {
        round(measured(W, seed=seed)["null_distance"]["value"], 9) for seed in range(40)
    }
    assert found == {0.0, round(math.sqrt(2) / 2, 9)}


def test_a_permutation_test_has_the_level_it_promises():
    num, twins, seeds = 0, 4, 120
    for seed in range(seeds):
        rows = measured(gaussian(12, 9, seed), num_null=twins, seed=1000 + seed)
        num += rows["null_p"]["value"] <= 0.2
    stderr = math.sqrt(0.2 * 0.8 / seeds)
    assert num / seeds == pytest.approx(0.2, abs=STANDARD_ERRORS * stderr)


def test_ends_are_the_standard_error_of_the_mean():
    W = gaussian(40, 30)
    rows = measured(W, null="gaussian", num_null=200)
    row = rows["null_sigma_max"]
    tops = np.linalg.svd(gaussian(200 * 40, 30, 5).reshape(200, 40, 30).numpy())[1][
        :, 0
    ]
    assert row["error_kind"] == "stderr"
    stderr = tops.std(ddof=1) / math.sqrt(200) * float(W.std())
    assert row["upper"] - row["value"] == pytest.approx(stderr, rel=0.2)
    mean = tops.mean() * float(W.std())
    # Both means are of 200 draws.
    assert row["value"] == pytest.approx(mean, abs=STANDARD_ERRORS * 1.5 * stderr)
    one = measured(W, null="gaussian")["null_sigma_max"]
    assert (one["lower"], one["upper"]) == (None, None)


@pytest.mark.parametrize("shape", [(1, 64), (64, 1)])
def test_values_that_are_equal_up_to_rounding_are_equal(shape):
    # Every permutation of one row has its norm: the last bit of the sums differs.
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        rows = measured(W, num_null=19, seed=seed)
        assert rows["null_p"]["value"] == 1.0
        assert rows["num_above_null"]["value"] == 0.0
    # Of equal entries every permutation is the matrix itself.
    W = torch.full((5, 7), 0.3)
    rows = measured(W, num_null=19)
    assert (rows["null_p"]["value"], rows["num_above_null"]["value"]) == (1.0, 0.0)


def test_how_far_out_a_value_lies_is_told_in_the_spread_of_the_twins():
    W = gaussian(40, 30)
    W[:, 0] += 3.0
    rows = measured(W, null="gaussian", num_null=25, seed=3)
    # One draw at a time, as a user would collect them.
    generator = torch.Generator().manual_seed(3)
    tops = np.array(
        [
            float(null_spectrum(W, "gaussian", generator=generator).sigma[0])
            for _ in range(25)
        ]
    )
    top = np.linalg.svd(W.numpy())[1][0]
    assert rows["null_sigma_max_highest"]["value"] == tops.max()
    excess = (top - tops.mean()) / tops.std(ddof=1)
    assert excess > 3
    assert rows["null_excess"]["value"] == pytest.approx(excess, rel=1e-9)


def test_ends_of_the_excess_are_its_standard_error():
    # Draws of a normal law in place of twins: x = 4 above, 40 draws, 2,000 times.
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(2000, 40, dtype=torch.float64, generator=generator) + 50.0
    found = [_excess(54.0, row.tolist()) for row in draws]
    values = np.array([value.value for value in found])
    half = np.array([value.upper - value.value for value in found])
    assert values.std(ddof=1) == pytest.approx(half.mean(), rel=0.08)
    # The mean of 1 / s is a little above that of s.
    assert values.mean() == pytest.approx(4.0 * (1 + 3 / (4 * 39)), rel=0.02)


def test_twins_that_differ_by_rounding_alone_have_no_spread():
    rows = measured(torch.full((6, 4), 0.1, dtype=torch.float64), num_null=3)
    assert rows["null_excess"]["status"] == "degenerate"
    assert "rounding alone" in rows["null_excess"]["reason"]


def test_draws_depend_on_the_seed_and_the_matrix_alone():
    W, s = gaussian(20, 15), spectrum(gaussian(20, 15))
    state = torch.get_rng_state()
    first = null_rows(KEY, W, s, Asked(num_null=2))
    other = null_rows({**KEY, "subject": "else"}, W, s, Asked(num_null=2))
    again = null_rows(KEY, W, s, Asked(num_null=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert [r["value"] for r in first[:8]] == [r["value"] for r in other[:8]]
    seeded = null_rows(KEY, W, s, Asked(num_null=2, seed=1))
    assert seeded[0]["value"] != first[0]["value"]


def test_the_mean_spectrum_is_a_row():
    row = measured(gaussian(20, 15), num_null=3)["null_singular_values"]
    assert row["kind"] == "spectrum"
    assert row["variant"] == "permuted"
    assert len(row["values"]) == 15
    assert row["values"] == sorted(row["values"], reverse=True)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_free_numbers_are_free_of_scale(scale):
    plain, scaled = (measured(gaussian(20, 15) * c, num_null=2) for c in (1.0, scale))
    names = (
        "null_softrank",
        "null_p",
        "num_above_null",
        "null_distance",
        "null_excess",
    )
    for name in names:
        assert scaled[name]["value"] == pytest.approx(plain[name]["value"], rel=1e-9)
    top = plain["null_sigma_max"]["value"]
    assert scaled["null_sigma_max"]["value"] / scale == pytest.approx(top, rel=1e-9)


def test_what_cannot_be_compared_has_rows_that_say_why():
    zero, nan = torch.zeros(4, 3), torch.full((4, 3), math.nan)
    for W, status in ((zero, "degenerate"), (nan, "nonfinite")):
        rows = null_rows(KEY, W, spectrum(W), Asked(num_null=2))
        assert [row["metric"] for row in rows] == list(NULL_METRICS)
        one = null_rows(KEY, W, spectrum(W), Asked())
        assert {row["metric"] for row in one} == NULL_METRICS.keys() - OF_SEVERAL
        assert {row["status"] for row in rows} == {status}
        assert all(row["reason"] and math.isnan(row["value"]) for row in rows)
    rows = null_rows(KEY, object(), spectrum(torch.eye(3)), Asked())
    assert {row["status"] for row in rows} == {"skipped"}
    assert "no entries to permute" in rows[0]["reason"]
    big = gaussian(1200, 1200)
    norms = spectrum(big, ["frobenius", "sigma_max"])
    assert "norms only" in null_rows(KEY, big, norms, Asked())[0]["reason"]


def test_without_a_null_there_are_no_rows():
    assert null_rows(KEY, torch.eye(3), spectrum(torch.eye(3)), Asked(null=None)) == []


def test_rows_fit_a_table():
    rows = null_rows(KEY, torch.eye(9), spectrum(torch.eye(9)), Asked(num_null=2))
    table = Table.from_rows(
        rows, provenance={}, columns={"m": pl.Int64(), "n": pl.Int64()}
    )
    assert table.value("fc.weight", "null_softrank") > 1.0
