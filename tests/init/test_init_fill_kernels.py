"""stable_rank_ on kernels: groups, layouts, and the operator of a convolution."""

import itertools
import math

import pytest
import torch
from filled import filled, generator, stable_rank
from tolerances import STANDARD_ERRORS
from torch import nn

from spectrank.init import stable_rank_

SEEDS = (1, 2, 3)


@pytest.mark.parametrize("kernel", [(3,), (3, 5), (3, 1, 2)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_group_of_a_kernel_is_a_matrix_of_its_own(groups, kernel):
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
    layer = conv(16, 24, kernel, groups=groups, dtype=torch.float64)
    stable_rank_(
        layer.weight, 2.5, groups=groups, spectrum="flat", generator=generator()
    )
    parts = layer.weight.detach().reshape(groups, 24 // groups, -1)
    for part in parts:
        assert stable_rank(part) == pytest.approx(2.5, rel=1e-10)
        # He: variance 2 / fan_in in every group.
        fan = 16 // groups * math.prod(kernel)
        assert float(part.square().mean()) == pytest.approx(2 / fan, rel=1e-10)
    for a, b in itertools.combinations(parts, 2):
        assert not torch.allclose(a, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_are_independent(seed):
    kernel = torch.empty(2 * 4000, 3, 1, dtype=torch.float64)
    stable_rank_(kernel, 1.5, groups=4000, spectrum="flat", generator=generator(seed))
    W = kernel.reshape(2000, 2, 2, 3)
    product = W[:, 0, 0, 0] * W[:, 1, 0, 0]
    error = float(product.std()) / math.sqrt(len(product))
    assert abs(float(product.mean())) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("kernel", [(3,), (5, 3), (3, 3, 1)])
def test_a_delta_kernel_has_the_spectrum_of_its_matrix_at_every_frequency(kernel):
    W = filled((8, 6, *kernel), 2.5, spectrum="flat", layout="delta")
    sides = [side + 2 for side in kernel]
    transfer = torch.fft.fftn(W, s=sides, dim=tuple(range(2, W.ndim)))
    maps = transfer.reshape(8, 6, -1).permute(2, 0, 1)
    s = torch.linalg.svdvals(maps)
    assert torch.allclose(s, s[0].expand_as(s), atol=1e-12)
    ratio = (s[0] / s[0][0]).square().sum()
    assert float(ratio) == pytest.approx(2.5, rel=1e-10)
    assert int((W != 0.0).any(0).any(0).sum()) == 1
    # He for one position: |W x| of a 6-vector at each place.
    assert float(W.square().sum()) == pytest.approx(16.0, rel=1e-11)
    layer = nn.functional.conv1d if len(kernel) == 1 else None
    if layer is not None:
        x = torch.randn(1, 6, 11, dtype=torch.float64, generator=generator(3))
        shifted = layer(x, W, padding=kernel[0] // 2)
        assert torch.allclose(shifted[0], W[:, :, kernel[0] // 2] @ x[0], atol=1e-12)


def test_delta_groups_keep_zeros_elsewhere():
    W = filled((8, 3, 3, 3), 2.0, layout="delta", groups=2, spectrum="spike")
    for half in W.reshape(2, 4, 3, 3, 3):
        assert stable_rank(half[:, :, 1, 1]) == pytest.approx(2.0, rel=1e-10)
    others = W.clone()
    others[:, :, 1, 1] = 0.0
    assert not bool(others.any())


def test_the_stable_rank_of_a_kernel_is_not_that_of_its_operator():
    # S1 2.4: on N circular positions sr(Op) >= N sr / (number of taps).
    W = filled((6, 4, 3), 2.0, spectrum="flat")
    N = 16
    s = torch.linalg.svdvals(torch.fft.fft(W, n=N).permute(2, 0, 1)).flatten()
    operator = float((s / s.max()).square().sum())
    assert operator >= N * 2.0 / 3.0
    assert abs(operator / N - 2.0) > 0.1


# Where and how it writes.
