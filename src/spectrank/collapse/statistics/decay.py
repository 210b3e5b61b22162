r"""The coefficient lambda in :math:`(\lambda/2)\|W\|^2`, read or converted.

``coupled``: the ``weight_decay`` of SGD and of Adam adds ``weight_decay * W`` to the
gradient, so lambda is it. ``penalty``: a term ``w ||W||^2`` in the loss has gradient
``2 w W``, so lambda is 2 w. ``decoupled``: AdamW shrinks W beside the step; lambda is
the coefficient, but no stationary point of a penalised loss belongs to it.
Source (derived): tests/collapse/statistics/test_collapse_decay.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final, get_args

from torch import nn
from torch.optim import Optimizer

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import read_optimizer
from spectrank.model.optimizer import ParameterSettings

Decay = Literal["coupled", "decoupled", "penalty"]
DecayWord = Literal["coupled", "decoupled", "penalty", "none", "unknown"]


@final
@dataclass(frozen=True)
class EffectiveDecay:
    """How one weight decays.

    Attributes:
        coefficient: lambda, at least 0; NaN where it is not known.
        kind: ``coupled``, ``decoupled``, ``penalty``, ``none`` or ``unknown``.
        algorithm: Class name of the optimizer; None where a number was given.
        reason: Why it is not known; None where it is.
    """

    coefficient: float
    kind: DecayWord
    algorithm: str | None = None
    reason: str | None = None


def effective_decays(
    weight_decay: float | Optimizer, model: nn.Module, *, decay: Decay = "coupled"
) -> Mapping[str, EffectiveDecay] | EffectiveDecay:
    """Read the decay of every parameter, or one number for all.

    Args:
        weight_decay: A coefficient, or the optimizer that trains the model.
        model: Whose parameter names the optimizer's parameters have.
        decay: What a coefficient means; an optimizer tells itself.

    Returns:
        By parameter name where an optimizer was given.

    Raises:
        ArgumentTypeError: ``weight_decay`` is neither.
        DomainError: A negative or non-finite coefficient, or an unknown ``decay``.
    """
    if decay not in get_args(Decay):
        raise DomainError(
            f"decay must be one of {', '.join(get_args(Decay))}, got {decay!r}; "
            "leave it out for the weight_decay of SGD or Adam"
        )
    if isinstance(weight_decay, Optimizer):
        return {
            settings.name: _of_settings(settings)
            for settings in read_optimizer(weight_decay, model)
        }
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, int | float):
        raise ArgumentTypeError(
            "weight_decay must be a number or an optimizer, got "
            f"{type(weight_decay).__name__}; pass the optimizer that trained the model"
        )
    if not 0.0 <= weight_decay < math.inf:
        raise DomainError(
            f"weight_decay must be finite and at least 0, got {weight_decay}; pass 0 "
            "where there is none"
        )
    factor = 2.0 if decay == "penalty" else 1.0
    return EffectiveDecay(factor * weight_decay, decay if weight_decay else "none")


def _of_settings(settings: ParameterSettings) -> EffectiveDecay:
    if settings.maximize:
        # lambda W balances +grad there, and e would take the wrong sign.
        reason = "its optimizer ascends the loss (maximize=True)"
        return EffectiveDecay(math.nan, "unknown", settings.algorithm, reason)
    value = math.nan if settings.weight_decay is None else settings.weight_decay
    return EffectiveDecay(
        value, settings.decay_kind, settings.algorithm, settings.reason
    )


def decay_of(
    decays: Mapping[str, EffectiveDecay] | EffectiveDecay,
    weight_name: str,
    *,
    aliases: tuple[str, ...] = (),
) -> EffectiveDecay:
    """The decay of one weight.

    Args:
        decays: As `effective_decays` gave them.
        weight_name: Of the parameter.
        aliases: Other names that a tied parameter has.

    Returns:
        Its decay; ``unknown`` for a parameter that the optimizer does not hold.
    """
    if isinstance(decays, EffectiveDecay):
        return decays
    for name in (weight_name, *aliases):
        if name in decays:
            return decays[name]
    return EffectiveDecay(
        math.nan,
        "unknown",
        None,
        f"the optimizer holds no parameter {weight_name}",
    )
