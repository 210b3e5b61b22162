"""What is refused before any long computation, and one forward pass for shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)

OUTPUTS = ("full", "trace", "sum_logits")
_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)


@final
@dataclass(frozen=True)
class Probe:
    """What one forward pass of one sample tells.

    Attributes:
        num_outputs: c, the number of outputs of one sample.
        dtype: Of the outputs, float32 or float64.
        device: Of the outputs.
        activation_bytes: What autograd keeps of one sample, parameters aside.
        positions: Parameter name to how often its weight is applied to one sample, in
            all calls: 1 for a Linear on a vector, H*W for a convolution, 0 where the
            module that owns it was not called.
    """

    num_outputs: int
    dtype: torch.dtype
    device: torch.device
    activation_bytes: int
    positions: dict[str, int]


def check_model(model: nn.Module) -> None:
    """Refuse a model that is no function of one sample.

    Args:
        model: Any module.

    Raises:
        ArgumentTypeError: It is no module.
        DomainError: In the mode it is in a layer couples samples, draws at random or
            changes with every call, or its gradient is not that of its outputs.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"a model must be a torch.nn.Module, got {type(model).__name__}; "
            "load a checkpoint into its module first"
        )
    for name, module in model.named_modules():
        way_out = "call model.eval() or replace the layer"
        reason = _not_a_function(module)
        if reason is None:
            reason, way_out = _not_differentiated(module)
        if reason is not None:
            raise DomainError(
                "a tangent kernel needs outputs that are a function of one sample, "
                f"{name or 'the model'} ({type(module).__name__}) {reason}; {way_out}"
            )


def _not_a_function(module: nn.Module) -> str | None:
    batch = isinstance(module, _NormBase) and not isinstance(module, _InstanceNorm)
    if batch and (module.training or module.running_mean is None):
        return "normalises by the batch and so couples the samples"
    if not module.training:
        return None
    dropout = isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout
    if dropout or (isinstance(module, _DropoutNd) and module.p > 0):
        return "drops at random in train mode"
    if isinstance(module, nn.RReLU):
        return "draws its slopes at random in train mode"
    hooks = module._forward_pre_hooks.values()
    if isinstance(module, _SpectralNorm) or any(
        isinstance(hook, SpectralNorm) for hook in hooks
    ):
        return "takes a step of its power iteration at every call in train mode"
    return None


def _not_differentiated(module: nn.Module) -> tuple[str | None, str]:
    """Why the gradients of a layer are not those of a kernel, and the way out."""
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "is compiled by TorchScript, which torch.func does not see through",
            "use the module that it was made from",
        )
    if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return None, ""
    if module.max_norm is not None:
        reason = "changes its weight when it is called with max_norm"
        return reason, "set its max_norm to None"
    if module.scale_grad_by_freq:
        reason = "divides its gradient by counts over the batch"
        return reason, "set its scale_grad_by_freq to False"
    if module.sparse:
        return "has sparse gradients", "set its sparse to False"
    return None, ""


def check_inputs(model: nn.Module, x: Tensor, name: str = "x1") -> None:
    """Refuse inputs that are no samples along axis 0 on the device of the model.

    Args:
        model: Any module.
        x: (n, ...), at least one sample.
        name: Of the argument, for the message.

    Raises:
        ArgumentTypeError: They are no tensor.
        ShapeError: There is no sample.
        DomainError: They are on another device, or the model is on several.
    """
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(
            f"{name} must be a tensor with the samples along axis 0, got "
            f"{type(x).__name__}; stack the samples, or wrap the model so that it "
            "takes one tensor"
        )
    if x.ndim < 1 or len(x) < 1:
        raise ShapeError(
            f"{name} must hold at least one sample along axis 0, got shape "
            f"{tuple(x.shape)}; pass a batch"
        )
    devices = {p.device for p in model.parameters()}
    if devices and devices != {x.device}:
        places = ", ".join(sorted(map(str, devices)))
        raise DomainError(
            f"inputs and parameters must be on one device, got {name} on {x.device} "
            f"and parameters on {places}; move one of them with .to(...)"
        )


def check_outputs(outputs: str) -> None:
    """Refuse a form of the kernel that does not exist.

    Args:
        outputs: One of ``OUTPUTS``.

    Raises:
        UnknownNameError: It is another word.
    """
    if outputs not in OUTPUTS:
        raise UnknownNameError(
            f"outputs must be one of {', '.join(OUTPUTS)}, got {outputs!r}; "
            "'full' keeps every pair of outputs"
        )


