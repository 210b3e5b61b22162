"""SGD and Adam with a coefficient a member, in the algebra of torch.optim.

Updates run over the buckets of a group (see ``layout``): (number, members, size)
tensors, coefficients (1, members, 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.train.fleet.coefficients import Coefficients, PerMember, per_member
from spectrank.train.fleet.layout import Buckets


class Optimizer(ABC):
    """What the optimisers share; not to be made itself."""

    slots: ClassVar[tuple[str, ...]]

    @abstractmethod
    def coefficients(self, num_members: int) -> dict[str, np.ndarray]:
        """Validated coefficients.

        Args:
            num_members: M.

        Returns:
            Name to (M,) values.

        Raises:
            DomainError: One lies outside its range.
            ShapeError: One has neither one entry nor M.
        """

    @abstractmethod
    def update(
        self,
        values: Buckets,
        gradients: Buckets,
        slots: Mapping[str, Buckets],
        coefficients: Coefficients,
    ) -> None:
        """Take one step in place; the gradients are used up.

        Args:
            values: Parameters.
            gradients: Of the loss.
            slots: State of the optimiser, zero before the first step.
            coefficients: Of the members, at this step.
        """


@final
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    r"""Stochastic gradient descent, as ``torch.optim.SGD``.

    With gradient g (plus ``weight_decay`` * p if coupled), from the second step on
    ``v = momentum * v + (1 - dampening) * g``, at the first ``v = g``; then
    ``p -= learning_rate * v``, or ``g + momentum * v`` for Nesterov. Decoupled decay
    multiplies p by ``1 - learning_rate * weight_decay`` first. Every number may be
    one a member; the two switches hold for the fleet.
    Source (stated): documentation of torch.optim.SGD; decoupled decay as in AdamW,
    Loshchilov & Hutter (2019), arXiv:1711.05101.

    Attributes:
        learning_rate: At least 0.
        momentum: At least 0.
        dampening: Any number; unused by members without momentum.
        nesterov: Needs momentum and no dampening.
        weight_decay: At least 0.
        decoupled: Whether the decay bypasses the gradient.
    """

    learning_rate: PerMember
    momentum: PerMember = 0.0
    dampening: PerMember = 0.0
    nesterov: bool = False
    weight_decay: PerMember = 0.0
    decoupled: bool = False

    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    def coefficients(self, num_members: int) -> dict[str, np.ndarray]:
        """Validated coefficients.

        Args:
            num_members: M.

        Returns:
            Name to (M,) values.

        Raises:
            DomainError: A coefficient lies outside its range.
        """
        names = ("learning_rate", "momentum", "dampening", "weight_decay")
        found = _read(self, names, num_members)
        still = found["momentum"] == 0.0
        if self.nesterov and (still.any() or found["dampening"].any()):
            raise DomainError(
                "Nesterov's step needs momentum > 0 and dampening 0 for every member, "
                f"got momentum {found['momentum'].min()} and dampening "
                f"{found['dampening'].max()}; set nesterov=False or run these members "
                "as a fleet of their own"
            )
        found["dampening"][still] = 0.0
        return found

    def update(
        self,
        values: Buckets,
        gradients: Buckets,
        slots: Mapping[str, Buckets],
        coefficients: Coefficients,
    ) -> None:
        """Take one step in place.

        Args:
            values: Parameters.
            gradients: Used as scratch.
            slots: ``momentum``.
            coefficients: Of the members, at this step.
        """
        c = coefficients
        minus_rate = c.column("minus rate", lambda: -c.rate(), at=c.factor)
        momentum = c.own("momentum")
        for p, g, v in zip(values, gradients, slots["momentum"], strict=True):
            _decay_(p, g, c, decoupled=self.decoupled)
            if "momentum" in c.used:
                if c.step == 0:
                    v.copy_(g)
                elif "dampening" in c.used:
                    kept = c.column("kept", lambda: 1.0 - c.numbers["dampening"])
                    v.mul_(momentum).addcmul_(g, kept)
                else:
                    torch.addcmul(g, v, momentum, out=v)
                g = g.addcmul_(v, momentum) if self.nesterov else v
            p.addcmul_(g, minus_rate)


@final
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    r"""Adam, as ``torch.optim.Adam``; with ``decoupled=True`` as ``torch.optim.AdamW``.

    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g^2``, and at
    step t ``p -= learning_rate * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)``.
    Source (stated): Kingma & Ba (2015), arXiv:1412.6980, Algorithm 1; Loshchilov &
    Hutter (2019), arXiv:1711.05101, Algorithm 2.

    Attributes:
        learning_rate: At least 0.
        beta1: In [0, 1).
        beta2: In [0, 1).
        eps: At least 0.
        weight_decay: At least 0.
        decoupled: Whether the decay bypasses the gradient.
    """

    learning_rate: PerMember
    beta1: PerMember = 0.9
    beta2: PerMember = 0.999
    eps: PerMember = 1e-8
    weight_decay: PerMember = 0.0
    decoupled: bool = False

    slots: ClassVar[tuple[str, ...]] = ("mean", "mean_square")

    def coefficients(self, num_members: int) -> dict[str, np.ndarray]:
        """Validated coefficients.

        Args:
            num_members: M.

        Returns:
            Name to (M,) values.

        Raises:
            DomainError: A coefficient lies outside its range.
        """
        names = ("learning_rate", "beta1", "beta2", "eps", "weight_decay")
        found = _read(self, names, num_members)
        for name in ("beta1", "beta2"):
            if (found[name] >= 1.0).any():
                raise DomainError(
                    f"{name} must lie in [0, 1), got {found[name].max()}; "
                    "choose a smaller one"
                )
        return found

    def update(
        self,
        values: Buckets,
        gradients: Buckets,
        slots: Mapping[str, Buckets],
        coefficients: Coefficients,
    ) -> None:
        """Take one step in place.

        Args:
            values: Parameters.
            gradients: Used as scratch.
            slots: ``mean`` and ``mean_square``.
            coefficients: Of the members, at this step.
        """
        c, t = coefficients, coefficients.step + 1
        beta1, beta2 = c.numbers["beta1"], c.numbers["beta2"]
        minus_rate = c.column("minus rate", lambda: -c.rate() / (1 - beta1**t), at=t)
        root = c.column("root", lambda: 1 / np.sqrt(1 - beta2**t), at=t)
        new_mean = c.column("new mean", lambda: 1 - beta1)
        new_square = c.column("new square", lambda: 1 - beta2)
        moments = zip(slots["mean"], slots["mean_square"], strict=True)
        for p, g, (m, v) in zip(values, gradients, moments, strict=True):
            _decay_(p, g, c, decoupled=self.decoupled)
            m.lerp_(g, new_mean)
            g.mul_(g)
            v.mul_(c.own("beta2")).addcmul_(g, new_square)
            torch.sqrt(v, out=g)
            g.mul_(root).add_(c.own("eps"))
            torch.div(m, g, out=g)
            p.addcmul_(g, minus_rate)


def _decay_(p: Tensor, g: Tensor, c: Coefficients, *, decoupled: bool) -> None:
    if "weight_decay" in c.used:
        if decoupled:
            p.mul_(c.shrink())
        else:
            g.addcmul_(p, c.own("weight_decay"))


def _read(
    optimizer: Optimizer, names: Sequence[str], num_members: int
) -> dict[str, np.ndarray]:
    found = {}
    for name in names:
        values = per_member(name, getattr(optimizer, name), num_members)
        wrong = ~np.isfinite(values) | ((values < 0) & (name != "dampening"))
        if wrong.any():
            member = int(wrong.argmax())
            raise DomainError(
                f"{name} must be finite{'' if name == 'dampening' else ' and >= 0'}, "
                f"got {values[member]} for member {member}; correct it"
            )
        found[name] = values
    return found


def clip_(gradients: Buckets, max_norm: np.ndarray) -> None:
    """Scale each member's gradient to at most a norm, in place.

    By ``min(1, max_norm / (norm + 1e-6))``: what torch.nn.utils.clip_grad_norm_ does,
    its 1e-6 included.

    Args:
        gradients: Buckets of a group, without gaps.
        max_norm: (G,) limits; ``inf`` leaves a member alone.
    """
    # Sums along a member's own contiguous row, then one bucket after the other: sums
    # over other axes are ordered by the size of the group.
    rows = [g.square().transpose(0, 1).reshape(g.shape[1], -1) for g in gradients]
    norms = sum((row.sum(1) for row in rows), torch.zeros_like(rows[0][:, 0])).sqrt()
    limits = torch.from_numpy(max_norm).to(norms.device, norms.dtype)
    scale = (limits / (norms + 1e-6)).clamp(max=1.0).view(1, -1, 1)
    for g in gradients:
        g.mul_(scale)
