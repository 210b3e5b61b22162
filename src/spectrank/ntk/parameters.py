"""Which parameters a kernel sums over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError


def choose_parameters(
    model: nn.Module, params: str | Sequence[str] | None
) -> tuple[str, ...]:
    """Names of the parameters that a kernel sums over, in the order of the model.

    Args:
        model: Any module.
        params: Glob pattern(s) on names, which choose frozen parameters too; None for
            every parameter that requires a gradient. A parameter that is shared goes
            by its first name and is found under each of them.

    Returns:
        Names as in ``model.named_parameters()``, each tensor once.

    Raises:
        ArgumentTypeError: ``params`` is no text.
        UnknownNameError: A pattern matches nothing.
        DomainError: There is nothing to train, or a parameter has no shape yet.
    """  # noqa: DOC502 - raised by the functions called
    named = dict(model.named_parameters())
    if lazy := [name for name, p in named.items() if is_lazy(p)]:
        raise DomainError(
            "parameters must have their shapes to be differentiated by, "
            f"{lazy[0]} is uninitialised; run the model on one batch first"
        )
    if params is None:
        trained = tuple(name for name, p in named.items() if p.requires_grad)
        if not trained:
            raise DomainError(
                f"a kernel sums over trained parameters, {type(model).__name__} has "
                f"none among {len(named)}; choose frozen ones by params='*'"
            )
        return trained
    texts: Any = [params] if isinstance(params, str) else params
    patterns = list(texts) if isinstance(texts, Iterable) else []
    if not patterns or not all(isinstance(p, str) for p in patterns):
        raise ArgumentTypeError(
            f"params must be None or glob patterns on names, got {params!r}; "
            "pass such as '*.weight'"
        )
    return _matching(model, named, patterns)


def _matching(
    model: nn.Module, named: dict[str, nn.Parameter], patterns: list[str]
) -> tuple[str, ...]:
    first = {id(p): name for name, p in named.items()}
    aliases = {
        alias: first[id(p)]
        for alias, p in model.named_parameters(remove_duplicate=False)
    }
    chosen = set()
    for pattern in patterns:
        found = {name for a, name in aliases.items() if fnmatchcase(a, pattern)}
        if not found:
            raise UnknownNameError(
                f"params must match parameters of the model, {pattern!r} matches none "
                f"of {', '.join(list(named)[:6])}; see model.named_parameters()"
            )
        chosen |= found
    return tuple(name for name in named if name in chosen)


def detached(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter of a model without its history, by its first name.

    Args:
        model: Any module.

    Returns:
        Views of the same memory.
    """
    with torch.no_grad():
        return {name: p.detach() for name, p in model.named_parameters()}