def probe(model: nn.Module, x: Tensor) -> Probe:
    """Run the model on at most two samples and read the shapes.

    Args:
        model: Checked by ``check_model``; to be called inside ``differentiable``.
        x: Checked by ``check_inputs``.

    Returns:
        What the pass tells.

    Raises:
        ShapeError: The output is not (batch, classes).
        DomainError: The output is not float32 or float64, depends on other samples,
            on chance or on no parameter, or the dtypes of inputs and parameters do not
            go together.
        RuntimeError: The model raised it for a reason of its own.
    """
    few = x[:2].detach()
    seen = _Seen(frozenset(t.data_ptr() for t in model.parameters()))
    hooks = [
        module.register_forward_hook(seen.hook(name))
        for name, module in model.named_modules()
    ]
    try:
        with (
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(seen.saved, lambda t: t),
        ):
            outputs = model(few)
    except RuntimeError as error:
        dtypes = {p.dtype for p in model.parameters()}
        if not x.is_floating_point() or dtypes <= {x.dtype}:
            raise
        names = ", ".join(sorted(map(str, dtypes)))
        raise DomainError(
            f"inputs and parameters must have one dtype, got inputs of {x.dtype} and "
            f"parameters of {names} ({error}); cast one of them"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else None
    if shape is None or len(shape) != 2 or shape[0] != len(few) or shape[1] < 1:
        got = type(outputs).__name__ if shape is None else f"shape {shape}"
        raise ShapeError(
            f"a model must give (batch, classes) for the kernel of its outputs, got "
            f"{got} for {len(few)} samples; wrap it in a module that returns the "
            "logits, one row per sample"
        )
    if outputs.dtype not in (torch.float32, torch.float64):
        raise DomainError(
            "a kernel is computed in float32 or float64, the model gives "
            f"{outputs.dtype}; cast the model and its inputs with .float() or .double()"
        )
    _check_dependence(model, few, outputs)
    return Probe(
        num_outputs=shape[1],
        dtype=outputs.dtype,
        device=outputs.device,
        activation_bytes=seen.bytes // len(few),
        positions=_positions(model, seen.sizes, len(few)),
    )


def _check_dependence(model: nn.Module, few: Tensor, outputs: Tensor) -> None:
    """Refuse outputs of other samples, of chance, or without a gradient."""
    if not outputs.requires_grad and any(p.requires_grad for p in model.parameters()):
        raise DomainError(
            "outputs must depend on trained parameters, those of "
            f"{type(model).__name__} have no gradient; look for detach(), no_grad() or "
            "a parameter that is not used"
        )
    with torch.no_grad():
        other = model(few[:1] if len(few) > 1 else torch.cat([few, few]))
        gap = float((other[0] - outputs[0]).abs().max())
        size = float(outputs[0].abs().max())
    # TF32 and other orders of summation stay far below; not "<=", for NaN.
    if gap > torch.finfo(outputs.dtype).eps ** 0.25 * size:
        raise DomainError(
            "outputs must be a function of one sample, those of the first differ by "
            f"{gap:.3g} (of {size:.3g}) with and without another beside it; call "
            "model.eval() and take out what mixes samples or draws at random"
        )


@final
class _Seen:
    """Counts what a pass keeps and how large the outputs of its modules are."""

    def __init__(self, parameters: frozenset[int]) -> None:
        self._parameters = parameters
        self.bytes = 0
        self.sizes: dict[str, int] = {}

    def saved(self, tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in self._parameters:
            self.bytes += tensor.numel() * tensor.element_size()
        return tensor

    def hook(self, name: str) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if not isinstance(value, Tensor) or value.ndim < 1 or not len(value):
                return
            axis = 1 if isinstance(module, _CHANNELS_FIRST) and value.ndim > 1 else -1
            num = value.numel() // max(value.shape[axis], 1)
            # Sequences may have their samples on axis 1; the total is the same.
            self.sizes[name] = self.sizes.get(name, 0) + num

        return after


def _positions(
    model: nn.Module, sizes: dict[str, int], num_samples: int
) -> dict[str, int]:
    found = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0].partition(".parametrizations")[0]
        owner = owner.removeprefix("parametrizations") or ""
        while owner and owner not in sizes:
            owner = owner.rpartition(".")[0]
        found[name] = sizes.get(owner, 0) // num_samples
    return found
