"""A model whose weights are numbers: parametrised ones are computed once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spectrank.errors import DomainError
from spectrank.model.capture.undisturbed import RandomStream, undisturbed


def with_plain_weights(model: nn.Module) -> nn.Module:
    """The model, or a copy in evaluation mode whose weights are not parametrised.

    What computes a weight may bend (abs, clamp) or branch on values, which is no part
    of the map from inputs to outputs. Tensors that are not parametrised are shared.

    Args:
        model: The user's model, left as it was.

    Returns:
        The model itself where it has no parametrisation.

    Raises:
        DomainError: A parametrisation cannot be evaluated, or the model not copied.
    """
    where = [
        (path, name)
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for name in module.parametrizations
    ]
    if not where:
        return model
    try:
        with RandomStream().active(), undisturbed(model, "eval"), torch.no_grad():
            # A copy of a module in training mode would take another power iteration.
            copied = copy.deepcopy(model, _shared(model))
            for path in dict.fromkeys(path for path, _ in where):
                _make_plain(copied.get_submodule(path))
    except Exception as error:
        told = (str(error).strip().splitlines() or [""])[0][:200]
        names = ", ".join(f"{path}.{name}" if path else name for path, name in where)
        raise DomainError(
            "parametrised weights must have a value that a copy of the model can hold, "
            f"got {type(error).__name__} for {names}: {told}; call "
            "torch.nn.utils.parametrize.remove_parametrizations on them first"
        ) from error
    return copied


def _make_plain(module: nn.Module) -> None:
    """Hold the values of the parametrised tensors of one copied module."""
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    # The list itself is called: getattr would read or fill parametrize.cached().
    values: dict[str, Tensor] = {name: part() for name, part in lists.items()}
    del module.parametrizations
    # Not remove_parametrizations: it edits the class, which the original shares.
    module.__class__ = module.__class__.__bases__[0]
    for name, value in values.items():
        frozen = nn.Parameter(value.detach().clone(), requires_grad=False)
        module.register_parameter(name, frozen)


def _shared(model: nn.Module) -> dict[int, object]:
    """A memo for deepcopy in which the plain tensors stand for themselves."""
    tensors = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    inner = {id(x) for name, x in tensors if "parametrizations." in name}
    return {id(x): x for _, x in tensors if id(x) not in inner}
