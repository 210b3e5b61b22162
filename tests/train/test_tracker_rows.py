"""Rows of a tracker: which matrices, which steps, which columns, and a live model."""

import math

import pytest
import torch
from torch import nn

import spectrank as sr
from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.train.sinks import MemorySink, ParquetSink
from spectrank.train.tracker import Tracker


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(40, 48)
        self.norm = nn.LayerNorm(48)
        self.second = nn.Linear(48, 40)
        self.tied = nn.Linear(48, 40)
        self.tied.weight = self.second.weight

    def forward(self, x):
        return self.tied(self.second(self.norm(self.first(x))).repeat(1, 2)[:, :48])


def train(model, optimizer, num_steps, tracker=None):
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    width = layer.in_features
    for _ in range(num_steps):
        optimizer.zero_grad()
        x = torch.linspace(-1.0, 1.0, 4 * width).reshape(4, width)
        loss = model(x.to(next(model.parameters()))).square().mean()
        loss.backward()
        optimizer.step()
        if tracker is not None:
            tracker.observe(optimizer, loss)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def measured(tracker, **equals):
    return tracker.table().where(kind="measurement", **equals).frame


def test_every_matrix_once_a_tick_tied_ones_once_and_skips_once_in_all():
    torch.manual_seed(0)
    model = Net()
    tracker = Tracker(model, run="a")
    train(model, sgd(model), 40, tracker)
    table = tracker.table()
    frame = measured(tracker)
    assert frame["subject"].unique(maintain_order=True).to_list() == [
        "first.weight",
        "second.weight",
    ]
    for name in ("first.weight", "second.weight"):
        own = frame.filter(frame["subject"] == name)
        assert own["step"].to_list() == list(range(1, 41))
    skips = table.where(kind="skip").frame
    assert skips["subject"].to_list() == [
        *["first.bias", "norm.weight", "norm.bias", "second.bias"],
        *["tied.weight", "tied.bias"],
    ]
    assert "tied to second.weight" in skips["reason"].to_list()
    assert table.frame["run"].unique().to_list() == ["a"]
    row = frame.row(0, named=True)
    assert (row["m"], row["n"], row["view"]) == (48, 40, "linear")
    assert row["metric"] == "stable_rank"


def test_loss_and_the_learning_rate_of_each_group_are_in_the_row():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(
        [
            {"params": model[0].parameters(), "lr": 0.5},
            {"params": model[1].parameters(), "lr": torch.tensor(0.25)},
        ],
        lr=1.0,
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    tracker = Tracker(model)
    tracker.measure()
    for loss in (3.0, torch.tensor(2.0), None):
        optimizer.step()
        tracker.observe(optimizer, loss)
        schedule.step()
    frame = measured(tracker)
    assert frame["loss"].to_list() == [None] * 3 + [3.0] * 3 + [2.0] * 3 + [None] * 3
    rates = {
        name: frame.filter(frame["subject"] == f"{name}.weight")["learning_rate"]
        for name in "012"
    }
    assert rates["0"].to_list() == [None, 0.5, 0.25, 0.125]
    assert rates["1"].to_list() == [None, 0.25, 0.125, 0.0625]
    assert rates["2"].to_list() == [None] * 4
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 2.0})
    tracker.observe(optimizer)
    assert measured(tracker, subject="2.weight")["learning_rate"].to_list()[-1] == 2.0


def test_every_and_first_step_choose_the_steps():
    model = nn.Linear(40, 40)
    tracker = Tracker(model, every=3, first_step=100)
    tracker.measure()
    tracker.measure()
    train(model, sgd(model), 8, tracker)
    tracker.measure()
    assert measured(tracker)["step"].to_list() == [100, 102, 105, 108]


def test_an_attached_tracker_measures_as_one_that_is_called():
    def steps(attach):
        torch.manual_seed(0)
        model = nn.Linear(40, 40)
        optimizer, tracker = sgd(model), Tracker(model)
        if attach:
            with tracker.attach(optimizer):
                train(model, optimizer, 5)
        else:
            train(model, optimizer, 5, tracker)
        return measured(tracker)["value"].to_list()

    assert steps(True) == steps(False)


