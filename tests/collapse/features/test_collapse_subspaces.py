"""Angles between class means and singular vectors that were built."""

import math

import numpy as np
import pytest
import torch

from spectrank.collapse.features import subspace_angles
from spectrank.collapse.features.summarised import class_summary
from spectrank.errors import ShapeError


def rotation(dim, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=g)).Q


def setting(angles, dim, num_rows, seed=0, tail=0.5, top=1.0):
    """Means that span e_1..e_r, and a weight whose top directions are turned."""
    r = len(angles)
    q = rotation(dim, seed)
    means = torch.zeros(r + 1, dim, dtype=torch.float64)
    means[:r, :r] = torch.diag(torch.arange(1.0, r + 1.0).double())
    rows = torch.eye(dim, dtype=torch.float64)
    for i, angle in enumerate(angles):
        turn = torch.eye(dim, dtype=torch.float64)
        turn[i, i] = turn[r + i, r + i] = math.cos(angle)
        turn[i, r + i], turn[r + i, i] = math.sin(angle), -math.sin(angle)
        rows = rows @ turn
    s = torch.cat([torch.arange(r, 0, -1) + 1.0, torch.full((num_rows - r,), tail)])
    s[0] *= top
    left = rotation(num_rows, seed + 1)
    weight = left @ torch.diag(s.double()) @ rows[:num_rows]
    return class_summary(means @ q + 3.0, torch.arange(r + 1)), weight @ q


@pytest.mark.parametrize(
    "angles", [(0.0, 0.0), (1e-9, 0.3), (0.2, 1.2), (1e-5, math.pi / 2)]
)
@pytest.mark.parametrize("num_rows", [2, 5])
def test_turned_directions_have_the_angles_they_were_turned_by(angles, num_rows):
    found = subspace_angles(*setting(angles, 7, num_rows))
    for value, truth in zip(found, angles, strict=True):
        assert value.value == pytest.approx(truth, abs=1e-14, rel=1e-7)
        assert value.lower <= truth <= value.upper


@pytest.mark.parametrize("num_rows", [70, 90, 200])
def test_large_weights_take_the_top_directions_of_their_gram_matrix(num_rows):
    angles = (1e-9, 0.3, 1.2)
    summary, weight = setting(angles, 90, min(num_rows, 90))
    if num_rows > 90:
        weight = rotation(num_rows, 5)[:, :90] @ weight
    found = subspace_angles(summary, weight)
    for value, truth in zip(found, angles, strict=True):
        assert value.lower <= truth <= value.upper
        assert value.value == pytest.approx(truth, abs=1e-12)
        assert value.upper - value.lower < 1e-10


def test_directions_that_a_gram_matrix_does_not_resolve_are_decomposed_themselves():
    # Squares spread over 4e6 would turn the vectors by up to 1e-7.
    summary, weight = setting((0.1, 0.2), 90, 80, top=1000.0)
    found = subspace_angles(summary, weight)
    for value, truth in zip(found, (0.1, 0.2), strict=True):
        assert value.lower <= truth <= value.upper
        assert value.upper - value.lower < 1e-9
    equal = setting((0.1, 0.2), 90, 80, tail=2.0)
    assert [a.status for a in subspace_angles(*equal)] == ["degenerate"]


def test_a_small_angle_keeps_its_digits():
    # The arc cosine of 1 - 5e-19 is 0.
    found = subspace_angles(*setting((1e-9,), 4, 3))
    assert found[0].value == pytest.approx(1e-9, rel=1e-5)


def test_fewer_rows_than_directions_give_as_many_angles():
    summary, weight = setting((0.1, 0.2, 0.3), 8, 5)
    top = torch.linalg.svd(weight).Vh[:2]
    found = subspace_angles(summary, top)
    assert len(found) == 2
    basis = np.linalg.svd((summary.means - summary.means.mean(0)).numpy())[2][:3]
    cosines = np.linalg.svd(basis @ top.numpy().T)[1]
    truth = np.sort(np.arccos(np.clip(cosines, -1, 1)))
    assert [a.value for a in found] == pytest.approx(list(truth), abs=1e-7)


def test_a_cut_between_equal_singular_values_is_no_subspace():
    summary, weight = setting((0.1, 0.2), 7, 5, tail=2.0)
    found = subspace_angles(summary, weight)
    assert [a.status for a in found] == ["degenerate"]
    assert "2 and 3" in found[0].reason


def test_no_means_no_weight_no_angle():
    summary, weight = setting((0.1, 0.2), 7, 5)
    assert subspace_angles(summary, 0.0 * weight)[0].reason == "the weight is zero"
    assert subspace_angles(summary, torch.nan * weight)[0].status == "nonfinite"
    point = class_summary(torch.ones(4, 7).double(), torch.arange(4))
    assert "means are equal" in subspace_angles(point, weight)[0].reason
    one = class_summary(torch.ones(4, 7), torch.zeros(4, dtype=torch.int64))
    assert subspace_angles(one, weight)[0].status == "degenerate"
    with pytest.raises(ShapeError, match="must have 7 columns"):
        subspace_angles(summary, weight[:, :3])
