"""Tails of networks on images: batch of draws against single ones, and each claim."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spectrank.experiments.images import Images
from spectrank.experiments.le2022training.images import (
    measuring,
    networks,
    tail_questions,
    tails,
)
from spectrank.experiments.le2022training.images.measuring import Quantity
from spectrank.experiments.le2022training.images.tails import CNN, DENSE, TailSize
from spectrank.experiments.le2022training.problems import slope
from spectrank.experiments.seeds import derive_generator

SIZE = TailSize(Images("digits", 20, 10, spatial=True), 3, (*DENSE, *CNN))


@pytest.mark.parametrize("arm", SIZE.arms, ids=lambda arm: arm.name)
def test_degree_and_homogeneity_are_those_of_the_network(arm):
    net = networks.build(arm.network, 8, num_outputs=arm.num_outputs, bias=False)
    networks.draw_(net, torch.Generator().manual_seed(1))
    x = torch.randn(
        5, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    # f(c w) over f(w): c^L of a homogeneous network, below it where paths are shorter.
    before = net(x).detach()
    with torch.no_grad():
        for p in net.parameters():
            p *= 1e3
    ratio = (net(x).detach() / before) / 1e3**arm.degree
    if arm.homogeneous:
        np.testing.assert_allclose(ratio, 1.0, rtol=1e-9)
    else:
        assert float((ratio - 1.0).abs().max()) > 1e-3
        # The longest paths win in the limit.
        with torch.no_grad():
            far = net(x).detach()
            for p in net.parameters():
                p *= 1e3
        np.testing.assert_allclose(net(x).detach() / far, 1e3**arm.degree, rtol=1e-3)


@pytest.mark.parametrize("arm", [DENSE[1], DENSE[2], CNN[0]], ids=lambda arm: arm.name)
def test_draws_in_one_batch_have_the_slopes_of_single_networks(arm):
    problem, start, nets = tails.problem_of(arm, SIZE, 7)
    found = slope(problem, start)
    for r, net in enumerate(nets):
        outputs = net(SIZE.images.train.inputs.double() / 8.0)
        labels = SIZE.images.train.labels
        if arm.num_outputs == 1:
            sign = torch.where(labels == r, 1.0, -1.0).double()
            risk = torch.log1p(torch.exp(-sign * outputs[:, 0])).mean()
        else:
            risk = torch.nn.functional.cross_entropy(outputs, labels)
        torch.testing.assert_close(found.log_risk[r], risk.detach().log())
        expected = torch.autograd.grad(risk.log(), list(net.parameters()))
        for (name, _), gradient in zip(net.named_parameters(), expected, strict=True):
            torch.testing.assert_close(found.gradients[name][r], gradient)


def test_what_is_found_is_of_each_draw_at_each_risk(monkeypatch):
    monkeypatch.setattr(tails, "RISKS", (0.1, 0.01))
    found = tails.followed(DENSE[0], SIZE, 7)
    assert found.shape == (3, 3, measuring.NUM_NUMBERS)
    for t, risk in enumerate((0.1, 0.01), 1):
        log_loss = found[:, t, Quantity.LOG_LOSS]
        assert (log_loss <= math.log(risk)).all()
        assert (log_loss > math.log(risk) - 0.5).all()
    assert (found[..., Quantity.EXCESS] == 0.0).all()
    assert (found[:, 0, Quantity.DRIFT] == 0.0).all()
    assert (found[:, 1:, Quantity.DRIFT] > 0.0).all()
    assert found[:, 1:, Quantity.DRIFT].max() < 5e-3
    # The start is that of the draw.
    net = networks.build("mlp", 8, num_outputs=1, bias=False)
    networks.draw_(net, derive_generator(7, tails.KEY, tails.NAME, "mlp", 2))
    sigma = np.linalg.svd(net[6].weight.detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(found[2, 0, len(Quantity) :], sigma)
    ratio = np.square(found[..., len(Quantity) :]).sum(2) / found[..., _FIRST] ** 2
    np.testing.assert_allclose(ratio, found[..., Quantity.STABLE_RANK])


_FIRST = len(Quantity)


def test_a_draw_that_does_not_arrive_is_nan_from_there_on(monkeypatch):
    monkeypatch.setattr(tails, "RISKS", (0.5, 1e-30))
    arm = replace(DENSE[0], degree=5)
    monkeypatch.setattr(
        type(arm), "pace", property(lambda self: tails.Pace(5, most_steps=20))
    )
    found = tails.followed(arm, SIZE, 7)
    assert np.isfinite(found[:, 1, Quantity.LOG_LOSS]).all()
    assert np.isnan(found[:, 2]).all()


def answered(y):
    rows = [question.rows(y, 0)[0] for question in tail_questions.questions(SIZE)]
    return {
        row["subject"].removeprefix("le2022training.images-tail.")
        for row in rows
        if row["verdict"] != "reproduced"
    }


def good():
    """Answers under which every claim holds, a little different in each draw."""
    shape = (3, len(SIZE.arms), len(tails.RISKS) + 1, measuring.NUM_NUMBERS)
    t = np.arange(shape[2])
    wobble = 1.0 + 0.01 * np.arange(3)[:, None, None]
    y = np.ones(shape) * wobble[..., None]
    y[..., Quantity.EXCESS] = 0.0
    y[..., Quantity.DRIFT] = 1e-4 * wobble
    y[..., Quantity.HOLDS] = 0.5 + 0.1 * t * wobble
    y[..., Quantity.STABLE_RANK] = 1.0 + 0.5**t * wobble
    y[..., Quantity.ALIGNED] = 0.65 + 0.1 * t * wobble
    y[..., Quantity.NORMALISED_MARGIN] = 2.0**t * wobble
    y[..., Quantity.KKT_COSINE] = 0.1 * t * wobble
    y[..., Quantity.SWITCHED] = 0.1 * 0.5**t * wobble
    y[..., Quantity.SIGN_FLIPS] = 5.0
    y[..., _FIRST + 9] = 0.5 * 0.5**t * wobble
    y[..., _FIRST + 1] = 0.9
    return y


@pytest.mark.parametrize(
    ("arm", "quantity", "at", "value", "fails"),
    [
        (1, Quantity.EXCESS, 1, 0.1, "certificate-residual"),
        (1, Quantity.HOLDS, -1, 0.1, "bounds-say-more-residual"),
        (1, Quantity.DRIFT, 2, 0.1, "laws-kept-residual"),
        (1, Quantity.STABLE_RANK, -1, 1.9, "rank-falls-residual"),
        (3, Quantity.ALIGNED, -1, 0.1, "aligned-cnn"),
        (3, Quantity.NORMALISED_MARGIN, 2, 1.0, "margin-grows-cnn"),
        (0, Quantity.KKT_COSINE, 3, 0.0, "kkt-rises-mlp"),
        (0, Quantity.SWITCHED, -1, 0.9, "patterns-settle-mlp"),
        (0, Quantity.SIGN_FLIPS, -1, 0.0, "signs-not-stable-mlp"),
        (2, _FIRST + 9, -1, 0.9, "tenth-falls-ten-classes"),
        (2, _FIRST + 1, -1, 0.3, "second-stays-ten-classes"),
    ],
)
def test_each_claim_fails_where_its_number_does(arm, quantity, at, value, fails):
    y = good()
    assert answered(y) == set()
    y[:, arm, at, quantity] = value
    assert answered(y) == {fails}


@pytest.mark.parametrize("quantity", [Quantity.STABLE_RANK, Quantity.EXCESS])
def test_draws_that_did_not_arrive_leave_a_claim_open(quantity):
    y = good()
    y[1, 0, -1, quantity] = np.nan
    open_claims = {
        Quantity.STABLE_RANK: "rank-falls-mlp",
        Quantity.EXCESS: "certificate-mlp",
    }
    assert answered(y) == {open_claims[quantity]}
