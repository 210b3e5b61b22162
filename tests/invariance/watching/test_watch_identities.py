"""Predictions of one step after another, against torch.optim and sums by hand."""

from __future__ import annotations

import math

import pytest
import torch
import watched_nets as nets
from torch import nn

from spectrank.invariance.watching import Watch

STEPS = 15
OPTIMIZERS = {
    "plain": {},
    "decay": {"weight_decay": 0.03},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.8, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "momentum-decay": {"momentum": 0.9, "weight_decay": 0.03},
    "dampened-decay": {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.03},
    "nesterov-decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.03},
}


def _groups(model: nn.Module, how: str) -> list[dict]:
    named = list(model.named_parameters())
    if how == "one":
        return [{"params": [p for _, p in named]}]
    if how == "biases-do-not-decay":
        return [
            {"params": [p for n, p in named if "weight" in n]},
            {"params": [p for n, p in named if "bias" in n], "weight_decay": 0.0},
        ]
    return [{"params": [p], "lr": 0.02 * (1 + k)} for k, (_, p) in enumerate(named)]


def _start(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _check(watch: Watch, model: nn.Module, start, ratios=None, steps=STEPS) -> None:
    """Drift is what the sums by hand say, and predicted to 1e-12."""
    last = watch.table().where(step=steps)
    before = nets.by_hand(start, ratios=ratios)
    after = nets.by_hand(dict(model.named_parameters()), ratios=ratios)
    for row in last.frame.iter_rows(named=True):
        name, k = row["subject"], row["index"]
        drift = float((after[name] - before[name])[k])
        assert row["drift"] == pytest.approx(drift, rel=1e-10, abs=1e-12), name
        assert row["value"] == pytest.approx(float(after[name][k]), rel=1e-12), name
        assert abs(row["residual"]) <= 1e-12, (name, row["residual"])
        assert row["verdict"] in {"conserved", "explained"}, (name, row["reason"])
    quadratic = last.frame.filter(last.frame["variant"] != "linear")
    # The predictions are of something: curvature alone moves the values by this much.
    assert quadratic["largest_drift"].min() > 1e-6


@pytest.mark.parametrize("groups", ["one", "biases-do-not-decay", "rate-per-tensor"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_drift_is_predicted_to_rounding_whatever_gradient_descent_does(
    name: str, groups: str
) -> None:
    model = nets.network()
    optimizer = torch.optim.SGD(_groups(model, groups), lr=0.05, **OPTIMIZERS[name])
    start, ratios = _start(model), None
    if groups == "rate-per-tensor":
        names = [n for n, _ in model.named_parameters()]
        rates = {n: 0.02 * (1 + k) for k, n in enumerate(names)}
    with Watch(model, nets.laws(), optimizer=optimizer, every=5) as watch:
        nets.run(model, [optimizer], STEPS)
    if groups != "rate-per-tensor":
        return _check(watch, model, start, ratios)
    # The reference rate is that of the first parameter of each law.
    for law in nets.laws():
        ratios = {n: r / rates[law.parameters[0]] for n, r in rates.items()}
        row = watch.table().where(step=STEPS, subject=law.name).frame.row(0, named=True)
        before = nets.by_hand(start, ratios=ratios)[law.name]
        after = nets.by_hand(dict(model.named_parameters()), ratios=ratios)[law.name]
        drift = float((after - before)[row["index"]])
        assert row["drift"] == pytest.approx(drift, rel=1e-10, abs=1e-12)
        assert abs(row["residual"]) <= 1e-11
        assert row["verdict"] in {"conserved", "explained"}, row["reason"]
    return None


def test_what_is_explained_is_the_sum_of_squared_rates_times_laws_of_gradients():
    model = nets.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    total: dict[str, torch.Tensor] = {}

    def add(k: int) -> None:
        optimizer.param_groups[0]["lr"] = rate = 0.05 / k
        gradients = {n: p.grad for n, p in model.named_parameters()}
        for name, value in nets.by_hand(gradients).items():
            total[name] = total.get(name, 0.0) + rate**2 * value

    with Watch(model, nets.laws(), optimizer=optimizer, every=5) as watch:
        nets.run(model, [optimizer], STEPS, before=add)
    for row in watch.table().where(step=STEPS).frame.iter_rows(named=True):
        expected = 0.0
        if row["variant"] != "linear":
            expected = float(total[row["subject"]][row["index"]])
        assert row["explained"] == pytest.approx(expected, rel=1e-11, abs=1e-15)


def test_decay_alone_shrinks_quadratic_laws_by_a_square_and_linear_ones_not():
    model = nets.network()
    start = nets.by_hand(dict(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    with Watch(model, nets.laws(), optimizer=optimizer, every=5) as watch:
        for _ in range(10):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
    for row in watch.table().where(step=10).frame.iter_rows(named=True):
        power = 10 if row["variant"] == "linear" else 20
        first = float(start[row["subject"]][row["index"]])
        assert row["explained"] == pytest.approx((0.95**power - 1) * first, rel=1e-12)
        assert row["verdict"] == "explained"


def test_schedules_of_rate_and_momentum_are_followed() -> None:
    model = nets.network()
    optimizer = torch.optim.SGD(
        model.parameters(), 0.01, momentum=0.9, weight_decay=0.02
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=STEPS + 1
    )
    start = _start(model)
    with Watch(model, nets.laws(), optimizer=optimizer, every=5) as watch:
        nets.run(model, [optimizer], STEPS, between=lambda _: schedule.step())
    _check(watch, model, start)


def test_clipping_by_the_global_norm_is_another_rate_and_by_value_breaks() -> None:
    def clipped(how):
        model = nets.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        start = _start(model)
        with Watch(model, nets.laws(), optimizer=optimizer, structure_every=1) as watch:
            nets.run(
                model, [optimizer], STEPS, before=lambda _: how(model.parameters())
            )
        return watch, model, start

    _check(*clipped(lambda p: nn.utils.clip_grad_norm_(p, 0.1)))
    broken, _, _ = clipped(lambda p: nn.utils.clip_grad_value_(p, 0.01))
    rows = broken.table().where(step=STEPS).frame
    assert set(rows["verdict"]) == {"broken"}
    assert rows["broken_step"].to_list() == [1] * len(rows)


def test_ascent_is_descent_of_the_negative() -> None:
    model = nets.network()
    groups = _groups(model, "biases-do-not-decay")
    optimizer = torch.optim.SGD(
        groups, lr=0.05, maximize=True, weight_decay=0.1, momentum=0.5, nesterov=True
    )
    plain = nets.network()
    climbing = torch.optim.SGD(
        _groups(plain, "biases-do-not-decay"), lr=0.05, maximize=True, weight_decay=0.1
    )
    for net, one in ((model, optimizer), (plain, climbing)):
        start = _start(net)
        with Watch(net, nets.laws(), optimizer=one, every=5) as watch:
            nets.run(net, [one], STEPS, sign=-1.0)
        _check(watch, net, start)


def test_averaged_descent_decays_beside_its_falling_rate() -> None:
    model = nets.network()
    optimizer = torch.optim.ASGD(
        model.parameters(), lr=0.05, lambd=0.02, weight_decay=0.01, alpha=0.6
    )
    start = _start(model)
    with Watch(model, nets.laws(), optimizer=optimizer, every=5) as watch:
        nets.run(model, [optimizer], STEPS)
    _check(watch, model, start)


class _Decoupled(torch.optim.SGD):
    """Momentum with w <- (1 - eta d) w beside the step."""

    def step(self, closure=None):
        kept = [group["weight_decay"] for group in self.param_groups]
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                group["weight_decay"] = 0.0
        super().step(closure)
        for group, decay in zip(self.param_groups, kept, strict=True):
            group["weight_decay"] = decay


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_decay_beside_a_step_with_momentum_has_its_own_recursion(momentum) -> None:
    model = nets.network()
    optimizer = _Decoupled(
        model.parameters(), 0.05, momentum=momentum, weight_decay=0.1
    )
    start = _start(model)
    options = {"optimizer": optimizer, "decay": "decoupled", "as_type": torch.optim.SGD}
    with Watch(model, nets.laws(), **options) as watch:
        nets.run(model, [optimizer], STEPS)
    _check(watch, model, start)


def test_a_closure_makes_the_gradient_inside_the_step() -> None:
    model = nets.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    start = _start(model)
    with Watch(model, nets.laws(), optimizer=optimizer, every=5) as watch:
        for batch in nets.batches(1, STEPS):
            optimizer.step(lambda batch=batch: nets.backward(model, batch))
    _check(watch, model, start)
    assert set(watch.table().frame["structure"]) == {None}


def test_buffers_made_before_the_watch_are_measured() -> None:
    model = nets.network()
    optimizer = torch.optim.SGD(
        model.parameters(), 0.05, momentum=0.9, dampening=0.2, weight_decay=0.02
    )
    nets.run(model, [optimizer], 7, seed=5)
    start = _start(model)
    with Watch(model, nets.laws(), optimizer=optimizer, every=5) as watch:
        nets.run(model, [optimizer], STEPS)
    _check(watch, model, start)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_rate_of_zero_moves_nothing_at_the_start_or_on_the_way(momentum) -> None:
    model = nets.network()
    groups = [{"params": [p], "lr": 0.0} for p in model.parameters()]
    optimizer = torch.optim.SGD(groups, momentum=momentum, weight_decay=0.05)
    start = _start(model)

    def schedule(k: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if k < 3 or 6 < k < 9 else 0.04

    with Watch(model, nets.laws(), optimizer=optimizer, every=1) as watch:
        nets.run(model, [optimizer], STEPS, before=schedule)
    assert set(watch.table().where(step=2).frame["verdict"]) == {"conserved"}
    _check(watch, model, start)


def test_several_optimizers_make_one_step() -> None:
    model = nets.network()
    first = torch.optim.SGD(model[:2].parameters(), lr=0.05)
    second = torch.optim.SGD(model[2:].parameters(), lr=0.05)
    start = _start(model)
    with Watch(model, nets.laws(), optimizer=[first, second], every=5) as watch:
        nets.run(model, [first, second], STEPS)
    _check(watch, model, start)


def test_steps_scaled_by_the_loss_do_not_underflow() -> None:
    model = nets.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e178)

    def shrink(_: int) -> None:
        for p in model.parameters():
            p.grad.mul_(1e-180)

    with Watch(model, nets.laws(), optimizer=optimizer, structure_every=1) as watch:
        nets.run(model, [optimizer], STEPS, before=shrink)
    assert math.isfinite(watch.table().frame["largest_drift"].max())
    rows = watch.table().where(step=STEPS).frame
    assert rows.filter(rows["variant"] != "linear")["explained"].abs().min() > 0
    assert set(rows["verdict"]) <= {"conserved", "explained"}, rows["reason"]
