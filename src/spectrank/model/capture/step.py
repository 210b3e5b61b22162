"""One batch through the model: forward, backward, records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError
from spectrank.model.capture.batch import Batch
from spectrank.model.capture.choose import Layer
from spectrank.model.capture.objective import Objective, differentiate, per_logit
from spectrank.model.capture.recorder import Call, Recorder
from spectrank.model.capture.records import LayerBatch
from spectrank.model.capture.rows import Samples
from spectrank.model.capture.tensors import logits, moved
from spectrank.model.capture.undisturbed import Mode, plain_execution, undisturbed
from spectrank.model.capture.unpack import ModelCall, Unpack, num_samples, unpack_batch

Gradients = Literal["loss", "logits"] | None
Forward = Callable[[nn.Module, ModelCall], Any]


@dataclass(frozen=True)
class Options:
    """How batches are run; see ``capture``."""

    gradients: Gradients
    objective: Objective | None
    mode: Mode
    autocast: torch.dtype | None
    device: torch.device
    dtype: torch.dtype | None
    unpack: Unpack | None
    forward: Forward | None
    batch_axis: int | None


@dataclass(frozen=True, eq=False)
class Step:
    """What one batch gave.

    Attributes:
        batch: Its records.
        unused: Layers with a call whose output the loss does not depend on.
        without_gradients: Layers with a call that the model ran without gradients.
    """

    batch: Batch
    unused: frozenset[str]
    without_gradients: frozenset[str]


def run_step(
    model: nn.Module, layers: Sequence[Layer], options: Options, index: int, raw: Any
) -> Step:
    """Run a batch; the model is as it was when this returns or raises.

    Args:
        model: The user's model.
        layers: What to record.
        options: How.
        index: Of the batch.
        raw: As the loader gave it.

    Returns:
        The step; nothing in it holds a graph.
    """
    raw = moved(raw, options.device, options.dtype)
    call = _unpacked(model, options, raw)
    graded = options.gradients is not None
    recorder = Recorder(layers, gradients=graded)
    with (
        torch.set_grad_enabled(graded),
        undisturbed(model, options.mode),
        plain_execution(model),
        recorder.installed(),
    ):
        with _autocast(options):
            output = _forward(model, options, call)
        recorder.stop()
        loss = None
        if options.objective is not None:
            loss = options.objective.call(output, call.targets, raw)
        # A checkpoint runs the model again here.
        taken = _derivatives(options, output, loss, recorder.calls)
    values = logits(output)
    samples = _samples(model, options, call)
    records = _records(layers, recorder.calls, taken, samples)
    batch = Batch(
        index,
        None if values is None else values.detach(),
        call.targets,
        None if loss is None else loss.detach(),
        samples,
        records,
    )
    if not graded:
        return Step(batch, frozenset(), frozenset())
    pairs = list(zip(recorder.calls, taken, strict=True))
    return Step(
        batch,
        frozenset(call.layer.name for call, g in pairs if _is_zero(call, g)),
        frozenset(call.layer.name for call, _ in pairs if not call.differentiable),
    )


def _unpacked(model: nn.Module, options: Options, raw: Any) -> ModelCall:
    if options.unpack is None:
        # A user's own loss may read what the model makes of the labels.
        own = options.objective is not None and options.objective.loss is None
        return unpack_batch(raw, _bare(model), keep_targets=own)
    found = options.unpack(raw)
    if not isinstance(found, ModelCall):
        raise ArgumentTypeError(
            "unpack must return a ModelCall, "
            f"got {type(found).__name__}; wrap it: ModelCall(args=(x,), targets=y)"
        )
    return found


def _forward(model: nn.Module, options: Options, call: ModelCall) -> Any:
    if options.forward is not None:
        return options.forward(model, call)
    return _bare(model)(*call.args, **call.kwargs)


def _bare(model: nn.Module) -> nn.Module:
    """The module that a wrapper of torch (data-parallel, compiled) runs."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _autocast(options: Options) -> AbstractContextManager[object]:
    if options.autocast is None:
        return nullcontext()
    return torch.autocast(options.device.type, dtype=options.autocast)


