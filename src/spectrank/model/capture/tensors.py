"""Finding, replacing and moving the tensors in what modules take and give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def first_tensor(values: Iterable[Any]) -> Tensor | PackedSequence | None:
    """The first tensor, or packed sequence, among arguments.

    Args:
        values: Positional and keyword arguments, or the parts of an output.

    Returns:
        It, or None.
    """
    return next((v for v in values if isinstance(v, Tensor | PackedSequence)), None)


def output_tensor(output: Any) -> Tensor | PackedSequence | None:
    """The tensor that a module gives: itself, or the first part of a tuple or mapping.

    Args:
        output: Of a forward pass.

    Returns:
        The sequence of an LSTM, the features of an attention; None where there is none.
    """
    if isinstance(output, Tensor | PackedSequence):
        return output
    if isinstance(output, Mapping):
        return first_tensor(output.values())
    return first_tensor(output) if isinstance(output, tuple | list) else None


def with_output(output: Any, old: Any, new: Any) -> Any:
    """The output with one part exchanged, of the same type.

    Args:
        output: Of a forward pass.
        old: The part, as ``output_tensor`` found it.
        new: What takes its place.

    Returns:
        A new container; the given one is left alone.
    """
    if output is old:
        return new
    if isinstance(output, Mapping):
        exchanged = {k: new if v is old else v for k, v in output.items()}
        # transformers' ModelOutput is a dataclass of its keys.
        return exchanged if type(output) is dict else type(output)(**exchanged)
    parts = [new if part is old else part for part in output]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*parts)
    return type(output)(parts)


def logits(output: Any) -> Tensor | None:
    """The tensor that a loss is taken of.

    Args:
        output: Of the whole model: a tensor, something with ``logits`` (attribute or
            key), or a tuple whose first part is a tensor.

    Returns:
        The tensor, or None.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else None
    if found is None:
        found = getattr(output, "logits", None)
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    return found if isinstance(found, Tensor) else None


def moved(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A batch on another device, its floating-point tensors in another dtype.

    Args:
        value: Tensors, packed sequences and containers of them; the rest is kept.
        device: Where to.
        dtype: Of floating-point tensors; None keeps them.

    Returns:
        New containers; mappings become dicts.
    """
    if isinstance(value, Tensor):
        wanted = dtype if value.is_floating_point() else None
        # No graph can be built on a tensor of inference mode.
        value = value.clone() if value.is_inference() else value
        return value.to(device=device, dtype=wanted, non_blocking=True)
    if isinstance(value, PackedSequence):
        return value._replace(data=moved(value.data, device, dtype))
    if isinstance(value, Mapping):
        return {k: moved(v, device, dtype) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(v, device, dtype) for v in value))
    if isinstance(value, tuple | list):
        parts = [moved(v, device, dtype) for v in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value
