"""The routes for any module: torch.func.vmap, or autograd for one member at a time.

Both call a copy of the template with a member's parameters in place of its own, so the
user's module is never touched, and groups on several threads have a copy each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from spectrank.errors import DomainError
from spectrank.train.fleet.losses import Loss
from spectrank.train.fleet.route import Pass, Route


class _Member:
    """A private copy of the template, called with given parameters."""

    def __init__(self, template: nn.Module, values: Mapping[str, Tensor]) -> None:
        like = next(iter(values.values()))
        module = copy.deepcopy(template).to(like.device, like.dtype)
        self._module = module.requires_grad_(False)
        self.trained = tuple(
            n for n, p in template.named_parameters() if p.requires_grad
        )
        self._buffers = dict(self._module.named_buffers())

    def __call__(self, values: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        versions = [buffer._version for buffer in self._buffers.values()]
        tensors = {**self._buffers, **values}
        outputs = functional_call(self._module, tensors, (inputs,))
        for (name, buffer), version in zip(
            self._buffers.items(), versions, strict=True
        ):
            # functional_call writes what the module assigned back into `tensors`.
            if tensors[name] is not buffer or buffer._version != version:
                raise DomainError(
                    f"a fleet trains parameters alone, but the buffer {name!r} is "
                    "changed by the forward pass; make it constant or call .eval()"
                )
        if not isinstance(outputs, Tensor):
            raise DomainError(
                "a fleet's template must return one tensor, got "
                f"{type(outputs).__name__}; wrap it in a module that returns the "
                "outputs alone"
            )
        return outputs


@final
class VmapRoute(Route):
    """``vmap(grad)`` over the members of a group."""

    name = "vmap"
    placeless = False

    def __init__(self, template: nn.Module, loss: Loss) -> None:
        self._template = template
        self._loss = loss

    def bind(  # noqa: D102
        self,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch_size: int,
    ) -> Pass:
        member = _Member(self._template, values)
        return _VmapPass(member, self._loss, values, gradients)

    def outputs(  # noqa: D102
        self, values: Mapping[str, Tensor], inputs: Tensor
    ) -> Tensor:
        member = _Member(self._template, values)
        found = vmap(member)(dict(values), inputs)
        assert isinstance(found, Tensor)
        return found


@final
class _VmapPass(Pass):
    def __init__(
        self,
        member: _Member,
        loss: Loss,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> None:
        def one(
            trained: Mapping[str, Tensor],
            fixed: Mapping[str, Tensor],
            inputs: Tensor,
            targets: Tensor,
        ) -> Tensor:
            outputs = member({**fixed, **trained}, inputs)
            return loss.of_member(outputs, targets)

        # grad of the first argument, with the value beside it, for each member.
        self._batched: Callable[..., Any] = vmap(grad_and_value(one))
        self._gradients = {name: gradients[name] for name in member.trained}
        self._trained = {name: values[name] for name in member.trained}
        self._fixed = {n: v for n, v in values.items() if n not in self._trained}

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        found, losses = self._batched(self._trained, self._fixed, inputs, targets)
        for name, gradient in self._gradients.items():
            gradient.copy_(found[name])
        assert isinstance(losses, Tensor)
        return losses.detach()


@final
class LoopRoute(Route):
    """One member after the other by autograd."""

    name = "loop"
    placeless = True

    def __init__(self, template: nn.Module, loss: Loss) -> None:
        self._template = template
        self._loss = loss

    def bind(  # noqa: D102
        self,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch_size: int,
    ) -> Pass:
        member = _Member(self._template, values)
        return _LoopPass(member, self._loss, values, gradients)

    def outputs(  # noqa: D102
        self, values: Mapping[str, Tensor], inputs: Tensor
    ) -> Tensor:
        member = _Member(self._template, values)
        return torch.stack(
            [
                member({name: value[i] for name, value in values.items()}, inputs[i])
                for i in range(len(inputs))
            ]
        )


@final
class _LoopPass(Pass):
    def __init__(
        self,
        member: _Member,
        loss: Loss,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> None:
        self._member = member
        self._loss = loss
        self._values = values
        self._gradients = gradients

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        losses = []
        for i in range(len(inputs)):
            with torch.enable_grad():
                # detach: a leaf of its own that shares the fleet's storage.
                values = {n: value[i].detach() for n, value in self._values.items()}
                for name in self._member.trained:
                    values[name].requires_grad_()
                # A copy starts on an aligned address (see ``layout``).
                outputs = self._member(values, inputs[i].clone())
                loss = self._loss.of_member(outputs, targets[i])
                found = torch.autograd.grad(
                    loss,
                    [values[name] for name in self._member.trained],
                    allow_unused=True,
                    materialize_grads=True,
                )
            for name, gradient in zip(self._member.trained, found, strict=True):
                self._gradients[name][i].copy_(gradient)
            losses.append(loss.detach())
        return torch.stack(losses)
