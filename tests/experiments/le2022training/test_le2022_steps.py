"""Discrete steps: drift by a loop of numpy; each claim where its number fails."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.conservation import steps, steps_questions
from spectrank.experiments.le2022training.conservation.steps import StepsSize
from spectrank.experiments.le2022training.problems import (
    chain,
    gaussian,
    separable,
)

RATES = np.array(steps.RATES)


def test_drift_and_rest_of_gradient_descent_with_decay_by_a_loop():
    seed, num = 3, 2
    data = separable(seed, ("steps",), num, 5, 12)
    start = gaussian(seed, ("steps",), num, chain(steps.WIDTHS))
    problem = replace(data, forward=steps.chain_forward(3))
    arm, rate = steps.ARMS[steps.DECAYED], 0.1
    found = steps._trained(arm, rate, problem, start, seed)
    for r in range(num):
        x, y = data.inputs[r].numpy(), data.labels[r].numpy()
        ws = [start[f"{i}.weight"][r].numpy().copy() for i in range(3)]
        first = [b.T @ b - a @ a.T for a, b in pairwise(ws)]
        risk = np.log1p(np.exp(-y * (x @ ws[0].T @ ws[1].T @ ws[2].T)[:, 0])).mean()
        for _ in range(100):
            a, b, c = ws
            f = (x @ a.T @ b.T @ c.T)[:, 0]
            s = (-y / (1 + np.exp(y * f)) / len(y)) @ x
            grads = [np.outer((c @ b)[0], s), np.outer(c[0], a @ s), (b @ a @ s)[None]]
            ws = [
                w - rate * (g + steps.DECAY * w) for w, g in zip(ws, grads, strict=True)
            ]
        last = [b.T @ b - a @ a.T for a, b in pairwise(ws)]
        kept = (1 - rate * steps.DECAY) ** 200
        drift = [
            np.linalg.norm(v - kept * u, 2) for u, v in zip(first, last, strict=True)
        ]
        rest = [np.linalg.norm(v - u, 2) for u, v in zip(first, last, strict=True)]
        size = max(np.linalg.norm(u, 2) for u in first)
        assert found[r, steps.DRIFT] == pytest.approx(max(drift), rel=1e-6)
        assert found[r, steps.BOUND] == pytest.approx(
            max(drift) / (2 * rate * risk), rel=1e-6
        )
        assert found[r, steps.REST] == pytest.approx(max(rest) / size, rel=1e-9)
        assert found[r, steps.IDENTITY] < 1e-14


@pytest.mark.parametrize("arm", [steps.MINI, steps.MOMENTUM + 1, steps.ADAM])
def test_arms_leave_the_start_alone_and_differ_from_gradient_descent(arm):
    data = separable(3, ("arms",), 2, 5, 12)
    start = gaussian(3, ("arms",), 2, chain(steps.WIDTHS))
    kept = {k: v.clone() for k, v in start.items()}
    problem = replace(data, forward=steps.chain_forward(3))
    own = steps._trained(steps.ARMS[arm], 0.1, problem, start, 3)
    plain = steps._trained(steps.ARMS[steps.GD], 0.1, problem, start, 3)
    assert all(torch.equal(start[k], kept[k]) for k in kept)
    assert not np.allclose(own[:, steps.DRIFT], plain[:, steps.DRIFT], rtol=1e-2)


def planted(num=5):
    y = np.full((num, len(steps.ARMS), len(RATES), 4), 1e-15)
    y[..., steps.DRIFT] = 0.1 * RATES
    for a, factor in steps.FACTORS:
        y[:, a, :, steps.DRIFT] *= factor
    y[..., steps.BOUND], y[..., steps.REST] = 0.3, 2.0
    return y * (1.0 + 1e-6 * np.arange(num)[:, None, None, None])


def failing(y):
    rows = [q.rows(y, 0)[0] for q in steps_questions.questions(StepsSize(len(y)))]
    return {
        row["subject"].split(".", 2)[2]
        for row in rows
        if row["verdict"] != "reproduced"
    }


def test_what_the_theory_says_reproduces_every_claim():
    assert failing(planted()) == set()


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        ((steps.MINI, 0, steps.DRIFT), 0.1, {"slope-minibatches"}),
        ((steps.DECAYED, 0, steps.DRIFT), 0.1, {"slope-weight-decay"}),
        ((steps.MINI, 1, steps.IDENTITY), 1e-9, {"identity-minibatches"}),
        ((steps.DECAYED, 2, steps.IDENTITY), 1e-9, {"identity-weight-decay"}),
        ((steps.GD, 2, steps.IDENTITY), 1e-9, {"identity-gradient-descent"}),
        ((steps.MOMENTUM, 2, steps.DRIFT), 0.02, {"factor-momentum-05"}),
        ((steps.NESTEROV + 1, 2, steps.DRIFT), 0.02, {"factor-nesterov-09"}),
        ((steps.GD, 1, steps.BOUND), 2.0, {"bound"}),
        ((steps.ADAM, 2, steps.REST), 0.1, {"adam"}),
    ],
)
def test_each_claim_fails_where_its_number_does(index, value, fails):
    y = planted()
    y[(slice(None), *index)] = value
    assert failing(y) == fails
