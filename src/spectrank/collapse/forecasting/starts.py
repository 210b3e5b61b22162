"""Starts of a minimisation: the model as it is, and redraws of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError

Initialise = Callable[[nn.Module, int], None]


@final
@dataclass(frozen=True, eq=False)
class Start:
    """A place to start from.

    Attributes:
        seed: Of the redraw; None for the model as it is.
        model: A copy, which nothing else uses.
        how: In words.
    """

    seed: int | None
    model: nn.Module
    how: str


def starts(
    model: nn.Module,
    seeds: int | Sequence[int],
    *,
    initialise: Initialise | None = None,
) -> list[Start]:
    """The model as it is, then one redraw for each further seed.

    A module is redrawn by its ``reset_parameters``; a parameter of a module without
    that keeps its values in another order, which is a redraw where entries are
    independent and alike. The global random state is put back.

    Args:
        model: Left as it was.
        seeds: Number of starts in all, with seeds 1, 2, ...; or the seeds of the
            redraws.
        initialise: Fills a model in place from a seed, instead.

    Returns:
        Starts, the model's own first.

    Raises:
        DomainError: Fewer than one start.
    """
    if isinstance(seeds, int):
        if seeds < 1:
            raise DomainError(
                f"seeds must count at least the model's own start, got {seeds}; e.g. 3"
            )
        seeds = range(1, seeds)
    found = [Start(None, copy.deepcopy(model), "the model as it is")]
    for seed in seeds:
        drawn = copy.deepcopy(model)
        if initialise is not None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                initialise(drawn, seed)
            found.append(Start(seed, drawn, "initialise"))
        else:
            found.append(Start(seed, drawn, _redraw(drawn, seed)))
    return found


def _redraw(model: nn.Module, seed: int) -> str:
    """Redraw in place and say how."""
    shuffled: dict[int, Tensor] = {}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            own = {id(p): p for p in module.parameters(recurse=False)}
            if not own or all(not p.requires_grad for p in own.values()):
                continue
            if callable(reset):
                reset()
            else:
                shuffled |= own
        for parameter in shuffled.values():
            order = torch.randperm(parameter.numel()).to(parameter.device)
            parameter.copy_(parameter.reshape(-1)[order].view_as(parameter))
    if shuffled:
        return "reset_parameters, and shuffled entries where a module has none"
    return "reset_parameters"
