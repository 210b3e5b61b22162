"""Means over drawn networks against printed numbers and closed forms of S1."""

from __future__ import annotations

import math

import pytest
import torch

from spectrank.propagation import measure, predict
from spectrank.random_nets import RandomMLP
from spectrank.table import Table

SEEDS = (11, 12, 13)


def row(
    table: Table, metric: str, index: int, variant: str | None = None
) -> dict[str, float]:
    found = [
        r
        for r in table
        if (r["metric"], r["index"], r["variant"]) == (metric, index, variant)
    ]
    assert len(found) == 1
    return found[0]


def near(found: dict[str, float], truth: float, printed: float = 0.0) -> None:
    assert abs(found["value"] - truth) <= 4.0 * found["standard_error"] + printed


def inputs(num: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", SEEDS)
def test_uneven_networks_have_the_printed_second_moments(seed: int) -> None:
    # Theory file: E|f|^4/(E|f|^2)^2 = 7.07 for flat 3; gradients 2.627 for spike 3.
    generator = torch.Generator().manual_seed(seed)
    widths, x = [10, 24, 12, 30, 7], inputs(1, 10, seed)
    flat = measure(
        RandomMLP(widths, stable_rank=3, spectrum="flat"),
        x,
        num_networks=3000,
        generator=generator,
    )
    near(row(flat, "signal_second_moment", 4, "pre"), 7.07, 0.005)
    spike = measure(
        RandomMLP(widths, stable_rank=3, spectrum="spike"),
        x,
        num_networks=3000,
        generator=generator,
    )
    near(row(spike, "gradient_second_moment", 1), 2.627, 5e-4)
    near(row(spike, "jacobian_second_moment", 4), 2.81, 0.005)
    # Forward and backward laws differ at unequal widths: gradients start at n_L = 7.
    a1 = {1: 2 * 24, 2: 2 * 12, 3: 2 * 30, 4: 2 * 7}
    pairs = zip((1, 2, 3, 4), (24, 12, 30, 7), strict=True)
    gradient = math.prod(a1[k] / n for k, n in pairs) / 8
    near(row(spike, "gradient_gain", 1), gradient)


@pytest.mark.parametrize(
    ("r", "mean", "variance"), [(4, -1.739, 4.161), (8, -0.897, 1.994)]
)
def test_logs_of_flat_spectra_have_the_printed_moments(
    r: int, mean: float, variance: float
) -> None:
    law = RandomMLP([32] * 8, stable_rank=r, spectrum="flat")
    generator = torch.Generator().manual_seed(r)
    table = measure(law, inputs(1, 32, r), num_networks=1500, generator=generator)
    near(row(table, "log_signal_mean", 6, "post"), mean, 5e-4)
    near(row(table, "log_signal_variance", 6, "post"), variance, 5e-4)


def test_orthogonal_inputs_of_linear_networks_align_as_printed() -> None:
    law = RandomMLP([32] * 5, stable_rank=4, spectrum="flat", activation="linear")
    x = torch.eye(32, dtype=torch.float64)[:2]
    generator = torch.Generator().manual_seed(4)
    table = measure(law, x, num_networks=4000, generator=generator)
    for index, truth in enumerate((0.2154, 0.4366, 0.6280, 0.7702), start=1):
        found = row(table, "squared_cosine", index, "annealed")
        assert found["input_cosine"] == 0.0
        if index < 3:
            near(found, truth, 5e-5)
        # A ratio of heavy-tailed means: theory file's own sample gave 0.593, 0.752.
        assert abs(found["value"] - truth) < 0.1


def test_orthogonal_layers_keep_every_angle_and_every_length() -> None:
    law = RandomMLP([12] * 4, spectrum="orthogonal", activation="linear")
    x = inputs(2, 12, 1)
    table = measure(law, x, num_networks=5)
    cosine = float(torch.nn.functional.cosine_similarity(x[:1], x[1:]))
    for index in (1, 2, 3):
        assert row(table, "cosine", index, "post")["value"] == pytest.approx(cosine)
        assert row(table, "signal_gain", index, "pre")["value"] == pytest.approx(1.0)
        assert row(table, "jacobian_gain", index)["value"] == pytest.approx(1.0)
        assert row(table, "gradient_gain", index)["value"] == pytest.approx(1.0)
        assert row(table, "length_gain", index, "pre")["value"] == pytest.approx(1.0)
        variance = row(table, "layer_relative_variance", index, "pre")["value"]
        assert abs(variance) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "law",
    [
        RandomMLP([9, 14, 6, 5], stable_rank=[2.5, 1.8, 1.5], spectrum="mp-spike"),
        RandomMLP([8, 8, 12, 4], spectrum="gaussian", activation="leaky_relu"),
        RandomMLP(
            [7, 10, 10, 3],
            stable_rank=3,
            spectrum="flat",
            norm="spectral",
            sigma=1.5,
            activation="linear",
        ),
    ],
    ids=repr,
)
def test_every_exact_row_is_met_within_four_standard_errors(
    law: RandomMLP, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = measure(
        law, inputs(1, law.widths[0], seed), num_networks=3000, generator=generator
    )
    exact = {
        (r["subject"], r["metric"], r["variant"], r["index"]): r["value"]
        for r in predict(law)
        if r["route"] == "exact"
    }
    compared = 0
    assert ("network", "jacobian_eigenvalue_variance", "annealed", None) in exact
    for found in table:
        key = tuple(found[name] for name in ("subject", "metric", "variant", "index"))
        if key not in exact or found["status"] != "ok":
            continue
        slack = 1e-9 * abs(exact[key]) + 1e-12
        near(found, exact[key], slack)
        compared += 1
    assert compared > 20


def test_inputs_of_one_network_are_one_sample() -> None:
    # Eight copies of an input tell no more than one: the error must not shrink.
    law = RandomMLP([6, 8, 5], spectrum="gaussian")
    x = inputs(1, 6, 3)
    one, eight = (
        measure(
            law,
            x.expand(num, 6),
            num_networks=400,
            quantities=["signal"],
            generator=torch.Generator().manual_seed(1),
        )
        for num in (1, 8)
    )
    for metric in ("signal_gain", "log_signal_mean", "log_signal_variance"):
        a, b = (row(t, metric, 2, "pre") for t in (one, eight))
        assert a["num_samples"] == b["num_samples"] == 400
        assert a["value"] == pytest.approx(b["value"], rel=1e-9)
        assert a["standard_error"] == pytest.approx(b["standard_error"], rel=1e-9)


def test_a_law_gives_the_quantities_that_were_asked_for() -> None:
    law = RandomMLP([6, 8, 5], spectrum="gaussian")
    wanted = {
        "signal": {
            *("signal_gain", "signal_gain_per_neuron", "signal_second_moment"),
            *("log_signal_mean", "log_signal_variance", "layer_relative_variance"),
        },
        "angles": {"cosine", "squared_cosine"},
        "gradients": {
            *("gradient_gain", "gradient_second_moment"),
            *("log_gradient_mean", "log_gradient_variance"),
        },
        "jacobian": {
            *("jacobian_gain", "jacobian_second_moment", "length_gain"),
            *("log_jacobian_mean", "log_jacobian_variance"),
            "jacobian_eigenvalue_variance",
        },
    }
    for quantity, metrics in wanted.items():
        table = measure(law, inputs(2, 6, 3), num_networks=4, quantities=[quantity])
        assert set(table.frame["metric"]) == metrics


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_ratios_and_angles_do_not_depend_on_the_size_of_the_input(scale: float) -> None:
    law = RandomMLP([6, 8, 5], stable_rank=2, spectrum="flat")
    x = inputs(2, 6, 3)
    generator = torch.Generator().manual_seed(1)
    net = law.sample(generator)
    pairs = (
        (measure(law, x, num_networks=20), measure(law, scale * x, num_networks=20)),
        (measure(net, x), measure(net, scale * x)),
    )
    for one, other in pairs:
        assert one.frame["status"].equals(other.frame["status"])
        for a, b in zip(one, other, strict=True):
            if a["kind"] == "measurement" and a["status"] == "ok":
                assert b["value"] == pytest.approx(a["value"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("sigma", [1e-6, 1e6])
def test_gains_beyond_float64_keep_their_logarithms(sigma: float) -> None:
    law = RandomMLP(
        [4] * 46,
        spectrum="orthogonal",
        norm="spectral",
        sigma=sigma,
        activation="linear",
    )
    table = measure(law, inputs(1, 4, 1), num_networks=3)
    for metric, variant in (("signal_gain", "pre"), ("jacobian_gain", None)):
        found = row(table, metric, 45, variant)
        assert found["status"] == "nonfinite"
        assert found["log_value"] == pytest.approx(90.0 * math.log(sigma), rel=1e-12)
        assert found["lower"] is None
        assert row(table, metric, 1, variant)["status"] == "ok"
    logs = row(table, "log_signal_mean", 45, "pre")
    assert logs["value"] == pytest.approx(90.0 * math.log(sigma), rel=1e-12)


def test_heavy_tails_are_said_to_be_so() -> None:
    law = RandomMLP([16] * 21, stable_rank=2, spectrum="flat")
    table = measure(law, inputs(1, 16, 1), num_networks=300)
    deep = row(table, "signal_second_moment", 20, "pre")
    assert deep["status"] == "not_converged"
    assert "read the logarithms" in deep["reason"]
    # Only where there are some to read.
    tails = {r["metric"] for r in table if "read the log" in (r["reason"] or "")}
    assert tails == {
        *("signal_gain", "signal_gain_per_neuron", "signal_second_moment"),
        *("gradient_gain", "gradient_second_moment"),
        *("jacobian_gain", "jacobian_second_moment"),
    }
    assert row(table, "log_jacobian_mean", 20)["status"] == "ok"
    spread = [r for r in table if r["metric"] == "jacobian_eigenvalue_variance"]
    assert "measure more of them" in spread[0]["reason"]
    assert row(table, "signal_gain", 20, "pre")["status"] == "not_converged"
    assert row(table, "log_signal_mean", 20, "pre")["status"] == "ok"
    assert row(table, "signal_second_moment", 1, "pre")["status"] == "ok"
