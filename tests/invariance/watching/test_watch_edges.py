"""Rounding, subclasses of optimizers, cost, what is left alone and what is refused."""

from __future__ import annotations

import pytest
import torch
import watched_nets as nets
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.invariance.laws import Laws
from spectrank.invariance.watching import Watch, watching_cost


def _last(watch: Watch) -> dict[str, dict]:
    frame = watch.table().frame
    rows = frame.filter(frame["step"] == frame["step"].max())
    return {row["subject"]: row for row in rows.iter_rows(named=True)}


def _sgd(model: nn.Module, lr: float = 0.05, **options) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def test_float32_stays_below_what_rounding_allows_and_above_nothing() -> None:
    model = nets.network(dtype=torch.float32)
    optimizer = _sgd(model, lr=0.01, momentum=0.9)
    with Watch(model, nets.laws(), optimizer=optimizer, every=100) as watch:
        nets.run(model, [optimizer], 300)
    for name, row in _last(watch).items():
        assert row["verdict"] in {"conserved", "explained"}, name
        assert abs(row["residual"]) <= row["bound"]
        # The largest sum of squares is 60: 1e-4 of it after 300 steps.
        assert row["bound"] < 6e-3, name
    residuals = [abs(row["residual"]) for row in _last(watch).values()]
    assert max(residuals) > 1e-8


def test_the_step_of_a_subclass_counts_once_and_one_that_raises_not_at_all() -> None:
    class Mine(torch.optim.SGD):
        fail = False

        def step(self, closure=None):
            if self.fail:
                raise RuntimeError("out of luck")
            return super().step(closure)

    model = nets.network()
    torch.optim.SGD(model.parameters(), lr=1.0)  # torch wraps step of both classes.
    optimizer = Mine(model.parameters(), lr=0.05)
    laws = nets.laws()
    options = {"as_type": torch.optim.SGD, "every": 1}
    with Watch(model, laws, optimizer=optimizer, **options) as watch:
        nets.run(model, [optimizer], 2)
        optimizer.fail = True
        with pytest.raises(RuntimeError, match="luck"):
            nets.run(model, [optimizer], 1)
        optimizer.fail = False
        nets.run(model, [optimizer], 2)
    assert watch.step == 4
    assert {r["verdict"] for r in _last(watch).values()} == {"explained", "conserved"}
    unknown = Watch(model, laws, optimizer=optimizer)
    assert {r["verdict"] for r in _last(unknown).values()} == {"not_applicable"}


def test_the_run_is_bit_for_bit_the_run_without() -> None:
    found = []
    for watched in (True, False):
        torch.manual_seed(3)
        model = nets.network(dtype=torch.float32)
        optimizer = _sgd(model, momentum=0.9, nesterov=True, weight_decay=0.1)
        hooks = len(optimizer._optimizer_step_pre_hooks)
        if watched:
            with Watch(model, nets.laws(), optimizer=optimizer, every=1):
                nets.run(model, [optimizer], 10)
        else:
            nets.run(model, [optimizer], 10)
        assert len(optimizer._optimizer_step_pre_hooks) == hooks
        assert not optimizer._optimizer_step_post_hooks
        found.append([*model.parameters(), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_large_matrices_are_watched_on_some_features_and_cost_is_told() -> None:
    model = nets.network()
    laws = Laws((nets.matrix(), nets.vertex(1)))
    optimizer = _sgd(model)
    with Watch(model, laws, optimizer=optimizer, every=1, features=2) as watch:
        nets.run(model, [optimizer], 3)
    row = _last(watch)["matrix 4"]
    assert row["num_laws"] == 4
    # Units 0 and 3 of four, by hand.
    gap = nets.by_hand(dict(model.named_parameters()))["matrix 4"].reshape(4, 4)
    entry = gap[[0, 3]][:, [0, 3]].flatten()[row["index"]]
    assert row["value"] == pytest.approx(float(entry), rel=1e-12)
    assert "entries of 2 of 4 features" in row["reason"]
    # 2 x 2 entries, 4 + 1 + 3 columns; rows of the signed sum are read twice. Then
    # 24 + 4 + 16 + 4 + 12 numbers of 8 bytes.
    assert watch.cost.multiplications == 4 * 8 + 2 * 4 * 8
    assert watch.cost.num_narrowed == 1
    assert "1 matrix law followed on some" in str(watch.cost)
    assert repr(watch) == (
        "Watch(2 laws of Sequential, step 3: 2 explained; 1 in part)"
    )
    assert watching_cost(model, laws, features=2) == watch.cost
    whole = watching_cost(model, laws, features="all")
    assert whole.multiplications == 16 * 8
    assert "some" not in str(whole)
    assert watch.cost.read_bytes == 8 * (24 + 4 + 16 + 4 + 12)


def test_weights_that_are_not_finite_are_said_to_be() -> None:
    model = nets.network()
    optimizer = _sgd(model)
    with Watch(model, nets.laws(), optimizer=optimizer, every=1) as watch:
        nets.run(model, [optimizer], 1)
        with torch.no_grad():
            model[0].weight[0, 0] = float("nan")
        watch.evaluate()
    row = _last(watch)["vertex 0"]
    assert (row["verdict"], row["status"]) == ("not_applicable", "nonfinite")
    assert watch.table().frame["status"].to_list().count("nonfinite") == 2


def test_refusals() -> None:
    model = nets.network()
    laws, optimizer = nets.laws(), _sgd(model)
    half, other = nets.network().bfloat16(), nn.Linear(2, 2)
    with pytest.raises(DomainError, match=r"float32 or float64, got torch\.bfloat16"):
        Watch(half, laws, optimizer=_sgd(half))
    with pytest.raises(UnknownNameError, match=r"'0\.weight', which it lacks"):
        Watch(other, laws, optimizer=_sgd(other))
    with pytest.raises(DomainError, match="holds none of its parameters"):
        Watch(model, laws, optimizer=_sgd(nets.network()))
    with pytest.raises(DomainError, match="one of them twice"):
        Watch(model, laws, optimizer=[optimizer, optimizer])
    with pytest.raises(ArgumentTypeError, match=r"torch\.optim\.Optimizer"):
        Watch(model, laws, optimizer=model)
    with pytest.raises(ArgumentTypeError, match="laws are a Laws, got list"):
        Watch(model, list(laws), optimizer=optimizer)
    with pytest.raises(DomainError, match="at least one family"):
        Watch(model, Laws(()), optimizer=optimizer)
    with pytest.raises(DomainError, match="every is at least 1, got 0"):
        Watch(model, laws, optimizer=optimizer, every=0)
    with pytest.raises(ArgumentTypeError, match="features is a whole number"):
        Watch(model, laws, optimizer=optimizer, features=2.5)
    assert not optimizer._optimizer_step_pre_hooks
