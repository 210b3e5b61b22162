"""Clipped descent by a loop of numpy; each claim where its number fails."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.conservation import clipping
from spectrank.experiments.le2022training.conservation.steps import (
    RATES,
    TIME,
    WIDTHS,
    StepsSize,
)
from spectrank.experiments.le2022training.problems import (
    chain,
    chain_forward,
    gaussian,
    separable,
)


def shortened(gradients, most):
    size = np.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, most / (size + 1e-6)) for g in gradients]


CLIPPED = {
    "norm": lambda grads: shortened(grads, clipping.NORM),
    "value": lambda grads: [np.clip(g, -clipping.VALUE, clipping.VALUE) for g in grads],
    "layer": lambda grads: [
        shortened([g], clipping.NORM / np.sqrt(3))[0] for g in grads
    ],
}


@pytest.mark.parametrize("a", range(3))
def test_descent_with_clipped_gradients_by_a_loop(a):
    name, clip = clipping.ARMS[a]
    data = separable(3, ("clipping",), 2, WIDTHS[0], 12)
    start = gaussian(3, ("clipping",), 2, chain(WIDTHS))
    problem = replace(data, forward=chain_forward(3))
    found = clipping.trained(clip, RATES[0], problem, start)
    for r in range(2):
        x, y = data.inputs[r].numpy(), data.labels[r].numpy()
        ws = [start[f"{i}.weight"][r].numpy().copy() for i in range(3)]
        first, changed = [b.T @ b - a @ a.T for a, b in pairwise(ws)], 0
        for _ in range(round(TIME / RATES[0])):
            low, mid, top = ws
            f = (x @ low.T @ mid.T @ top.T)[:, 0]
            s = (-y / (1 + np.exp(y * f)) / len(y)) @ x
            grads = [
                np.outer((top @ mid)[0], s),
                np.outer(top[0], low @ s),
                (mid @ low @ s)[None],
            ]
            new = CLIPPED[name](grads)
            changed += sum((u != v).any() for u, v in zip(grads, new, strict=True))
            ws = [w - RATES[0] * g for w, g in zip(ws, new, strict=True)]
        last = [b.T @ b - a @ a.T for a, b in pairwise(ws)]
        drift = max(np.abs(v - u).max() for u, v in zip(first, last, strict=True))
        assert found[r, clipping.DRIFT] == pytest.approx(drift, rel=1e-6)
        share = changed / 3 / round(TIME / RATES[0])
        assert found[r, clipping.CLIPPED] == pytest.approx(share, rel=1e-9)


def test_gradients_themselves_are_not_clipped():
    gradients = gaussian(5, ("gradients",), 2, chain(WIDTHS))
    kept = {k: v.clone() for k, v in gradients.items()}
    clipped = clipping.clipped_by(clipping.ARMS[clipping.BY_VALUE][1], gradients)
    assert all(torch.equal(gradients[k], kept[k]) for k in kept)
    assert all(float(v.abs().max()) <= clipping.VALUE for v in clipped.values())


def planted():
    y = np.empty((5, 3, len(RATES), 2))
    y[..., clipping.DRIFT] = 0.3
    y[:, clipping.BY_NORM, :, clipping.DRIFT] = 0.3 * np.array(RATES)
    y[..., clipping.CLIPPED] = 0.7
    return y * (1.0 + 1e-3 * np.arange(5)[:, None, None, None])


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        ((clipping.BY_NORM, 2, clipping.DRIFT), 0.03, {"norm-slope"}),
        ((clipping.BY_VALUE, 2, clipping.DRIFT), 0.08, {"value-stays"}),
        ((clipping.BY_LAYER, 2, clipping.DRIFT), 0.08, {"layer-stays"}),
        ((clipping.BY_LAYER, 1, clipping.CLIPPED), 0.0, {"clipped"}),
    ],
)
def test_each_claim_fails_where_its_number_does(index, value, fails):
    asked, y = clipping.questions(StepsSize(5)), planted()

    def failing():
        rows = [question.rows(y, 0)[0] for question in asked]
        return {
            row["subject"].split(".")[-1]
            for row in rows
            if row["verdict"] != "reproduced"
        }

    assert failing() == set()
    y[(slice(None), *index)] = value
    assert failing() == fails
