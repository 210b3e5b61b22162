"""Blocks of one pattern by hand, pairs on a known run, several outputs."""

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training import PAPER
from spectrank.experiments.le2022training.limits import blocks, classes
from spectrank.experiments.le2022training.limits.blocks import BlocksSize
from spectrank.experiments.le2022training.limits.classes import ClassesSize


def test_block_ratios_take_the_block_that_grew():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    now = torch.tensor(
        # Active on both; active on the first only; dead on both.
        [[6.0, 8.0], [8.0, 6.0], [5.0, -1.0], [4.0, -2.0], [-9.0, -1.0], [-1.0, -9.0]],
        dtype=torch.float64,
    )
    start = now.clone()
    start[:2] /= 10.0
    block, whole = blocks.block_ratios(start, now, x)
    # [[6, 8], [8, 6]] has the singular values 14 and 2.
    assert block == pytest.approx(2 / 14)
    sigma = np.linalg.svd(now.numpy(), compute_uv=False)
    assert whole == pytest.approx(sigma[1] / sigma[0])
    assert np.isnan(blocks.block_ratios(now, now, x)[0])


def test_the_ratio_of_a_block_is_that_of_its_second_singular_value():
    x = torch.full((1, 3), 1.0, dtype=torch.float64)
    now = torch.diag(torch.tensor([8.0, 4.0, 1.0], dtype=torch.float64))
    assert blocks.block_ratios(now / 10.0, now, x) == pytest.approx((0.5, 0.5))


def test_pairs_active_together_drift_far_less_than_others():
    found = blocks.pair_drifts(BlocksSize(2, num_samples=12, time=4.0), 5)
    assert (found[:, blocks._DIAGONAL] < 0.03 * found[:, blocks._OTHERS]).all()
    assert (found[:, blocks._TOGETHER] < 0.03 * found[:, blocks._OTHERS]).all()
    assert (found[:, blocks._OTHERS] > 1e-3).all()


def test_the_classes_are_separated_by_their_centres():
    problem = classes._problem(9, 2)
    for r in range(2):
        x, labels = problem.inputs[r].numpy(), problem.labels[r].numpy()
        assert np.linalg.norm(x, axis=1).max() == pytest.approx(1.0)
        means = np.stack([x[labels == c].mean(0) for c in range(classes._C)])
        distances = ((x[:, None] - means) ** 2).sum(2)
        assert (distances.argmin(1) == labels).mean() > 0.9
    assert not torch.equal(problem.inputs[0], problem.inputs[1])


def spread(y):
    shape = (-1, *[1] * (y.ndim - 1))
    return y * (1.0 + 1e-3 * np.arange(len(y)).reshape(shape))


def failing(asked, y):
    rows = [question.rows(y, 0)[0] for question in asked]
    return {
        row["subject"].split(".")[-1] for row in rows if row["verdict"] != "reproduced"
    }


def block_table():
    y = np.empty((5, 3, 5))
    y[..., :3] = 1e-4, 1e-5, 0.5
    y[..., blocks._BLOCK] = 0.4, 0.2, 0.1
    y[..., blocks._WHOLE] = 0.6
    return spread(y)


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        ((0, blocks._DIAGONAL), 0.3, {"vertex"}),
        ((0, blocks._TOGETHER), 0.3, {"pairs"}),
        ((2, blocks._BLOCK), 0.39, {"blocks-rank-one", "blocks-fall"}),
        ((1, blocks._BLOCK), 0.05, {"blocks-fall"}),
        ((2, blocks._WHOLE), 0.1, {"layer-not-rank-one"}),
        ((0, blocks._OTHERS), 1e-4, {"vertex", "pairs", "others"}),
    ],
)
def test_each_claim_on_relu_layers_fails_where_its_number_does(index, value, fails):
    asked, y = blocks.questions(BlocksSize(5)), block_table()
    assert failing(asked, y) == set()
    y[(slice(None), *index)] = value * (1.0 + 1e-3 * np.arange(5))
    assert failing(asked, y) == fails


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        ((1, classes._EXCESS), 0.1, {"certificate"}),
        ((0, classes._SUMS), 1e-3, {"column-sums"}),
        ((2, classes._SIGMA + 1), 1.2, {"growing"}),
        ((2, classes._SIGMA + 2), 1.4, {"not-growing"}),
    ],
)
def test_each_claim_on_several_outputs_fails_where_its_number_does(index, value, fails):
    y = np.empty((5, 3, classes._SIGMA + 7))
    y[..., classes._EXCESS], y[..., classes._SUMS] = -0.1, 1e-15
    y[..., classes._SIGMA :] = 1.0
    y[:, -1, classes._SIGMA : classes._SIGMA + 2] = 3.0
    y, asked = spread(y), classes.questions(ClassesSize(5))
    assert failing(asked, y) == set()
    y[(slice(None), *index)] = value
    assert failing(asked, y) == fails


def test_the_paper_has_parts_and_claims_of_unique_names():
    for mode in ("quick", "full"):
        parts = PAPER.parts(mode)
        keys = [claim.key for part in parts for claim in part.claims]
        assert len(set(keys)) == len(keys)
        assert len({part.name for part in parts}) == len(parts)
        whose = {claim.whose for part in parts for claim in part.claims}
        assert whose == {"ours", "claim of the paper; protocol ours"}
