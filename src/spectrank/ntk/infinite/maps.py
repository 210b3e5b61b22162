"""Elementwise steps of a graph as maps that a Gaussian can be sent through.

Steps compose: scalings go into the variance before a map and into factor and shift
after it, smooth maps follow smooth maps. A map with a kink has a closed form or none:
what follows or precedes it must be a scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.model.graph import Node
from spectrank.ntk.infinite.duals import Dual, Erf, Gelu, Identity, Leaky
from spectrank.ntk.infinite.series import Smooth

# Defaults of torch are left out of a node's attributes.
SMOOTH: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "silu": functional.silu,
        "gelu": functional.gelu,
        "quick_gelu": lambda u: u * torch.sigmoid(1.702 * u),
        "mish": functional.mish,
        # Torch's own is the identity, not the function, beyond its threshold.
        "softplus": lambda u, beta=1.0, threshold=20.0: functional.softplus(
            u, beta, max(threshold, 40.0)
        ),
        "log_sigmoid": functional.logsigmoid,
        "tanhshrink": functional.tanhshrink,
        "erf": torch.erf,
        "sin": torch.sin,
        "cos": torch.cos,
        "atan": torch.atan,
        "exp": torch.exp,
        "square": torch.square,
    }
)
"""Maps without a kink, by the name of their step."""

_WAY_OUT = (
    "infinite-width kernels take relu, leaky_relu, abs, "
    + ", ".join(SMOOTH)
    + ", scalings and shifts; or use spectrank.ntk.empirical, which takes any module"
)


_ITSELF = Identity()


@final
@dataclass(frozen=True)
class Map:
    """factor * phi(scale * u) + shift.

    Attributes:
        dual: phi.
        scale: Before phi.
        factor: After phi.
        shift: Added.
        function: phi as a function; None where it has a kink.
        label: Names of the steps.
    """

    dual: Dual = _ITSELF
    scale: float = 1.0
    factor: float = 1.0
    shift: float = 0.0
    function: Callable[[Tensor], Tensor] | None = None
    label: str = ""

    @property
    def identity(self) -> bool:
        """Whether it is u itself."""
        return self == NO_MAP


NO_MAP = Map()
"""u itself."""


def then(before: Map, node: Node) -> Map:
    """Append a step.

    Args:
        before: The map so far.
        node: Of kind ``elementwise``.

    Returns:
        The map with the step.

    Raises:
        DomainError: The step has no Gaussian mean here.
    """
    linear = linear_step(node)
    if linear is not None:
        factor, shift = linear
        return replace(
            before, factor=before.factor * factor, shift=before.shift * factor + shift
        )
    plain = isinstance(before.dual, Identity) and before.shift == 0.0
    label = f"{before.label} {node.op}".strip()
    facts = dict(node.attributes)
    if plain:
        scale = before.factor * before.scale
        closed = _closed(node.op, facts)
        function = None if isinstance(closed, Leaky) else _function(node)
        dual = closed or Smooth(_known(node, function), label)
        return Map(dual, scale=scale, function=function, label=label)
    outer, inner = _function(node), before.function
    if isinstance(before.dual, Identity):
        inner = _same
    if outer is None or inner is None:
        raise DomainError(
            "a map with a kink stands alone between two layers, got "
            f"{label!r} at {node.name or node.id}; {_WAY_OUT}"
        )
    own = before

    def composed(u: Tensor) -> Tensor:
        return outer(own.factor * inner(own.scale * u) + own.shift)

    return Map(Smooth(composed, label), function=composed, label=label)


def linear_step(node: Node) -> tuple[float, float] | None:
    """Factor and shift of a step that is affine in its input.

    Args:
        node: Of kind ``elementwise``.

    Returns:
        Both; None where it is another.
    """
    facts = node.attributes
    if node.op == "cast":
        return 1.0, 0.0
    if node.op == "neg":
        return -1.0, 0.0
    if node.op == "mul" and "factor" in facts:
        return float(facts["factor"]), 0.0
    if node.op == "div" and "divisor" in facts:
        return 1.0 / float(facts["divisor"]), 0.0
    if node.op == "add" and "amount" in facts and len(node.inputs) == 1:
        return float(facts.get("factor", 1.0)), float(facts["amount"])
    return None


def evaluate(node: Node, u: Tensor) -> Tensor:
    """The step on numbers, which inputs before the first layer are.

    Args:
        node: Of kind ``elementwise``.
        u: The numbers.

    Returns:
        The map of them.
    """
    linear = linear_step(node)
    if linear is not None:
        return linear[0] * u + linear[1]
    if node.op in {"relu", "leaky_relu", "abs"}:
        slope = _slope(node.op, dict(node.attributes))
        return u.clamp_min(0.0) + slope * u.clamp_max(0.0)
    return _known(node, _function(node))(u)


def _closed(op: str, facts: dict[str, Any]) -> Dual | None:
    if op in {"relu", "leaky_relu", "abs"}:
        return Leaky(_slope(op, facts))
    if op == "erf":
        return Erf()
    if op == "gelu" and facts.get("approximate", "none") == "none":
        return Gelu()
    return None


def _slope(op: str, facts: dict[str, Any]) -> float:
    if op == "leaky_relu":
        return float(facts.get("negative_slope", 0.01))
    return 0.0 if op == "relu" else -1.0


def _function(node: Node) -> Callable[[Tensor], Tensor] | None:
    function, facts = SMOOTH.get(node.op), dict(node.attributes)
    if function is None or len(node.inputs) != 1 or node.parameters:
        return None
    return (lambda u: function(u, **facts)) if facts else function


def _known(
    node: Node, function: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor]:
    if function is None:
        raise DomainError(
            "the elementwise map of an infinite-width kernel has a closed form or is "
            f"smooth, got {node.op!r} at {node.name or node.id}; {_WAY_OUT}"
        )
    return function


def _same(u: Tensor) -> Tensor:
    return u
