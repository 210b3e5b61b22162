r"""What flows along the graph: numbers before the first layer, random fields after it.

A field has infinitely many channels, independent and alike, at P positions. Of two sets
of n1 and n2 inputs it holds, S being (P,) or, where positions mix later, (P, P):

    xx     (n1, *S)       E h(x, p) h(x, p') of one channel
    yy     (n2, *S)       the same of the second set
    xy     (n1, n2, *S)   E h(x, p) h(y, p')
    theta  (n1, n2, *S)   tangent kernel of one channel
    mean_x (n1, P), mean_y (n2, P)   E h

An elementwise map is pending in ``map`` until something other than a map needs the
field, so that maps compose; means are zero then. ``axes`` says which position ids lie
along each axis of the tensor after the batch, ``CHANNEL`` among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from spectrank.ntk.infinite.duals import Identity
from spectrank.ntk.infinite.maps import NO_MAP, Map

CHANNEL = -1
Axes = tuple[tuple[int, ...], ...]


@final
@dataclass(frozen=True)
class Data:
    """Inputs as numbers, on which steps act as they stand.

    Attributes:
        x: (n1, *shape).
        y: (n2, *shape).
    """

    x: Tensor
    y: Tensor


@final
@dataclass(frozen=True)
class Field:
    """Random field of infinitely many channels, for two sets of inputs.

    Attributes:
        xx: (n1, *S).
        yy: (n2, *S).
        xy: (n1, n2, *S).
        theta: (n1, n2, *S).
        mean_x: (n1, P).
        mean_y: (n2, P).
        axes: Ids along each axis after the batch.
        sizes: Of the positions, by id; P is their product.
        channels: How many there are in the module.
        full: Whether S is (P, P).
        gaussian: Whether channels are centred Gaussian, before ``map``.
        map: Pending elementwise map.
        sources: Ids of the layers whose randomness it is linear in.
        limit: Step since the last layer that supposes infinitely many channels.
    """

    xx: Tensor
    yy: Tensor
    xy: Tensor
    theta: Tensor
    mean_x: Tensor
    mean_y: Tensor
    axes: Axes
    sizes: tuple[int, ...]
    channels: int
    full: bool
    gaussian: bool
    map: Map = NO_MAP
    sources: frozenset[str] = frozenset()
    limit: str | None = None

    @property
    def copies(self) -> int:
        """Number of position axes of a block: one, or two where full."""
        return 2 if self.full else 1

    def variances(self) -> tuple[Tensor, Tensor]:
        """E h^2 of both sets, (n1, P) and (n2, P)."""
        return diagonal(self.xx, self.full), diagonal(self.yy, self.full)


def diagonal(block: Tensor, full: bool) -> Tensor:
    """The entries of equal positions.

    Args:
        block: (..., *S).
        full: Whether S is (P, P).

    Returns:
        (..., P).
    """
    return block.diagonal(dim1=-2, dim2=-1) if full else block


def as_diagonal(field: Field) -> Field:
    """Forget covariances of different positions.

    Args:
        field: Any field.

    Returns:
        A field with S = (P,).
    """
    if not field.full:
        return field
    return on_blocks(field, lambda block: diagonal(block, True), full=False)


def on_blocks(field: Field, step: Callable[[Tensor], Tensor], *, full: bool) -> Field:
    """Apply a linear step to all four blocks.

    Args:
        field: Without a pending map.
        step: (..., *S) to (..., *S').
        full: Whether S' is (P', P').

    Returns:
        The field; means are left as they were.
    """
    return replace(
        field,
        xx=step(field.xx),
        yy=step(field.yy),
        xy=step(field.xy),
        theta=step(field.theta),
        full=full,
    )


def settled(field: Field) -> Field:
    """Send the field through its pending map.

    Args:
        field: Any field.

    Returns:
        A field without a pending map, Gaussian only where the map was none.
    """
    pending = field.map
    if pending.identity:
        return field
    dual, f, b = pending.dual, pending.factor, pending.shift
    if isinstance(dual, Identity) and b == 0.0:
        found = on_blocks(field, lambda block: block * f**2, full=field.full)
        return replace(found, map=NO_MAP)
    q_x, q_y = (pending.scale**2 * q for q in field.variances())
    mean_x, mean_y = dual.mean(q_x), dual.mean(q_y)

    def affine(block: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return f * f * block + f * b * (left + right) + b * b

    sides = _sides(q_x, q_y, field.full)
    means = _sides(mean_x, mean_y, field.full)
    new = {}
    for name, q in (("xx", q_x), ("yy", q_y)):
        if field.full:
            block = getattr(field, name) * pending.scale**2
            new[name] = dual.pair(block, *sides[name])[0]
        else:
            new[name] = dual.square(q)
        new[name] = affine(new[name], *means[name])
    value, slope = dual.pair(field.xy * pending.scale**2, *sides["xy"])
    return replace(
        field,
        xx=new["xx"],
        yy=new["yy"],
        xy=affine(value, *means["xy"]),
        theta=field.theta * slope * (pending.scale * f) ** 2,
        mean_x=f * mean_x + b,
        mean_y=f * mean_y + b,
        gaussian=False,
        map=NO_MAP,
        limit=pending.label or field.limit,
    )


def _sides(x: Tensor, y: Tensor, full: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Left and right factors of the blocks, broadcast against them."""
    if not full:
        return {"xx": (x, x), "yy": (y, y), "xy": (x[:, None], y[None])}
    return {
        "xx": (x[:, :, None], x[:, None]),
        "yy": (y[:, :, None], y[:, None]),
        "xy": (x[:, None, :, None], y[None, :, None]),
    }


def scaled(field: Field, x: Tensor, y: Tensor) -> Field:
    """Divide by positive numbers of each sample and position.

    Args:
        field: Without a pending map.
        x: (n1, P) divisors.
        y: (n2, P) divisors.

    Returns:
        The field.
    """
    sides = _sides(x, y, field.full)
    divisor = sides["xy"][0] * sides["xy"][1]
    return replace(
        field,
        xx=field.xx / (sides["xx"][0] * sides["xx"][1]),
        yy=field.yy / (sides["yy"][0] * sides["yy"][1]),
        xy=field.xy / divisor,
        theta=field.theta / divisor,
        mean_x=field.mean_x / x,
        mean_y=field.mean_y / y,
    )


def centred(field: Field) -> Field:
    """Take the mean over channels away.

    Args:
        field: Without a pending map.

    Returns:
        The field; in the limit the tangent kernel does not see the mean.
    """
    means = _sides(field.mean_x, field.mean_y, field.full)
    return replace(
        field,
        xx=field.xx - means["xx"][0] * means["xx"][1],
        yy=field.yy - means["yy"][0] * means["yy"][1],
        xy=field.xy - means["xy"][0] * means["xy"][1],
        mean_x=torch.zeros_like(field.mean_x),
        mean_y=torch.zeros_like(field.mean_y),
    )


def crossed(first: Field, second: Field) -> dict[str, Tensor]:
    """What two independent fields add to the second moments of their sum.

    Args:
        first: Without a pending map.
        second: Of the same axes.

    Returns:
        m1 m2' + m2 m1', by block.
    """
    a = _sides(first.mean_x, first.mean_y, first.full)
    b = _sides(second.mean_x, second.mean_y, first.full)
    return {
        name: a[name][0] * b[name][1] + b[name][0] * a[name][1]
        for name in ("xx", "yy", "xy")
    }
