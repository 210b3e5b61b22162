"""Capture: one forward pass, and a backward pass if asked for, over a loader."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Protocol, Self, final, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    SpectrankWarning,
    UnknownNameError,
)
from spectrank.model.capture.batch import Batch
from spectrank.model.capture.choose import Layer
from spectrank.model.capture.records import LayerBatch
from spectrank.model.capture.step import Options, run_step
from spectrank.model.capture.undisturbed import RandomStream


@runtime_checkable
class Accumulator(Protocol):
    """What ``run`` feeds: anything with ``update``; a plain callable will do too."""

    def update(self, batch: LayerBatch) -> object:
        """Take in one call of a layer.

        Args:
            batch: To be read, not kept.

        Returns:
            Anything; it is not used.
        """


Sink = Accumulator | Callable[[LayerBatch], object]


@final
class Capture:
    """Runs a model over batches and offers what its layers took and gave.

    Made by ``capture``; used as a context manager. Hooks, mode and buffers are put in
    place for one step and taken back before the batch is handed out.

    Args:
        model: The user's model.
        layers: What to record.
        options: How.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], options: Options
    ) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._options = options
        self._open = False
        self._num_batches = 0
        self._seen: set[str] = set()
        self._unused: set[str] = set()
        self._ungraded: set[str] = set()

    def __enter__(self) -> Self:
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        if kind is not None or self._num_batches == 0:
            return
        for text in self._shortfalls():
            warnings.warn(text, SpectrankWarning, stacklevel=2)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the chosen layers, in the order of the model."""
        return tuple(layer.name for layer in self._layers)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Chosen layers that did not run in any batch so far."""
        return tuple(name for name in self.layers if name not in self._seen)

    @property
    def coupled(self) -> tuple[str, ...]:
        """BatchNorm layers that couple the samples of a batch in this mode.

        A gradient is then that of the loss of the batch, not of one sample.
        """
        mode = self._options.mode
        return tuple(
            name
            for name, module in self._model.named_modules()
            if isinstance(module, _BatchNorm)
            and (
                module.running_mean is None
                or (module.training if mode is None else mode == "train")
            )
        )

    def over(self, loader: Iterable[Any]) -> Iterator[Batch]:
        """Run every batch of a loader; the records of one are dropped at the next.

        The loader and the model draw from a copy of the global random state, so a
        shuffled loader repeats its order from pass to pass and the caller's random
        numbers stay as they were. A generator given to the loader is its own.

        Args:
            loader: Any iterable of batches.

        Yields:
            One Batch after another.

        Raises:
            DomainError: The capture is not entered.
            ArgumentTypeError: ``loader`` is no iterable.
        """
        if not any(hasattr(loader, name) for name in ("__iter__", "__getitem__")):
            raise ArgumentTypeError(
                "a loader must be an iterable of batches, got "
                f"{type(loader).__name__}; pass a DataLoader or [(inputs, targets)]"
            )
        if not self._open:
            raise DomainError(
                "a pass runs inside its context, this capture is not entered; "
                "write 'with capture(...) as taps:'"
            )
        if self._options.gradients is not None and self.coupled:
            warnings.warn(
                "a gradient per sample needs samples that do not meet, BatchNorm "
                f"couples them in {', '.join(self.coupled)}; gradients are those of "
                "the summed loss of each batch (mode='eval' avoids it)",
                SpectrankWarning,
                stacklevel=2,
            )
        stream = RandomStream()
        with stream.active():
            batches = iter(loader)
        for index in count():
            # Inference mode would give tensors that no graph can be built on.
            with stream.active(), torch.inference_mode(mode=False):
                try:
                    raw = next(batches)
                except StopIteration:
                    return
                step = run_step(self._model, self._layers, self._options, index, raw)
            del raw
            self._num_batches += 1
            self._seen |= set(step.batch.layers)
            self._unused |= step.unused
            self._ungraded |= step.without_gradients
            yield step.batch
            step.batch.drop()
            del step

    def run(
        self,
        loader: Iterable[Any],
        accumulators: Mapping[str, Sink | Sequence[Sink]],
    ) -> int:
        """Feed accumulators with every call of their layers.

        Args:
            loader: Any iterable of batches.
            accumulators: Layer name to one accumulator or several.

        Returns:
            The number of samples; 0 where the batches do not tell.

        Raises:
            UnknownNameError: A name is not one of the chosen layers.
        """
        strangers = [name for name in accumulators if name not in self.layers]
        if strangers:
            raise UnknownNameError(
                "accumulators must be keyed by captured layers, "
                f"got {', '.join(strangers)}; captured are {', '.join(self.layers)}"
            )
        sinks = {
            name: list(given) if isinstance(given, Sequence) else [given]
            for name, given in accumulators.items()
        }
        total = 0
        for batch in self.over(loader):
            total += batch.num_samples or 0
            for name, feeds in sinks.items():
                for record in batch.calls(name):
                    for sink in feeds:
                        _feed(sink, record)
        return total

    def _shortfalls(self) -> Iterator[str]:
        if self.unseen:
            yield (
                f"layers that never ran: {', '.join(self.unseen)}; their module is not "
                "called in this pass (its weight may be used without it)"
            )
        unused = [name for name in self.layers if name in self._unused]
        if unused:
            yield (
                f"the loss does not depend on the output of: {', '.join(unused)}; "
                "their gradient is zero there (of a recurrent layer, only the "
                "sequence output is followed, not the last state)"
            )
        ungraded = [name for name in self.layers if name in self._ungraded]
        if ungraded:
            yield (
                f"the model runs without gradients: {', '.join(ungraded)}; they have "
                "no output gradients (torch.no_grad or reentrant checkpointing)"
            )


def _feed(sink: Sink, record: LayerBatch) -> None:
    if isinstance(sink, Accumulator):
        sink.update(record)
    else:
        sink(record)
