"""Steps between the layers: elementwise maps, sums and layer norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.model.graph import Node
from spectrank.ntk.infinite.field import (
    CHANNEL,
    Data,
    Field,
    as_diagonal,
    centred,
    crossed,
    on_blocks,
    scaled,
    settled,
)
from spectrank.ntk.infinite.inputs import as_field
from spectrank.ntk.infinite.maps import evaluate, linear_step, then
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
    # Pooled and flattened, a position of size one is none.
    ids = [i for i in ids if i != CHANNEL and field.sizes[i] > 1]
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
