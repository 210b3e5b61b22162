"""Directions between class means: which are kept, and which are rounding."""

import pytest
import torch

from spectrank.collapse.features import nc1
from spectrank.collapse.features.between import between_directions, resolution
from spectrank.collapse.features.summarised import class_summary


def test_fewer_directions_than_classes_are_not_inverted():
    # Means of five classes on a line: rank 1 of 4.
    g = torch.Generator().manual_seed(0)
    line = torch.randn(6, dtype=torch.float64, generator=g)
    y = torch.arange(5).repeat(8)
    noise = torch.randn(4, 5, 6, dtype=torch.float64, generator=g)
    # Each deviation comes with its opposite: the means stay on the line.
    rows = y.double()[:, None] * line + torch.cat([noise, -noise]).reshape(40, 6)
    direction = line / line.norm()
    along = (torch.cat([noise, -noise]).reshape(40, 6) @ direction).square().mean()
    truth = float(along / (2.0 * line.square().sum()))  # Var of 0..4 is 2
    assert nc1(rows, y).value == pytest.approx(truth, rel=1e-10)


def test_float32_noise_between_means_is_not_a_direction():
    g = torch.Generator().manual_seed(1)
    y = torch.arange(4).repeat(50)
    plane = torch.randn(2, 30, generator=g)
    x = torch.randn(4, 2, generator=g)[y] @ plane
    x = x + 1e-3 * torch.randn(200, 2, generator=g) @ plane
    truth = nc1(x.double(), y, rtol=1e-5).value
    assert truth < 1e-4
    # Two true directions; a third of rounding would add a number of order one or more.
    assert nc1(x.double(), y).value > 100 * truth
    assert nc1(x, y).value == pytest.approx(truth, rel=1e-10)
    # An offset takes seven binary digits of the features, and their noise grows so.
    assert nc1(x + 300.0, y).value == pytest.approx(truth, rel=0.1)
    assert nc1(x.bfloat16(), y).status == "ok"


@pytest.mark.parametrize(
    ("weights", "center"),
    [("classes", None), ("classes", "samples"), ("samples", None)],
)
def test_directions_are_the_eigenvectors_of_the_covariance(weights, center):
    g = torch.Generator().manual_seed(2)
    y = torch.arange(4).repeat_interleave(torch.tensor([3, 8, 2, 5]))
    x = torch.randn(18, 6, dtype=torch.float64, generator=g)
    summary = class_summary(x, y)
    between = between_directions(summary, weights, center)
    found = between.directions.mT @ between.scales.square().diag() @ between.directions
    covariance = summary.between_covariance(weights, center=center)
    torch.testing.assert_close(found, covariance, rtol=1e-12, atol=1e-14)
    assert (between.rank, between.num_possible, between.shortage) == (3, 3, None)
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0)[:3]
    torch.testing.assert_close(between.scales.square(), eigenvalues, rtol=1e-12, atol=0)


def test_the_resolution_grows_with_an_offset_and_the_spacing():
    x = torch.tensor([[3.0], [-3.0]]).double()
    y = torch.tensor([0, 1])
    eps = torch.finfo(torch.float32).eps
    assert resolution(class_summary(x, y), torch.float64) is None
    centred = resolution(class_summary(x, y), torch.float32)
    assert centred == pytest.approx(8 * eps)
    # Mean square 9 + 36 over variation 9.
    far = resolution(class_summary(x + 6.0, y), torch.float32)
    assert far == pytest.approx(8 * eps * 5**0.5)
    assert resolution(class_summary(x + 1e6, y), torch.bfloat16) == 0.5
