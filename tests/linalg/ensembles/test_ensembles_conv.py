"""A matrix as a kernel: what torch convolves is the matrix times the patch."""

import pytest
import torch
from torch.nn import functional as F

from spectrank.errors import ShapeError
from spectrank.linalg.ensembles import conv_kernel, ensemble
from spectrank.model.views import get_view

SHAPES = ((8, 3, 2, 4), (3, 8, 3, 3), (4, 4, 2, 2), (5, 2, 1, 1))


def matrix(shape, seed):
    n = torch.Size(shape[1:]).numel()
    e = ensemble(shape[0], n, stable_rank=1.7, spectrum="slice")
    return e.sample(torch.Generator().manual_seed(seed))


def failures(to_kernel, shape, seed):
    """Three oracles: the view of the scanner, torch's own patches, the stable rank."""
    W = matrix(shape, seed)
    kernel = to_kernel(W, shape)
    broken = []
    if not torch.equal(get_view("conv-unfolded").apply(kernel), W):
        broken.append("view")
    generator = torch.Generator().manual_seed(100 + seed)
    x = torch.randn(2, shape[1], 6, 7, dtype=torch.float64, generator=generator)
    patches = F.unfold(x, shape[2:])
    if not torch.allclose(F.conv2d(x, kernel).flatten(2), W @ patches, atol=1e-12):
        broken.append("patches")
    s = torch.linalg.svdvals(kernel.flatten(1))
    if abs(float((s / s[0]).square().sum()) - 1.7) > 1e-10:
        broken.append("stable rank")
    return broken


def with_position_before_channel(W, shape):
    out, channels, *size = shape
    return W.reshape(out, *size, channels).permute(0, 3, 1, 2)


def with_height_and_width_exchanged(W, shape):
    out, channels, height, width = shape
    return W.reshape(out, channels, width, height).mT


def with_outputs_last(W, shape):
    return W.T.reshape(*shape[1:], shape[0]).permute(3, 0, 1, 2).flip(0)


def with_outputs_in_the_rows_of_inputs(W, shape):
    return W.T.reshape(shape)


def with_the_kernel_flipped(W, shape):
    return W.reshape(shape).flip(-1, -2)


MUTANTS = (
    with_position_before_channel,
    with_height_and_width_exchanged,
    with_outputs_last,
    with_outputs_in_the_rows_of_inputs,
    with_the_kernel_flipped,
)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_kernel_convolves_as_its_matrix_multiplies(shape, seed):
    assert failures(conv_kernel, shape, seed) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_reshapings_that_permute_axes_are_rejected(mutant, seed):
    assert {"view", "patches"} <= set(failures(mutant, (8, 3, 2, 4), seed))


def test_a_reshaping_that_mixes_outputs_and_inputs_changes_the_stable_rank():
    broken = failures(with_outputs_in_the_rows_of_inputs, (8, 3, 2, 4), 1)
    assert "stable rank" in broken


def test_kernels_of_one_and_three_axes_are_served():
    for shape in ((4, 3, 5), (4, 3, 2, 2, 2)):
        W = matrix(shape, 1)
        kernel = conv_kernel(W, shape)
        assert tuple(kernel.shape) == shape
        assert torch.equal(get_view("conv-unfolded").apply(kernel), W)


def test_a_kernel_shares_memory_with_its_matrix():
    W = matrix((8, 3, 2, 4), 1)
    assert conv_kernel(W, (8, 3, 2, 4)).data_ptr() == W.data_ptr()


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (24, 8), (2, 4, 3, 2, 4), (), (8,)])
def test_shapes_that_do_not_unfold_to_the_matrix_are_refused(shape):
    with pytest.raises(ShapeError, match=r"got a matrix of shape \(8, 24\)"):
        conv_kernel(torch.zeros(8, 24), shape)
