"""Shares of flips counted by numpy; each claim where its number fails."""

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.limits import patterns
from spectrank.experiments.le2022training.limits.patterns import PatternsSize
from spectrank.experiments.le2022training.problems import gaussian, separable


def test_shares_are_those_of_signs_of_pre_activations_and_of_weights(monkeypatch):
    """The flow is replaced by two moments, between which flips are counted by hand."""
    moments = [
        gaussian(seed, ("moment",), 2, patterns.chain(patterns._WIDTHS))
        for seed in (1, 2)
    ]
    monkeypatch.setattr(patterns, "_RISKS", (0.5, 1e-2))
    monkeypatch.setattr(patterns, "scaled_flow", lambda *_: moments)
    found = patterns.measure(PatternsSize(2, num_samples=9), 4, lambda: None)
    data = separable(4, (patterns.NAME,), 2, 5, 9)
    for r in range(2):
        signs, switches = [], []
        for params in moments:
            w = [params[f"{i}.weight"][r].numpy() for i in range(3)]
            first = data.inputs[r].numpy() @ w[0].T
            second = np.maximum(first, 0) @ w[1].T
            switches.append(np.concatenate([first.ravel(), second.ravel()]) > 0)
            signs.append(np.concatenate([v.ravel() for v in w]) > 0)
        expected = (switches[0] != switches[1]).mean()
        assert found[r, 0, patterns.SWITCHES] == pytest.approx(expected)
        expected = (signs[0] != signs[1]).mean()
        assert found[r, 0, patterns.SIGNS] == pytest.approx(expected)
    assert not np.array_equal(found[0], found[1])


def test_the_module_is_the_function_that_is_followed():
    params = gaussian(3, ("module",), 1, patterns.chain(patterns._WIDTHS))
    net = patterns._network()
    net.load_state_dict({patterns._renamed(k): v[0] for k, v in params.items()})
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, 5, dtype=torch.float64, generator=generator)
    forward = patterns.chain_forward(3, num_relus=2)
    torch.testing.assert_close(net(x[0])[:, 0].detach(), forward(params, x)[0])


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        ((3, patterns.SWITCHES), 0.05, {"activations-fewer"}),
        ((3, patterns.SIGNS), 0.08, {"weight-signs-fewer"}),
        ((0, patterns.SWITCHES), 0.01, {"activations-fewer", "activations-early"}),
        ((0, patterns.SIGNS), 0.01, {"weight-signs-fewer", "weight-signs-early"}),
    ],
)
def test_each_claim_fails_where_its_number_does(index, value, fails):
    asked = patterns.questions(PatternsSize(5))
    y = np.full((5, 4, 2), 0.1)
    y[:, -1] = 0.02
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
