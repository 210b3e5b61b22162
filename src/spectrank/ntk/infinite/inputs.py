"""Inputs as a field: what the first layer, or a sum with its outputs, sees of them."""

from __future__ import annotations

import math

import torch

from spectrank.ntk.infinite.field import CHANNEL, Axes, Data, Field


def as_field(data: Data, axes: Axes, *, full: bool) -> Field:
    """Covariances of inputs, averaged over their channels.

    Args:
        data: Inputs.
        axes: One id per axis, one of them ``CHANNEL``.
        full: Whether to keep those of different positions.

    Returns:
        A field that is not Gaussian, with a tangent kernel of zero.
    """
    place = axes.index((CHANNEL,)) + 1
    order = [axis[0] for axis in axes if axis[0] != CHANNEL]
    shape = [size for i, size in enumerate(data.x.shape[1:], 1) if i != place]
    sizes = [0] * len(order)
    for id_, size in zip(order, shape, strict=True):
        sizes[id_] = size
    x, y = (
        t.movedim(place, 1)
        .permute(0, 1, *[2 + order.index(i) for i in range(len(order))])
        .reshape(t.shape[0], t.shape[place], math.prod(sizes))
        for t in (data.x, data.y)
    )
    num = x.shape[1]
    if full:
        xx, yy = (torch.einsum("acp,acq->apq", t, t) / num for t in (x, y))
        xy = torch.einsum("acp,bcq->abpq", x, y) / num
    else:
        xx, yy = ((t**2).mean(1) for t in (x, y))
        xy = torch.einsum("acp,bcp->abp", x, y) / num
    return Field(
        xx=xx,
        yy=yy,
        xy=xy,
        theta=torch.zeros_like(xy),
        mean_x=x.mean(1),
        mean_y=y.mean(1),
        axes=axes,
        sizes=tuple(sizes),
        channels=num,
        full=full,
        gaussian=False,
    )
