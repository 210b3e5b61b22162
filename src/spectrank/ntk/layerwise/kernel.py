"""Signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn

from spectrank.ntk.layerwise.support import Support

Outputs = Literal["full", "trace", "sum_logits"]
Progress = Callable[[int, int], object]


def layerwise_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs,
    params: frozenset[str],
    block: int | None = None,
    memory: int | None = None,
    out: Tensor | None = None,
    progress: Progress | None = None,
    support: Support | None = None,
) -> Tensor:
    """Kernel; ``out`` is overwritten (not added to); see ``supported`` for support=."""
    raise NotImplementedError


def layer_kernels(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs,
    params: frozenset[str],
    block: int | None = None,
    memory: int | None = None,
    support: Support | None = None,
) -> Mapping[str, Tensor]:
    """Kernel of each layer, keyed by the names of its parameters joined by +."""
    raise NotImplementedError
