"""The regularised loss of a network as a function of one flat float64 vector."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.collapse.statistics.labels import check_layout
from spectrank.errors import DomainError, ShapeError
from spectrank.model.capture.objective import LossLike
from spectrank.model.losses import Loss, UnknownLoss, describe_loss

_Array = np.ndarray[Any, np.dtype[np.float64]]


@final
@dataclass(frozen=True, eq=False)
class Objective:
    """Value and gradient of loss plus decay; calling it moves the model.

    Attributes:
        model: In float64; its trained parameters are views of ``flat``.
        parameters: Those that are trained.
        decayed: Those of them that are decayed.
        flat: (P,) all trained parameters.
        groups: Sample indices (None for all) with the weight they share.
    """

    model: nn.Module
    parameters: tuple[nn.Parameter, ...]
    decayed: tuple[nn.Parameter, ...]
    flat: Tensor
    inputs: Tensor
    targets: Tensor
    loss: Loss
    weight_decay: float
    groups: tuple[tuple[Tensor | None, float], ...]

    def start(self) -> _Array:
        """Return a copy of the parameters as they are now."""
        found: _Array = self.flat.cpu().numpy().copy()
        return found

    def __call__(self, x: _Array) -> tuple[float, _Array]:
        """Value and gradient at x.

        Args:
            x: (P,) parameters.

        Returns:
            The value and the (P,) gradient.
        """
        value = self._at(x)
        return float(value.detach()), _flatten(
            torch.autograd.grad(value, self.parameters, materialize_grads=True)
        )

    def loss_value(self) -> float:
        """Return the loss as trained, without decay, at the present parameters."""
        with torch.no_grad():
            return float(self._loss())

    def hessian_product(self, x: _Array) -> Callable[[_Array], _Array]:
        """Hessian at x as a linear map; valid until the model moves.

        Args:
            x: (P,) parameters.

        Returns:
            Maps (P,) to (P,).
        """
        value = self._at(x)
        gradients = torch.autograd.grad(
            value, self.parameters, create_graph=True, materialize_grads=True
        )
        flat = torch.cat([g.reshape(-1) for g in gradients])

        def product(v: _Array) -> _Array:
            if not flat.requires_grad:
                # Of an objective that is linear in its parameters.
                return np.zeros_like(v.reshape(-1))
            vector = torch.from_numpy(v.reshape(-1).copy()).to(flat.device)
            return _flatten(
                torch.autograd.grad(
                    flat,
                    self.parameters,
                    vector,
                    retain_graph=True,
                    materialize_grads=True,
                )
            )

        return product

    def _at(self, x: _Array) -> Tensor:
        with torch.no_grad():
            self.flat.copy_(torch.from_numpy(x))
        value = self._loss()
        if self.weight_decay == 0.0:
            return value
        squares = torch.stack([p.square().sum() for p in self.decayed])
        return value + 0.5 * self.weight_decay * squares.sum()

    def _loss(self) -> Tensor:
        outputs = self.model(self.inputs)
        if not isinstance(outputs, Tensor):
            raise ShapeError(
                "a model to minimise must return one tensor, "
                f"got {type(outputs).__name__}; wrap it so that it returns the logits"
            )
        check_layout(self.loss.name, outputs, self.targets)
        total: Tensor | None = None
        divisor = 0.0
        for index, weight in self.groups:
            o = outputs if index is None else outputs[index]
            t = self.targets if index is None else self.targets[index]
            part = weight * self.loss.sum_loss(o, t)
            total = part if total is None else total + part
            divisor += weight * self.loss.mean_factor(o, t)
        assert total is not None
        # A summed loss divides by one, however many samples it sums.
        return total if self.loss.reduction == "sum" else total / divisor


def make_objective(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: LossLike,
    weight_decay: float,
    decay_biases: bool,
    sample_weights: Tensor | None,
) -> Objective:
    """Check the request and lay the model's parameters into one vector.

    Args:
        model: Private to the objective, in float64.
        inputs: (N, ...).
        targets: As the loss takes them.
        loss: Whose reduction is known.
        weight_decay: Coefficient of half the square.
        decay_biases: Also parameters of fewer than two axes.
        sample_weights: (N,) positive, or None.

    Returns:
        The objective.

    Raises:
        DomainError: A number out of range, dropout, nothing to train, or a loss whose
            reduction is not known.
    """
    described = known_loss(loss)
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise DomainError(
            "weight_decay must be a finite number of at least 0, "
            f"got {weight_decay}; e.g. 5e-4"
        )
    _check_deterministic(model)
    parameters = tuple(p for p in model.parameters() if p.requires_grad)
    if not parameters:
        raise DomainError(
            "a model to minimise needs a parameter with requires_grad, "
            f"{type(model).__name__} has none; call model.requires_grad_()"
        )
    decayed = tuple(p for p in parameters if decay_biases or p.ndim >= 2)
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    # The parameters become views of `flat`: one copy moves them all.
    nn.utils.vector_to_parameters(flat, parameters)
    return Objective(
        model=model,
        parameters=parameters,
        decayed=decayed,
        flat=flat,
        inputs=_as_float64(inputs),
        targets=_as_float64(targets),
        loss=described,
        weight_decay=float(weight_decay) if decayed else 0.0,
        groups=_groups(sample_weights, len(inputs)),
    )


def known_loss(loss: LossLike) -> Loss:
    """The description of a loss whose sum and reduction are known.

    Args:
        loss: A name, an ``nn`` loss or a function of ``torch.nn.functional``.

    Returns:
        The description, of float64 where the loss carries class weights.

    Raises:
        DomainError: The loss is unknown or not reduced.
    """
    if isinstance(loss, nn.Module):
        loss = copy_in_float64(loss)
    described = describe_loss(loss)
    if isinstance(described, UnknownLoss):
        raise DomainError(f"the sum of a loss must be known: {described.reason}")
    if described.reduction == "none":
        raise DomainError(
            "a loss must be reduced to be minimised, "
            f"{described.name} has reduction='none'; use 'mean' or 'sum'"
        )
    return described


def copy_in_float64(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module with floating-point tensors in float64."""
    return copy.deepcopy(module).to(torch.float64)


