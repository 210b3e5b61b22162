"""The parts at small size: verdicts of planted tables, and what minima must fulfil."""

import numpy as np
import pytest
import torch

from spectrank.experiments import get_paper
from spectrank.experiments.zangrando2024neural import stationary, sweeps
from spectrank.experiments.zangrando2024neural.stationary import (
    collapsed,
    descent,
    linear,
    toy,
    toy_questions,
    variability,
)
from spectrank.experiments.zangrando2024neural.stationary.minima import best_minimum
from spectrank.experiments.zangrando2024neural.stationary.networks import Mixture, mlp
from spectrank.experiments.zangrando2024neural.stationary.toy import (
    CELL,
    NOISES,
    NOTE,
    WEIGHT_DECAYS,
    ToySize,
)


def quiet():
    pass


def planted(num=5):
    """The table of the earlier run in every draw, and numbers that fit it."""
    table = np.zeros((num, len(NOISES), len(WEIGHT_DECAYS)), dtype=CELL)
    layers = table["layers"]
    layers["rank"] = np.array([NOTE[noise] for noise in NOISES], dtype=float)
    layers["norm"], layers["tightness"] = 4.0, 0.3
    layers["b3"], layers["b2"], layers["b1"] = 0.5, 1.0, 2.0
    layers["b3"][:, 2] = 8.0
    layers["b2"][:, 2], layers["b1"][:, 2] = 9.0, 10.0
    layers["distance"] = np.array([1e-8, 1e-3, 1.0])[:, None, None]
    # Means of draws that agree to the last bit have no spread to judge by.
    layers["distance"] *= 1.0 + 0.01 * np.arange(num)[:, None, None, None]
    return table


def verdicts(table):
    asked = toy_questions.questions(Mixture(), ToySize(len(table), 3))
    rows = [question.rows(table, 0)[0] for question in asked]
    return {row["subject"].split(".")[-1]: row["verdict"] for row in rows}


def test_the_earlier_table_reproduces_every_claim_on_it():
    assert set(verdicts(planted()).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (
            "readout-rank",
            lambda y: y["layers"]["rank"][:, 2, 0].__setitem__((..., 2), 4),
        ),
        ("rank-at-most-k-minus-1", lambda y: y["layers"]["rank"][:, 0].fill(4)),
        ("rank-k-minus-1", lambda y: y["layers"]["rank"][:, 0].fill(2)),
        ("rank-below-k-minus-1", lambda y: y["layers"]["rank"][:, 1, -1].fill(3)),
        (
            "median-rank-does-not-rise",
            lambda y: y["layers"]["rank"][2:, 1, 3, 0].fill(4),
        ),
        ("noisy-first-layer", lambda y: y["layers"]["rank"][:, 2, 1].fill(11)),
        (
            "rank-falls-with-weight-decay",
            lambda y: y["layers"]["rank"][:, 2, 4].fill(20),
        ),
        (
            "distance-grows-with-variability",
            lambda y: y["layers"]["distance"][:, 1].fill(2.0),
        ),
        ("distance-within-bound", lambda y: y["layers"]["tightness"].fill(1.01)),
        ("bounds-ordered", lambda y: y["layers"]["b2"][:, 1, 2].fill(0.4)),
        ("informative-where-tight", lambda y: y["layers"]["b3"][:, 0].fill(1.1)),
        ("vacuous-where-noisy", lambda y: y["layers"]["b3"][:, 2].fill(3.0)),
    ],
)
def test_a_table_against_a_claim_contradicts_it(name, spoil):
    table = planted()
    spoil(table)
    assert verdicts(table)[name] == "contradicted"


def test_a_rank_that_rises_in_two_draws_of_five_raises_no_median():
    table = planted()
    table["layers"]["rank"][:2, 1, 3, 0] = 20
    found = verdicts(table)
    assert found["median-rank-does-not-rise"] == "reproduced"


def test_a_readout_of_rank_k_in_one_draw_is_not_passed_over():
    table = planted()
    table["layers"]["rank"][0, 0, 0, 2] = 4
    assert verdicts(table)["readout-rank"] == "inconclusive"


def test_ranks_are_printed_beside_those_of_the_earlier_run():
    asked = toy_questions.questions(Mixture(), ToySize(5, 3))
    rows = [row for question in asked for row in question.rows(planted(), 0)]
    beside = {
        (row["variant"], row["x"]): (row["value"], row["predicted"])
        for row in rows
        if row["metric"] == "numerical_rank" and row["kind"] == "measurement"
    }
    assert len(beside) == 3 * len(NOISES) * len(WEIGHT_DECAYS)
    assert beside["W_1, noise 1", 1e-2] == (15.0, 15.0)
    assert all(ours == note for ours, note in beside.values())


