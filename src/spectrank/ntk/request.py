"""A checked request: the model, inputs and parameters of a kernel to be computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor, nn

from spectrank.errors import ShapeError
from spectrank.model.differentiation import differentiable
from spectrank.ntk.checks import (
    Probe,
    check_inputs,
    check_model,
    check_outputs,
    probe,
)
from spectrank.ntk.cost import Job, forward_cost
from spectrank.ntk.parameters import choose_parameters

Outputs = Literal["full", "trace", "sum_logits"]


@final
@dataclass(frozen=True)
class Request:
    """What a kernel is of.

    Attributes:
        model: The user's model.
        x1: First set, detached.
        x2: Second set, detached; None for the first.
        outputs: Form of the kernel.
        params: Names of the parameters that it sums over.
        shapes: Name of every parameter of the model to its shape.
        probe: What one small forward pass told.
    """

    model: nn.Module = field(repr=False)
    x1: Tensor = field(repr=False)
    x2: Tensor | None = field(repr=False)
    outputs: Outputs
    params: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    probe: Probe

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        n2 = len(self.x1 if self.x2 is None else self.x2)
        c = self.probe.num_outputs
        return (len(self.x1), n2, *((c, c) if self.outputs == "full" else ()))

    @property
    def result_bytes(self) -> int:
        """Size of the kernel in memory."""
        return self.probe.dtype.itemsize * math.prod(self.shape)

    def numel(self, name: str) -> int:
        """Number of entries of a parameter."""
        return math.prod(self.shape_of(name))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self.shapes[name]

    @property
    def job(self) -> Job:
        """Sizes, for the cost model."""
        return Job(
            n1=self.shape[0],
            n2=self.shape[1],
            num_outputs=self.probe.num_outputs,
            outputs=self.outputs,
            symmetric=self.x2 is None,
            forward=forward_cost(self.shapes, self.probe.positions),
        )


def make_request(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None,
    outputs: Outputs,
    params: str | Sequence[str] | None,
) -> Request:
    """Check everything that can be checked by a forward pass of two samples.

    Args:
        model: Any module, in the mode in which it is to be run.
        x1: (n1, ...).
        x2: (n2, ...); None for ``x1``.
        outputs: Form of the kernel.
        params: Glob pattern(s); None for all that require a gradient.

    Returns:
        The request.

    Raises:
        ArgumentTypeError: An argument is of another type.
        ShapeError: Outputs are not (batch, classes), or differ between the sets.
        DomainError: The model is no function of one sample, or devices or dtypes do
            not go together.
        UnknownNameError: A pattern matches nothing, or ``outputs`` is another word.
    """  # noqa: DOC502 - raised by the functions called
    check_outputs(outputs)
    check_model(model)
    check_inputs(model, x1)
    if x2 is not None:
        check_inputs(model, x2, "x2")
    names = choose_parameters(model, params)
    first, second = _plain(x1), None if x2 is None else _plain(x2)
    with differentiable(model):
        found = probe(model, first)
        other = found if second is None else probe(model, second)
    if other.num_outputs != found.num_outputs or other.dtype != found.dtype:
        raise ShapeError(
            "both sets must have outputs of one kind, got "
            f"{found.num_outputs} of {found.dtype} for x1 and {other.num_outputs} of "
            f"{other.dtype} for x2; pass inputs of one kind"
        )
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    return Request(model, first, second, outputs, names, shapes, found)


def _plain(x: Tensor) -> Tensor:
    """Without history; a tensor of inference mode cannot be differentiated at."""
    with torch.inference_mode(mode=False):
        return x.clone() if x.is_inference() else x.detach()
