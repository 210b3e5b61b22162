r"""Truncated networks as factors: :math:`W = A B`, saved, and loaded again.

A layer of rank r becomes two: B = sqrt(sigma) V^T (r, n) without bias, then
A = U sqrt(sigma) (m, r) with the bias, the same map with r (m + n) numbers in place of
m n. A layer that would not get smaller stays whole. A convolution becomes one with r
channels and a 1 x 1 convolution after it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spectrank.errors import ShapeError
from spectrank.experiments.zangrando2024neural.removal.truncation import num_parameters


def factored(model: nn.Sequential, ranks: Sequence[int]) -> nn.Sequential:
    """Return a network with factors in place of its weights.

    Args:
        model: Linear layers, convolutions without groups or dilation, and maps without
            weights; not changed.
        ranks: One for each layer with a weight, in their order.

    Returns:
        The network, in the dtype of the model.

    Raises:
        ShapeError: There are not as many ranks as weights.
    """
    layers = [m for m in model if isinstance(m, nn.Linear | nn.Conv2d)]
    if len(layers) != len(ranks):
        raise ShapeError(
            f"each layer with a weight has a rank of its own, got {len(ranks)} ranks "
            f"for {len(layers)} layers; give one a layer"
        )
    modules: list[nn.Module] = []
    left = list(ranks)
    for module in model:
        if not isinstance(module, nn.Linear | nn.Conv2d):
            modules.append(copy.deepcopy(module))
            continue
        rank, shape = left.pop(0), module.weight.shape
        if num_parameters(shape, rank) < module.weight.numel():
            modules += _pair(module, rank)
        else:
            modules.append(copy.deepcopy(module))
    return nn.Sequential(*modules)


def save(model: nn.Module, path: Path) -> int:
    """Write a network's parameters as safetensors.

    Args:
        model: The network.
        path: Of the file.

    Returns:
        Its bytes.
    """
    save_file({n: p.detach().contiguous() for n, p in model.state_dict().items()}, path)
    return path.stat().st_size


def load(model: nn.Module, path: Path) -> None:
    """Read a network's parameters; every one must be there.

    Args:
        model: Of the architecture that was saved; changed in place.
        path: Of the file.
    """
    model.load_state_dict(load_file(path))


def _pair(layer: nn.Linear | nn.Conv2d, rank: int) -> list[nn.Module]:
    matrix = layer.weight.detach().flatten(1).double()
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    # Both factors share the singular values: equal norms, and no factor that overflows.
    root = sigma[:rank].sqrt()
    a, b = left[:, :rank] * root, root[:, None] * right[:rank]
    first, second = _modules(layer, rank)
    for module, factor in ((first, b), (second, a)):
        _fill(module, factor)
    if layer.bias is not None:
        _fill_bias(second, layer.bias)
    return [first, second]


def _modules(layer: nn.Linear | nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    bias, dtype = layer.bias is not None, layer.weight.dtype
    if isinstance(layer, nn.Linear):
        return (
            nn.Linear(layer.in_features, rank, bias=False, dtype=dtype),
            nn.Linear(rank, layer.out_features, bias=bias, dtype=dtype),
        )
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        bias=False,
        dtype=dtype,
    )
    return first, nn.Conv2d(rank, layer.out_channels, 1, bias=bias, dtype=dtype)


def _fill(module: nn.Module, factor: Tensor) -> None:
    weight = module.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(factor.view_as(weight))


def _fill_bias(module: nn.Module, bias: Tensor) -> None:
    with torch.no_grad():
        module.get_parameter("bias").copy_(bias)