def test_screening_goes_on_with_the_lowest_start_alone():
    x, labels = Mixture(per_class=5).sample(0.1, 3)
    near, far = (mlp((20, 6, 4), torch.Generator().manual_seed(s)) for s in (1, 2))
    near = best_minimum([near], x, labels, weight_decay=0.05, tolerance=1e-3).model
    with torch.no_grad():
        for parameter in far.parameters():
            parameter.zero_()
    # Zero is stationary: whatever the screening, it stays at log 4.
    for screening in (None, 1e-1):
        found = best_minimum(
            [far, near], x, labels, weight_decay=0.05, screening=screening
        )
        assert found.gradient_norm <= 1e-6
        assert found.objective < 1.0


def test_minima_of_tight_clusters_are_within_the_bound_of_rank_k():
    found = toy.measure(
        Mixture(), ToySize(1, 1), 17, quiet, noises=(0.1,), weight_decays=(1e-4, 0.2)
    )
    low, high = found[0, 0]["layers"]
    # K - 1 for the softmax layer; a local minimum may have K elsewhere.
    assert low["rank"].max() <= 4
    assert low["rank"][-1] == 3
    assert (low["next"] < 1e-2).all()
    assert high["rank"].max() <= 2
    assert found["accuracy"][0, 0, 0] == 1.0
    # Stationary: what is left of the gradient moves no singular value to where a rank
    # is counted, a hundredth of the largest.
    assert (low["residual"] <= 1e-3).all()
    assert 0.0 < low["tightness"].max() <= 1.0


def test_repeated_inputs_give_rank_k_and_a_bypass_does_not():
    (found,) = collapsed.measure(collapsed.CollapsedSize(1), 17, quiet)
    inputs, control = found[:-1], found[-1]
    assert (inputs[:, 0] < 1e-5).all()
    assert (inputs[:, 1] > 1e-2).all()
    assert (inputs[:, 2:] < 1e-5).all()
    assert control[0] > 1e-2


def test_linear_networks_end_at_the_closed_form(monkeypatch):
    monkeypatch.setattr(linear, "_DEPTHS", (2, 3))
    monkeypatch.setattr(linear, "_WEIGHT_DECAYS", (0.1,))
    (found,) = linear.measure(linear.LinearSize(1, 3), 17, quiet)
    assert (found[..., 0] < 1e-6).all()
    # Soft threshold at 0.1 keeps all four; three layers drop the mode 0.25.
    assert found[:, 0, 2].tolist() == [4.0, 3.0]


def test_descent_is_within_the_bound_and_its_residual_is_needed(monkeypatch):
    monkeypatch.setattr(descent, "_STEPS", (0, 30, 60))
    (found,) = descent.measure(Mixture(), descent.DescentSize(1), 17, quiet)
    assert found["tightness"].max() <= 1.0
    assert (found["distance"] / found["b3"])[0, 0] > 1.0
    assert (np.diff(found["residual"][:, 0]) < 0).all()


def test_slopes_are_exact_for_powers():
    x = np.geomspace(1e-4, 1e-1, len(variability._NOISES))
    y = np.ones((2, 3, len(x), 2, 5))
    y[..., 4] = x[:, None]
    y[..., 0] = 3.0 * x[:, None] ** 0.7
    estimates = variability._slopes(variability._TANH, variability._DISTANCE)
    assert estimates(y) == pytest.approx([0.7, 0.7], rel=1e-12)


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_claims_are_of_the_paper_and_attributed_by_version(mode):
    paper = get_paper("zangrando2024neural")
    claims = [claim for part in stationary.parts(mode) for claim in part.claims]
    others = [claim for part in sweeps.parts(mode) for claim in part.claims]
    keys = [claim.key for claim in paper.claims(mode)]
    assert keys == [claim.key for claim in (*claims, *others)]
    assert len(set(keys)) == len(keys)
    names = [part.name for part in paper.parts(mode)]
    assert len(set(names)) == len(names)
    for claim in claims:
        quoted = "abstract; " in claim.source
        assert (claim.whose == "claim of the abstract; protocol ours") == quoted
        assert claim.whose == "ours" or quoted
