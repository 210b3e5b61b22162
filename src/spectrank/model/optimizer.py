r"""What a live optimizer does to each of its parameters: rate, decay, momentum.

Conventions, with w the weight, g its gradient (negated under ``maximize``), d the decay
and eta the learning rate:

    coupled     g <- g + d w before anything else: decay enters the momentum buffer and
                the preconditioner (the gradient of (d / 2) ||w||^2 under SGD)
    decoupled   w <- (1 - eta d) w beside the step, which sees g alone
    momentum    v <- momentum v + (1 - dampening) g, v = g at the first step where
                dampening is a choice of torch.optim.SGD (Muon starts from v = 0);
                the step is v, or g + momentum v under ``nesterov``

What a loop does around ``step()`` (clipping, scaling, schedules that have not been
written to the groups yet, penalties added to the loss) is not seen here.
Source (derived): tests/model/test_optimizer_reading.py, one step of every optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from spectrank.errors import ArgumentTypeError, UnknownNameError
from spectrank.model.update_rules import READERS, DecayKind


@dataclass(frozen=True)
class ParameterSettings:
    """How one parameter is updated; None where it is unknown or has no meaning.

    Attributes:
        name: Name in the model, else the optimizer's own name, else
            ``group 0, parameter 3``.
        group: Index of the parameter group.
        algorithm: Class name in ``torch.optim``; the full name of an unknown class.
        known: Whether the class is one whose update rule is known here.
        reason: Why it is not known; None where it is.
        learning_rate: That the next step uses, in units of weight per gradient for SGD;
            the nominal one of the adaptive methods.
        weight_decay: Coefficient of the decay, 0 where there is none.
        decay_kind: ``coupled``, ``decoupled``, ``none`` (the coefficient is 0 or the
            method has none) or ``unknown``.
        momentum: Of the buffer; None for the methods that average otherwise (betas).
        dampening: As in the module's conventions; equals ``momentum`` for Muon.
        nesterov: Whether the step looks ahead.
        maximize: Whether the objective is ascended.
        adaptive: The step is not a fixed multiple of the (averaged) gradient: laws of
            gradient descent do not hold under it.
        betas: Coefficients of the two running averages of Adam's family.
        notes: What else the update does to the parameter.
    """

    name: str
    group: int
    algorithm: str
    known: bool = True
    reason: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    decay_kind: DecayKind = "unknown"
    momentum: float | None = None
    dampening: float | None = None
    nesterov: bool | None = None
    maximize: bool | None = None
    adaptive: bool | None = None
    betas: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def read_optimizer(
    optimizer: Optimizer,
    model: nn.Module | None = None,
    *,
    as_type: type[Optimizer] | None = None,
) -> tuple[ParameterSettings, ...]:
    """Settings of every parameter of an optimizer, as its next step will use them.

    Only exact classes of ``torch.optim`` are known. A subclass may override anything,
    so it is reported as unknown with the reason unless ``as_type`` declares what it is.

    Args:
        optimizer: A live optimizer; only read.
        model: Where its parameters have their names; the first name of a tied one.
        as_type: Class of ``torch.optim`` whose update rule the optimizer follows.

    Returns:
        One record per parameter, group by group.

    Raises:
        ArgumentTypeError: ``optimizer`` is no ``torch.optim.Optimizer``.
        UnknownNameError: ``as_type`` is not one of the known classes.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=1e-3)
        >>> [
        ...     (s.name, s.learning_rate, s.decay_kind)
        ...     for s in read_optimizer(sgd, layer)
        ... ]
        [('weight', 0.1, 'coupled'), ('bias', 0.1, 'coupled')]
    """
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(
            "optimizer must be a torch.optim.Optimizer, "
            f"got {type(optimizer).__name__}; pass the one that a wrapper holds"
        )
    if as_type is not None and as_type not in READERS:
        known = ", ".join(kind.__name__ for kind in READERS)
        raise UnknownNameError(
            f"as_type must be one of {known} of torch.optim, got {as_type!r}; "
            "leave it out to have the optimizer reported as unknown"
        )
    names = _names(model)
    kind = as_type or type(optimizer)
    return tuple(
        _settings(optimizer, kind, group, index, parameter, name)
        for index, group in enumerate(optimizer.param_groups)
        for parameter, name in _named(group, index, names)
    )


def _names(model: nn.Module | None) -> dict[int, str]:
    if model is None:
        return {}
    return {id(p): name for name, p in model.named_parameters()}


def _named(
    group: Mapping[str, Any], index: int, names: Mapping[int, str]
) -> Iterator[tuple[Tensor, str]]:
    own = group.get("param_names")
    for position, parameter in enumerate(group["params"]):
        fallback = own[position] if own else f"group {index}, parameter {position}"
        yield parameter, names.get(id(parameter), fallback)


def _settings(
    optimizer: Optimizer,
    kind: type[Optimizer],
    group: Mapping[str, Any],
    index: int,
    parameter: Tensor,
    name: str,
) -> ParameterSettings:
    reader = READERS.get(kind)
    if reader is None:
        full = f"{kind.__module__}.{kind.__qualname__}"
        return ParameterSettings(
            name, index, full, known=False, reason=_unknown_reason(kind)
        )
    state = optimizer.state.get(parameter, {})
    fields = reader(group, state)
    decay = float(fields.pop("weight_decay", 0.0))
    coupling: DecayKind = fields.pop("coupling", "coupled")
    return ParameterSettings(
        name=name,
        group=index,
        algorithm=kind.__name__,
        learning_rate=float(fields.pop("learning_rate", group["lr"])),
        weight_decay=decay,
        decay_kind=coupling if decay != 0.0 else "none",
        maximize=bool(group.get("maximize", False)),
        **fields,
    )


def _unknown_reason(kind: type[Optimizer]) -> str:
    base = next((b.__name__ for b in kind.__mro__ if b in READERS), None)
    if base is None:
        return (
            f"{kind.__name__} is no optimizer of torch.optim whose update is known "
            "here; if it follows one, declare it with as_type="
        )
    return (
        f"{kind.__name__} is a subclass of {base} and may change its update; "
        f"declare as_type=torch.optim.{base} if it does not"
    )
