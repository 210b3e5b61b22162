"""Rows of the Jacobian: gradients of outputs of samples, one tensor per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from spectrank.ntk.parameters import detached


@final
class Rows:
    """Gradients ``df_i(x_a)/dp`` of chosen samples and combinations of outputs.

    Batched over samples and outputs by ``torch.func.vmap``; a module that vmap does not
    take (data-dependent control flow, a recurrent layer) is differentiated one sample
    at a time, by autograd.

    Args:
        model: To be used inside ``differentiable``.
        params: Names of the parameters.
    """

    def __init__(self, model: nn.Module, params: Sequence[str]) -> None:
        values = detached(model)
        self._model = model
        self._moving = {name: values[name] for name in params}
        self._fixed = {n: v for n, v in values.items() if n not in self._moving}
        self._batched = True

    def __call__(self, x: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
        """Rows of a block.

        Args:
            x: (b, ...).
            cotangents: (k, c): which combinations of outputs.

        Returns:
            Parameter name to (b, k, numel), in the order of ``params``.

        Raises:
            OutOfMemoryError: The block does not fit on the device.
        """
        if self._batched:
            try:
                return self._flat(vmap(self._one, (0, None))(x, cotangents))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError):
                # The loop below raises what is the model's own fault.
                self._batched = False
        parts = [self._by_autograd(sample, cotangents) for sample in x]
        return {name: torch.stack([p[name] for p in parts]) for name in self._moving}

    def outputs(self, moving: dict[str, Tensor], x: Tensor) -> Tensor:
        """Outputs as a function of the chosen parameters.

        Args:
            moving: Values of the chosen parameters.
            x: (b, ...).

        Returns:
            (b, c).
        """
        found: Tensor = functional_call(self._model, {**self._fixed, **moving}, (x,))
        return found

    @property
    def values(self) -> dict[str, Tensor]:
        """The chosen parameters, detached."""
        return self._moving

    def _one(self, x: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
        pull = vjp(lambda p: self.outputs(p, x[None])[0], self._moving)[1]
        found: dict[str, Tensor] = vmap(lambda v: pull(v)[0])(cotangents)
        return found

    def _flat(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: found[name].flatten(2) for name in self._moving}

    def _by_autograd(self, x: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            moving = {
                name: value.detach().requires_grad_()
                for name, value in self._moving.items()
            }
            outputs = self.outputs(moving, x[None])[0]
            if not outputs.requires_grad:
                return {
                    name: value.new_zeros(len(cotangents), value.numel())
                    for name, value in self._moving.items()
                }
            rows = [
                torch.autograd.grad(
                    outputs,
                    list(moving.values()),
                    cotangent,
                    retain_graph=True,
                    materialize_grads=True,
                    allow_unused=True,
                )
                for cotangent in cotangents
            ]
        return {
            name: torch.stack([row[i].detach().flatten() for row in rows])
            for i, name in enumerate(moving)
        }
