"""Counts and lengths of random networks against the laws of S1 section 4."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spectrank.propagation import arc, count_pieces, predict
from spectrank.random_nets import RandomMLP
from spectrank.table import Table

SEEDS = (101, 102, 103)


def half_circle(dim: int, generator: torch.Generator) -> torch.Tensor:
    x, y = torch.randn(2, dim, generator=generator, dtype=torch.float64)
    return arc(x, y)


def rows(table: Table, metric: str, variant: str | None = None) -> list[dict]:
    return [
        r
        for r in table
        if r["metric"] == metric
        and r["variant"] == variant
        and r["subject"] != "network"
    ]


def within(row: dict, truth: float) -> bool:
    error = row["standard_error"]
    return abs(row["value"] - truth) <= 4.0 * error + 1e-9


# Printed in the theory file: width 5, flat 2, half a great circle.
NEW_KINKS = (5.0, 4.06, 3.30, 2.68)
PATTERN_CHANGES = (5.0, 4.84, 4.69, 4.55)


@pytest.mark.parametrize("seed", SEEDS)
def test_narrow_networks_have_the_two_printed_counts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    law = RandomMLP([5, 5, 5, 5, 5, 1], stable_rank=[2, 2, 2, 2, 1], spectrum="flat")
    table = count_pieces(
        law, half_circle(5, generator), num_networks=100, generator=generator
    )
    new, changes = rows(table, "new_kinks"), rows(table, "pattern_changes")
    exact = [5.0 * math.prod([1.0 - 6.0 / 32.0] * k) for k in range(4)]
    assert [round(x, 2) for x in exact] == list(NEW_KINKS)
    for found, truth in zip(new, exact, strict=True):
        assert within(found, truth)
    for found, truth in zip(changes, PATTERN_CHANGES, strict=True):
        # Printed to two decimals.
        assert within(found, truth) or within(found, truth + 0.005)
    # The two counts are told apart, not only both allowed.
    gap = torch.tensor(changes[3]["values"]) - torch.tensor(new[3]["values"])
    truth = 5.0 * ((31 / 32) ** 3 - (26 / 32) ** 3)
    assert abs(float(gap.mean()) - truth) <= 4.0 * float(gap.std()) / 10.0
    assert float(gap.min()) >= 0.0
    assert float(gap.mean()) > 0.5
    theory = predict(law)
    for metric in ("new_kinks", "pattern_changes"):
        for found in rows(table, metric):
            assert within(found, theory.value(found["subject"], metric))


def test_mean_counts_do_not_depend_on_the_spectrum_and_variances_do() -> None:
    spread = {}
    for spectrum, r in (("flat", 3.0), ("spike", 3.0), ("orthogonal", None)):
        generator = torch.Generator().manual_seed(7)
        law = RandomMLP([24] * 5, stable_rank=r, spectrum=spectrum)
        table = count_pieces(
            law, half_circle(24, generator), num_networks=40, generator=generator
        )
        for i, found in enumerate(rows(table, "new_kinks")):
            assert within(found, 24.0 * (1.0 - 25.0 * 2.0**-24) ** i)
        counted = rows(table, "new_kinks", "count")[2]
        values = torch.tensor(counted["values"], dtype=torch.float64)
        spread[spectrum] = float(values.std())
        assert counted["value"] == pytest.approx(float(values.mean()))
        assert counted["standard_error"] == pytest.approx(spread[spectrum] / 40**0.5)
    # Theory file, layer 5 of width 24: 28 (flat 2), 14 (flat 6), 7.5 (orthogonal).
    assert spread["flat"] > 1.5 * spread["orthogonal"]


@pytest.mark.parametrize("r", [3, 8, 24])
def test_lengths_follow_the_beta_functions_of_the_theory(r: int) -> None:
    # S1 section 4, He scale, n = 24, L = 4 with L masks: 0.704, 0.862, 0.937.
    golden = {3: 0.704, 8: 0.862, 24: 0.937}[r]
    generator = torch.Generator().manual_seed(r)
    law = RandomMLP([24] * 6, stable_rank=r, spectrum="flat", gain=math.sqrt(2.0))
    line = torch.randn(2, 24, generator=generator, dtype=torch.float64)
    table = count_pieces(law, line, num_networks=60, generator=generator)
    found = rows(table, "length_gain", "post")[3]
    assert abs(found["value"] - golden) <= 4.0 * found["standard_error"] + 5e-4
    theory = predict(law)
    for site in ("post", "pre"):
        for row in rows(table, "length_gain", site):
            truth = theory.value(row["subject"], "length_gain", variant=site)
            assert within(row, truth)


def test_a_law_gives_the_networks_that_its_generator_gives() -> None:
    law = RandomMLP([6, 7, 5, 2], spectrum="gaussian")
    line = half_circle(6, torch.Generator().manual_seed(1))
    table = count_pieces(
        law, line, num_networks=3, generator=torch.Generator().manual_seed(5)
    )
    again = law.sample_weights(torch.Generator().manual_seed(5), num=3)
    for metric in ("new_kinks", "pattern_changes"):
        found = [row["values"] for row in rows(table, metric, "count")]
        for k in range(3):
            net = law.sample(torch.Generator().manual_seed(0))
            linears = [m for m in net if isinstance(m, nn.Linear)]
            with torch.no_grad():
                for linear, W in zip(linears, again, strict=True):
                    linear.weight.copy_(W[k])
            alone = rows(count_pieces(net, line), metric, "count")
            assert [row["value"] for row in alone] == [v[k] for v in found]


@pytest.mark.parametrize("seed", SEEDS)
def test_behind_one_relu_unit_the_curve_is_on_a_ray_and_only_dies(seed: int) -> None:
    law = RandomMLP([5, 1, 4, 4, 2], spectrum="gaussian")
    theory = predict(law)
    generator = torch.Generator().manual_seed(seed)
    table = count_pieces(
        law, half_circle(5, generator), num_networks=150, generator=generator
    )
    # One change of sign; half of four units follow it; unless all four are dead.
    truths = {
        "pattern_changes": (1.0, 4.0 / 2.0, 4.0 / 2.0 * 15.0 / 16.0),
        "new_kinks": (1.0, 0.0, 0.0),
    }
    for metric, values in truths.items():
        for found, truth in zip(rows(table, metric), values, strict=True):
            assert theory.value(found["subject"], metric) == pytest.approx(truth)
            assert within(found, truth)
        total = theory.value("network", metric)
        assert total == pytest.approx(sum(values))


def test_one_unit_with_a_slope_on_both_sides_leaves_kinks_undefined() -> None:
    law = RandomMLP([5, 1, 4, 2], spectrum="gaussian", activation="leaky_relu")
    assert math.isnan(predict(law).value("2.weight", "pattern_changes"))
