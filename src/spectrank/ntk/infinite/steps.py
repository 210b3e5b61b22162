"""Steps between the layers: maps, sums, norms, pools, and moves of axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.model.graph import Node
from spectrank.ntk.infinite.field import (
    CHANNEL,
    Axes,
    Data,
    Field,
    as_diagonal,
    as_field,
    centred,
    crossed,
    on_blocks,
    scaled,
    settled,
)
from spectrank.ntk.infinite.maps import evaluate, linear_step, then
from spectrank.ntk.infinite.positions import dropped, moved, single_positions
from spectrank.ntk.infinite.refusals import refusal, where

Value = Data | Field


def elementwise(value: Value, node: Node) -> Value:
    """Apply an elementwise map.

    Args:
        value: Its input.
        node: The step.

    Returns:
        Numbers, or a field with the map pending.

    Raises:
        DomainError: The map has no Gaussian mean, or its input is not Gaussian.
    """
    if isinstance(value, Data):
        return Data(evaluate(node, value.x), evaluate(node, value.y))
    if value.gaussian:
        found = then(value.map, node)
        return replace(value, map=found)
    linear = linear_step(node)
    if linear is None:
        raise DomainError(
            "an elementwise map reads a Gaussian field, a sum or mean of outputs of "
            f"layers, got {node.op}{where(node)} on what another map has been through; "
            "put a layer between them, or use spectrank.ntk.empirical"
        )
    # A map of what is not Gaussian, by its first two moments.
    f, b = linear
    ones = replace(
        value,
        mean_x=torch.full_like(value.mean_x, b),
        mean_y=torch.full_like(value.mean_y, b),
    )
    grown = _times(value, f)
    cross = crossed(grown, ones)
    return replace(
        grown,
        xx=grown.xx + cross["xx"] + b * b,
        yy=grown.yy + cross["yy"] + b * b,
        xy=grown.xy + cross["xy"] + b * b,
        mean_x=grown.mean_x + b,
        mean_y=grown.mean_y + b,
    )


def _times(field: Field, factor: float) -> Field:
    """Multiply by a number."""
    found = on_blocks(field, lambda block: block * factor**2, full=field.full)
    return replace(found, mean_x=field.mean_x * factor, mean_y=field.mean_y * factor)


def total(values: Sequence[Value], node: Node) -> Value:
    """Add two values.

    Args:
        values: Both.
        node: The sum.

    Returns:
        The sum; Gaussian where both are.

    Raises:
        DomainError: The two are dependent, or of other axes.
    """
    first, second = values
    a, b = (float(c) for c in node.attributes.get("coefficients", (1.0, 1.0)))
    if isinstance(first, Data) and isinstance(second, Data):
        return Data(a * first.x + b * second.x, a * first.y + b * second.y)
    fields = [_beside(v, w) for v, w in ((first, second), (second, first))]
    one, two = (_plain(f, c) for f, c in zip(fields, (a, b), strict=True))
    if one.axes != two.axes or one.sizes != two.sizes or one.channels != two.channels:
        raise DomainError(
            refusal(node, "its terms have different shapes", "give them one shape")
        )
    if one.full != two.full:
        # One of them goes to a pool as well, the sum does not.
        one, two = as_diagonal(one), as_diagonal(two)
    if one.sources & two.sources:
        raise DomainError(
            refusal(
                node,
                "its terms depend on one layer without another layer between",
                "put a layer on one of the branches",
            )
        )
    cross = crossed(one, two)
    return replace(
        one,
        xx=one.xx + two.xx + cross["xx"],
        yy=one.yy + two.yy + cross["yy"],
        xy=one.xy + two.xy + cross["xy"],
        theta=one.theta + two.theta,
        mean_x=one.mean_x + two.mean_x,
        mean_y=one.mean_y + two.mean_y,
        gaussian=one.gaussian and two.gaussian,
        sources=one.sources | two.sources,
        limit=one.limit or two.limit,
    )


def _plain(field: Field, factor: float) -> Field:
    """The field times a number, its map gone."""
    found = settled(field)
    return found if factor == 1.0 else _times(found, factor)


def _beside(value: Value, other: Value) -> Field:
    if isinstance(value, Field):
        return value
    assert isinstance(other, Field)
    if any(len(axis) != 1 for axis in other.axes):
        raise DomainError(
            "inputs are added to a field of the same axes, got flattened ones; "
            "flatten after the sum"
        )
    return as_field(value, other.axes, full=other.full)


def layer_norm(value: Value, node: Node, affine: Mapping[str, bool]) -> Value:
    """Normalise over the channels, and over positions where asked.

    Args:
        value: Its input.
        node: The norm, its parameters at one and zero.
        affine: Role to whether it is trained.

    Returns:
        The value; a Gaussian field stays one.

    Raises:
        DomainError: It normalises over positions alone, or learns before any layer.
    """
    shape = list(node.attributes["normalized_shape"])
    eps = float(node.attributes.get("eps", 1e-5))
    if isinstance(value, Data):
        if any(affine.values()):
            raise DomainError(
                refusal(
                    node,
                    "its parameters are trained before the first layer",
                    "freeze them, or pass elementwise_affine=False",
                )
            )
        return Data(
            functional.layer_norm(value.x, shape, eps=eps),
            functional.layer_norm(value.y, shape, eps=eps),
        )
    field = settled(value)
    ids = [i for axis in field.axes[-len(shape) :] for i in axis]
    if CHANNEL not in ids:
        raise DomainError(
            refusal(node, "it normalises positions alone", "normalise the channels")
        )
    ids.remove(CHANNEL)
    deviations = [
        _deviation(field, q, mean, ids, eps)
        for q, mean in zip(field.variances(), (field.mean_x, field.mean_y), strict=True)
    ]
    if ids and bool((field.mean_x != 0).any()):
        raise DomainError(
            refusal(
                node,
                "it normalises positions of a field whose mean is not zero",
                "normalise the channels only, or before the map",
            )
        )
    found = scaled(centred(field), deviations[0], deviations[1])
    weight, bias = (float(affine.get(role, False)) for role in ("weight", "bias"))
    theta = found.theta + weight * found.xy + bias
    return replace(found, theta=theta, limit=node.op)


def _deviation(
    field: Field, q: Tensor, mean: Tensor, ids: Sequence[int], eps: float
) -> Tensor:
    """Root of variance + eps, over channels and positions: (n, P)."""
    variance = q - mean**2
    if ids:
        shaped = variance.reshape(len(variance), *field.sizes)
        axes = [1 + i for i in ids]
        shaped = shaped.mean(axes, keepdim=True).expand(shaped.shape)
        variance = shaped.reshape(variance.shape)
    return (variance + eps).sqrt()


def reshape(value: Value, node: Node) -> Value:
    """Move entries: flatten, permute, pad, slice and their like.

    Args:
        value: Its input.
        node: The step.

    Returns:
        The value.

    Raises:
        DomainError: The step is none of these, or cuts the channels.
    """
    facts = node.attributes
    if node.op == "flatten":
        return _flatten(value, int(facts["start_dim"]))
    if node.op == "permute":
        return _permute(value, node, list(facts["dims"]))
    if node.op == "reshape" and "groups" in facts:
        return _regroup(value, node, facts["groups"])
    if node.op == "pad":
        return _pad(value, node, facts)
    if node.op in {"slice", "select"}:
        return _cut(value, node, facts)
    raise DomainError(
        refusal(node, "this move of entries is not followed", "use flatten or permute")
    )


def _flatten(value: Value, start: int) -> Value:
    if isinstance(value, Data):
        return Data(value.x.flatten(start), value.y.flatten(start))
    kept = value.axes[: start - 1]
    return replace(
        value, axes=(*kept, tuple(i for a in value.axes[start - 1 :] for i in a))
    )


def _permute(value: Value, node: Node, dims: list[int]) -> Value:
    if dims[0] != 0:
        raise DomainError(refusal(node, "it moves the batch", "keep the batch first"))
    if isinstance(value, Data):
        return Data(value.x.permute(dims), value.y.permute(dims))
    return replace(value, axes=tuple(value.axes[d - 1] for d in dims[1:]))


def _regroup(value: Value, node: Node, groups: list[Any]) -> Value:
    if groups[0] != [1, [-1]]:
        raise DomainError(refusal(node, "it moves the batch", "keep the batch first"))
    if isinstance(value, Data):
        # A size of minus one is what is left of the axes of its group.
        return Data(_regrouped(value.x, groups), _regrouped(value.y, groups))
    axes: list[tuple[int, ...]] = []
    place, gone, sizes = 0, [], list(value.sizes)
    for number, into in groups[1:]:
        taken = value.axes[place : place + number]
        place += number
        if len(into) > 1:
            raise DomainError(
                refusal(node, "it splits an axis", "keep channels an axis")
            )
        if number == 0:
            axes.append((len(sizes),))
            sizes.append(1)
        elif into:
            axes.append(tuple(i for a in taken for i in a))
        else:
            gone += [i for a in taken for i in a]
    if CHANNEL in gone:
        raise DomainError(
            refusal(node, "it drops the channels", "keep channels an axis")
        )
    kept = tuple(s for i, s in enumerate(sizes) if i not in gone)
    return replace(value, axes=dropped(tuple(axes), gone), sizes=kept)


def _regrouped(x: Tensor, groups: list[Any]) -> Tensor:
    sizes, place = [len(x)], 1
    for number, into in groups[1:]:
        whole = math.prod(x.shape[place : place + number])
        place += number
        told = math.prod(into[1:]) if into else 1
        sizes += [whole // told, *into[1:]] if into else []
    return x.reshape(sizes)


def _pad(value: Value, node: Node, facts: Mapping[str, Any]) -> Value:
    mode, pads = facts.get("mode", "constant"), list(facts["pad"])
    if mode == "constant" and facts.get("value"):
        raise DomainError(
            refusal(node, f"it pads with {facts['value']}", "pad with zeros")
        )

    def step(t: Tensor) -> Tensor:
        return functional.pad(t, pads, mode=mode)

    if isinstance(value, Data):
        return Data(step(value.x), step(value.y))
    axes = list(range(len(value.axes) - len(pads) // 2, len(value.axes)))
    single_positions(value, axes, node.op)
    return moved(settled(value), axes, step)


def _cut(value: Value, node: Node, facts: Mapping[str, Any]) -> Value:
    dim = int(facts["dim"])
    if node.op == "select":
        index = slice(facts["index"], facts["index"] + 1 or None)
    else:
        index = slice(facts["start"], facts["stop"], facts.get("step", 1))

    def step(t: Tensor) -> Tensor:
        return t.movedim(dim, -1)[..., index].movedim(-1, dim)

    if isinstance(value, Data):
        if value.x.dim() + dim == 0:
            raise DomainError(
                refusal(node, "it cuts the batch", "keep the batch whole")
            )
        found = Data(step(value.x), step(value.y))
        if node.op == "select":
            return Data(found.x.squeeze(dim), found.y.squeeze(dim))
        return found
    axis = len(value.axes) + dim
    if axis < 0:
        raise DomainError(refusal(node, "it cuts the batch", "keep the batch whole"))
    single_positions(value, [axis], node.op)
    (id_,) = value.axes[axis]
    found_ = moved(settled(value), [axis], lambda t: t[..., index])
    if node.op == "slice":
        return found_
    axes: Axes = (*found_.axes[:axis], *found_.axes[axis + 1 :])
    sizes = tuple(s for i, s in enumerate(found_.sizes) if i != id_)
    return replace(found_, axes=dropped(axes, [id_]), sizes=sizes)
