r"""Variances of the weights and biases of each layer, and which of them are trained.

    W_ij ~ N(0, sigma_w^2 / n),   b_i ~ N(0, sigma_b^2),   n the number of inputs

Unless stated, they are those of the module as it is: sigma_w^2 = ||W||_F^2 / m over m
outputs and sigma_b^2 = mean b^2, so that the limit is that of wider nets whose layers
have the Frobenius norm per output of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import final

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.model import unmatched_patterns
from spectrank.model.graph import Node

Variance = float | Mapping[str, float] | None


@final
@dataclass(frozen=True)
class Scale:
    """What one layer contributes.

    Attributes:
        name: Of the layer.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2; 0 without a bias.
        weight_trained: Whether the tangent kernel counts the weight.
        bias_trained: Whether it counts the bias.
        route: ``stated``, ``module`` or ``law``: where sigma_w^2 comes from.
        m: Outputs.
        n: Inputs, of a convolution those of a window.
        participation_ratio: rho of a law with a prescribed spectrum; else None.
    """

    name: str
    weight_variance: float
    bias_variance: float
    weight_trained: bool
    bias_trained: bool
    route: str
    m: int
    n: int
    participation_ratio: float | None = None


def scales(
    model: nn.Module,
    layers: Sequence[Node],
    trained: Sequence[str],
    *,
    weight_variance: Variance,
    bias_variance: Variance,
) -> dict[str, Scale]:
    """Read or look up the variances of every layer.

    Args:
        model: Whose parameters they are.
        layers: Linear layers and convolutions.
        trained: Names of the parameters that the tangent kernel counts.
        weight_variance: One number, or glob pattern on weights to number.
        bias_variance: The same for biases.

    Returns:
        Id of the layer to its scale.

    Raises:
        UnknownNameError: A pattern matches nothing.
        DomainError: A variance is negative or not finite.
    """  # noqa: DOC502 - some are raised by the functions called
    weights = _stated("weight_variance", weight_variance, layers, "weight")
    biases = _stated("bias_variance", bias_variance, layers, "bias")
    found = {}
    for node in layers:
        names = node.parameters
        W = _tensor(model, names["weight"])
        route, bias = "module", 0.0
        weight = weights.get(names["weight"])
        if weight is None:
            weight = float((W.double() ** 2).sum()) / W.shape[0]
        else:
            route = "stated"
        if "bias" in names:
            stated = biases.get(names["bias"])
            b = _tensor(model, names["bias"]).double()
            bias = float((b**2).mean()) if stated is None else stated
        label = node.name or node.id
        found[node.id] = Scale(
            name=label,
            weight_variance=_checked(f"weight variance of {label}", weight),
            bias_variance=_checked(f"bias variance of {label}", bias),
            weight_trained=names["weight"] in trained,
            bias_trained=names.get("bias") in trained,
            route=route,
            m=W.shape[0],
            n=W.numel() // W.shape[0],
        )
    return found


def _tensor(model: nn.Module, name: str) -> Tensor:
    with torch.no_grad():
        found: Tensor = attrgetter(name)(model)
    return found.detach()


def _checked(what: str, value: float) -> float:
    if not 0.0 <= value < float("inf"):
        raise DomainError(
            f"a variance is finite and not negative, got {value} for the {what}; "
            "state one, such as 2.0 for relu"
        )
    return value


def _stated(
    option: str, given: Variance, layers: Sequence[Node], role: str
) -> dict[str, float]:
    if given is None:
        return {}
    names = [n.parameters[role] for n in layers if role in n.parameters]
    if isinstance(given, int | float):
        return dict.fromkeys(names, float(given))
    if not isinstance(given, Mapping):
        raise ArgumentTypeError(
            f"{option} is None, a number or a mapping of patterns to numbers, got "
            f"{type(given).__name__}; e.g. {option}=2.0"
        )
    if unmatched := unmatched_patterns(names, list(given)):
        raise UnknownNameError(
            f"each pattern of {option} names a {role} of a layer, {unmatched[0]!r} "
            f"matches none of {', '.join(names) or 'none'}; patterns are globs"
        )
    return {
        name: float(next(v for k, v in given.items() if fnmatchcase(name, k)))
        for name in names
        if any(fnmatchcase(name, k) for k in given)
    }
