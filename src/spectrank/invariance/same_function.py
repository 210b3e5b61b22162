"""Whether a change of weights left the function as it was, on an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model.capture.tensors import logits
from spectrank.model.capture.undisturbed import undisturbed


def outputs_of(
    model: nn.Module, example_input: Any, kwargs: Mapping[str, Any] | None
) -> Tensor | None:
    """Outputs on an example, in eval mode; the model is left as it was.

    Args:
        model: A module.
        example_input: A tensor, a tuple of arguments or a mapping of keyword arguments.
        kwargs: Further keyword arguments.

    Returns:
        float64 copy; None without an example.

    Raises:
        ArgumentTypeError: The model returns no tensor.
    """
    if example_input is None and not kwargs:
        return None
    named = dict(kwargs or {})
    if isinstance(example_input, Mapping):
        example_input, named = (), {**example_input, **named}
    elif example_input is None:
        example_input = ()
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    with undisturbed(model, "eval"), torch.no_grad():
        found = logits(model(*arguments, **named))
    if found is None:
        raise ArgumentTypeError(
            "outputs are compared as one tensor, the model returns none; leave "
            "example_input out"
        )
    return found.detach().double().clone()


def compared(
    before: Tensor | None,
    after: Tensor | None,
    tensors: Mapping[str, Tensor],
    backup: Mapping[str, Tensor],
) -> float | None:
    """Largest change of an output, relative; weights are put back where it is large.

    Args:
        before: Outputs with the old weights; None to compare nothing.
        after: Outputs with the new ones.
        tensors: Name to weights, changed where they are put back.
        backup: Name to the old weights.

    Returns:
        The change over the largest output; None without outputs.

    Raises:
        DomainError: It is more than rounding.
    """
    if before is None or after is None:
        return None
    top = max(float(before.abs().max()), torch.finfo(torch.float64).tiny)
    change = float((after - before).abs().max()) / top
    # Rescaling rounds every weight once or more; a wrong law changes outputs by one.
    if not change <= 1e4 * largest_eps(backup):
        for name, value in backup.items():
            tensors[name].copy_(value)
        raise DomainError(
            f"balancing keeps the function, got outputs that moved by {change:.2g} of "
            "the largest; the laws are not those of this model, whose weights were put "
            "back"
        )
    return change


def largest_eps(tensors: Mapping[str, Tensor]) -> float:
    """Machine epsilon of the coarsest dtype.

    Args:
        tensors: Name to weights.

    Returns:
        The largest one; 0 of none.
    """
    return max((torch.finfo(t.dtype).eps for t in tensors.values()), default=0.0)
