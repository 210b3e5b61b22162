"""Modules of plain layers for timing, built the same way in every environment.

Needs torch and safetensors only, so that a peer's environment stays its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def build(kind: str, **options: Any) -> nn.Module | dict[str, Tensor]:
    """Return a model.

    Args:
        kind: ``file`` (its matrices and kernels), ``slices`` (each k x k slice of the
            kernels of a file as a matrix, in a state dict), ``gpt2`` (the shapes of
            GPT-2 small) or ``small`` (many layers of 64 x 64).
        **options: Of that kind.

    Returns:
        Module, or a mapping of names to tensors.
    """
    kinds = {"file": _file, "slices": _slices, "gpt2": _gpt2, "small": _small}
    return kinds[kind](**options)


def _tensors(path: str) -> dict[str, Tensor]:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _file(path: str) -> nn.Module:
    layers = {
        name.removesuffix(".weight"): W
        for name, W in _tensors(path).items()
        if W.ndim >= 2 and W.is_floating_point()
    }
    return _module(layers)


def _slices(path: str) -> dict[str, Tensor]:
    return {
        f"{name.removesuffix('.weight')}.{i}.{j}.weight": W[:, :, i, j].contiguous()
        for name, W in _tensors(path).items()
        if W.ndim == 4
        for i in range(W.shape[2])
        for j in range(W.shape[3])
    }


def _gpt2() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    shapes = {"embeddings.words": (50257, 768), "embeddings.positions": (1024, 768)}
    block = {"attn": (2304, 768), "proj": (768, 768), "up": (3072, 768)}
    block["down"] = (768, 3072)
    for i in range(12):
        shapes |= {f"h.{i}.{name}": shape for name, shape in block.items()}
    std = 0.02
    return _module(
        {n: std * torch.randn(s, generator=generator) for n, s in shapes.items()}
    )


def _small(num: int, side: int = 64) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    scale = 1.0 / math.sqrt(side)
    return _module(
        {
            f"layer{i}": scale * torch.randn(side, side, generator=generator)
            for i in range(num)
        }
    )


def _module(layers: dict[str, Tensor]) -> nn.Module:
    """A tree of layers with these names and weights; nothing is initialised."""
    model = nn.Module()
    for name, W in layers.items():
        *parents, last = name.split(".")
        place = model
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(last, _layer(name, W))
    return model.eval()


def _layer(name: str, W: Tensor) -> nn.Module:
    layer: nn.Module
    with torch.device("meta"):
        if W.ndim == 4:
            layer = nn.Conv2d(W.shape[1], W.shape[0], tuple(W.shape[2:]), bias=False)
        elif W.ndim == 3:
            layer = nn.Conv1d(W.shape[1], W.shape[0], W.shape[2], bias=False)
        elif "embeddings" in name:
            layer = nn.Embedding(*W.shape)
        else:
            layer = nn.Linear(W.shape[1], W.shape[0], bias=False)
    layer.weight = nn.Parameter(W, requires_grad=False)
    return layer
