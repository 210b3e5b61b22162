"""What a watch refuses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.invariance.laws import Laws


def check_optimizers(given: object, held_by_model: set[int]) -> tuple[Optimizer, ...]:
    """Optimizers as a tuple.

    Args:
        given: One or several.
        held_by_model: Identities of the parameters of the model.

    Returns:
        The optimizers.

    Raises:
        ArgumentTypeError: One of them is no optimizer.
        DomainError: None of them trains the model, or one is named twice.
    """
    several = tuple(given) if isinstance(given, list | tuple) else (given,)
    for one in several:
        if not isinstance(one, Optimizer):
            raise ArgumentTypeError(
                "optimizer is a torch.optim.Optimizer or several of them, got "
                f"{type(one).__name__}; pass the one that a wrapper holds"
            )
    held = {id(p) for o in several for group in o.param_groups for p in group["params"]}
    if not held & held_by_model:
        raise DomainError(
            "laws are watched while their model is trained, got an optimizer that "
            "holds none of its parameters; make it from model.parameters()"
        )
    if len({id(one) for one in several}) < len(several):
        raise DomainError(
            "each optimizer is watched once, got one of them twice; name it once"
        )
    return several


def check_laws(laws: object, parameters: Mapping[str, Tensor]) -> Laws:
    """Laws of a model.

    Args:
        laws: Given.
        parameters: Of the model.

    Returns:
        The laws.

    Raises:
        ArgumentTypeError: They are no Laws.
        DomainError: There is none, or a parameter is stored in half precision.
        UnknownNameError: The model lacks a parameter.
    """
    if not isinstance(laws, Laws):
        raise ArgumentTypeError(
            f"laws are a Laws, got {type(laws).__name__}; "
            "find them with invariance.find(model), or read Laws.from_table(table)"
        )
    if not len(laws):
        raise DomainError(
            "a watch follows at least one family of laws, got none; "
            "laws.skipped gives the reason for each place without one"
        )
    for name in laws.parameters:
        if name not in parameters:
            raise UnknownNameError(
                f"laws name parameters of the model, got {name!r}, which it lacks; "
                "find the laws of this model"
            )
        dtype = parameters[name].dtype
        if dtype not in {torch.float32, torch.float64}:
            raise DomainError(
                f"weights that are watched are float32 or float64, got {dtype} of "
                f"{name!r}, whose rounding swamps what is conserved; watch the float32 "
                "copy that the optimizer updates, or leave out laws.of(name)"
            )
    return laws


def check_options(**numbers: int) -> None:
    """Refuse what is no positive whole number.

    Args:
        **numbers: Option to value.

    Raises:
        DomainError: One is below 1.
        ArgumentTypeError: One is no whole number.
    """
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ArgumentTypeError(
                f"{name} is a whole number, got {value!r}; leave it out for the default"
            )
        if value < 1:
            raise DomainError(
                f"{name} is at least 1, got {value}; leave it out for the default"
            )
