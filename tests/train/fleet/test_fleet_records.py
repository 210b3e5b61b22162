"""When members stop, what is kept of their losses, and the table of it."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from fleet_loop import class_data, drawn, perceptron, train_alone
from tolerances import FLOAT64
from torch import nn

from spectrank.table import Table
from spectrank.train import SGD, FleetView, stack, train_fleet


def separable(num_samples=64):
    x, _ = class_data(num_samples=num_samples)
    return x, (x[:, 0] > 0).long()


def nets_of(count, widths=(7, 9, 2)):
    return [perceptron(list(widths), seed=i) for i in range(count)]


def run(nets, x, y, **options):
    defaults = {
        "optimizer": SGD(learning_rate=0.2, momentum=0.9),
        "batch_size": 16,
        "seeds": range(len(nets)),
        "max_steps": 60,
    }
    return train_fleet(nets[0], stack(nets), x, y, **{**defaults, **options})


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9])
def test_a_member_stops_after_the_first_step_whose_smoothed_loss_is_below(smoothing):
    nets = nets_of(4)
    x, y = separable()
    targets = [0.4, 0.2, -1.0, 0.3]
    result = run(nets, x, y, target_loss=targets, smoothing=smoothing, group_size=3)
    free = run(nets, x, y)
    for i, target in enumerate(targets):
        # Weights smoothing^age, normalised: from the definition, not by a recurrence.
        ages = np.arange(60)[::-1]
        smoothed = np.array(
            [
                np.average(free.losses[:t, i], weights=smoothing ** ages[-t:] + 0.0)
                for t in range(1, 61)
            ]
        )
        below = np.flatnonzero(smoothed < target)
        steps = int(below[0]) + 1 if len(below) else 60
        assert result.num_steps[i] == steps
        assert result.status[i] == ("target" if len(below) else "max_steps")
        assert result.final_loss[i] == pytest.approx(smoothed[steps - 1], rel=FLOAT64)
        assert np.isnan(result.losses[steps:, i]).all()
        assert np.array_equal(result.losses[:steps, i], free.losses[:steps, i])
    assert result.status.count("target") == 3
    assert np.isnan(result.steps_to_target[2])
    assert result.steps_to_target[0] == result.num_steps[0]


def test_parameters_are_those_after_the_step_that_reached_the_target():
    nets = nets_of(3)
    x, y = separable()
    result = run(nets, x, y, target_loss=0.3)
    assert set(result.status) == {"target"}
    for i, net in enumerate(nets):
        module, _ = train_alone(
            net,
            x,
            y,
            lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
            steps=int(result.num_steps[i]),
            batch_size=16,
            seed=i,
        )
        for name, p in module.named_parameters():
            assert torch.allclose(result.parameters[name][i], p, rtol=0, atol=FLOAT64)
        got = result.module(i).state_dict()
        assert all(torch.equal(v, got[k]) for k, v in result.state_dict(i).items())


def test_losses_are_kept_of_the_first_and_of_every_kth_step():
    nets = nets_of(2)
    x, y = separable()
    every, third = run(nets, x, y), run(nets, x, y, record_every=25)
    assert every.steps.tolist() == list(range(1, 61))
    assert third.steps.tolist() == [1, 25, 50]
    assert np.array_equal(third.losses, every.losses[[0, 24, 49]])


def test_the_table_has_a_row_a_number_and_censors_what_was_not_reached():
    nets = nets_of(4)
    with torch.no_grad():
        nets[3][0].bias[0] = math.nan
    x, y = separable()
    rates = [0.2, 0.1, 1e-6, 0.2]
    result = run(
        nets,
        x,
        y,
        optimizer=SGD(learning_rate=rates, momentum=0.9, weight_decay=[0, 0.1, 0, 0]),
        target_loss=[0.3, -math.inf, 0.3, 0.3],
        evaluations={"test": (x, y)},
        arms=["he", "he", "haar", "haar"],
        record_every=10,
    )
    table = result.table()
    assert set(table.frame["kind"]) == {"measurement"}
    first = table.where(run="0")
    assert first.value("network", "steps_to_target") == result.num_steps[0]
    row = next(iter(first.where(metric="steps_to_target")))
    assert (row["arm"], row["seed"], row["learning_rate"]) == ("he", 0, 0.2)
    assert (row["bound"], row["status"], row["batch_size"]) == (0.3, "ok", 16)
    # No target, no steps to it.
    assert len(table.where(run="1", metric="steps_to_target")) == 0
    assert next(iter(table.where(run="1")))["weight_decay"] == 0.1
    row = next(iter(table.where(run="2", metric="steps_to_target")))
    assert (row["value"], row["lower"], row["status"]) == (None, 60.0, "not_converged")
    assert row["reason"] == "not reached in 60 steps"
    hurt = table.where(run="3")
    assert set(hurt.frame["status"]) == {"nonfinite"}
    assert set(hurt.frame["ended"]) == {"nonfinite"}
    curve = table.where(run="2", metric="train_loss")
    assert curve.frame["step"].to_list() == [1, 10, 20, 30, 40, 50, 60]
    assert curve.frame["value"].to_list() == result.losses[:, 2].tolist()
    assert len(result.table(curves=False).where(metric="train_loss")) == 0
    assert table.provenance["route_reason"]
    assert table.frame.schema["learning_rate"] == pl.Float64


def test_the_table_survives_a_file(tmp_path):
    x, y = separable()
    table = run(nets_of(2), x, y, max_steps=3, target_loss=0.0).table()
    table.write(tmp_path / "fleet.parquet")
    assert Table.read(tmp_path / "fleet.parquet").frame.equals(table.frame)


@pytest.mark.parametrize("route", ["mlp", "vmap", "loop"])
def test_evaluations_are_those_of_the_modules(route):
    # More samples than one piece of the evaluation takes.
    nets = nets_of(3)
    x, y = separable(700)
    result = run(
        nets,
        x,
        y,
        max_steps=5,
        route=route,
        group_size=2,
        evaluations={"train": (x, y), "test": (-x[:60], y[:60])},
    )
    for i in range(3):
        module = result.module(i)
        for name, inputs, labels in [("train", x, y), ("test", -x[:60], y[:60])]:
            with torch.no_grad():
                outputs = module(inputs)
            loss = float(nn.functional.cross_entropy(outputs, labels))
            right = float((outputs.argmax(1) == labels).double().mean())
            assert result.evaluations[f"{name}_loss"][i] == pytest.approx(
                loss, rel=FLOAT64
            )
            assert result.evaluations[f"{name}_accuracy"][i] == pytest.approx(right)


def test_accuracy_of_a_logistic_loss_and_none_of_squares():
    nets = nets_of(2, (7, 9, 1))
    x, y = separable()
    result = run(
        nets,
        x,
        y.double(),
        loss="bce_with_logits",
        evaluations={"test": (x, y.double())},
    )
    right = (result.module(1)(x)[:, 0] > 0) == (y > 0)
    assert result.evaluations["test_accuracy"][1] == float(right.double().mean())
    squares = run(nets, x, y.double(), loss="mse", evaluations={"a": (x, y.double())})
    assert list(squares.evaluations) == ["a_loss"]


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("route", ["mlp", "vmap"])
def test_an_observer_sees_every_member_between_steps(route, group_size):
    nets = nets_of(3)
    x, y = separable()
    seen = []

    def look(step: int, fleet: FleetView) -> None:
        seen.append((step, fleet.active, fleet.losses.copy(), fleet.parameters()))

    options = {"route": route, "group_size": group_size}
    steps = [12, 4, 6]
    result = run(nets, x, y, max_steps=steps, on_step=look, observe_every=4, **options)
    assert [step for step, *_ in seen] == [4, 8, 12]
    assert [active for _, active, *_ in seen] == [(0, 2), (0,), ()]
    for step, _, losses, parameters in seen:
        upto = [min(step, limit) for limit in steps]
        short = run(nets, x, y, max_steps=upto, **options)
        for name, value in parameters.items():
            assert torch.equal(value, short.parameters[name])
        last = [result.losses[count - 1, i] for i, count in enumerate(upto)]
        assert np.array_equal(losses, last)
    for value in seen[-1][3].values():
        value.zero_()
    assert all(bool(value.any()) for value in result.parameters.values())


def test_stack_and_unstack_are_inverse_and_share_nothing():
    layer = nn.Linear(5, 5)
    nets = [
        drawn(nn.Sequential(nn.Linear(7, 5), layer, nn.ReLU(), layer), seed=i)
        for i in range(1)
    ]
    stacked = stack(nets)
    # A parameter with two names is there once.
    assert list(stacked) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    x, y = class_data(classes=5)
    result = run(nets, x, y, max_steps=0)
    assert result.num_steps.tolist() == [0]
    assert torch.equal(result.module(0)(x), nets[0](x))
    stacked["0.weight"].zero_()
    result.parameters["0.weight"].zero_()
    assert bool(nets[0][0].weight.any())
