"""The scalar whose derivatives are captured, and the derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.model.capture.tensors import logits
from spectrank.model.capture.unpack import TARGET_KEYS
from spectrank.model.losses import Loss, UnknownLoss, describe_loss

LossLike = str | nn.Module | Callable[..., Tensor]
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Objective:
    """A loss that is summed over samples.

    Attributes:
        loss: Its description; None for a user's callable.
        call: Maps raw outputs, targets and the batch to the scalar.
    """

    loss: Loss | None
    call: Callable[[Any, Any, Any], Tensor] = field(repr=False)


def make_objective(loss: LossLike, model: nn.Module) -> Objective:
    """The sum-reduced loss of a name, an ``nn`` loss or a callable.

    Args:
        loss: A name, an ``nn`` loss (its reduction is replaced by a sum), or a callable
            of the model's raw output and the batch that returns a sum over samples.
        model: To refuse a causal language model under an unshifted loss.

    Returns:
        The objective.

    Raises:
        ArgumentTypeError: Something else.
        DomainError: A module whose sum is not known, or an unshifted causal loss.
    """
    if not isinstance(loss, str) and not callable(loss):
        raise ArgumentTypeError(
            "loss must be a name, an nn loss or a callable, "
            f"got {type(loss).__name__}; pass loss='cross_entropy' for instance"
        )
    described = describe_loss(loss)
    if isinstance(described, UnknownLoss):
        if isinstance(loss, nn.Module):
            raise DomainError(f"the sum of a loss must be known: {described.reason}")
        return Objective(None, lambda outputs, _, batch: _scalar(loss, outputs, batch))
    causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    if causal and described.name in {"cross_entropy", "CrossEntropyLoss"}:
        raise DomainError(
            "cross_entropy compares each position with its own label, which "
            f"{type(model).__name__} expects unshifted; "
            "pass loss='causal_cross_entropy' or a callable"
        )
    return Objective(described, lambda outputs, t, _: _summed(described, outputs, t))


def _scalar(loss: Any, outputs: Any, batch: Any) -> Tensor:
    value = loss(outputs, batch)
    if not isinstance(value, Tensor) or value.ndim != 0:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value)
        raise ShapeError(
            "a loss must return a scalar tensor, the sum over samples, "
            f"got {shape}; end it with .sum()"
        )
    return value


def _summed(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    values = needed_logits(outputs)
    if targets is not None and not isinstance(targets, Tensor):
        raise DomainError(
            f"loss {loss.name!r} needs targets that are a tensor, the batch has a "
            f"{type(targets).__name__}; convert it in the loader, e.g. "
            "torch.as_tensor(labels), and number labels that are strings"
        )
    if targets is None:
        raise DomainError(
            f"loss {loss.name!r} needs targets, the batch has none under (input, "
            f"targets) or the keys {', '.join(TARGET_KEYS)}; pass unpack= to capture"
        )
    # A loss in half precision would round every gradient to 3 or 4 digits.
    values = values.float() if values.dtype in _HALF else values
    try:
        return loss.sum_loss(values, targets)
    except (IndexError, RuntimeError, ValueError) as error:
        raise DomainError(
            f"targets must be what loss {loss.name!r} takes with outputs "
            f"{tuple(values.shape)}, got {targets.dtype} of shape "
            f"{tuple(targets.shape)} ({error}); pass unpack= to capture, or another "
            "loss"
        ) from error


def needed_logits(output: Any) -> Tensor:
    """The tensor that a loss is taken of.

    Args:
        output: Of the model.

    Returns:
        The tensor.

    Raises:
        ArgumentTypeError: There is none.
    """
    values = logits(output)
    if values is None:
        raise ArgumentTypeError(
            "the model must return a tensor, a tuple with a tensor first or something "
            f"with logits, got {type(output).__name__}; pass forward= to capture"
        )
    return values


def per_logit(output: Any) -> list[Tensor]:
    """Sums over samples of every logit: their derivatives are those per sample.

    Args:
        output: Of the model; logits (N, c) or (N,).

    Returns:
        c scalars.

    Raises:
        ShapeError: Logits of another shape, as one sum would mix positions.
    """
    values = needed_logits(output)
    if values.ndim not in {1, 2}:
        raise ShapeError(
            "gradients='logits' needs outputs (N, c) or (N,), "
            f"got {tuple(values.shape)}; pass forward= that selects the logits"
        )
    values = values.unsqueeze(1) if values.ndim == 1 else values
    values = values.float() if values.dtype in _HALF else values
    return list(values.sum(0).unbind())


def differentiate(
    scalars: Sequence[Tensor], taps: Sequence[Tensor]
) -> list[list[Tensor | None]]:
    """Derivatives of every scalar with respect to every tap.

    Args:
        scalars: One or more; their graph is freed.
        taps: Tensors of the graph.

    Returns:
        One list per scalar; None where a scalar does not depend on a tap.

    Raises:
        DomainError: The model uses reentrant checkpointing.
        RuntimeError: Whatever else autograd finds wrong with the model's graph.
    """
    if not taps:
        return [[] for _ in scalars]
    found: list[list[Tensor | None]] = []
    for index, scalar in enumerate(scalars):
        if not scalar.requires_grad:
            found.append([None] * len(taps))
            continue
        try:
            gradients = torch.autograd.grad(
                scalar,
                taps,
                retain_graph=index + 1 < len(scalars),
                allow_unused=True,
            )
        except RuntimeError as error:
            if "checkpoint" not in str(error).lower():
                raise
            raise DomainError(
                "gradients are taken by torch.autograd.grad, which reentrant "
                "checkpointing does not allow; use use_reentrant=False in the model"
            ) from error
        found.append(list(gradients))
    return found
