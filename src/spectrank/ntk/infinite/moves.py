"""Moves of entries: flatten, permute, regroup, pad and cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.model.graph import Node
from spectrank.ntk.infinite.field import CHANNEL, Axes, Data, Field, settled
from spectrank.ntk.infinite.positions import dropped, moved, single_positions
from spectrank.ntk.infinite.refusals import refusal

Value = Data | Field


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
