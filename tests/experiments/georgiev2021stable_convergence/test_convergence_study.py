"""The study as it runs: against a plain loop, resumed after a kill, without data."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.errors import SpectrankWarning
from spectrank.experiments import Paper, reproduce, running
from spectrank.experiments.data import DataError, load
from spectrank.experiments.georgiev2021stable import convergence
from spectrank.experiments.georgiev2021stable.convergence import (
    measuring,
    study,
    training,
)
from spectrank.experiments.georgiev2021stable.convergence.cells import Cell
from spectrank.experiments.georgiev2021stable.convergence.design import cells
from spectrank.experiments.georgiev2021stable.convergence.ensembles import Arm, grid
from spectrank.experiments.georgiev2021stable.convergence.measuring import (
    choose_arm,
    compare_arms,
    measure,
    objective,
    tune_rates,
)
from spectrank.experiments.georgiev2021stable.convergence.training import (
    Member,
    Reached,
    train,
)
from spectrank.experiments.images import Images
from spectrank.experiments.seeds import derive_seed
from spectrank.experiments.tuning import Best
from spectrank.train import batch_order

ARMS = (Arm("gaussian"), Arm("orthogonal"), *grid(("spike",), (1 / 4,), "frobenius"))


def tiny(optimizer="sgd", **changes):
    options = {
        "images": Images("digits", 300, 100),
        "depth": 4,
        "width": 12,
        "optimizer": optimizer,
        "arms": ARMS,
        "target": 1.2,
        "budget": 40,
        "centre": 0.1,
        "batch_size": 32,
        "num_tuning": 2,
        "num_fresh": 3,
    }
    return Cell(**(options | changes))


def plain_run(cell, arm, rate, replicate, stage, num, seed):
    """One member by autograd and torch.optim, smoothed as the docstring has it."""
    task = cell.task()
    drawn = task.network.sample(arm, num, seed, cell.name, stage)
    module = task.network.make().to_empty(device="cpu")
    module.load_state_dict({name: w[replicate] for name, w in drawn.items()})
    if cell.optimizer == "adam":
        rule = torch.optim.Adam(module.parameters(), rate)
    else:
        momentum = {"sgd": 0.0, "momentum": 0.9}[cell.optimizer]
        rule = torch.optim.SGD(module.parameters(), rate, momentum=momentum)
    order = batch_order(
        derive_seed(seed, cell.name, stage, "order", replicate),
        len(task.labels),
        cell.batch_size,
    )
    losses, reached = [], None
    for step in range(1, cell.budget + 1):
        batch = next(order)
        rule.zero_grad()
        loss = nn.functional.cross_entropy(
            module(task.inputs[batch]), task.labels[batch]
        )
        loss.backward()
        rule.step()
        losses.append(loss.item())
        weights = 0.9 ** np.arange(step)[::-1]
        if reached is None and np.average(losses, weights=weights) < cell.target:
            reached = step
    with torch.no_grad():
        right = module(task.test[0]).argmax(1) == task.test[1]
    return reached, float(right.double().mean())


@pytest.mark.parametrize(
    ("optimizer", "rate"), [("sgd", 0.2), ("momentum", 0.03), ("adam", 0.02)]
)
def test_members_reach_what_a_plain_loop_reaches(optimizer, rate):
    cell = tiny(optimizer)
    task = cell.task()
    # In no order of their names, so that members come back as they were given.
    members = [
        Member(ARMS[k], r, i)
        for k, r, i in ((2, rate, 1), (0, rate / 2, 0), (1, rate, 0))
    ]
    members.append(Member(ARMS[2], rate / 500, 0))
    fresh = train(task, members, "fresh", num=2, seed=11)
    for i, member in enumerate(members):
        expected, accuracy = plain_run(
            cell, member.arm, member.learning_rate, member.replicate, "fresh", 2, 11
        )
        assert fresh.reached[i] == (expected is not None)
        assert fresh.steps[i] == (expected or cell.budget)
        # One test image in a hundred may lie on the border.
        assert fresh.accuracy[i] == pytest.approx(accuracy, abs=0.0101)
    assert fresh.reached.tolist() == [True, True, True, False]
    tuning = train(task, members, "tuning", num=2, seed=11)
    first, _ = plain_run(cell, ARMS[2], rate, 1, "tuning", 2, 11)
    assert tuning.steps[0] == first
    assert np.isnan(tuning.accuracy).all()


def test_a_run_that_diverges_is_told_from_one_that_is_late():
    task = tiny().task()
    members = [Member(ARMS[0], rate, 0) for rate in (1e6, 1e-6)]
    for stage in ("tuning", "fresh"):
        found = train(task, members, stage, num=1, seed=0)
        assert found.diverged.tolist() == [True, False]
        assert found.reached.tolist() == [False, False]
        assert (found.steps == task.budget).all()
        cost = objective(found, task)
        assert cost[0] == math.inf
        assert math.log(task.budget) < cost[1] < math.inf


def test_among_late_runs_the_one_that_got_further_is_better():
    task = tiny().task()
    flags = np.array([True, False, False, False, True])
    lost = np.array([False, False, False, True, True])
    losses = np.array([1.1, 2.4, 1.8, np.nan, np.nan])
    steps = np.array([30.0, 40.0, 40.0, 40.0, 30.0])
    cost = objective(Reached(steps, flags, lost, losses, losses), task)
    assert cost[0] == math.log(30)
    assert cost[1] == pytest.approx(math.log(40 * 2.4 / 1.2))
    assert cost[2] == pytest.approx(math.log(40 * 1.8 / 1.2))
    # Who arrived before diverging has arrived.
    assert cost[3] == math.inf
    assert cost[4] == math.log(30)


def test_pieces_of_any_size_give_the_same_numbers(monkeypatch):
    task = tiny().task()
    members = [Member(arm, 0.2, i) for i in (1, 0) for arm in ARMS]
    whole = train(task, members, "fresh", num=2, seed=4)
    monkeypatch.setattr(training, "_MOST_MEMBERS", 2)
    pieces = train(task, members, "fresh", num=2, seed=4)
    np.testing.assert_array_equal(whole.steps, pieces.steps)
    np.testing.assert_allclose(whole.final_loss, pieces.final_loss, rtol=1e-5)


def test_tuning_judges_rates_by_the_mean_log_of_their_steps_on_its_own_seeds():
    cell = tiny(arms=ARMS[:1])
    task = cell.task()
    best = tune_rates(task, cell.arms, num=2, centre=0.1, seed=5)["gaussian"]
    runs = [
        plain_run(cell, ARMS[0], best.learning_rate, i, "tuning", 2, 5)[0]
        for i in range(2)
    ]
    assert best.value == pytest.approx(np.mean(np.log(runs)))
    assert best.edge is None
    for factor in (2**-0.5, 2**0.5):
        rate = best.learning_rate * factor
        members = [Member(ARMS[0], rate, i) for i in range(2)]
        beside = train(task, members, "tuning", num=2, seed=5)
        assert objective(beside, task).mean() >= best.value


def test_fresh_seeds_share_neither_weights_nor_order_with_the_tuning_ones():
    network = tiny().network()
    drawn = {
        stage: network.sample(ARMS[0], 2, 0, "cell", stage)["2.weight"]
        for stage in ("tuning", "choosing", "fresh")
    }
    assert not torch.equal(drawn["tuning"], drawn["fresh"])
    assert not torch.equal(drawn["choosing"], drawn["fresh"])


def test_the_arm_is_chosen_by_its_mean_log_steps_on_seeds_of_its_own():
    cell = tiny(arms=(*ARMS, *grid(("flat",), (1 / 4, 1 / 2), "frobenius")))
    task = cell.task()
    rates = {"spike 1/4": 0.05, "flat 1/4": 0.2, "flat 1/2": 0.15, "gaussian": 0.2}
    # The values of the tuning only say who is tried again.
    tuned = {name: Best(r, 3.0, 0, None) for name, r in rates.items()}
    chosen = choose_arm(task, cell.arms, tuned, num=2, seed=5)
    costs = {}
    for arm in cell.arms[2:]:
        runs = [
            plain_run(cell, arm, rates[arm.name], i, "choosing", 2, 5)[0]
            for i in range(2)
        ]
        costs[arm.name] = np.mean(np.log([r or cell.budget for r in runs]))
    assert chosen == min(costs, key=costs.get)
    assert len(set(costs.values())) == 3
    # Without any that works, the first of prescribed stable rank.
    assert choose_arm(task, cell.arms, {}, num=2, seed=5) == "spike 1/4"


def test_rates_the_choice_and_the_comparison_each_have_their_own_seeds(monkeypatch):
    asked = {}

    def recorded(task, members, stage, *, num, seed):
        asked.setdefault(stage, []).append((len(members), num))
        return train(task, members, stage, num=num, seed=seed)

    monkeypatch.setattr(measuring, "train", recorded)
    cell = tiny(arms=(*ARMS, Arm("flat", 1 / 4)), num_choosing=4, budget=10)
    found = measure(cell, 0, lambda: None)
    assert asked["choosing"] == [(2 * 4, 4)]
    assert asked["fresh"] == [(4 * 3, 3)]
    assert {num for _, num in asked["tuning"]} == {2}
    assert found.chosen in {"spike 1/4", "flat 1/4"}
    assert all(len(reached.steps) == 3 for reached in found.reached.values())


def test_an_arm_without_a_rate_counts_as_never_arrived():
    task = tiny().task()
    ticks = []
    tuned = {"gaussian": Best(0.2, 3.0, 0, None)}
    found = compare_arms(task, ARMS, tuned, num=2, seed=0, tick=lambda: ticks.append(1))
    assert found["gaussian"].reached.all()
    assert not found["orthogonal"].reached.any()
    assert found["orthogonal"].diverged.all()
    assert (found["orthogonal"].steps == task.budget).all()
    assert len(ticks) == 1


def test_images_are_centred_and_of_one_length():
    images = Images("digits", 300, 100)
    x = load("digits").rows(300).double()
    mean = x.mean(0)
    y = x - mean
    expected = 8.0 * y / y.norm(dim=1, keepdim=True)
    assert torch.allclose(images.train.inputs.double(), expected, atol=1e-5)
    # The test set is centred by the training mean.
    held = load("digits", split="test").rows(100).double() - mean
    held = 8.0 * held / held.norm(dim=1, keepdim=True)
    assert torch.allclose(images.test.inputs.double(), held, atol=1e-5)
    assert torch.equal(images.train.labels, load("digits").labels[:300])
    spatial = Images("digits", 300, 100, spatial=True)
    assert torch.equal(spatial.train.inputs[:, 0].flatten(1), images.train.inputs)


@pytest.fixture
def toy(monkeypatch):
    """A paper of two tiny cells that can be killed in the second."""
    state = {"dies": False, "runs": []}

    def measured(cell, seed, tick):
        state["runs"].append(cell.optimizer)
        found = measure(cell, seed, tick)
        if state["dies"] and cell.optimizer == "adam":
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(study, "measure", measured)
    made = [study.part(tiny(name)) for name in ("sgd", "adam")]
    paper = Paper(
        key="toy2024paper",
        title="A toy",
        authors="Nobody",
        identifier="none",
        parts=lambda mode: tuple(made),
        cost={},
    )
    monkeypatch.setattr(running, "get_paper", lambda key: paper)
    return state


def test_a_run_killed_in_a_cell_loses_that_cell_alone(toy, tmp_path):
    whole = reproduce("toy2024paper", seed=2)
    toy["dies"] = True
    with pytest.raises(KeyboardInterrupt):
        reproduce("toy2024paper", seed=2, cache=tmp_path)
    toy["dies"] = False
    toy["runs"].clear()
    seen = []
    resumed = reproduce("toy2024paper", seed=2, cache=tmp_path, progress=seen.append)
    assert toy["runs"] == ["adam"]
    assert resumed.frame.equals(whole.frame)
    assert resumed.provenance["figures"] == whole.provenance["figures"]
    assert seen[-1].num_done == seen[-1].num_steps == seen[-2].num_done
    other = reproduce("toy2024paper", seed=3)
    assert not other.frame.equals(whole.frame)


def test_without_its_files_a_cell_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("SPECTRANK_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    full = [part for part in convergence.parts("full") if "digits" not in part.name]
    mnist = full[0]
    with pytest.raises(DataError, match="set SPECTRANK_DATA"):
        mnist.run(0, lambda: None)
    paper = Paper(
        key="toy2024paper",
        title="A toy",
        authors="Nobody",
        identifier="none",
        parts=lambda mode: (study.part(tiny()), mnist),
        cost={},
    )
    monkeypatch.setattr(running, "get_paper", lambda key: paper)
    with pytest.warns(SpectrankWarning, match="MNIST is read from"):
        table = reproduce("toy2024paper", "full")
    rows = [row for row in table if row["kind"] == "claim"]
    lost = [row for row in rows if row["verdict"] == "not_applicable"]
    assert [row["subject"] for row in lost] == [claim.key for claim in mnist.claims]
    assert all("SPECTRANK_DATA" in row["reason"] for row in lost)


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_parts_have_names_keys_and_settings_of_their_own(mode):
    parts = convergence.parts(mode)
    names = [part.name for part in parts]
    keys = [claim.key for part in parts for claim in part.claims]
    assert len(set(names)) == len(names)
    assert len(set(keys)) == len(keys)
    statements = {claim.statement for part in parts for claim in part.claims}
    assert len(statements) == len(keys)
    assert all(part.claims for part in parts)
    for part, cell in zip(parts, cells(mode), strict=True):
        changed = dataclasses.replace(cell, budget=cell.budget + 1)
        assert study.part(changed).settings != part.settings
