"""Hooks of one forward pass: what every captured layer took and gave.

What flows on after a captured layer is a copy of its output. An operation in place on
it (``nn.ReLU(inplace=True)``, ``x += ...``) then changes neither the record nor the
place in the graph where the gradient is taken. Inputs are copied before the layer runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from spectrank.model.capture.choose import Layer
from spectrank.model.capture.rows import packed_positions
from spectrank.model.capture.tensors import first_tensor, output_tensor, with_output

Arrange = Callable[[Tensor], Tensor]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a captured layer.

    Attributes:
        layer: Which.
        inputs: Copy of its first tensor argument; None where it takes none.
        tap: Its output, a node of the graph if gradients are asked for.
        differentiable: Whether ``tap`` is such a node.
        packed: Sample and position of the rows of a packed sequence.
        arrange: From the layout in which the product was taken to that of the layer.
    """

    layer: Layer
    inputs: Tensor | None
    tap: Tensor
    differentiable: bool
    packed: tuple[Tensor, Tensor] | None = None
    arrange: Arrange = field(default=_as_it_is)


@final
class Recorder:
    """Records the calls of layers while its hooks are installed.

    Args:
        layers: What to record.
        gradients: Whether outputs become nodes whose gradient can be taken.
    """

    def __init__(self, layers: Sequence[Layer], *, gradients: bool) -> None:
        self.calls: list[Call] = []
        self._layers = layers
        self._gradients = gradients
        self._recording = True
        self._inputs: dict[str, list[Tensor | PackedSequence | None]] = {}

    def stop(self) -> None:
        """Record no more; a recomputation by checkpointing is not a second use."""
        self._recording = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hold the hooks for one forward pass and its backward.

        Yields:
            Nothing.
        """
        with ExitStack() as stack:
            for layer in self._layers:
                if layer.attention is not None:
                    stack.enter_context(self._in_attention(layer, layer.attention))
                    continue
                before, after = self._hooks(layer)
                # The input is what reaches forward, after the user's hooks; the output
                # is the layer's own, before them.
                for handle in (
                    layer.module.register_forward_pre_hook(before, with_kwargs=True),
                    layer.module.register_forward_hook(
                        after, with_kwargs=True, prepend=True
                    ),
                ):
                    stack.callback(handle.remove)
            yield

    def _hooks(self, layer: Layer) -> tuple[Callable[..., None], Callable[..., Any]]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._recording:
                value = first_tensor((*args, *kwargs.values()))
                pending = self._inputs.setdefault(layer.name, [])
                pending.append(None if value is None else _copy(value))

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            inputs = self._inputs[layer.name].pop() if self._recording else None
            value = output_tensor(output)
            if value is None:
                return None
            if isinstance(value, PackedSequence):
                packed = packed_positions(value)
                data = self._record(layer, _data(inputs), value.data, packed=packed)
                return with_output(output, value, value._replace(data=data))
            return with_output(output, value, self._record(layer, _data(inputs), value))

        return before, after

    def _record(
        self,
        layer: Layer,
        inputs: Tensor | None,
        output: Tensor,
        *,
        packed: tuple[Tensor, Tensor] | None = None,
        arrange: Arrange = _as_it_is,
    ) -> Tensor:
        """Record a call; returns what flows on in place of ``output``."""
        wanted = self._gradients and torch.is_grad_enabled()
        node = wanted and output.is_floating_point()
        if not node:
            # A copy is kept and the output itself flows on.
            tap, flowing = output.detach().clone(), output
        else:
            # A view is a node of its own: a layer that returns its parameter, or
            # what another layer gave, is not charged with their other uses. Behind
            # frozen layers the graph begins here.
            tap = output.view_as(output)
            tap = tap if output.requires_grad else tap.detach().requires_grad_()
            flowing = tap.clone()
        if self._recording:
            self.calls.append(Call(layer, inputs, tap, node, packed, arrange))
        return flowing

    @contextmanager
    def _in_attention(
        self, layer: Layer, attention: nn.MultiheadAttention
    ) -> Iterator[None]:
        """Record a projection whose weight is used by the attention around it.

        ``nn.MultiheadAttention`` hands ``out_proj.weight`` to a function and never
        calls ``out_proj``. While its forward runs, ``F.linear`` is watched for that
        weight.
        """
        original = attention.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            query = args[0] if args else kwargs["query"]
            arrange = _attention_layout(query, batch_first=attention.batch_first)
            # Inside cached() a parametrised weight is one object for all who ask.
            with parametrize.cached(), self._watch_linear(layer, arrange):
                return original(*args, **kwargs)

        vars(attention)["forward"] = forward
        try:
            yield
        finally:
            vars(attention).pop("forward", None)

    @contextmanager
    def _watch_linear(self, layer: Layer, arrange: Arrange) -> Iterator[None]:
        true_linear = F.linear
        watched = layer.module.weight

        def linear(input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:  # noqa: A002
            if weight is not watched:
                return true_linear(input, weight, bias)
            inputs = input.detach().clone() if self._recording else None
            output = true_linear(input, weight, bias)
            return self._record(layer, inputs, output, arrange=arrange)

        F.linear = linear
        try:
            yield
        finally:
            F.linear = true_linear


def _attention_layout(query: Tensor, *, batch_first: bool) -> Arrange:
    # The product runs over (T * N, d), positions first, whatever batch_first is.
    if query.ndim != 3:
        return _as_it_is
    first, second = query.shape[:2]
    if batch_first:
        return lambda x: x.reshape(second, first, -1).transpose(0, 1)
    return lambda x: x.reshape(first, second, -1)


def _copy(value: Tensor | PackedSequence) -> Tensor | PackedSequence:
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.detach().clone())
    return value.detach().clone()


def _data(value: Tensor | PackedSequence | None) -> Tensor | None:
    return value.data if isinstance(value, PackedSequence) else value
