"""The fast route: multilayer perceptrons by batched products and a backward by hand.

For layer l with weights W (G, O, I), inputs x (G, B, I) and delta = dloss/dz (G, B, O):

    z = x W^T + b,    dloss/dW = delta^T x,    dloss/db = sum_B delta,
    dloss/dx = delta W.

All buffers are made once for a group; two of the largest layer's size serve the whole
backward pass, and nothing goes through autograd. Legend: G members, B batch, I inputs,
O outputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from spectrank.train.fleet.activations import Activation, find_activation
from spectrank.train.fleet.layout import aligned
from spectrank.train.fleet.losses import Loss
from spectrank.train.fleet.route import Pass, Route


@dataclass(frozen=True)
class Layer:
    """A linear layer and the map after it.

    Attributes:
        weight: Name of the (O, I) weights.
        bias: Name of the (O,) biases, if any.
        activation: Elementwise map of the outputs; None is the identity.
    """

    weight: str
    bias: str | None
    activation: Activation | None


def read_layers(template: nn.Module, inputs: Tensor) -> tuple[Layer, ...] | str:
    """The layers of a perceptron, or why it is none.

    Args:
        template: One member.
        inputs: (N, *shape) training inputs.

    Returns:
        Layers from input to output, or a sentence.
    """
    if type(template) is not nn.Sequential:
        return f"the template is a {type(template).__name__}, no nn.Sequential"
    if any(_is_hooked(module) for module in template.modules()):
        return "a module of the template has hooks"
    if not all(p.requires_grad for p in template.parameters()):
        return "some parameters are frozen"
    leaves = list(_leaves(template, ""))
    if len({id(m) for _, m in leaves if type(m) is nn.Linear}) != sum(
        type(m) is nn.Linear for _, m in leaves
    ) or len(list(template.parameters())) != len(template.state_dict()):
        return "weights are used twice or there are buffers"
    return _chain(leaves, inputs.ndim)


def _chain(
    leaves: Sequence[tuple[str, nn.Module]], num_axes: int
) -> tuple[Layer, ...] | str:
    layers: list[Layer] = []
    for name, module in leaves:
        if type(module) is nn.Linear:
            if num_axes != 2:
                return f"inputs of {num_axes - 1} axes reach {name} without nn.Flatten"
            bias = None if module.bias is None else f"{name}.bias"
            layers.append(Layer(f"{name}.weight", bias, None))
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (
            1,
            -1,
        ):
            num_axes = 2
        elif not _does_nothing(module):
            activation = find_activation(module)
            if activation is None:
                return f"{name} ({type(module).__name__}) has no hand-written backward"
            if not layers or layers[-1].activation is not None:
                return f"{name} does not follow a linear layer"
            last = layers.pop()
            layers.append(Layer(last.weight, last.bias, activation))
    return tuple(layers) if layers else "there is no linear layer"


def _leaves(module: nn.Sequential, prefix: str) -> Sequence[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    # Not named_children, which leaves out a module that occurs again.
    for name, child in module._modules.items():
        assert child is not None
        if type(child) is nn.Sequential:
            found += _leaves(child, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", child))
    return found


def _is_hooked(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    more = ("_backward_pre_hooks",)
    return any(getattr(module, name, None) for name in (*names, *more))


def _does_nothing(module: nn.Module) -> bool:
    if type(module) is nn.Dropout:
        return module.p == 0.0 or not module.training
    return type(module) is nn.Identity


@final
class MlpRoute(Route):
    """Batched products and a backward pass by hand."""

    name = "mlp"
    placeless = True

    def __init__(self, layers: tuple[Layer, ...], loss: Loss) -> None:
        self._layers = layers
        self._loss = loss

    def bind(  # noqa: D102
        self,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch_size: int,
    ) -> Pass:
        return _MlpPass(self._layers, self._loss, values, gradients, batch_size)

    def outputs(  # noqa: D102
        self, values: Mapping[str, Tensor], inputs: Tensor
    ) -> Tensor:
        x = inputs.flatten(2)
        for layer in self._layers:
            weight = values[layer.weight].transpose(1, 2)
            if layer.bias is None:
                x = torch.bmm(x, weight)
            else:
                x = torch.baddbmm(values[layer.bias].unsqueeze(1), x, weight)
            if layer.activation is not None:
                layer.activation.forward_(x)
        return x


@dataclass(frozen=True)
class _Bound:
    """A layer of a group with its buffers."""

    weight_GOI: Tensor
    weight_GIO: Tensor
    bias_G1O: Tensor | None
    weight_gradient: Tensor
    bias_gradient: Tensor | None
    activation: Activation | None
    outputs_GBO: Tensor
    outputs: Tensor  # The same memory in one piece, to the next full vector.
    kept: Tensor  # What the activation's backward pass needs, likewise.


@final
class _MlpPass(Pass):
    def __init__(
        self,
        layers: Sequence[Layer],
        loss: Loss,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch_size: int,
    ) -> None:
        self._loss = loss
        # Rows of zeros fill the batch up to an aligned size (see ``layout``); their
        # gradient is zero.
        rows = aligned(batch_size)
        self._batch_size = batch_size
        self._bound = [_bind(layer, values, gradients, rows) for layer in layers]
        first = self._bound[0].weight_GOI
        widths = [bound.weight_GOI.shape[1] for bound in self._bound]
        size = _padded(len(first) * rows * max(widths))
        scratch = first.new_zeros(2, size)
        # Gradients with respect to the outputs of layer l; layers take turns.
        self._deltas = [
            _views(scratch[number % 2], (len(first), rows, width))
            for number, width in enumerate(widths)
        ]

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = inputs = _filled_up(inputs.flatten(2))
        for layer in self._bound:
            _forward(layer, x)
            x = layer.outputs_GBO
        losses, gradient = self._loss.of_group(x[:, : self._batch_size], targets)
        delta, flat = self._deltas[-1]
        delta[:, : self._batch_size] = gradient.view(
            len(delta), self._batch_size, delta.shape[2]
        )
        delta[:, self._batch_size :] = 0.0
        for number in range(len(self._bound) - 1, -1, -1):
            layer = self._bound[number]
            if layer.activation is not None:
                layer.activation.backward_(flat, layer.kept)
            x = self._bound[number - 1].outputs_GBO if number else inputs
            torch.bmm(delta.transpose(1, 2), x, out=layer.weight_gradient)
            if layer.bias_gradient is not None:
                torch.sum(delta, 1, keepdim=True, out=layer.bias_gradient)
            if number:
                after = delta
                delta, flat = self._deltas[number - 1]
                torch.bmm(after, layer.weight_GOI, out=delta)
        return losses


def _filled_up(inputs: Tensor) -> Tensor:
    missing = aligned(inputs.shape[1]) - inputs.shape[1]
    if not missing:
        return inputs
    if inputs.stride(0) == 0:
        # One batch for all members.
        return functional.pad(inputs[:1], (0, 0, 0, missing)).expand(
            len(inputs), -1, -1
        )
    return functional.pad(inputs, (0, 0, 0, missing))


def _padded(size: int) -> int:
    """Return the next multiple of any two vectors' length.

    Elementwise maps take two vectors at a time (AVX-512: 32 floats) and the last few
    entries one by one, rounded otherwise: which members have these entries would depend
    on the size of the group.
    """
    return -(-size // 64) * 64


def _views(flat: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    size = math.prod(shape)
    return flat[:size].view(shape), flat[: _padded(size)]


def _bind(
    layer: Layer,
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    batch_size: int,
) -> _Bound:
    weight = values[layer.weight]
    shape = (weight.shape[0], batch_size, weight.shape[1])
    outputs_GBO, flat = _views(weight.new_zeros(_padded(math.prod(shape))), shape)
    keeps = layer.activation is not None and layer.activation.keeps_input
    bias = None if layer.bias is None else values[layer.bias].unsqueeze(1)
    bias_gradient = None if layer.bias is None else gradients[layer.bias].unsqueeze(1)
    return _Bound(
        weight_GOI=weight,
        weight_GIO=weight.transpose(1, 2),
        bias_G1O=bias,
        weight_gradient=gradients[layer.weight],
        bias_gradient=bias_gradient,
        activation=layer.activation,
        outputs_GBO=outputs_GBO,
        outputs=flat,
        kept=torch.zeros_like(flat) if keeps else flat,
    )


def _forward(layer: _Bound, x: Tensor) -> None:
    if layer.bias_G1O is None:
        torch.bmm(x, layer.weight_GIO, out=layer.outputs_GBO)
    else:
        torch.baddbmm(layer.bias_G1O, x, layer.weight_GIO, out=layer.outputs_GBO)
    if layer.activation is not None:
        if layer.activation.keeps_input:
            layer.kept.copy_(layer.outputs)
        layer.activation.forward_(layer.outputs)
