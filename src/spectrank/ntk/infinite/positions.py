"""Steps that move or average positions, and the bookkeeping of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.ntk.infinite.field import CHANNEL, Axes, Field, on_blocks

Apply = Callable[[Tensor], Tensor]


def spatial_map(field: Field, ids: Sequence[int], step: Apply, *, full: bool) -> Field:
    """Send positions through a linear step that mixes them, such as a pooling.

    Args:
        field: Full, without a pending map.
        ids: Positions that the step acts on.
        step: (N, 1, *sizes) to (N, 1, *new sizes).
        full: Whether different positions are wanted afterwards.

    Returns:
        The field.
    """
    before = [field.sizes[i] for i in ids]
    num = math.prod(before)
    unit = torch.eye(num, dtype=field.xx.dtype, device=field.xx.device)
    image = step(unit.reshape(num, 1, *before))
    after = image.shape[2:]
    matrix = image.reshape(num, -1).T
    sizes = list(field.sizes)
    for i, size in zip(ids, after, strict=True):
        sizes[i] = size

    def mixed(block: Tensor, copies: int) -> Tensor:
        lead = block.shape[: block.dim() - copies]
        value = block.reshape(*lead, *field.sizes * copies)
        start, rank = len(lead), len(field.sizes)
        for copy in range(copies):
            offset = start + copy * rank
            order = [offset + i for i in ids]
            moved = value.movedim(order, list(range(-len(order), 0)))
            flat = moved.reshape(*moved.shape[: -len(order)], num) @ matrix.T
            back = flat.reshape(*flat.shape[:-1], *after)
            value = back.movedim(list(range(-len(order), 0)), order)
        return value.reshape(*lead, *[math.prod(sizes)] * copies)

    found = on_blocks(field, lambda block: mixed(block, 2), full=True)
    found = replace(
        found,
        mean_x=mixed(field.mean_x, 1),
        mean_y=mixed(field.mean_y, 1),
        sizes=tuple(sizes),
    )
    if full:
        return found
    return on_blocks(found, lambda b: b.diagonal(dim1=-2, dim2=-1), full=False)


def moved(field: Field, axes: Sequence[int], step: Apply) -> Field:
    """Move, repeat, leave out or pad positions with zeros.

    Args:
        field: Without a pending map.
        axes: Axes after the batch that the step acts on, one position each.
        step: (1, 1, *sizes) of numbers from one upwards to the new places; zero
            where nothing stands.

    Returns:
        The field.
    """
    ids = [field.axes[axis][0] for axis in axes]
    num = math.prod(field.sizes)
    numbers = torch.arange(1.0, num + 1, dtype=torch.float64).reshape(field.sizes)
    rest = [i for i in range(len(field.sizes)) if i not in ids]
    order = rest + ids
    flat = numbers.permute(order).reshape(-1, 1, *[field.sizes[i] for i in ids])
    image = step(flat)
    sizes = list(field.sizes)
    for i, size in zip(ids, image.shape[2:], strict=True):
        sizes[i] = size
    back = image.reshape([sizes[i] for i in order])
    back = back.permute([order.index(i) for i in range(len(order))]).reshape(-1)
    index = back.long().to(field.xx.device) - 1
    kept = (index >= 0).to(field.xx.dtype)
    index = index.clamp_min(0)

    def pick(block: Tensor, copies: int) -> Tensor:
        block = block[..., index] * kept
        if copies == 2:
            block = block[..., index, :] * kept[:, None]
        return block

    found = on_blocks(field, lambda b: pick(b, field.copies), full=field.full)
    return replace(
        found,
        mean_x=pick(field.mean_x, 1),
        mean_y=pick(field.mean_y, 1),
        sizes=tuple(sizes),
    )


def window_sizes(
    sizes: Sequence[int],
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Positions at which a window stands.

    Args:
        sizes: Of the positions.
        kernel: Size of the window along each position.
        stride: Step of the window.
        padding: Zeros before and after.
        dilation: Distance of the taps.

    Returns:
        Their sizes.
    """
    per_axis = zip(sizes, padding, dilation, kernel, stride, strict=True)
    return tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in per_axis)