def test_norms_follow_each_tick_and_full_spectra_their_own_pace():
    torch.manual_seed(0)
    model = nn.Linear(40, 48)
    metrics = (
        "effective_rank,stable_rank,spectral_norm,frobenius_norm,energy_rank:q=0.5"
    )
    tracker = Tracker(model, metrics, every=2, spectrum_every=3)
    train(model, sgd(model), 6, tracker)
    seen = {
        name: measured(tracker, metric=name)["step"].to_list()
        for name in ("stable_rank", "effective_rank", "energy_rank")
    }
    assert seen == {
        "stable_rank": [2, 4, 6],
        "effective_rank": [3, 6],
        "energy_rank": [3, 6],
    }
    now = sr.scan(model, metrics="effective_rank,frobenius_norm,spectral_norm")
    for name in ("effective_rank", "frobenius_norm", "spectral_norm"):
        row = measured(tracker, metric=name, step=6).row(0, named=True)
        truth = now.value("weight", name)
        assert row["lower"] * (1 - 1e-9) <= truth <= row["upper"] * (1 + 1e-9)
        assert row["value"] == pytest.approx(truth, rel=1e-2)
    row = measured(tracker, metric="energy_rank").row(0, named=True)
    assert row["variant"] == "q=0.5"
    assert row["route"] == "gram"
    assert tracker.table().provenance["definitions"]["stable_rank"]["formula"]


def test_metrics_of_full_spectra_alone_take_no_ticks():
    model = nn.Linear(40, 48)
    tracker = Tracker(model, "effective_rank", spectrum_every=2)
    train(model, sgd(model), 4, tracker)
    assert measured(tracker)["step"].to_list() == [2, 4]
    assert list(tracker.latest) == ["weight"]


def test_latest_is_the_newest_value_of_each_matrix():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 3))
    tracker = Tracker(model, "stable_rank,frobenius_norm")
    assert tracker.latest == {}
    assert len(tracker.table().where(kind="measurement")) == 0
    train(model, sgd(model), 2, tracker)
    now = sr.scan(model, metrics="stable_rank")
    for name in ("0.weight", "1.weight"):
        assert tracker.latest[name] == pytest.approx(
            now.value(name, "stable_rank"), rel=0.05
        )
    assert len(tracker.latest) == 2


def test_select_and_views_are_those_of_a_scan():
    model = nn.Sequential(nn.Conv2d(1, 40, 3), nn.Linear(40, 40))
    tracker = Tracker(model, select="0.*")
    tracker.measure()
    row = measured(tracker).row(0, named=True)
    assert (row["subject"], row["view"], row["n"]) == ("0.weight", "conv-unfolded", 9)
    lstm = nn.LSTM(8, 8)
    with pytest.raises(DomainError, match="at least one matrix"):
        Tracker(lstm)
    tracker = Tracker(lstm, views={"weight_*": "linear"})
    tracker.measure()
    assert measured(tracker)["m"].to_list() == [32, 32]


def test_parameters_that_are_cast_moved_or_replaced_are_followed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40, bias=False), nn.Linear(40, 40, bias=False))
    tracker = Tracker(model, "frobenius_norm")

    def check():
        tracker.measure()
        for name, p in model.named_parameters():
            truth = float(p.detach().double().norm())
            assert tracker.latest[name] == pytest.approx(truth, rel=1e-6)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    check()
    model.double()
    tracker.observe(optimizer)
    check()
    model[0].weight.data = 2.0 * model[0].weight.data
    tracker.observe(optimizer)
    check()
    model[1].weight = nn.Parameter(torch.ones(40, 40, dtype=torch.float64))
    tracker.observe(optimizer)
    check()
    model.load_state_dict(
        {"0.weight": torch.eye(40), "1.weight": torch.eye(40)}, assign=True
    )
    tracker.observe(optimizer)
    check()
    # Another module in its place, of another shape.
    model[1] = nn.Linear(40, 50, bias=False)
    tracker.observe(optimizer)
    check()
    assert measured(tracker, subject="1.weight")["m"].to_list()[-1] == 50
    frame = measured(tracker)
    assert frame["status"].unique().to_list() == ["ok"]