def _check_deterministic(model: nn.Module) -> None:
    for name, module in model.named_modules():
        dropout = isinstance(module, nn.modules.dropout._DropoutNd)
        if (dropout and module.training and module.p > 0) or (
            isinstance(module, nn.RReLU) and module.training
        ):
            raise DomainError(
                "an objective to minimise must be deterministic, "
                f"{name or 'the model'} is an active {type(module).__name__}; "
                "call model.eval() or set its p to 0"
            )


def _groups(
    weights: Tensor | None, num_samples: int
) -> tuple[tuple[Tensor | None, float], ...]:
    """Samples by their weight, so that a loss is summed once for each weight."""
    if weights is None:
        return ((None, 1.0),)
    if weights.shape != (num_samples,):
        raise ShapeError(
            f"sample_weights must have one weight for each of {num_samples} samples, "
            f"got the shape {tuple(weights.shape)}; pass a 1-D tensor"
        )
    w = weights.detach().to(torch.float64)
    if not bool((torch.isfinite(w) & (w > 0)).all()):
        raise DomainError(
            "sample_weights must be positive and finite, "
            f"got values from {float(w.min())} to {float(w.max())}; leave samples out "
            "that should not count"
        )
    values: Tensor = torch.unique(w)
    if len(values) == 1:
        return ((None, float(values[0])),)
    return tuple((torch.nonzero(w == v).reshape(-1), float(v)) for v in values)


def _as_float64(x: Tensor) -> Tensor:
    x = x.detach()
    return x.to(torch.float64) if x.is_floating_point() else x


def _flatten(gradients: tuple[Tensor, ...]) -> _Array:
    flat = torch.cat([g.detach().reshape(-1) for g in gradients])
    found: _Array = flat.cpu().numpy()
    return found
