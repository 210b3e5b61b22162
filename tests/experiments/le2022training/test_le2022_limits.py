"""Numbers of the limits against numpy, KKT conditions and the algebra of the bounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.limits import (
    deep_linear,
    deep_linear_questions,
)
from spectrank.experiments.le2022training.limits.deep_linear import DeepSize
from spectrank.experiments.le2022training.limits.measuring import (
    Chain,
    certificates,
    hard_margin,
    stable_ranks,
)
from spectrank.experiments.le2022training.problems import chain, gaussian, separable


def test_the_hard_margin_solution_fulfils_its_optimality_conditions():
    data = separable(1, ("margin",), 3, 4, 30)
    gamma, direction = hard_margin(data)
    for r in range(3):
        x, y = data.inputs[r].numpy(), data.labels[r].numpy()
        margins = y * (x @ direction[r])
        assert margins.min() == pytest.approx(gamma[r], rel=1e-9)
        # The direction is a combination with weights >= 0 of the support vectors.
        support = margins < gamma[r] * (1 + 1e-7)
        a = (y[:, None] * x)[support].T
        weights = np.linalg.lstsq(a, direction[r], rcond=None)[0]
        np.testing.assert_allclose(a @ weights, direction[r], atol=1e-8)
        assert (weights > -1e-9).all()


def test_stable_ranks_are_numpy_s_and_nan_where_a_seed_is():
    params = gaussian(2, ("ranks",), 3, chain((4, 6, 5, 1)))
    params["1.weight"][1, 0, 0] = np.nan
    found = stable_ranks(params, [0, 1])
    for i in range(2):
        for r in (0, 2):
            w = params[f"{i}.weight"][r].numpy()
            expected = np.linalg.norm(w) ** 2 / np.linalg.norm(w, 2) ** 2
            assert found[r, i] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(found[1, 1])
    assert np.isfinite(found[1, 0])


def test_certificates_read_tail_alignment_and_drift():
    net = Chain((4, 6, 5, 1))
    params = gaussian(3, ("certificates",), 2, chain(net.widths))
    excess, aligned, drift = certificates(net.trace(), params, params)
    # At the start nothing has drifted and the bounds are algebra.
    assert (excess <= 0.0).all()
    assert (drift == 0.0).all()
    for r in range(2):
        found = []
        for i in range(2):
            u = np.linalg.svd(params[f"{i}.weight"][r].numpy())[0][:, 0]
            v = np.linalg.svd(params[f"{i + 1}.weight"][r].numpy())[2][0]
            found.append(abs(u @ v))
        assert aligned[r] == pytest.approx(min(found), rel=1e-9)
    moved = {k: 3.0 * v for k, v in params.items()}
    assert (certificates(net.trace(), params, moved)[2] > 1.0).all()


def test_deep_linear_numbers_at_a_known_point():
    """The max-margin solution, balanced: rank one, aligned, every share equal to 1."""
    data = separable(4, ("known",), 2, 4, 20)
    _, direction = hard_margin(data)
    net = Chain((4, 3, 3, 1))
    scale = 5.0
    unit = torch.zeros(2, 3, dtype=torch.float64)
    unit[:, 1] = 1.0
    now = {
        "0.weight": scale * unit[:, :, None] * torch.from_numpy(direction)[:, None],
        "1.weight": scale * unit[:, :, None] * unit[:, None],
        "2.weight": scale * unit[:, None],
    }
    problem = replace(data, forward=deep_linear.chain_forward(3), loss="exponential")
    numbers = deep_linear._numbers(net, problem, now, now)
    np.testing.assert_allclose(numbers[:, deep_linear.RANK], 1.0, rtol=1e-12)
    np.testing.assert_allclose(numbers[:, deep_linear.ALIGNED], 1.0, rtol=1e-9)
    np.testing.assert_allclose(numbers[:, deep_linear.DIRECTION], 1.0, rtol=1e-9)
    np.testing.assert_allclose(numbers[:, deep_linear.MARGIN], 1.0, rtol=1e-9)
    # ||w||^2 = 3 scale^2 and log(1/R) is a little more than gamma scale^3.
    assert (numbers[:, deep_linear.GROWTH] <= 1.0).all()
    assert (numbers[:, deep_linear.GROWTH] > 0.9).all()


def planted(num=5):
    c, t = len(deep_linear.CONFIGURATIONS), len(deep_linear.RISKS)
    y = np.zeros((num, c, t, 8))
    for i in range(c):
        depth = deep_linear.CONFIGURATIONS[i][0]
        fall = np.array([8.0, 1.0, 10 ** (-2 / depth)])
        y[:, i, :, deep_linear.RANK] = 1.0 + 1e-3 * fall
        y[:, i, :, deep_linear.ALIGNED] = 1.0 - 1e-5 * fall
    y[..., deep_linear.EXCESS] = -0.1
    y[..., deep_linear.DRIFT] = 1e-7
    for quantity in (deep_linear.GROWTH, deep_linear.COSINE, deep_linear.DIRECTION):
        y[..., quantity] = 1.0
    y[..., deep_linear.MARGIN] = 0.995
    y[:, 1, :, deep_linear.MARGIN] = 0.65
    return y * (1.0 + 1e-9 * np.arange(num)[:, None, None, None])


def verdicts(y):
    asked = deep_linear_questions.questions(DeepSize(len(y)))
    return {q.claim.key.split(".", 2)[2]: q.rows(y, 0)[0]["verdict"] for q in asked}


def test_what_the_theory_says_reproduces_every_claim():
    assert set(verdicts(planted()).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        ((2, 1, deep_linear.EXCESS), 0.1, {"certificate.depth-3-scale-0.1"}),
        ((3, 0, deep_linear.DRIFT), 0.1, {"drift.depth-5-scale-0.1"}),
        ((2, 2, deep_linear.GROWTH), 1.2, {"norm-predicted"}),
        ((2, 2, deep_linear.MARGIN), 0.8, {"margin-reached"}),
        ((1, 2, deep_linear.MARGIN), 0.9, {"margin-far"}),
        ((2, 2, deep_linear.COSINE), 0.9, {"kkt-cosine"}),
        ((0, 1, deep_linear.DIRECTION), 0.9, {"svm-direction"}),
        (
            (2, 0, deep_linear.ALIGNED),
            0.99,
            {"aligned-early.depth-3"},
        ),
        (
            (3, 1, deep_linear.RANK),
            1.02,
            {"log-slow.depth-5", "ranks-fall.depth-5-scale-0.1"},
        ),
    ],
)
def test_each_claim_fails_where_its_number_does(index, value, fails):
    y = planted()
    y[(slice(None), *index)] = value
    assert {k for k, v in verdicts(y).items() if v != "reproduced"} == fails
