"""Which rule serves a parameter, by the type of the layer that holds it.

A rule holds for a layer whose forward is torch's own; a subclass with a forward of its
own may do anything with its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

LINEAR, CONV, EMBEDDING, NORM, BIAS = "linear", "conv", "embedding", "norm", "bias"

_RULES: dict[type[nn.Module], str] = {
    nn.Linear: LINEAR,
    nn.Conv1d: CONV,
    nn.Conv2d: CONV,
    nn.Conv3d: CONV,
    nn.Embedding: EMBEDDING,
    nn.LayerNorm: NORM,
    nn.RMSNorm: NORM,
    nn.GroupNorm: NORM,
    nn.BatchNorm1d: NORM,
    nn.BatchNorm2d: NORM,
    nn.BatchNorm3d: NORM,
}


@final
@dataclass(frozen=True)
class Group:
    """Parameters that the same calls of layers use: contracted as one.

    Attributes:
        rule: ``linear``, ``conv``, ``embedding``, ``norm`` or ``bias``.
        weight: Name of the parameter that scales inputs; None where only the bias is
            asked for.
        bias: Name of the parameter that is added; None where there is none.
        layers: Names of the modules that use them.
    """

    rule: str
    weight: str | None
    bias: str | None
    layers: tuple[str, ...]

    @property
    def params(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return tuple(p for p in (self.weight, self.bias) if p is not None)


@dataclass(frozen=True)
class _Use:
    layer: str
    module: nn.Module
    local: str


def judge(model: nn.Module) -> tuple[dict[str, str | None], dict[str, str]]:
    """The rule of every parameter by the types of its layers; nothing is run.

    Args:
        model: Any module.

    Returns:
        Rules and reasons, both by first name; a rule is None where there is a reason.
    """
    rules: dict[str, str | None] = {}
    reasons: dict[str, str] = {}
    for name, uses in _uses(model).items():
        found = {_rule(use) for use in uses}
        # One concatenated set of positions needs factors of the same shapes.
        roles = {(use.local, getattr(use.module, "groups", 1)) for use in uses}
        if all(ok for ok, _ in found) and len(found) * len(roles) > 1:
            found = {(False, "layers that use it in different ways share it")}
        refused = sorted(text for ok, text in found if not ok)
        rules[name] = None if refused else next(iter(found))[1]
        if refused:
            reasons[name] = refused[0]
    return rules, reasons


def make_groups(model: nn.Module, names: Sequence[str]) -> tuple[Group, ...]:
    """Parameters with a rule, put together where the same layers use them.

    Args:
        model: Any module.
        names: Of parameters that ``judge`` gives a rule.

    Returns:
        Groups in the order of the names; every name is in one.
    """
    uses = _uses(model)
    members: dict[tuple[tuple[str, ...], str], dict[str, str]] = {}
    for name in names:
        layers = tuple(use.layer for use in uses[name])
        # In the factor of a convolution a column of ones costs more than it saves.
        apart = _RULES[_kind(uses[name][0].module)] == CONV
        role = uses[name][0].local
        members.setdefault((layers, role if apart else ""), {})[role] = name
    groups = []
    for (layers, _), by_role in members.items():
        weight, bias = by_role.get("weight"), by_role.get("bias")
        module = uses[next(iter(by_role.values()))][0].module
        rule = _RULES[_kind(module)]
        if weight is None and rule != NORM:
            rule = BIAS
        groups.append(Group(rule, weight, bias, layers))
    return tuple(groups)


def _uses(model: nn.Module) -> dict[str, list[_Use]]:
    first = {id(p): name for name, p in model.named_parameters()}
    uses: dict[str, list[_Use]] = {name: [] for name in first.values()}
    for layer, module in model.named_modules():
        for local, parameter in module._parameters.items():
            if parameter is not None:
                uses[first[id(parameter)]].append(_Use(layer, module, local))
    return uses


def _kind(module: nn.Module) -> type[nn.Module]:
    """The class of torch whose forward the module runs; Module where there is none."""
    own = parametrize.type_before_parametrizations(module)
    for kind in _RULES:
        if issubclass(own, kind) and own.forward is kind.forward:
            return kind
    return nn.Module


def _rule(use: _Use) -> tuple[bool, str]:
    """True and the rule, or False and the reason why there is none."""
    module, kind = use.module, _kind(use.module)
    own = parametrize.type_before_parametrizations(module).__name__
    if isinstance(module, ParametrizationList):
        return False, "a weight is computed from it by a parametrisation"
    if isinstance(module, nn.MultiheadAttention):
        return False, "attention multiplies by it without calling a layer"
    if kind not in _RULES or "forward" in vars(module):
        return False, f"there is no rule for {own}"
    if use.local not in {"weight", "bias"}:
        return False, f"{own}.{use.local} is not applied to the input as it is"
    if isinstance(module, _BatchNorm) and (
        module.training or module.running_mean is None
    ):
        return False, f"{own} normalises by the batch and so couples the samples"
    if isinstance(module, nn.Embedding):
        if module.max_norm is not None:
            return False, "an embedding with max_norm changes its weight when called"
        if module.scale_grad_by_freq:
            return False, "scale_grad_by_freq divides by counts over the whole batch"
    return True, _RULES[kind]
