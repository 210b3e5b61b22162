"""Weights of weight normalisation: a magnitude and a direction per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.weight_norm import WeightNorm


@final
@dataclass(frozen=True)
class Directed:
    """W = magnitude * direction / |direction|, row by row.

    Attributes:
        magnitude: Name of the parameter with a number per row.
        direction: Name of the parameter with a vector per row.
    """

    magnitude: str
    direction: str


def directed_weights(model: nn.Module) -> Mapping[str, Directed]:
    """Weights of a model that weight normalisation computes, per first axis.

    Args:
        model: Any module.

    Returns:
        Name of the computed weight to its factors.
    """
    found = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.dim == 0:
                name = f"{prefix}{hook.name}"
                found[name] = Directed(f"{name}_g", f"{name}_v")
        if not parametrize.is_parametrized(module):
            continue
        lists = module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        for local, steps in lists.items():
            assert isinstance(steps, parametrize.ParametrizationList)
            only = steps[0] if len(steps) == 1 else None
            if isinstance(only, parametrizations._WeightNorm) and only.dim == 0:
                start = f"{prefix}parametrizations.{local}.original"
                found[f"{prefix}{local}"] = Directed(f"{start}0", f"{start}1")
    return found
