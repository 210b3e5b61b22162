"""`SpectralUpdateMonitor`: where spectral updates should help, while a model trains."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from spectrank.errors import DomainError
from spectrank.init.control.condition import (
    COLUMNS,
    DEFINITIONS,
    condition_rows,
    spectral_update_condition,
)
from spectrank.init.control.layers import LinearLayer, linear_layers, skip_of, skipped
from spectrank.model import Skip
from spectrank.model.capture.tensors import first_tensor, output_tensor
from spectrank.model.views import get_view
from spectrank.scanning.provenance import environment
from spectrank.table import Table
from spectrank.train.observers import Attachment, Observer, Step
from spectrank.train.sinks import MemorySink, Sink
from spectrank.train.sinks.base import check_count
from spectrank.train.tracker.options import check_sink


@final
class SpectralUpdateMonitor(Observer):
    """Reads both sides of the condition of `spectral_updates` while a model trains.

    Every ``every`` steps, after the optimizer's step: the gradient is ``.grad`` of the
    weight as it lies there (accumulated, clipped or scaled: its nuclear rank does not
    depend on a factor), the activations are the inputs of all calls of the layer that
    took part in a backward pass since the last step. Rows as those of
    `spectral_updates` for one minibatch, with ``step``, ``run`` and ``loss``, without
    the decreases, which need the loss's reduction.

    Use it as any `Observer`: ``with monitor.attach(optimizer): train()``, or
    ``with monitor:`` and ``monitor.observe(optimizer, loss)`` after each
    ``optimizer.step()`` and before gradients are set to None. Forward hooks are in
    place only inside these blocks, and between two readings they do nothing. Nothing of
    the model, the optimizer or the random state is changed. A step that a
    ``GradScaler`` leaves out is not seen: the next reading has its activations too. An
    optimizer that evaluates its closure many times a step, as ``LBFGS``, gives the
    activations of all evaluations and the gradient of the last.

    Cost of a reading: all singular values of each gradient and a few products with the
    activations; inputs are kept, not copied, from the backward pass to the step.

    Args:
        model: The module that is trained. Parametrised and tied weights and layers that
            are not linear get a skip row at once.
        every: Steps between two readings.
        select: Glob pattern(s) of weight names; None for all.
        sink: Where rows go; a `MemorySink` by default.
        run: Name of the run.
        first_step: Steps done before.

    Example:
        >>> model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> monitor = SpectralUpdateMonitor(model, every=2)
        >>> with monitor.attach(optimizer):
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(16, 6)).square().mean().backward()
        ...         optimizer.step()
        >>> ratios = monitor.table().where(metric="spectral_update_ratio")
        >>> ratios.frame["step"].to_list()
        [2, 2, 4, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 100,
        *,
        select: str | Sequence[str] | None = None,
        sink: Sink | None = None,
        run: str | None = None,
        first_step: int = 0,
    ) -> None:
        super().__init__(first_step=first_step)
        check_count("every", every)
        self._sink: Sink = MemorySink() if sink is None else sink
        check_sink(self._sink)
        self._every, self._run = every, run
        found = [_with_gradient(item) for item in linear_layers(model, select)]
        self._layers = [item for item in found if isinstance(item, LinearLayer)]
        if not self._layers:
            raise DomainError(
                "a monitor needs a linear layer whose weight is a parameter, got none; "
                "spectral_updates reads parametrised weights too"
            )
        self._inputs: dict[str, list[_Input]] = {}
        self._handles: list[RemovableHandle] = []
        self._provenance = {
            **environment(),
            "input": type(model).__name__,
            "input_kind": "module",
            "definitions": DEFINITIONS,
            "settings": {"every": every, "select": select},
        }
        skips = [item for item in found if isinstance(item, Skip)]
        self._put([{**skip_of(skip), "run": run} for skip in skips])

    def attach(self, *optimizers: Optimizer) -> Attachment:
        """Read at steps of these optimizers; hooks are in place until it is removed.

        Args:
            *optimizers: One, or all that make up a step together.

        Returns:
            A handle: ``remove()`` it, or use it in a ``with`` block.
        """
        attachment = super().attach(*optimizers)
        self._install()
        return attachment

    def on_step(self, step: Step) -> None:
        """Read, where this step is one of those to read."""
        if not self._handles:
            raise DomainError(
                "a monitor sees activations while its hooks are in place, got a step "
                "outside; write 'with monitor:' around the loop, or attach it"
            )
        inputs, self._inputs = self._inputs, {}
        if step.index % self._every:
            return
        loss = None if step.loss is None else float(step.loss)
        when = {"step": step.index, "run": self._run, "loss": loss}
        rows: list[dict[str, Any]] = []
        for layer in self._layers:
            read = _read(layer, inputs.get(layer.path, []))
            rows += [{**row, **when} for row in read]
        self._put(rows)

    def close(self) -> None:
        """Remove the hooks, detach where attached, and close the sink."""
        if self._attachment is not None:
            self._attachment.remove()
        self._uninstall()
        self._sink.close()

    def table(self) -> Table:
        """Return all rows so far, from the sink."""
        return self._sink.table()

    def __enter__(self) -> Self:
        self._install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _detached(self) -> None:
        super()._detached()
        self._uninstall()

    def _install(self) -> None:
        if not self._handles:
            self._handles = [
                layer.module.register_forward_hook(self._hook(layer), with_kwargs=True)
                for layer in self._layers
            ]

    def _uninstall(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._inputs = [], {}

    def _hook(self, layer: LinearLayer) -> Any:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if (self._step + 1) % self._every:
                return
            given = first_tensor((*args, *kwargs.values()))
            made = output_tensor(output)
            if not (isinstance(given, Tensor) and isinstance(made, Tensor)):
                return
            if made.requires_grad:
                kept = _Input(given)
                # Counted when a backward pass comes through: an evaluation in between
                # is no part of the gradient, nor is a recomputation a second use.
                made.register_hook(  # type: ignore[no-untyped-call]
                    lambda _: self._count(layer.path, kept)
                )

        return after

    def _count(self, path: str, kept: _Input) -> None:
        if self._handles:
            self._inputs.setdefault(path, []).append(kept)

    def _put(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._sink.append(
                Table.from_rows(rows, provenance=self._provenance, columns=COLUMNS)
            )


@final
class _Input:
    """What a layer took, not copied, and whether it was written to since."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()
        self._version = tensor._version

    @property
    def intact(self) -> bool:
        """Whether the values are those that the layer read."""
        return self.tensor._version == self._version


def _with_gradient(item: LinearLayer | Skip) -> LinearLayer | Skip:
    if isinstance(item, Skip) or "weight" in item.module._parameters:
        return item
    return skipped(
        item.weight, "computed from other parameters, which hold the gradient"
    )


@torch.no_grad()
def _read(layer: LinearLayer, inputs: Sequence[_Input]) -> list[dict[str, Any]]:
    weight = layer.module._parameters["weight"]
    gradient = None if weight is None else weight.grad
    if gradient is None:
        return [_skip(layer, "the weight has no gradient after this step")]
    if not inputs:
        reason = "the layer took part in no backward pass of this step"
        return [_skip(layer, reason)]
    if not all(kept.intact for kept in inputs):
        reason = "the layer's input was overwritten after the layer read it"
        return [_skip(layer, reason)]
    with torch.autocast(gradient.device.type, enabled=False):
        A = torch.cat([layer.rows_of(kept.tensor) for kept in inputs])
        G = get_view(layer.weight.view).apply(gradient)
        condition = spectral_update_condition(G, A)
    return condition_rows(layer.key, [condition], scales=None)


def _skip(layer: LinearLayer, reason: str) -> dict[str, Any]:
    return skip_of(skipped(layer.weight, reason))
