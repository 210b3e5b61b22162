"""Directions at the input and cotangents at the output, one for each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.model.capture.tensors import logits
from spectrank.model.capture.unpack import ModelCall

Cotangents = Literal["random", "logits"] | Tensor


class NoOutput(DomainError):
    """The model gives no tensor at which gradients could start."""


def check_cotangents(cotangents: object) -> None:
    """Refuse what is no choice of v.

    Args:
        cotangents: As given.

    Raises:
        ArgumentTypeError: It is neither a word nor a tensor.
        UnknownNameError: It is another word.
    """
    if isinstance(cotangents, Tensor):
        return
    words = "'random', 'logits' or a tensor of the shape of one sample's output"
    if not isinstance(cotangents, str):
        raise ArgumentTypeError(
            f"cotangents is {words}, got {type(cotangents).__name__}; pass one of them"
        )
    if cotangents not in {"random", "logits"}:
        raise UnknownNameError(
            f"cotangents is {words}, got {cotangents!r}; pass one of them"
        )


def directions(
    like: Tensor,
    generator: torch.Generator,
    samples_axis: int,
    allowed: Tensor | None = None,
) -> Tensor:
    """Uniform unit vectors, one per sample over all its entries.

    Args:
        like: Gives shape and device.
        generator: Source of randomness.
        samples_axis: Axis of the samples.
        allowed: 1 where a direction may point, 0 elsewhere; None for everywhere.

    Returns:
        Of the shape of ``like``, float64.
    """
    drawn = torch.randn(
        like.shape, generator=generator, device=generator.device, dtype=torch.float64
    ).to(like.device)
    if allowed is not None:
        drawn = drawn * allowed
    other = [axis for axis in range(like.ndim) if axis != samples_axis]
    return drawn / drawn.square().sum(other, keepdim=True).sqrt()


def cotangent_loss(
    cotangents: Cotangents, generator: torch.Generator, samples_axis: int
) -> Callable[[Any, Any], Tensor]:
    """The scalar sum_n v_n . f_n, whose gradients are J^T v of every sample.

    Args:
        cotangents: ``random`` or one vector v for all samples.
        generator: Source of random ones.
        samples_axis: Axis of the samples in the output.

    Returns:
        A loss for ``capture``.
    """

    def loss(output: Any, batch: Any) -> Tensor:
        f = _start(output)
        if isinstance(cotangents, Tensor):
            return (f * fixed(cotangents, f, samples_axis)).sum()
        return (f * directions(f, generator, samples_axis).to(f.dtype)).sum()

    return loss


def logits_of(model: nn.Module, call: ModelCall) -> Tensor:
    """Call the model for the gradients of every logit.

    Args:
        model: The user's model.
        call: Of one batch.

    Returns:
        (N, c) or (N,) logits.

    Raises:
        ShapeError: They have further axes.
    """
    f = _start(model(*call.args, **call.kwargs))
    if f.ndim > 2:
        raise ShapeError(
            "cotangents='logits' are those of an output (N, c), got shape "
            f"{tuple(f.shape)}; pass cotangents='random' or one tensor"
        )
    return f


def _start(output: Any) -> Tensor:
    f = logits(output)
    if f is None or not f.is_floating_point():
        raise NoOutput(
            "gradients start at a tensor of numbers, an output or its logits, the "
            f"model gave {type(output).__name__}; wrap it to return one tensor"
        )
    return f


def fixed(v: Tensor, f: Tensor, samples_axis: int) -> Tensor:
    """One cotangent, of norm one, for every sample.

    Args:
        v: Of the shape of one sample's output.
        f: The output.
        samples_axis: Axis of the samples.

    Returns:
        To be broadcast against ``f``.

    Raises:
        ShapeError: It is of another shape.
        DomainError: It is zero or not finite.
    """
    shape = (*f.shape[:samples_axis], *f.shape[samples_axis + 1 :])
    if tuple(v.shape) != shape:
        raise ShapeError(
            f"a cotangent has the shape of one sample's output, {shape} here, got "
            f"{tuple(v.shape)}; pass that, or cotangents='random'"
        )
    size = v.double().norm()
    if not bool(size > 0) or not bool(size.isfinite()):
        raise DomainError(
            "a cotangent must be finite and not zero; gains are relative to it"
        )
    unit: Tensor = v / size
    return unit.to(f).unsqueeze(samples_axis)