def windows(
    block: Tensor,
    sizes: Sequence[int],
    copies: int,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Tensor:
    """Mean over the offsets of a window that all copies of the positions share.

    Args:
        block: (..., *S).
        sizes: Of the positions.
        copies: One, or two for pairs of positions.
        kernel: Size of the window along each position.
        stride: Step of the window.
        padding: Zeros before and after.
        dilation: Distance of the taps.

    Returns:
        (..., *S'), zeros of the padding counted.
    """
    lead = block.shape[: block.dim() - copies]
    value = block.reshape(-1, *tuple(sizes) * copies)
    pads = [amount for pair in reversed(padding) for amount in pair]
    value = functional.pad(value, pads * copies)
    rank = len(sizes)
    new = window_sizes(
        sizes, kernel=kernel, stride=stride, padding=padding, dilation=dilation
    )
    total = value.new_zeros(value.shape[0], *new * copies)
    for offset in torch.cartesian_prod(*[torch.arange(k) for k in kernel]).reshape(
        -1, rank
    ):
        cut = tuple(
            slice(int(o) * d, int(o) * d + s * (n - 1) + 1, s)
            for o, d, s, n in zip(offset, dilation, stride, new, strict=True)
        )
        total += value[(slice(None), *cut * copies)]
    total /= math.prod(kernel)
    return total.reshape(*lead, *[math.prod(new)] * copies)


def reduced(field: Field, ids: Sequence[int]) -> Field:
    """Mean over equal positions: what a layer sees of flattened ones.

    Args:
        field: Without a pending map.
        ids: Positions that lie along the axis of the layer.

    Returns:
        The field without them; ``axes`` and means are for the caller.
    """
    kept = [i for i in range(len(field.sizes)) if i not in ids]
    shape = [math.prod(field.sizes[i] for i in group) for group in (kept, ids)]
    order = [*kept, *ids]

    def mean(block: Tensor) -> Tensor:
        lead = block.shape[: block.dim() - field.copies]
        value = block.reshape(*lead, *field.sizes * field.copies)
        rank, start = len(field.sizes), len(lead)
        places = [start + c * rank + i for c in range(field.copies) for i in order]
        value = value.permute(*range(start), *places)
        value = value.reshape(*lead, *shape * field.copies)
        if field.copies == 2:
            value = value.diagonal(dim1=-3, dim2=-1)
        return value.mean(-1)

    return replace(
        on_blocks(field, mean, full=field.full),
        sizes=tuple(field.sizes[i] for i in kept),
    )


def dropped(axes: Axes, ids: Sequence[int]) -> Axes:
    """Forget position ids and close the gaps in the numbering.

    Args:
        axes: Ids along each axis.
        ids: Those that are gone.

    Returns:
        The axes; an axis of which nothing is left is empty.
    """
    kept = sorted({i for axis in axes for i in axis if i >= 0 and i not in ids})
    new = {old: i for i, old in enumerate(kept)} | {CHANNEL: CHANNEL}
    return tuple(tuple(new[i] for i in axis if i in new) for axis in axes)


def single_positions(field: Field, axes: Sequence[int], what: str) -> None:
    """Refuse axes that hold the channels or several positions.

    Args:
        field: The field.
        axes: Axes after the batch.
        what: Which step asks.

    Raises:
        DomainError: One of the axes is none of a single position.
    """
    for axis in axes:
        ids = field.axes[axis]
        if len(ids) != 1 or ids[0] == CHANNEL:
            raise DomainError(
                f"{what} acts on positions, each an axis of its own, got one along "
                f"{'the channels' if CHANNEL in ids else 'several positions'}; in the "
                "limit channels are infinitely many: use spectrank.ntk.empirical"
            )
