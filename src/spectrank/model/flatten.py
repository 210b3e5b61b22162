"""A loaded checkpoint, however nested, as named tensors.

Training scripts save a state dict beside optimizer states, step counts and options. A
single recognised container (``state_dict``, ``model``, ...) holds the weights and keeps
its own names; what lies beside it is named with dots and said to be no weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import CheckpointError

CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
)

_OPTIMIZER = re.compile(r"optim|sched|scaler", re.IGNORECASE)
# A pickle may refer to one dict twice, and twice inside that: 40 levels are a small
# file and 2^40 names.
_MAX_NODES = 200_000
_MAX_DEPTH = 64
_MAX_NAME = 4096


class Named(NamedTuple):
    """A tensor found in a checkpoint, with the reason why it is no weight, if any."""

    name: str
    tensor: Tensor
    reason: str | None


def flatten_checkpoint(loaded: object) -> list[Named]:
    """Every tensor in nested mappings and sequences, in order.

    Args:
        loaded: A tensor, mapping or sequence, arrays of NumPy among them; everything
            else holds no tensor.

    Returns:
        Tensors with unique names.

    Raises:
        CheckpointError: Two tensors get one name, or the nesting has no end.
    """
    found = list(_top(_tensor_of(loaded)))
    seen: set[str] = set()
    for item in found:
        if item.name in seen:
            raise CheckpointError(
                f"a name must belong to one tensor, {item.name!r} belongs to two "
                "after flattening; pass the inner state dict itself"
            )
        seen.add(item.name)
    return found


def _top(loaded: object) -> Iterator[Named]:
    if isinstance(loaded, Tensor):
        yield Named("tensor", loaded, None)
        return
    walk = _Walk()
    container = _container(loaded, walk)
    for key, value in _items(loaded):
        nested = not isinstance(value, Tensor)
        if key == container:
            prefix, reason = "", None
        elif container is not None:
            prefix = key
            reason = f"lies beside the weights (under {container!r}), not among them"
        elif nested and _OPTIMIZER.search(key):
            prefix, reason = key, "state of the training, not a weight of the model"
        else:
            prefix, reason = key, None
        for name, tensor in walk.tensors(value, prefix, 1):
            yield Named(name, tensor, reason)


def _container(loaded: object, walk: _Walk) -> str | None:
    """The one key whose mapping holds the weights.

    Args:
        loaded: A loaded checkpoint.
        walk: Counts what is looked at.

    Returns:
        The key; None where a tensor lies beside it, or no or several keys qualify.
    """
    if not isinstance(loaded, Mapping):
        return None
    if any(isinstance(value, Tensor) for _, value in _items(loaded)):
        return None
    holders = [
        key
        for key in CONTAINERS
        if isinstance(loaded.get(key), Mapping)
        and next(walk.tensors(loaded[key], "", 1), None) is not None
    ]
    return holders[0] if len(holders) == 1 else None


class _Walk:
    """Depth-first walk that counts what it visits and stops at a bound."""

    def __init__(self) -> None:
        self._visited = 0

    def tensors(
        self, value: object, prefix: str, depth: int
    ) -> Iterator[tuple[str, Tensor]]:
        # Plain values are not counted: a loss history of millions is harmless.
        if not isinstance(value, Tensor | Mapping | Sequence):
            return
        self._visited += 1
        if self._visited > _MAX_NODES or depth > _MAX_DEPTH or len(prefix) > _MAX_NAME:
            raise CheckpointError(
                f"a checkpoint must nest at most {_MAX_DEPTH} deep, hold at most "
                f"{_MAX_NODES} items and names of at most {_MAX_NAME} characters, "
                f"this one exceeds that below {prefix[:80]!r}; "
                "save the state dict alone"
            )
        if isinstance(value, Tensor):
            yield prefix, value
            return
        for key, item in _items(value):
            name = f"{prefix}.{key}" if prefix else key
            yield from self.tensors(item, name, depth + 1)


def _items(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key), _tensor_of(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        for index, item in enumerate(value):
            yield str(index), _tensor_of(item)


def _tensor_of(value: object) -> object:
    """An array of numbers as a tensor, everything else as it is."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiubc":
        return value
    own = value.dtype.isnative and value.flags.writeable and value.flags.c_contiguous
    if not own:
        value = value.astype(value.dtype.newbyteorder("="), order="C")
    try:
        return torch.from_numpy(value)
    except TypeError:
        # Such as 128-bit floats, which torch has no type for.
        return torch.from_numpy(value.astype(np.float64))