def test_a_matrix_that_leaves_the_model_gets_a_last_row_that_says_so():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    tracker = Tracker(model)
    optimizer = sgd(model)
    train(model, optimizer, 2, tracker)
    model[1].weight = None
    tracker.observe(optimizer)
    tracker.observe(optimizer)
    (row,) = [r for r in tracker.table().where(kind="skip") if r["step"] is not None]
    assert (row["subject"], row["step"]) == ("1.weight", 3)
    assert "no matrix of this name any more" in row["reason"]
    assert measured(tracker, subject="1.weight")["step"].to_list() == [1, 2]
    assert measured(tracker, subject="0.weight")["step"].to_list() == [1, 2, 3, 4]
    assert list(tracker.latest) == ["0.weight"]


def test_computed_weights_are_measured_as_they_are_computed():
    torch.manual_seed(0)
    model = nn.utils.parametrizations.weight_norm(nn.Linear(40, 48))
    tracker = Tracker(model)
    train(model, sgd(model), 3, tracker)
    truth = sr.scan(model, metrics="stable_rank")
    name = truth.where(kind="measurement").frame["subject"][0]
    row = measured(tracker, subject=name).row(-1, named=True)
    assert row["lower"] <= truth.value(name, "stable_rank") <= row["upper"]


def test_rows_reach_a_sink_on_disk_and_come_back(tmp_path):
    model = nn.Linear(40, 40)
    with Tracker(model, sink=ParquetSink(tmp_path, steps_per_part=20)) as tracker:
        train(model, sgd(model), 70, tracker)
        assert len(list(tmp_path.glob("part-*"))) == 2
        live = tracker.table().frame
    table = ParquetSink.read(tmp_path)
    assert table.frame.equals(live)
    assert table.where(kind="measurement").frame["step"].to_list() == list(range(1, 71))
    assert table.provenance["settings"]["metrics"] == ["stable_rank"]


def test_rows_do_not_wait_longer_than_five_hundred_steps_for_the_sink():
    sink = MemorySink()
    model = nn.Linear(3, 3, bias=False)
    tracker = Tracker(model, every=200, sink=sink)
    optimizer = sgd(model)
    for _ in range(799):
        tracker.observe(optimizer)
    assert sink.table().frame["step"].to_list() == []
    tracker.observe(optimizer)
    assert sink.table().frame["step"].to_list() == [200, 400, 600, 800]


def test_two_runs_may_share_a_sink():
    sink = MemorySink()
    for run in ("a", "b"):
        model = nn.Linear(40, 40, bias=False)
        tracker = Tracker(model, sink=sink, run=run)
        train(model, sgd(model), 2, tracker)
        tracker.flush()
    assert sink.table().frame["run"].to_list() == ["a", "a", "b", "b"]


def test_a_diverging_run_is_tracked_to_its_end():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e8)
    tracker = Tracker(model)
    train(model, optimizer, 40, tracker)
    frame = measured(tracker)
    assert not math.isfinite(float(model[0].weight.detach().sum()))
    for name in ("0.weight", "1.weight"):
        own = frame.filter(frame["subject"] == name)
        assert len(own) == 40
        assert own["status"][-1] == "nonfinite"
        assert own["reason"][-1] is not None


def test_wrong_arguments_are_refused():
    model = nn.Linear(40, 40)
    with pytest.raises(ArgumentTypeError, match="for state dicts and files"):
        Tracker(model.state_dict())
    with pytest.raises(ArgumentTypeError, match="rows go to a Sink"):
        Tracker(model, sink="folder")
    with pytest.raises(UnknownNameError, match="did you mean 'stable_rank'"):
        Tracker(model, "stable_rnk")
    for name in ("every", "refresh", "num_products", "spectrum_every"):
        with pytest.raises(DomainError, match=f"{name} must be at least 1, got 0"):
            Tracker(model, **{name: 0})
        with pytest.raises(ArgumentTypeError, match=name):
            Tracker(model, **{name: 1.5})
    for name in ("rtol", "failure_probability"):
        with pytest.raises(DomainError, match=name):
            Tracker(model, **{name: 1.0})
        with pytest.raises(ArgumentTypeError, match=name):
            Tracker(model, **{name: "small"})
    with pytest.raises(ArgumentTypeError, match="seed is a whole number"):
        Tracker(model, seed=0.5)
    with pytest.raises(DomainError, match="'nothing' matches none"):
        Tracker(model, select="nothing")
