"""Claims of the sweeps: answered from records made by hand, true and false ones."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.experiments.images import Images
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural import sweeps
from spectrank.experiments.zangrando2024neural.networks import Cnn, Mlp
from spectrank.experiments.zangrando2024neural.removal.after import RULES
from spectrank.experiments.zangrando2024neural.sweeps import (
    asking,
    batches,
    controls,
    decay,
    depth,
    noise,
    window,
)
from spectrank.experiments.zangrando2024neural.training import Recipe
from spectrank.train import batch_order

IMAGES = Images("digits", 50, 20)
NET = Mlp(64, 12, 3)
DECAYS = (0.01, 0.03, 0.1)
RECIPE = Recipe()


def blank(sweep):
    """Records of a sweep, every number 0.5, with some spread over the seeds."""
    found = np.zeros((sweep.num_seeds, len(sweep.cells)), dtype=sweep.type)
    for name in found["layers"].dtype.names:
        found["layers"][name] = 0.5
    found["layers"]["tightness"] = 0.9
    found["layers"]["size"] = 12.0
    for name in found["removed"].dtype.names:
        found["removed"][name] = 0.1
    return found


def jitter(values, seed=0):
    g = np.random.default_rng(seed)
    return values + 1e-3 * g.standard_normal(np.shape(values))


def verdicts(sweep, recorded):
    rows = sweep.rows(recorded, 0)
    return {
        row["subject"].split(".", 1)[1]: row["verdict"]
        for row in rows
        if row["kind"] == "claim"
    }


def decay_sweep(recipe=RECIPE):
    return decay.sweep("", IMAGES, NET, DECAYS, recipe=recipe, num_seeds=4)


def falling(sweep):
    """Ranks that fall with decay and with the layer, distances ~ variation^2."""
    found = blank(sweep)
    layers = found["layers"]
    ranks = np.array([[12.0, 8.0, 5.0], [9.0, 6.0, 5.0], [6.0, 4.0, 5.0]])
    layers["rank"] = jitter(np.broadcast_to(ranks, layers["rank"].shape))
    layers["b3"] = jitter(np.array([2.0, 1.0, 0.5])[None, :, None] + 0 * layers["b3"])
    layers["rtcv"] = jitter(ranks / 12 + 0 * layers["rtcv"], 1)
    layers["distance"] = 0.3 * layers["rtcv"] ** 2
    found["removed"]["change"] = jitter(0.0 * found["removed"]["change"])
    found["removed"]["file_error"] = 1e-7
    return found


def test_claims_on_weight_decay_are_reproduced_where_they_are_true():
    sweep = decay_sweep()
    recorded = falling(sweep)
    found = verdicts(sweep, recorded)
    # Slope 2 is no proportion.
    assert found.pop("weight-decay.distance-in-proportion") == "contradicted"
    assert set(found.values()) == {"reproduced"}
    assert len(found) == 12
    layers = recorded["layers"]
    for slope, verdict in (
        (0.7, "contradicted"),
        (0.8, "reproduced"),
        (1.2, "reproduced"),
        (1.3, "contradicted"),
    ):
        layers["distance"] = 0.3 * layers["rtcv"] ** slope
        answer = verdicts(sweep, recorded)["weight-decay.distance-in-proportion"]
        assert answer == verdict, slope


@pytest.mark.parametrize(
    ("claim", "spoil"),
    [
        ("weight-decay.rank-falls", ("rank", lambda x: x[:, ::-1])),
        ("weight-decay.every-hidden-layer", ("rank", lambda x: 0.9 + 0 * x)),
        ("weight-decay.order-of-layers", ("rank", lambda x: x[:, :, ::-1])),
        (
            "weight-decay.bound-tightens",
            ("excess", lambda x: 9 * np.arange(3)[:, None]),
        ),
        ("weight-decay.distance-follows-variation", ("distance", lambda x: x**0.25)),
    ],
)
def test_claims_on_weight_decay_fall_where_they_are_false(claim, spoil):
    sweep = decay_sweep()
    found = falling(sweep)
    name, change = spoil
    layers = found["layers"]
    layers[name] = np.array(change(layers[name].copy()))
    assert verdicts(sweep, found)[claim] == "contradicted"


def test_one_violated_bound_in_any_seed_is_seen():
    sweep = decay_sweep()
    found = falling(sweep)
    found["layers"]["tightness"][2, 1, 0] = 1.01
    assert asking.num_violated(found).tolist() == [0.0, 0.0, 1.0, 0.0]
    assert verdicts(sweep, found)["weight-decay.certificate"] != "reproduced"
    found["layers"]["tightness"] = 1.01
    assert verdicts(sweep, found)["weight-decay.certificate"] == "contradicted"


@pytest.mark.parametrize("rule", list(RULES))
def test_lost_accuracy_is_held_against_its_own_rule(rule):
    sweep = decay_sweep()
    found = falling(sweep)
    found["removed"]["change"][..., list(RULES).index(rule)] -= 0.05
    answers = verdicts(sweep, found)
    for other in RULES:
        expected = "contradicted" if other == rule else "reproduced"
        assert answers[f"removal.{other}"] == expected


def test_the_worst_file_counts():
    sweep = decay_sweep()
    found = falling(sweep)
    found["removed"]["file_error"][:, 1] = 0.5
    found["removed"]["file_share"][:, 2] = 0.9
    answers = verdicts(sweep, found)
    assert answers["removal.reloaded"] == "contradicted"
    assert answers["removal.file"] == "contradicted"


def test_networks_that_were_not_trained_to_the_end_answer_no_claim_but_the_bound():
    sweep = decay_sweep(Recipe(least_steps=1, most_steps=10))
    found = falling(sweep)
    answers = verdicts(sweep, found)
    held = answers.pop("weight-decay.certificate")
    assert held == "reproduced"
    assert set(answers.values()) == {"not_applicable"}
    # A small residual is as good as the decay times.
    found["layers"]["residual"] = 0.05
    assert "not_applicable" not in verdicts(sweep, found).values()
    found["layers"]["residual"][3, 0, 1] = 0.2
    assert verdicts(sweep, found)["weight-decay.rank-falls"] == "not_applicable"


def test_noise_reads_absolute_variation_and_distance_of_the_first_layer():
    sweep = noise.sweep(
        IMAGES, NET, (0.0, 1.0, 2.0), weight_decay=0.01, recipe=RECIPE, num_seeds=4
    )
    found = blank(sweep)
    layers = found["layers"]
    layers["rank"] = jitter(np.array([4.0, 6, 8])[None, :, None] + 0 * layers["rank"])
    layers["wcv"][:, :, 0] = [1.0, 2.0, 4.0]
    layers["norm"][:, :, 0] = [1.0, 4.0, 16.0]
    # distance / norm ~ wcv^-1.3, so the distance itself ~ wcv^0.7.
    layers["distance"][:, :, 0] = layers["wcv"][:, :, 0] ** -1.3
    rows = {r["subject"]: r for r in sweep.rows(found, 0) if r["kind"] == "claim"}
    row = rows["zangrando2024neural.noise.distance-at-most-linear"]
    assert row["value"] == pytest.approx(0.7, abs=1e-9)
    assert row["verdict"] == "reproduced"
    row = rows["zangrando2024neural.noise.distance-in-proportion"]
    assert row["value"] == pytest.approx(0.7, abs=1e-9)
    assert row["verdict"] == "contradicted"
    assert "arXiv:2402.03991v3" in row["source"]
    points = [
        (r["x"], r["value"])
        for r in sweep.rows(found, 0)
        if r["kind"] == "measurement" and r["subject"] == row["subject"]
    ]
    expected = [(x, x**0.7) for x in (1.0, 2.0, 4.0)]
    np.testing.assert_allclose(points, expected, rtol=1e-12)
    layers["distance"][:, :, 0] = layers["wcv"][:, :, 0] ** -1.0
    answers = verdicts(sweep, found)
    assert answers["noise.distance-in-proportion"] == "reproduced"
    layers["distance"][:, :, 0] = layers["wcv"][:, :, 0] ** -0.5
    answers = verdicts(sweep, found)
    assert answers["noise.distance-at-most-linear"] == "contradicted"
    assert answers["noise.rank-grows"] == "reproduced"
    layers["rank"] = layers["rank"][:, ::-1].copy()
    assert verdicts(sweep, found)["noise.rank-grows"] == "contradicted"


def test_depth_reads_the_last_hidden_layer_of_each_network():
    sweep = depth.sweep(
        IMAGES, 12, (2, 3, 4), weight_decay=0.01, recipe=RECIPE, num_seeds=4
    )
    found = blank(sweep)
    ranks = found["layers"]["rank"]
    ranks[:] = 99.0
    ranks[:, 0, 0], ranks[:, 1, 1], ranks[:, 2, 2] = 9.0, 7.0, 4.0
    ranks[:] = jitter(ranks)
    assert verdicts(sweep, found)["depth.last-hidden-rank-falls"] == "reproduced"
    ranks[:, 2, 2] = 8.0
    assert verdicts(sweep, found)["depth.last-hidden-rank-falls"] == "contradicted"


def test_batch_sizes_are_in_ascending_order():
    sweep = batches.sweep(
        IMAGES, NET, (4, 16, 64), weight_decay=0.01, recipe=RECIPE, num_seeds=4
    )
    assert [cell.recipe.batch_size for cell in sweep.cells] == [4, 16, 64]
    found = blank(sweep)
    ranks = found["layers"]["effective_rank"]
    ranks[:] = jitter(np.array([5.0, 6.0, 7.0])[None, :, None] + 0 * ranks)
    name = "batch-size.smaller-batches-lower-rank"
    assert verdicts(sweep, found)[name] == "reproduced"
    ranks[:] = ranks[:, ::-1].copy()
    assert verdicts(sweep, found)[name] == "contradicted"


@pytest.mark.parametrize(
    ("decay_", "verdict"), [(0.01, "reproduced"), (5.0, "contradicted")]
)
def test_the_window_rank_is_vacuous_until_the_decay_is_large(decay_, verdict):
    recipe = Recipe(learning_rate=0.1, momentum=0.0, tail=0.0)
    sweep = batches.sweep(
        IMAGES, NET, (1, 4), weight_decay=decay_, recipe=recipe, num_seeds=4
    )
    rows = {
        r["subject"]: r for r in sweep.rows(blank(sweep), 0) if r["kind"] == "claim"
    }
    row = rows["zangrando2024neural.batch-size.window-rank-says-nothing"]
    assert row["verdict"] == verdict
    # Least m with 2 (1 - eta lambda)^m <= 0.01, over 12 singular values, batch of 1.
    steps = math.ceil(math.log(0.005) / math.log1p(-0.1 * decay_))
    assert row["value"] == steps / 12


def test_windows_bound_the_weight_by_what_is_left_of_an_earlier_one(monkeypatch):
    recipe = Recipe(
        learning_rate=0.1, momentum=0.0, batch_size=1, tail=0.0, least_steps=57
    )
    monkeypatch.setattr(window, "RECIPE", replace(recipe, most_steps=57))
    design = window.Design(Images("digits", 50, 20), Mlp(64, 24, 3), 0.3, (4, 8, 20), 3)
    found = design.record(7, lambda: None)
    assert found.shape == (3, 3, 2)
    for r in range(3):
        # 60 steps, the next multiple of 4, by torch.optim.
        stream = ("zangrando2024neural", design.name)
        model = design.network.draw(
            derive_generator(7, *stream, "start", design.network.text(), r)
        )
        train = design.images.train
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.3)
        order = batch_order(derive_seed(7, *stream, "batches", r), 50, 1)
        seen = [model[2].weight.detach().clone()]
        for batch in itertools.islice(order, 60):
            optimizer.zero_grad()
            outputs = model(train.inputs[batch])
            nn.functional.cross_entropy(outputs, train.labels[batch]).backward()
            optimizer.step()
            seen.append(model[2].weight.detach().clone())
        whole = float(seen[-1].norm())
        sigma = torch.linalg.svdvals(seen[-1].double())
        for n, m in enumerate((4, 8, 20)):
            bound = 0.97**m * float(seen[60 - m].norm()) / whole
            assert found[r, n, 1] == pytest.approx(bound, rel=1e-3)
            distance = float(sigma[m:].norm()) / whole
            assert found[r, n, 0] == pytest.approx(distance, rel=1e-2, abs=1e-5)
            assert distance <= bound * (1 + 1e-5)


def test_claims_on_windows_are_answered_by_their_own_numbers():
    design = window.Design(IMAGES, NET, 0.1, (4, 8), 4)
    recorded = np.zeros((4, 2, 2))
    recorded[..., 0], recorded[..., 1] = 0.1, [0.9, 0.4]
    holds, says = design._holds(), design._says_something()
    assert holds.rows(recorded, 0)[0]["verdict"] == "reproduced"
    assert says.rows(recorded, 0)[0]["verdict"] == "reproduced"
    recorded[:, 0, 0] = 0.901
    assert holds.rows(recorded, 0)[0]["verdict"] == "contradicted"
    recorded[:, 1, 1] = 0.6
    assert says.rows(recorded, 0)[0]["verdict"] == "contradicted"


def test_controls_read_their_own_arm():
    sweep = controls.sweep(
        "",
        IMAGES,
        NET,
        weight_decay=0.05,
        recipe=RECIPE,
        adamw=(0.001, 0.3),
        num_seeds=4,
    )
    sgd, free, adam, norm = sweep.cells
    assert (sgd.weight_decay, free.weight_decay, norm.weight_decay) == (0.05, 0, 0.05)
    assert free.recipe.num_steps(0.0) == sgd.recipe.num_steps(0.05)
    assert (adam.recipe.rule, adam.weight_decay) == ("adamw", 0.3)
    assert norm.network.normalised
    assert not sgd.network.normalised
    found = blank(sweep)
    layers, removed = found["layers"], found["removed"]
    layers["rank"] = [[3.0], [12.0], [3.0], [6.0]]
    layers["rank"] = jitter(layers["rank"])
    layers["residual"] = np.array([[0.01], [np.nan], [1.0], [1.3]])
    layers["distance"][:, 2], layers["b3"][:, 2] = 0.4, 0.01
    removed["change"][:, 1] = -0.2
    good = verdicts(sweep, found)
    assert set(good.values()) == {"reproduced"}
    assert len(good) == 6
    for field, arm, value, claim in (
        ("rank", 1, 9.0, "no-decay.rank-stays"),
        ("residual", 2, 0.1, "adamw.not-stationary"),
        ("b3", 2, 0.8, "adamw.bound-without-residual-fails"),
        ("residual", 3, 0.5, "batchnorm.not-stationary"),
        ("rank", 3, 2.0, "batchnorm.rank-stays-higher"),
    ):
        spoiled = found.copy()
        spoiled["layers"][field][:, arm, 1] = value
        if field == "rank":
            spoiled["layers"][field][:, arm] = value
        answers = verdicts(sweep, spoiled)
        assert answers[f"control.{claim}"] == "contradicted", claim
    spoiled = found.copy()
    spoiled["removed"]["change"][:, 1] = 0.1
    truncation = "control.no-decay.truncation-hurts"
    assert verdicts(sweep, spoiled)[truncation] == "contradicted"


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_parts_and_claims_have_names_of_their_own(mode):
    parts = sweeps.parts(mode)
    names = [part.name for part in parts]
    keys = [claim.key for part in parts for claim in part.claims]
    statements = [claim.statement for part in parts for claim in part.claims]
    assert len(set(names)) == len(names) == (7 if mode == "quick" else 25)
    assert len(set(keys)) == len(keys)
    assert len({(k, s) for k, s in zip(keys, statements, strict=True)}) == len(keys)
    assert all(key.startswith("zangrando2024neural.") for key in keys)


def test_layers_no_larger_than_the_classes_have_no_distance():
    assert Mlp(9, 20, 3).sizes == (9, 20, 10)
    assert asking.able(Mlp(9, 20, 3)) == [1]
    assert Cnn(1, (16, 32)).sizes == (9, 32, 10)
    assert asking.able(Cnn(1, (16, 32))) == [1]


def test_slopes_are_those_of_powers():
    x = np.array([[1.0, 2.0, 5.0], [0.1, 3.0, 4.0]])
    found = asking.log_slopes(x, 3.0 * x**1.5)
    np.testing.assert_allclose(found, 1.5, rtol=1e-12)
    assert np.isnan(asking.log_slopes(x, np.array([[1.0, 0.0, 1.0]] * 2))).all()
    close = np.array([[1.0, 1.5, 1.9], [1.0, 1.5, 2.1]])
    assert list(np.isnan(asking.log_slopes(close, close))) == [True, False]
