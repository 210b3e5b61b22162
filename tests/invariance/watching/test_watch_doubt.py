"""Laws that gradients change themselves, and cases in which nothing can be told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import watched_nets as nets
from torch import nn

from spectrank.invariance.laws import Law, Laws, SquareTerm
from spectrank.invariance.watching import Watch


def _rows(watch: Watch) -> dict[str, dict]:
    frame = watch.table().frame
    rows = frame.filter(frame["step"] == frame["step"].max())
    return {row["subject"]: row for row in rows.iter_rows(named=True)}


def _sgd(model: nn.Module, lr: float = 0.05, **options) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_small_break_of_structure_is_seen_and_accuses_nobody(dtype) -> None:
    """A penalty in the gradient: B(w, g) = 1e-3 h(w), in float32 too.

    Of all layers together: a unit that is dead has nothing but the penalty.
    """
    model = nets.network(dtype=dtype)
    optimizer = _sgd(model, lr=1e-3)

    def penalise(k: int) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.grad.add_(p, alpha=1e-3)

    law = replace(nets.cut(), condition="a loss of the outputs alone")
    with Watch(model, Laws((law, nets.softmax())), optimizer=optimizer) as watch:
        nets.run(model, [optimizer], 2, before=penalise)
    row = _rows(watch)["cut"]
    assert row["verdict"] == "broken"
    assert row["broken_step"] == 1
    assert "to first order" in row["reason"]
    assert row["reason"].endswith("it needs: a loss of the outputs alone")
    assert row["suspects"] is None
    # It is small, and above what rounding may do in float32.
    assert row["structure_tolerance"] < row["structure"] < 3e-2


def test_a_false_law_found_by_its_drift_is_looked_at_and_clears_its_parameters() -> (
    None
):
    """Weights decay by hand from step 3 on, between two tests of the structure."""
    model = nets.network()
    optimizer = _sgd(model)

    def penalise(k: int) -> None:
        if k >= 3:
            with torch.no_grad():
                for p in model.parameters():
                    p.grad.add_(p, alpha=0.1)

    options = {"optimizer": optimizer, "every": 1, "structure_every": 50}
    with Watch(model, nets.laws(), **options) as watch:
        nets.run(model, [optimizer], 3, before=penalise)
        seen = _rows(watch)["vertex 2"]
        nets.run(model, [optimizer], 4, before=penalise, seed=2)
    assert (seen["verdict"], seen["broken_step"]) == ("broken", 3)
    assert "left its prediction in step 3" in seen["reason"]
    with Watch(model, nets.laws(), **options) as watch:
        nets.run(model, [optimizer], 2, seed=3)
        nets.run(model, [optimizer], 4, before=penalise, seed=4)
    row = _rows(watch)["vertex 2"]
    assert (row["verdict"], row["broken_step"]) == ("broken", 5)
    assert "left its prediction in step 5" in row["reason"]
    assert "the gradient of step 6 changes it" in row["reason"]
    assert row["structure_step"] == 6
    assert row["suspects"] is None


def test_a_law_whose_condition_fails_names_it() -> None:
    """Inputs so small that eps is no longer far below the variance."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    every = np.arange(4)
    square = SquareTerm("0.weight", (4, 3), (0,), every, every, np.ones(4))
    condition = "eps of the normalisation far below the variance"
    scale = Law(
        "scale 0", "scale", "squares", (square,), (4,), 4, condition, "", exact=False
    )
    optimizer = _sgd(model, lr=1e-3)
    with Watch(model, Laws((scale,)), optimizer=optimizer, every=1) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            model(5e-3 * torch.randn(16, 3).double()).square().mean().backward()
            optimizer.step()
    row = _rows(watch)["scale 0"]
    assert row["verdict"] == "broken"
    assert f"it needs: {condition}" in row["reason"]
    assert row["suspects"] is None


