"""One pass over data: what the layers of a model take, give and are asked to change.

``capture`` runs a model over a loader and offers each layer's inputs, outputs, output
gradients (of a sum-reduced loss, or one per logit) and sign patterns. The model is left
as it was: mode, gradients, hooks, buffers, random state.
"""

from __future__ import annotations

import torch
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model.capture.batch import Batch as Batch
from spectrank.model.capture.choose import Choices, choose_layers
from spectrank.model.capture.objective import LossLike, make_objective
from spectrank.model.capture.records import LayerBatch as LayerBatch
from spectrank.model.capture.step import Forward, Gradients, Options
from spectrank.model.capture.taps import Accumulator as Accumulator
from spectrank.model.capture.taps import Capture as Capture
from spectrank.model.capture.undisturbed import Mode
from spectrank.model.capture.unpack import ModelCall as ModelCall
from spectrank.model.capture.unpack import Unpack


def capture(
    model: nn.Module,
    layers: Choices = None,
    *,
    gradients: Gradients = None,
    loss: LossLike | None = None,
    mode: Mode = "eval",
    autocast: torch.dtype | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    unpack: Unpack | None = None,
    forward: Forward | None = None,
    batch_axis: int | None = None,
) -> Capture:
    r"""Tap a model: one forward pass, and a backward pass if asked for, per batch.

    Output gradients are exact derivatives :math:`\delta_i = \partial \ell_i / \partial
    z_i` of the loss *summed* over samples, never divided by N; so
    :math:`\sum_i \delta_i z_{i}^T` is the gradient of the sum for the weight. They are
    taken with ``torch.autograd.grad``: ``.grad`` is not touched and frozen parameters
    do not matter. ``describe_loss`` tells the factor to a mean-reduced loss.

    Not captured: functions on bare parameters (``F.linear`` on a weight of one's own;
    the packed ``in_proj_weight`` of ``nn.MultiheadAttention``, while its ``out_proj``
    is). Fused attention and compiled graphs are run as plain modules for the pass.
    Checkpointing must be non-reentrant. In float16 the gradients are not scaled and may
    underflow.

    Args:
        model: Any module, on any device; torch's parallel and compile wrappers are run
            as the module they wrap.
        layers: Names, glob patterns or module classes; None for every leaf module with
            a weight that is no normalisation. An exact name may be of any module.
        gradients: ``"loss"`` for derivatives of the summed loss, ``"logits"`` for those
            of every logit of outputs (N, c): a leading axis c, one backward pass each.
        loss: A name of ``LOSS_NAMES``, an ``nn`` loss (summed whatever its reduction),
            or a callable of the model's raw output and the batch, on the device, that
            returns a sum over samples.
        mode: ``"eval"``, ``"train"`` (dropout draws, BatchNorm couples samples), or
            None to leave every module as it is.
        autocast: Run the forward pass under ``torch.autocast`` of this dtype; the loss
            of half-precision outputs is taken in float32.
        device: Where batches go; None for the device of the first parameter.
        dtype: Of the floating-point tensors of a batch; None keeps them.
        unpack: From a batch to a ``ModelCall``, where the customs of ``(input,
            targets)`` and of dicts with labels do not fit.
        forward: Replaces the call: a function of the model and the ``ModelCall``.
        batch_axis: Axis of the samples in inputs and targets that are sequences; None
            is 0, or not known in a model with ``batch_first=False``. Inside the model
            ``batch_first`` and the sizes tell. A mask is always (N, T).

    Returns:
        The taps, to be entered: ``with capture(...) as taps``.

    Raises:
        DomainError: An option outside its range, or gradients of a loss without one.
        ArgumentTypeError: ``model`` is no module, or an option of another type.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> loader = [(torch.ones(5, 3), torch.zeros(5, dtype=torch.long))]
        >>> with capture(model, gradients="loss", loss="cross_entropy") as taps:
        ...     for batch in taps.over(loader):
        ...         seen = batch["2"]
        ...         weight_gradient = seen.gradient_rows().T @ seen.input_rows()
        >>> weight_gradient.shape
        torch.Size([2, 4])
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"a model must be a torch.nn.Module, got {type(model).__name__}; "
            "load a checkpoint into its module first"
        )
    _check("gradients", gradients, (None, "loss", "logits"))
    _check("mode", mode, (None, "eval", "train"))
    _check("batch_axis", batch_axis, (None, 0, 1))
    _check("autocast", autocast, (None, torch.bfloat16, torch.float16))
    _check_types(dtype=dtype, unpack=unpack, forward=forward)
    if gradients == "loss" and loss is None:
        raise DomainError(
            "gradients='loss' needs a loss, got None; pass loss='cross_entropy', an "
            "nn loss or a callable that sums over samples"
        )
    if device is None:
        held = (*model.parameters(), *model.buffers())
        device = next((tensor.device for tensor in held), torch.device("cpu"))
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DomainError(
            f"device names one that torch can use, got {device!r:.80}; leave it out "
            "for the device of the model"
        ) from error
    options = Options(
        gradients=gradients,
        objective=None if loss is None else make_objective(loss, model),
        mode=mode,
        autocast=autocast,
        device=device,
        dtype=dtype,
        unpack=unpack,
        forward=forward,
        batch_axis=batch_axis,
    )
    return Capture(model, choose_layers(model, layers), options)


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise DomainError(
            f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}; "
            "leave it out for the default"
        )


def _check_types(*, dtype: object, unpack: object, forward: object) -> None:
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ArgumentTypeError(
            f"dtype is one of torch, got {dtype!r:.80}; e.g. dtype=torch.float32"
        )
    for name, function in (("unpack", unpack), ("forward", forward)):
        if function is not None and not callable(function):
            raise ArgumentTypeError(
                f"{name} is a function, got {function!r:.80}; leave it out for the "
                "default"
            )
