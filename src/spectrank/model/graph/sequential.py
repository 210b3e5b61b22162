"""The graph of a Sequential without an input: its layers one after the other.

Each layer of torch is traced by itself, on an input made to fit it, so that a
Sequential reads the same here as in a trace of the whole. Layers of one kind with the
same configuration share a trace: one takes tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from spectrank.errors import DomainError
from spectrank.model.graph.assemble import finished, handle
from spectrank.model.graph.graph import Graph
from spectrank.model.graph.names import Names
from spectrank.model.graph.reader import Reader, Value
from spectrank.model.graph.tracing import Trace, trace
from spectrank.model.graph.walk import splice


def _conv(module: nn.Module) -> Tensor:
    assert isinstance(module, _ConvNd)
    sides = [
        dilation * (size - 1) + 4
        for size, dilation in zip(module.kernel_size, module.dilation, strict=True)
    ]
    return torch.zeros(1, module.in_channels, *sides)


def _batch(module: nn.Module) -> Tensor:
    assert isinstance(module, _BatchNorm)
    spatial = {nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
    rank = next((r for t, r in spatial.items() if isinstance(module, t)), 0)
    return torch.zeros(2, module.num_features, *(4,) * rank)


def _pool(rank: int) -> Callable[[nn.Module], Tensor]:
    return lambda module: torch.zeros(1, 2, *(64,) * rank)


def _sized(attribute: str, *more: int) -> Callable[[nn.Module], Tensor]:
    def make(module: nn.Module) -> Tensor:
        sizes: Any = getattr(module, attribute)
        own = tuple(sizes) if isinstance(sizes, tuple) else (int(sizes),)
        return torch.zeros(2, *own, *more)

    return make


def _any(module: nn.Module) -> Tensor:
    return torch.zeros(2, 3)


def _flatten(module: nn.Module) -> Tensor | None:
    assert isinstance(module, nn.Flatten)
    if module.end_dim != -1 or not 0 < module.start_dim < 4:
        return None
    return torch.zeros(2, 3, 4, 5, 6)


def _last_axis(module: nn.Module) -> Tensor | None:
    return torch.zeros(2, 4) if module.dim == -1 else None


# Type to the maker of an input that fits; None where the layer depends on more.
_FITTING: tuple[
    tuple[tuple[type[nn.Module], ...], Callable[[nn.Module], Tensor | None]], ...
] = (
    ((nn.Linear,), _sized("in_features")),
    ((nn.Embedding,), lambda module: torch.zeros(2, 3, dtype=torch.int64)),
    ((_ConvNd,), _conv),
    ((_BatchNorm,), _batch),
    ((nn.LayerNorm, nn.RMSNorm), _sized("normalized_shape")),
    ((nn.GroupNorm,), _sized("num_channels", 4)),
    (
        (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
        _pool(1),
    ),
    (
        (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
        _pool(2),
    ),
    (
        (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
        _pool(3),
    ),
    ((nn.Flatten,), _flatten),
    ((nn.Softmax, nn.LogSoftmax, nn.GLU), _last_axis),
    (
        (
            nn.Identity,
            nn.Dropout,
            nn.ReLU,
            nn.ReLU6,
            nn.GELU,
            nn.SiLU,
            nn.Mish,
            nn.Tanh,
            nn.Sigmoid,
            nn.LeakyReLU,
            nn.ELU,
            nn.SELU,
            nn.CELU,
            nn.Softplus,
            nn.Softsign,
            nn.Tanhshrink,
            nn.Hardtanh,
            nn.Hardswish,
            nn.Hardsigmoid,
            nn.LogSigmoid,
        ),
        _any,
    ),
    ((nn.PReLU,), _sized("num_parameters")),
)


def sequential_graph(model: nn.Module) -> Graph:
    """Read a Sequential of layers of torch, nested ones included.

    Args:
        model: A ``nn.Sequential`` or one layer.

    Returns:
        The graph; shapes of activations are not known.

    Raises:
        DomainError: There is a module of another kind in it.
    """  # noqa: DOC502 - raised where the module is met
    reader = Reader(Names.of(model))
    value: Value = reader.emit("input", "input", name="input")
    traces: dict[Hashable, Trace] = {}
    for path, module in _leaves(model, ""):
        value = _append(reader, value, path, module, traces)
    reader.emit("output", "output", [value], name="output")
    found = finished(type(model).__name__, reader)
    return replace(found, nodes=tuple(replace(n, shape=None) for n in found.nodes))


def _leaves(model: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if type(model) is not nn.Sequential:
        yield path, model
        return
    # named_children would skip a layer that stands there twice.
    for name, module in model._modules.items():
        assert module is not None
        yield from _leaves(module, f"{path}.{name}" if path else name)


def _append(
    reader: Reader,
    value: Value,
    path: str,
    module: nn.Module,
    traces: dict[Hashable, Trace],
) -> Value:
    fitting = _input(module)
    if fitting is None:
        what = f"{path} is a {type(module).__name__}" if path else type(module).__name__
        raise DomainError(
            "without an input only a Sequential of layers of torch has a known graph, "
            f"got {what}; pass an example_input, or state the links as "
            "wiring=[(source layer, target layer, [steps]), ...]"
        )
    key = _kind(module, fitting)
    found = traces.get(key) or trace(module, fitting, {})
    if key is not None:
        traces[key] = found
    return splice(reader, found, value, path, handle)


def _kind(module: nn.Module, fitting: Tensor) -> Hashable:
    # Every plain attribute counts, not extra_repr: that of a pool leaves out some.
    # None where a trace may depend on more.
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    if any(hooks) or parametrize.is_parametrized(module) or module._modules:
        return None
    held = [*module._parameters.items(), *module._buffers.items()]
    tensors = tuple((name, None if t is None else _form(t)) for name, t in held)
    plain = {k: repr(v) for k, v in vars(module).items() if not k.startswith("_")}
    return type(module), tensors, tuple(sorted(plain.items())), _form(fitting)


def _form(tensor: Tensor) -> Hashable:
    # Strides too: some layers copy, and so lose the view, where memory has gaps.
    return (
        tuple(tensor.shape),
        tuple(tensor.stride()),
        tensor.dtype,
        tensor.device,
        tensor.requires_grad,
    )


def _input(module: nn.Module) -> Tensor | None:
    kind = parametrize.type_before_parametrizations(module)
    for types, make in _FITTING:
        if kind in types or (issubclass(kind, types) and _torchs_own(kind)):
            found = make(module)
            weight = next(module.parameters(), None)
            if found is not None and weight is not None and found.is_floating_point():
                return found.to(weight)
            return found
    return None


def _torchs_own(kind: type) -> bool:
    return kind.__module__.startswith("torch.nn.modules.")
