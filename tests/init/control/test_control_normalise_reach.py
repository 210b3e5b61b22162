"""Stable rank normalisation: extreme scales, groups, tied weights, a second one."""

import pytest
import torch
from srn_layers import BFLOAT16, FLOAT32, by_svd, linear, matrix, stable_rank, vectors
from tolerances import FLOAT64
from torch import nn
from torch.nn.utils import parametrize

from spectrank.errors import DomainError, ShapeError
from spectrank.init.control import stable_rank_norm

SCALES = [
    (torch.float32, 1e-37, FLOAT32),
    (torch.float32, 1e-24, FLOAT32),
    (torch.float32, 1e19, FLOAT32),
    (torch.float32, 3e37, FLOAT32),
    (torch.bfloat16, 1e-24, BFLOAT16),
    (torch.bfloat16, 1e19, BFLOAT16),
    (torch.float16, 1e-3, BFLOAT16),
    (torch.float64, 1e-300, FLOAT64),
    (torch.float64, 1e-170, FLOAT64),
    (torch.float64, 1e160, FLOAT64),
    (torch.float64, 1e300, FLOAT64),
]


@pytest.mark.parametrize(("dtype", "scale", "tolerance"), SCALES)
@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_target_is_met_at_every_scale(dtype, scale, tolerance, variant):
    layer = linear((matrix(40, 30, "quarter-circle") * scale).to(dtype))
    stored = layer.weight.detach().double() / scale
    stable_rank_norm(layer, 2.0, variant=variant)
    used = layer.weight.detach().double() / scale
    expected = by_svd(stored, 2.0, variant)
    assert torch.allclose(used, expected, rtol=0.0, atol=tolerance)
    assert stable_rank(used) == pytest.approx(2.0, rel=tolerance)


@pytest.mark.parametrize(("dtype", "scale"), [x[:2] for x in SCALES])
def test_iteration_and_gradient_do_not_depend_on_the_scale(dtype, scale):
    # A power of two: then nothing rounds differently.
    exact = 2.0 ** torch.tensor(scale, dtype=torch.float64).log2().round()
    slopes, found = [], []
    for factor in (1.0, exact):
        layer = linear((matrix(8, 6) * factor).to(dtype))
        stable_rank_norm(layer, 1.5)
        original = layer.parametrizations.weight.original
        with torch.no_grad():
            original.add_((0.1 * matrix(8, 6, "flat", seed=1) * factor).to(dtype))
        G = matrix(8, 6, "flat", seed=3).to(dtype)
        (layer.weight * G).sum().backward()
        slopes.append(original.grad.double())
        found.append(vectors(layer)["_u"].double())
    tolerance = {torch.float64: FLOAT64, torch.float32: FLOAT32}.get(dtype, BFLOAT16)
    assert torch.allclose(*found, rtol=0.0, atol=tolerance)
    assert torch.allclose(*slopes, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-24, 1e19])
def test_a_norm_is_set_at_every_scale(scale):
    layer = linear((matrix(8, 6) * scale).float())
    stable_rank_norm(layer, 1.5, spectral_norm=0.3)
    s = torch.linalg.svdvals(layer.weight.detach().double())
    assert float(s[0]) == pytest.approx(0.3, rel=FLOAT32)
    assert stable_rank(layer.weight) == pytest.approx(1.5, rel=FLOAT32)


def test_small_entries_below_the_target_are_used_bit_for_bit_at_a_large_scale():
    # Over the largest entry the last of these would be zero in float32.
    W = torch.diag(torch.tensor([1e30, 1e-9, 1e-20]))
    layer = stable_rank_norm(linear(W), 2.0)
    assert torch.equal(layer.weight, W)


def grouped(transposed=False):
    torch.manual_seed(0)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    return kind(6, 8, 3, groups=2, dtype=torch.float64)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_each_group_of_a_convolution_is_normalised_by_itself(transposed, exact):
    layer = grouped(transposed)
    W = layer.weight.detach().clone()
    stable_rank_norm(layer, 1.5, exact=exact)
    for k in range(2):
        if transposed:
            block, used = (
                x[3 * k : 3 * k + 3].movedim(1, 0) for x in (W, layer.weight)
            )
        else:
            block, used = (x[4 * k : 4 * k + 4] for x in (W, layer.weight))
        expected = by_svd(block.flatten(1), 1.5, "keep")
        assert torch.allclose(used.flatten(1), expected, rtol=0.0, atol=FLOAT64)


def test_one_changed_group_iterates_by_itself():
    layer = stable_rank_norm(grouped(), 1.5)
    before = vectors(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original[4:].add_(0.1)
    after = (layer.weight, vectors(layer))[1]
    assert torch.equal(after["_u"][:4], before["_u"][:4])
    assert not torch.equal(after["_u"][4:], before["_u"][4:])
    with torch.no_grad():
        layer.weight = matrix(8, 27).reshape(8, 3, 3, 3)
    for block in layer.weight.tensor_split(2):
        assert stable_rank(block.flatten(1)) == pytest.approx(1.5, rel=FLOAT64)


def test_the_target_of_a_group_is_bounded_by_its_block():
    with pytest.raises(DomainError, match=r"\[1, 4\] for a 4 x 27 matrix"):
        stable_rank_norm(grouped(), 5.0)


@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_vectors_are_used_as_they_are_and_turn(variant):
    # A depthwise kernel is vectors, whose stable rank is always 1.
    layer = nn.Conv1d(4, 4, 3, groups=4)
    W = layer.weight.detach().clone()
    stable_rank_norm(layer, fraction=0.5, variant=variant)
    assert torch.equal(layer.weight, W)
    G = torch.arange(12.0).reshape(4, 1, 3)
    (layer.weight * G).sum().backward()
    assert torch.equal(layer.parametrizations.weight.original.grad, G)


def test_one_parametrisation_serves_two_layers_that_share_a_weight():
    first, second = linear(matrix(6, 6, "flat")), linear(matrix(6, 6))
    second.weight = first.weight
    stable_rank_norm(first, 2.0)
    # The false friend: the other layer goes on with the weight as stored.
    assert stable_rank(second.weight) == pytest.approx(6.0, rel=FLOAT64)
    shared = first.parametrizations.weight[-1]
    parametrize.register_parametrization(second, "weight", shared)
    stored = [x.parametrizations.weight.original for x in (first, second)]
    assert stored[0] is stored[1]
    with torch.no_grad():
        stored[0].add_(0.1 * matrix(6, 6, seed=2))
    assert torch.equal(first.weight, second.weight)
    assert stable_rank(second.weight) <= 2.0 * (1 + FLOAT64)


def test_a_second_normalisation_of_a_weight_is_refused():
    layer = stable_rank_norm(linear(matrix(8, 6)), 2.0)
    used = layer.weight.detach().clone()
    with pytest.raises(DomainError, match=r"one stable rank normal.*stable_rank=2;"):
        stable_rank_norm(layer, 1.5)
    assert len(layer.parametrizations.weight) == 1
    assert torch.equal(layer.weight, used)
    # The way out works.
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    stable_rank_norm(layer, 1.5)
    assert stable_rank(layer.weight) == pytest.approx(1.5, rel=FLOAT64)


def test_a_bias_of_a_grouped_convolution_is_no_matrix():
    with pytest.raises(ShapeError, match="matrix or a kernel"):
        stable_rank_norm(grouped(), 2.0, name="bias")
