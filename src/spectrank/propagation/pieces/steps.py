"""The steps that are piecewise linear but not linear, and where they bend."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spectrank.linalg.shapes import Float64

Levels = tuple[float, ...]
# ATen operator (without the underscore of its in-place form) to the values of its
# input at which it bends, from its arguments. All are continuous there.
BENDS: MappingProxyType[str, Callable[..., Levels]] = MappingProxyType(
    {
        "relu": lambda x: (0.0,),
        "leaky_relu": lambda x, negative_slope=0.01: (0.0,),
        "_prelu_kernel": lambda x, weight: (0.0,),
        "abs": lambda x: (0.0,),
        "hardtanh": lambda x, low=-1.0, high=1.0: (float(low), float(high)),
        "hardsigmoid": lambda x: (-3.0, 3.0),
        "softshrink": lambda x, lambd=0.5: (-float(lambd), float(lambd)),
        "clamp": lambda x, min=None, max=None: _numbers(min, max),  # noqa: A006
        "clamp_min": lambda x, min: _numbers(min),  # noqa: A006
        "clamp_max": lambda x, max: _numbers(max),  # noqa: A006
    }
)
POOL = "max_pool2d_with_indices"
# Operator of the graph to those of ATen that may run it.
RUN_AS: MappingProxyType[str, frozenset[str]] = MappingProxyType(
    {
        "relu": frozenset(["relu"]),
        "leaky_relu": frozenset(["leaky_relu"]),
        "prelu": frozenset(["_prelu_kernel"]),
        "abs": frozenset(["abs"]),
        "relu6": frozenset(["hardtanh"]),
        "hardtanh": frozenset(["hardtanh"]),
        "hardsigmoid": frozenset(["hardsigmoid"]),
        "softshrink": frozenset(["softshrink"]),
        "clamp": frozenset(["clamp", "clamp_min", "clamp_max"]),
        "clamp_min": frozenset(["clamp", "clamp_min"]),
        "clamp_max": frozenset(["clamp", "clamp_max"]),
        "max_pool1d": frozenset([POOL]),
        "max_pool2d": frozenset([POOL]),
    }
)


def _numbers(*levels: float | None) -> Levels:
    return tuple(float(level) for level in levels if level is not None)


def pool_windows(
    x: Float64[Tensor, "P C H W"],
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Float64[Tensor, "P M k"]:
    """The values among which a max pool chooses, window by window.

    Args:
        x: (P, C, H, W).
        kernel_size: As of the pool.
        stride: As of the pool; the kernel size where empty.
        padding: As of the pool.
        dilation: As of the pool.
        ceil_mode: As of the pool.

    Returns:
        (P, C * windows, k).
    """
    stride = stride or kernel_size
    # Padding never wins; a finite number keeps differences finite.
    low = float(x.min()) - 1.0
    up, left = _pair(padding)
    down, right = up, left
    if ceil_mode:
        # Windows may reach over the end by less than a stride.
        (a, b), (c, d) = _pair(stride), _pair(kernel_size)
        down, right = up + max(a, c), left + max(b, d)
    padded = F.pad(x, (left, right, up, down), value=low)
    channels = x.shape[1]
    columns = F.unfold(padded, kernel_size, dilation=dilation, stride=stride)
    size = columns.shape[1] // channels
    windows = columns.reshape(len(x), channels, size, -1).transpose(2, 3)
    return windows.reshape(len(x), -1, size)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])


def winner_changes(
    a: Float64[Tensor, "P M k"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the largest of k affine functions changes inside an interval.

    The largest of affine functions is convex: one that is largest at both ends is
    largest throughout. Elsewhere the walk goes from one crossing to the next. A change
    exactly at a point, as where several zeros of a ReLU tie, is no change inside.

    Args:
        a: Values at P points, affine between neighbours.

    Returns:
        Interval, window and fraction of every change.
    """
    start, end = a[:-1], a[1:]
    top_start, top_end = start.amax(-1), end.amax(-1)
    both = (start == top_start[..., None]) & (end == top_end[..., None])
    interval, window = (~both.any(-1)).nonzero(as_tuple=True)
    value, slope = start[interval, window], (end - start)[interval, window]
    near = 16.0 * torch.finfo(a.dtype).eps * value.abs().amax(-1, keepdim=True)
    tied = value >= value.amax(-1, keepdim=True) - near
    best = slope.masked_fill(~tied, -torch.inf).argmax(-1)
    now = torch.zeros(len(best), dtype=a.dtype, device=a.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(a.shape[-1] - 1):
        now, best = _next_winner(value, slope, best, now)
        inside = now < 1.0 - 16.0 * torch.finfo(a.dtype).eps
        interval, window, value, slope, best, now = (
            x[inside] for x in (interval, window, value, slope, best, now)
        )
        if not len(now):
            break
        found.append((interval, window, now))
    if not found:
        none = interval[:0]
        return none, none, now[:0]
    first, second, third = zip(*found, strict=True)
    return torch.cat(first), torch.cat(second), torch.cat(third)


def _next_winner(
    value: Tensor, slope: Tensor, best: Tensor, now: Tensor
) -> tuple[Tensor, Tensor]:
    own_value = value.gather(-1, best[:, None])
    own_slope = slope.gather(-1, best[:, None])
    meet = (own_value - value) / (slope - own_slope)
    steeper = slope > own_slope
    meet = meet.masked_fill(~steeper, torch.inf).clamp(min=now[:, None])
    soonest = meet.amin(-1)
    at_once = steeper & (meet <= soonest[:, None])
    # Of several that take over at one place the steepest stays on top.
    best = slope.masked_fill(~at_once, -torch.inf).argmax(-1)
    return soonest, best
