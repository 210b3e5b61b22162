"""The table of `predict`: names, routes, ranges, overflow, errors."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg import ensemble
from spectrank.linalg.ensembles.layer import layer_law
from spectrank.linalg.layer_moments.log_norms import layer_log_norm
from spectrank.propagation import METRICS, predict
from spectrank.propagation.names import COLUMNS
from spectrank.propagation.theory.exact_rows import exact_rows
from spectrank.random_nets import RandomMLP
from spectrank.table import Table

REPOSITORY = Path(__file__).parents[3]
SPECTRA = ("flat", "spike", "power", "exp", "mp-spike", "slice", "temper")


# Cached: the moments of temper are worked out once for all tests.
@cache
def net(spectrum: str = "flat", activation: str = "relu", **options: Any) -> RandomMLP:
    options = {"widths": (6, 9, 5, 4), "stable_rank": 2.0, **options}
    return RandomMLP(spectrum=spectrum, activation=activation, gain=1.3, **options)


def row(table: Table, **key: Any) -> dict[str, Any]:
    rows = list(table.where(**key))
    assert len(rows) == 1, key
    return rows[0]


@pytest.mark.parametrize("activation", ["relu", "linear", "leaky_relu", "tanh"])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_every_row_is_named_unique_and_in_range(spectrum: str, activation: str) -> None:
    law = net(spectrum, activation)
    table = predict(law, cosine=[0.3, -0.2])
    keys = ["kind", "subject", "metric", "variant", "index", "input_cosine"]
    assert table.frame.select(keys).is_unique().all()
    for found in table:
        name = METRICS[found["metric"]]
        if found["variant"] is None:
            plain = not name.variants or None in name.variants
            assert plain or found["kind"] == "skip"
        else:
            assert found["variant"] in name.variants
        if found["kind"] == "skip":
            assert found["reason"]
            continue
        low, high = name.range
        assert low <= found["value"] <= high, found
        assert found["route"] in ("exact", "leading-order", "mean-field")
        assert (found["route"] == "exact") or found["reason"]
        if found["index"] is None:
            assert found["subject"] == "network"
        else:
            assert found["subject"] == law.parameter_names[found["index"] - 1]
            shape = (law.widths[found["index"]], law.widths[found["index"] - 1])
            assert (found["m"], found["n"]) == shape


@pytest.mark.parametrize("activation", ["relu", "linear", "tanh"])
def test_every_metric_of_the_theory_has_a_row(activation: str) -> None:
    table = predict(net(activation=activation), cosine=0.1)
    capacity = {"log_spectral_norm_product", "stable_rank_sum", "spectral_complexity"}
    counted = {"linear_pieces", "affinity_defect"}
    wanted = set(METRICS) - capacity - counted
    if activation != "tanh":
        wanted -= {"preactivation_variance", "chi_1"}
    else:
        wanted -= {"layer_relative_variance"}
    assert set(table.frame["metric"].unique()) == wanted


def test_names_say_formula_unit_and_source() -> None:
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.formula
        assert metric.unit
        assert metric.source.startswith("Source (")
        kind, _, proof = metric.source.partition("): ")
        if kind == "Source (derived":
            assert (REPOSITORY / proof).is_file(), proof
        assert metric.range[0] < metric.range[1]
        assert metric.scope in ("layer", "network", "both")
    assert set(COLUMNS) >= {"standard_error", "num_samples", "log_value"}


def test_post_rows_end_before_the_output() -> None:
    table = predict(net())
    for metric in ("signal_gain", "log_signal_mean", "length_gain"):
        post = table.where(metric=metric, variant="post").frame["index"].to_list()
        pre = table.where(metric=metric, variant="pre").frame["index"].to_list()
        assert post == [1, 2]
        assert pre == [1, 2, 3]


@pytest.mark.parametrize("activation", ["relu", "linear", "leaky_relu"])
def test_the_signal_is_that_of_the_law(activation: str) -> None:
    law = net("spike", activation)
    table = predict(law)
    truth = law.mean_signal()
    for index in (1, 2):
        found = row(table, metric="signal_gain", variant="post", index=index)
        assert found["value"] == pytest.approx(truth[index - 1], rel=1e-12)
    found = row(table, metric="signal_gain", variant="pre", index=3)
    assert found["value"] == pytest.approx(truth[2], rel=1e-12)
    per = row(table, metric="signal_gain_per_neuron", variant="pre", index=3)
    assert per["value"] == pytest.approx(truth[2] * 6 / 4, rel=1e-12)


def test_leaky_slope_is_that_of_the_sampled_network() -> None:
    modules = net(activation="leaky_relu").sample(torch.Generator().manual_seed(0))
    slope = float(modules[1](torch.tensor(-1.0)))
    g = (1.0 + slope**2) / 2.0
    table = predict(net(activation="leaky_relu"))
    post = row(table, metric="signal_gain", variant="post", index=1)["value"]
    pre = row(table, metric="signal_gain", variant="pre", index=1)["value"]
    # slope is -0.01 as float32.
    assert post / pre == pytest.approx(g, rel=1e-6)


def test_routes_tell_what_is_exact() -> None:
    for spectrum in SPECTRA:
        table = predict(net(spectrum))
        for metric in ("log_signal_mean", "length_gain", "log_gradient_variance"):
            frame = table.where(metric=metric).frame
            assert set(frame["route"]) == {"exact"}
            drawn = spectrum in ("slice", "temper")
            assert frame["standard_error"].is_not_null().all() == drawn
            assert all("drawn" in (reason or "") for reason in frame["reason"]) == drawn
    made = layer_law(ensemble(6, 6, profile=[1.0, 0.5, 0.2]), 1.0)
    rows = list(exact_rows([made, made], ["0.weight", "2.weight"], 0.0))
    routes = {row["route"] for row in rows if row["metric"] == "log_signal_mean"}
    assert routes == {"leading-order"}


def test_only_random_spectra_have_a_standard_error() -> None:
    for spectrum in SPECTRA:
        frame = predict(net(spectrum)).frame
        measured = frame.filter(pl.col("standard_error").is_not_null())
        assert measured.is_empty() == (spectrum not in ("slice", "temper"))
        moments = measured.filter(pl.col("metric") == "signal_second_moment")
        assert moments.is_empty() == (spectrum != "temper")
    found = row(
        predict(net("temper")), metric="layer_relative_variance", index=1, variant="pre"
    )
    law = net("temper").layers[0]
    # F = (a1^2 + 2 a2)/a1^2 n/(n+2): linear in a2.
    truth = 2.0 * law.a2_stderr / law.a1**2 * 6 / 8
    assert found["standard_error"] == pytest.approx(truth, rel=1e-9)
    assert found["upper"] - found["value"] == pytest.approx(4.0 * truth, rel=1e-9)
    assert found["error_kind"] == "stderr"


def test_mp_spike_says_that_refused_draws_count() -> None:
    # 3.9 is above what draws surely reach on 16 x 16, 1.5 is not.
    high = predict(RandomMLP([16, 16], stable_rank=3.9, spectrum="mp-spike"))
    low = predict(RandomMLP([16, 16], stable_rank=1.5, spectrum="mp-spike"))
    metric = "signal_second_moment"
    assert "refuses" in row(high, metric=metric, variant="pre")["reason"]
    assert row(low, metric=metric, variant="pre")["reason"] is None


@pytest.mark.parametrize(("sigma", "depth"), [(1e-3, 200), (30.0, 1000)])
def test_deep_networks_keep_their_logarithms(sigma: float, depth: int) -> None:
    law = RandomMLP(
        [4] * (depth + 1),
        stable_rank=1.5,
        spectrum="flat",
        norm="spectral",
        sigma=sigma,
    )
    table = predict(law)
    found = row(table, metric="signal_gain", variant="pre", index=depth)
    one = math.log(sigma**2 * 1.5 / 4)
    truth = depth * one + (depth - 1) * math.log(0.5)
    assert found["status"] == "nonfinite"
    assert found["log_value"] == pytest.approx(truth, rel=1e-12)
    assert found["value"] == (math.inf if sigma > 1 else 0.0)
    moment = row(table, metric="signal_second_moment", variant="pre", index=depth)
    F = (1 + 2 * (1.25 / 2.25)) * 4 / 6
    truth = depth * math.log(F) + (depth - 1) * math.log(9 / 6)
    assert moment["log_value"] == pytest.approx(truth, rel=1e-12)
    logs = row(table, metric="log_signal_mean", variant="pre", index=depth)
    assert math.isfinite(logs["value"])
    assert logs["status"] == "ok"
    frame = table.where(kind="measurement").frame
    values = frame.filter(pl.col("status") == "ok")["value"]
    assert values.is_finite().all()
    gradient = row(table, metric="gradient_gain", index=1)
    assert gradient["log_value"] == pytest.approx(found["log_value"], rel=1e-12)


def test_moderate_depth_is_a_number_and_its_logarithm() -> None:
    table = predict(net(widths=(5,) * 21))
    frame = table.frame.filter(pl.col("log_value").is_not_null())
    assert len(frame) > 100
    gaps = frame["value"].log() - frame["log_value"]
    assert float(gaps.abs().max()) < 1e-12


@pytest.mark.parametrize("sigma", [1e-70, 1e70])
def test_fluctuations_do_not_depend_on_the_scale(sigma: float) -> None:
    options: dict[str, Any] = {"stable_rank": 2.0, "spectrum": "spike"}
    a, b = (
        predict(RandomMLP([6, 9, 5], norm="spectral", sigma=s, **options))
        for s in (sigma, 1.0)
    )
    for metric in ("log_signal_variance", "layer_relative_variance"):
        x, y = (row(t, metric=metric, variant="pre", index=1)["value"] for t in (a, b))
        assert x == pytest.approx(y, rel=1e-10)
    x, y = (row(t, metric="collapse_depth", index=1)["value"] for t in (a, b))
    assert x == pytest.approx(y, rel=1e-10)


def test_bad_questions_are_refused_before_anything_is_computed() -> None:
    with pytest.raises(ArgumentTypeError, match="measure the model"):
        predict(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(DomainError, match=r"x.y / \(\|x\| \|y\|\)"):
        predict(net(), cosine=1.2)
    with pytest.raises(DomainError, match="zero input"):
        predict(net(activation="tanh"), input_mean_square=0.0)


def test_rank_one_layers_leave_kinks_undefined_and_say_why() -> None:
    table = predict(net(stable_rank=(1.0, 2.0, 2.0)))
    found = row(table, metric="new_kinks", index=2)
    assert found["status"] == "degenerate"
    assert math.isnan(found["value"])
    assert "rank one" in found["reason"]
    assert row(table, metric="new_kinks", index=1)["value"] == 9.0
    assert row(table, metric="new_kinks", index=None)["status"] == "degenerate"


def test_the_network_row_sums_the_kinks() -> None:
    table = predict(net())
    layers = table.where(metric="new_kinks").frame
    total = layers.filter(pl.col("index").is_null())["value"][0]
    rest = layers.filter(pl.col("index").is_not_null())["value"].sum()
    assert total == pytest.approx(rest, rel=1e-14)
    assert total == pytest.approx(9 + 5 * (1 - 10 / 2**9), rel=1e-14)


def test_linear_networks_have_no_kinks_and_others_no_squared_cosine() -> None:
    linear, relu = (predict(net(activation=a), cosine=0.5) for a in ("linear", "relu"))
    assert set(linear.where(metric="new_kinks").frame["kind"]) == {"skip"}
    assert set(relu.where(metric="squared_cosine").frame["kind"]) == {"skip"}
    cosines = linear.where(metric="cosine").frame["value"].to_list()
    assert cosines == [0.5] * 3


def test_several_cosines_are_told_apart() -> None:
    table = predict(net(), cosine=[0.0, 0.9])
    for cosine in (0.0, 0.9):
        rows = table.where(metric="cosine", input_cosine=cosine).frame
        assert rows["index"].to_list() == [1, 2, 3]
    first = row(table, metric="cosine", input_cosine=0.0, index=1)["value"]
    assert first == pytest.approx(1.0 / math.pi, rel=1e-12)
    # The output has no activation: its angle is that of the last hidden layer.
    second, third = (
        row(table, metric="cosine", input_cosine=0.9, index=i)["value"] for i in (2, 3)
    )
    assert second == third


def test_a_profile_whose_values_the_law_lacks_is_leading_order() -> None:
    made = layer_law(ensemble(6, 6, profile=[1.0, 0.5, 0.2]), 1.0)
    assert not layer_log_norm(made).exact


def test_the_table_survives_a_file(tmp_path: Any) -> None:
    table = predict(net("temper"), cosine=0.2)
    table.write(tmp_path / "theory.parquet")
    again = Table.read(tmp_path / "theory.parquet")
    assert again.frame.equals(table.frame)
    assert again.provenance["network"].startswith("RandomMLP(")


@pytest.mark.parametrize("options", [{"cosine": "a"}, {"cosine": [0.5, "a"]}])
def test_what_is_no_number_is_refused(options: dict) -> None:
    net = RandomMLP([4, 4, 2], 2, "flat")
    with pytest.raises(ArgumentTypeError, match="a cosine is a number, got str"):
        predict(net, **options)
    with pytest.raises(ArgumentTypeError, match="input_mean_square is a number"):
        predict(net, input_mean_square="a")