def _derivatives(
    options: Options, output: Any, loss: Tensor | None, calls: Sequence[Call]
) -> list[list[Tensor | None]]:
    """For every call its derivatives: none, one, or one per logit."""
    if options.gradients is None:
        return [[] for _ in calls]
    whole = options.gradients == "loss"
    scalars = [cast(Tensor, loss)] if whole else per_logit(output)
    nodes = [call for call in calls if call.differentiable]
    by_scalar = differentiate(scalars, [call.tap for call in nodes])
    by_node = {
        id(call): [gradients[place] for gradients in by_scalar]
        for place, call in enumerate(nodes)
    }
    return [by_node.get(id(call), []) for call in calls]


def _is_zero(call: Call, gradients: Sequence[Tensor | None]) -> bool:
    return call.differentiable and all(g is None for g in gradients)


def _records(
    layers: Sequence[Layer],
    calls: Sequence[Call],
    taken: Sequence[Sequence[Tensor | None]],
    samples: Samples,
) -> dict[str, tuple[LayerBatch, ...]]:
    found: dict[str, list[LayerBatch]] = {}
    for call, gradients in zip(calls, taken, strict=True):
        earlier = found.setdefault(call.layer.name, [])
        earlier.append(_record(call, len(earlier), gradients, samples))
    names = (layer.name for layer in layers)
    return {name: tuple(found[name]) for name in names if name in found}


def _record(
    call: Call, index: int, gradients: Sequence[Tensor | None], samples: Samples
) -> LayerBatch:
    attention = call.layer.attention
    if attention is not None:
        samples = replace(samples, batch_first=attention.batch_first)
    return LayerBatch(
        name=call.layer.name,
        call=index,
        inputs=None if call.inputs is None else call.arrange(call.inputs),
        outputs=call.arrange(call.tap.detach()),
        output_gradients=_gradient(call, gradients, samples),
        tied_to=call.layer.tied_to,
        _module=call.layer.module,
        _samples=samples,
        _packed=call.packed,
    )


def _gradient(
    call: Call, gradients: Sequence[Tensor | None], samples: Samples
) -> Tensor | None:
    if not gradients:
        return None
    parts = [
        call.arrange(torch.zeros_like(call.tap) if g is None else g).detach()
        for g in gradients
    ]
    return torch.stack(parts) if samples.per_logit else parts[0]


def _samples(model: nn.Module, options: Options, call: ModelCall) -> Samples:
    loss = None if options.objective is None else options.objective.loss
    # A loss without an index to ignore means every number, -100 too.
    known = loss.ignore_index if loss is not None else -100
    ignore = -100 if known is None else known
    labels = _labels(call.targets)
    # Causal models compare position t with the label after it.
    if labels is not None and loss is not None and "causal" in loss.name:
        last = torch.full_like(labels[:, :1], ignore)
        labels = torch.cat([labels[:, 1:], last], dim=1)
    if labels is not None and labels.ndim > 1 and options.batch_axis == 1:
        labels = labels.transpose(0, 1)
    time_first = options.batch_axis == 1 or any(
        getattr(m, "batch_first", True) is False for m in model.modules()
    )
    ignored = (
        labels is not None and known is not None and bool((labels == ignore).any())
    )
    return Samples(
        num_samples=num_samples(call, options.batch_axis, either=time_first),
        labels=labels,
        mask=None if call.mask is None else call.mask != 0,
        ignore_index=ignore if ignored else None,
        either_order=time_first,
        per_logit=options.gradients == "logits",
    )


def _labels(targets: Any) -> Tensor | None:
    if not isinstance(targets, Tensor) or targets.dtype == torch.bool:
        return None
    if targets.is_floating_point() or targets.is_complex():
        return None
    return targets.squeeze(1) if targets.shape[1:] == (1,) else targets
