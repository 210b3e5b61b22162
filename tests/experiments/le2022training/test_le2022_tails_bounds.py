"""Functions against their modules, limits against stable ranks by hand, each claim."""

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.limits import tails, tails_questions
from spectrank.experiments.le2022training.limits.tails import TailsSize
from spectrank.experiments.le2022training.problems import gaussian

NETS = {net.name: net for net in tails.networks()}


def drawn(net, label="drawn"):
    return gaussian(5, (label,), 2, net.shapes())


@pytest.mark.parametrize("name", sorted(NETS))
def test_the_function_of_all_seeds_is_that_of_the_module(name):
    net, module = NETS[name], NETS[name].build()
    params = drawn(net)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=generator)
    for r in range(2):
        module.load_state_dict({k: v[r] for k, v in params.items()})
        torch.testing.assert_close(net.forward(params, x)[r], module(x[r])[:, 0])


def stable_rank(matrix):
    s = np.linalg.svd(matrix, compute_uv=False)
    return (s**2).sum() / s[0] ** 2


def test_ranks_are_those_of_what_enters_each_level():
    net = NETS["free-blocks"]
    start, now = drawn(net), drawn(net, "other")
    found = tails.certified_ranks(net.trace(), start, now, net.limits)
    w = {k: v[1].numpy() for k, v in now.items()}
    expected = [
        stable_rank(w["2.weight"]),
        stable_rank(np.hstack([w["3.u.weight"], w["3.z.weight"]])),
        stable_rank(np.hstack([w["4.u.weight"], w["4.z.weight"]])),
        1.0,
    ]
    np.testing.assert_allclose(found[1], expected, rtol=1e-10)
    net = NETS["convolutions"]
    start, now = drawn(net), drawn(net, "other")
    found = tails.certified_ranks(net.trace(), start, now, net.limits)
    w = {k: v[0].numpy() for k, v in now.items()}
    expected = [
        stable_rank(w["3.weight"].reshape(6, -1)),
        stable_rank(w["4.weight"].reshape(5, -1)),
        stable_rank(w["6.weight"]),
        1.0,
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)
    # Another limit than the expected one is no number.
    wrong = tails.certified_ranks(net.trace(), start, now, (8, 2, 1, 1))
    assert np.isnan(wrong).all()


def test_a_short_flow_keeps_its_bounds(monkeypatch):
    monkeypatch.setattr(tails, "RISKS", (0.5, 0.3))
    found = tails.measure(NETS["free-blocks"], TailsSize(2, 8), 5, lambda: None)
    assert found[..., tails.EXCESS].max() == 0.0
    assert 0.0 < found[..., tails.DRIFT].max() < 1e-2
    assert (found[..., tails.RANKS :] >= 1.0).all()
    assert not np.allclose(found[:, 0], found[:, 1])


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        ((1, tails.EXCESS), 0.1, {"certificate"}),
        ((0, tails.DRIFT), 0.1, {"drift"}),
        ((1, tails.RANKS), 3.9, {"level-1-falls"}),
        ((2, tails.RANKS + 2), 1.0, {"level-3-falls"}),
    ],
)
@pytest.mark.parametrize("name", sorted(NETS))
def test_each_claim_fails_where_its_number_does(name, index, value, fails):
    asked = tails_questions.questions(NETS[name], TailsSize(5))
    y = np.zeros((5, len(tails.RISKS), tails.RANKS + 3))
    y[..., tails.DRIFT] = 1e-4
    y[..., tails.RANKS :] = np.array([3.5, 2.5, 2.0, 1.8])[:, None]
    y *= 1.0 + 1e-3 * np.arange(5)[:, None, None]

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