def test_a_removed_watch_tells_values_and_has_no_verdict() -> None:
    model = nets.network()
    optimizer = _sgd(model)
    watch = Watch(model, nets.laws(), optimizer=optimizer, every=1)
    nets.run(model, [optimizer], 1)
    watch.remove()
    watch.rebase()
    nets.run(model, [optimizer], 1)
    watch.evaluate()
    for row in _rows(watch).values():
        assert row["verdict"] == "not_applicable"
        assert "was removed" in row["reason"]
    now = nets.by_hand(dict(model.named_parameters()))
    last = watch.table().frame.to_dicts()[-len(nets.laws()) :]
    for row in last:
        hand = float(now[row["subject"]][row["index"]])
        assert row["value"] == pytest.approx(hand, rel=1e-12)


@pytest.mark.parametrize("to_none", [True, False])
def test_a_second_backward_between_two_optimizers_is_no_edit(to_none) -> None:
    model = nets.network()
    optimizers = [_sgd(model[:3]), _sgd(model[3:])]
    with Watch(model, nets.laws(), optimizer=optimizers, every=1) as watch:
        for x, y in nets.batches(1, 3):
            for optimizer in optimizers:
                model.zero_grad(set_to_none=to_none)
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    rows = _rows(watch)
    # The junction of both optimizers: 2 of the first, 4 of the second.
    assert rows["vertex 2"]["verdict"] == "not_applicable"
    assert "between the steps of two optimizers" in rows["vertex 2"]["reason"]
    # What the first optimizer did is not known either: its gradients are gone.
    assert rows["vertex 0"]["verdict"] == "not_applicable"
    # Gradients of the second are those of its own weights.
    for name in ("vertex 4", "matrix 4", "softmax 5"):
        assert rows[name]["verdict"] in {"conserved", "explained"}
    assert all(row["suspects"] is None for row in rows.values())


def test_gradients_that_are_scaled_between_two_optimizers_are_predicted() -> None:
    model = nets.network()
    optimizers = [_sgd(model[:3]), _sgd(model[3:])]
    with Watch(model, nets.laws(), optimizer=optimizers, every=1) as watch:
        for batch in nets.batches(1, 3):
            nets.backward(model, batch)
            for optimizer in optimizers:
                for p in model.parameters():
                    p.grad.mul_(1.0)
                optimizer.step()
    verdicts = {row["verdict"] for row in _rows(watch).values()}
    assert verdicts <= {"conserved", "explained"}


def _autocast(edit: float, dtype: torch.dtype) -> list[dict]:
    model = nets.network(dtype=torch.float32)
    optimizer = _sgd(model, lr=0.05)
    laws = Laws((nets.vertex(0), nets.vertex(1), nets.vertex(2), nets.matrix()))
    options = {"every": 1, "structure_every": 1, "computed_in": dtype}
    with Watch(model, laws, optimizer=optimizer, **options) as watch:
        batches = nets.batches(1, 12, torch.float32)
        for k, (x, y) in enumerate(batches, start=1):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            if k == 8:
                with torch.no_grad():
                    model[2].weight[0, 0] += edit
    return watch.table().frame.to_dicts()


def test_half_precision_gradients_do_not_hide_an_edit() -> None:
    """2^10 units of 2^-8 are four times the gradient: everything would be conserved."""
    rows = _autocast(0.0, torch.bfloat16)
    assert {row["verdict"] for row in rows} <= {"conserved", "explained"}
    assert max(row["structure"] or 0.0 for row in rows) > 1e-5
    rows = _autocast(0.5, torch.bfloat16)
    for row in rows:
        touched = row["subject"] in {"vertex 0", "vertex 2"}
        if row["step"] > 8 and touched:
            assert row["verdict"] in {"broken", "not_applicable"}, row
        elif not touched:
            assert row["verdict"] in {"conserved", "explained"}, row
    # What is far beyond any step is an edit, whatever the precision is.
    rows = _autocast(40.0, torch.bfloat16)
    last = {row["subject"]: row for row in rows if row["step"] == 12}
    assert last["vertex 2"]["verdict"] == "broken"
    assert last["vertex 2"]["broken_step"] == 9
