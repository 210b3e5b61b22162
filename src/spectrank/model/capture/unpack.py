"""How a batch of a loader becomes a call of the model, its targets and its mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model.capture.tensors import first_tensor

TARGET_KEYS = ("labels", "label", "targets", "target")
_PADDING_KEYS = ("src_key_padding_mask", "key_padding_mask", "padding_mask")
_WAY_OUT = "pass unpack= to capture, a function from a batch to a ModelCall"


@dataclass(frozen=True)
class ModelCall:
    """What ``unpack`` makes of a batch.

    Attributes:
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        targets: What the loss compares with; None where there is none.
        mask: (N, T), True (or 1) at positions that are no padding.
        num_samples: N where neither targets nor arguments tell.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: Any = None
    mask: Tensor | None = None
    num_samples: int | None = None


Unpack = Callable[[Any], ModelCall]


def unpack_batch(batch: Any, model: nn.Module, *, keep_targets: bool) -> ModelCall:
    """Read a batch by the customs of PyTorch loaders and transformers' dicts.

    A tensor is the input. A tuple or list is ``(input, targets, ...)``; further parts
    are not used. A mapping holds the targets under one of ``TARGET_KEYS`` and is passed
    as keywords, or as the one argument if it has a single other entry that the model
    does not name. An input that is itself a mapping or tuple is spread over arguments.

    Args:
        batch: As the loader gave it.
        model: For the names of its arguments.
        keep_targets: Also pass the targets to a model that takes them.

    Returns:
        The call.

    Raises:
        ArgumentTypeError: A batch of another type.
    """
    if isinstance(batch, Tensor | PackedSequence):
        return _of_input(batch, None, model)
    if isinstance(batch, Mapping):
        return _of_mapping(batch, model, keep_targets=keep_targets)
    if isinstance(batch, tuple | list) and batch:
        return _of_input(batch[0], batch[1] if len(batch) > 1 else None, model)
    raise ArgumentTypeError(
        "a batch must be a tensor, a tuple (input, targets, ...) or a dict, "
        f"got {type(batch).__name__}; {_WAY_OUT}"
    )


def num_samples(call: ModelCall, batch_axis: int | None, *, either: bool) -> int | None:
    """How many samples a call has.

    Args:
        call: Of one batch.
        batch_axis: Axis of the samples in inputs and targets; None if not stated.
        either: The model may have positions first.

    Returns:
        From the call, the mask, the targets or the first input, in this order; None
        where positions may come first and nothing is stated.
    """
    if call.num_samples is not None:
        return call.num_samples
    if call.mask is not None:
        return call.mask.shape[0]
    values = (call.targets, *call.args, *call.kwargs.values())
    value = first_tensor(values)
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if value is None or value.ndim == 0:
        return None
    if value.ndim == 1:
        return value.shape[0]
    if batch_axis is None and either:
        return None
    return value.shape[batch_axis or 0]


def _of_input(value: Any, targets: Any, model: nn.Module) -> ModelCall:
    if isinstance(value, Mapping):
        return _of_keywords(dict(value), targets, model)
    plain = isinstance(value, Tensor | PackedSequence)
    if not plain and isinstance(value, tuple | list):
        return ModelCall(args=tuple(value), targets=targets)
    return ModelCall(args=(value,), targets=targets)


def _of_mapping(
    batch: Mapping[str, Any], model: nn.Module, *, keep_targets: bool
) -> ModelCall:
    keys = [key for key in TARGET_KEYS if key in batch]
    if len(keys) > 1:
        raise DomainError(
            f"a batch must hold its targets under one key, got {', '.join(keys)}; "
            f"{_WAY_OUT}"
        )
    targets = batch[keys[0]] if keys else None
    keywords = dict(batch)
    if keys and not (keep_targets and _takes(model, keys[0])):
        del keywords[keys[0]]
    return _of_keywords(keywords, targets, model)


def _of_keywords(keywords: dict[str, Any], targets: Any, model: nn.Module) -> ModelCall:
    unknown = [key for key in keywords if not _takes(model, key)]
    if unknown and len(keywords) == 1:
        return ModelCall(args=tuple(keywords.values()), targets=targets)
    if unknown:
        raise DomainError(
            f"the keys of a batch must be arguments of {type(model).__name__}.forward, "
            f"got {', '.join(unknown)}; {_WAY_OUT}"
        )
    return ModelCall(kwargs=keywords, targets=targets, mask=_mask(keywords))


def _takes(model: nn.Module, key: str) -> bool:
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return True
    return key in parameters and parameters[key].kind is not (
        inspect.Parameter.POSITIONAL_ONLY
    )


def _mask(keywords: Mapping[str, Any]) -> Tensor | None:
    real = keywords.get("attention_mask")
    if isinstance(real, Tensor) and real.ndim == 2:
        return real != 0
    for key in _PADDING_KEYS:
        padding = keywords.get(key)
        # A float mask is added to the scores: minus infinity at padding.
        if isinstance(padding, Tensor) and padding.ndim == 2:
            return ~padding if padding.dtype == torch.bool else padding == 0
    return None
