"""What the parts of one pass share: the model, its layers, the batch at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError, ShapeError
from spectrank.model import Batch, LayerBatch
from spectrank.model.capture.choose import Choices
from spectrank.model.capture.undisturbed import Mode, undisturbed
from spectrank.model.capture.unpack import ModelCall, Unpack, unpack_batch
from spectrank.propagation.measurement.directions import Cotangents
from spectrank.propagation.measurement.samples import readable
from spectrank.propagation.measurement.tally import Place, Tally

Quantity = Literal["signal", "angles", "gradients", "jacobian"]


@final
@dataclass(frozen=True)
class Request:
    """What is measured of a model, and how; see ``measure``."""

    layers: Choices
    quantities: frozenset[str]
    num_directions: int
    cotangents: Cotangents
    generator: torch.Generator
    mode: Mode
    unpack: Unpack | None
    device: torch.device
    dtype: torch.dtype | None
    batch_axis: int | None


@final
class Context:
    """The model of one pass and what is known of its current batch.

    Args:
        model: The user's model.
        names: Of the measured modules.
        request: What and how.
        tally: To be filled.

    Attributes:
        places: Module name to its layer, in the order of the model.
    """

    def __init__(
        self, model: nn.Module, names: list[str], request: Request, tally: Tally
    ) -> None:
        self.model, self.request, self.tally = model, request, tally
        modules = dict(model.named_modules(remove_duplicate=False))
        # Reading a parametrised weight may be a power iteration.
        with undisturbed(model, "eval"):
            self.places = {
                name: _place(name, modules[name], i + 1) for i, name in enumerate(names)
            }
        self.call: ModelCall | None = None
        # Until a sample comes that is not zero.
        self.silent = True

    @property
    def samples_axis(self) -> int:
        """Axis of the samples in inputs and outputs of the model."""
        return self.request.batch_axis or 0

    def wants(self, quantity: Quantity) -> bool:
        """Whether a quantity was asked for."""
        return quantity in self.request.quantities

    def unpack(self, raw: Any) -> ModelCall:
        """Unpack a batch and remember the call; one without samples is refused."""
        own = self.request.unpack
        if own is not None:
            self.call = own(raw)
        else:
            self.call = unpack_batch(raw, self.model, keep_targets=False)
        x = self.source()
        if (
            x is not None
            and x.ndim > self.samples_axis
            and not len(x.movedim(self.samples_axis, 0))
        ):
            raise DomainError(
                "a batch must hold samples to measure, got none in shape "
                f"{tuple(x.shape)}; leave empty batches out"
            )
        return self.call

    def source(self) -> Tensor | None:
        """The first floating-point tensor among the arguments of the model."""
        if self.call is None:
            return None
        values = (*self.call.args, *self.call.kwargs.values())
        return next(
            (v for v in values if isinstance(v, Tensor) and v.is_floating_point()), None
        )

    def check_samples(self, batch: Batch) -> None:
        """Refuse one sample without a batch axis: its features are no samples.

        Args:
            batch: After the pass.

        Raises:
            ShapeError: A layer took the one axis of the input for its features.
        """
        x = self.source()
        if x is None or x.ndim != 1:
            return
        for name in self.places:
            taken = next((record.inputs for record in batch.calls(name)), None)
            if taken is not None and taken.ndim == 1 and taken.is_floating_point():
                raise ShapeError(
                    "inputs have a batch axis before that of their features, got shape "
                    f"{tuple(x.shape)}, which layer {name!r} takes for features; "
                    "add a batch axis: x[None]"
                )

    def only(self, batch: Batch, name: str, metric: str) -> LayerBatch | None:
        """The only call of a layer; else None and a skip row."""
        calls, subject = batch.calls(name), self.places[name].subject
        if len(calls) != 1:
            times = "never ran" if not calls else f"ran {len(calls)} times in a pass"
            self.tally.skip(subject, metric, f"the layer {times}")
            return None
        reason = readable(calls[0])
        if reason is not None:
            self.tally.skip(subject, metric, reason)
            return None
        return calls[0]


def masked(x: Tensor, batch: Batch) -> Tensor:
    """A sequence with zeros at padding.

    Args:
        x: (N, T, ...) where the batch has a mask; anything else is returned as it is.
        batch: With its mask.

    Returns:
        Of the shape of ``x``.
    """
    mask = batch.mask
    if mask is None or x.shape[:2] != mask.shape:
        return x
    return x * mask.to(x).reshape(*mask.shape, *[1] * (x.ndim - 2))


def _place(name: str, module: nn.Module, index: int) -> Place:
    weight = getattr(module, "weight", None)
    prefix = f"{name}." if name else ""
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        return Place(name or type(module).__name__, index)
    shape = (weight.shape[0], weight[0].numel())
    return Place(f"{prefix}weight", index, shape)
