r"""Activations by name: their modules, and the gain that keeps a signal in mean.

A layer with entries of variance :math:`g^2 / n` keeps the mean squared signal through
its activation phi when :math:`g = (E\,\phi(Z)^2)^{-1/2}`, Z standard normal. For relu,
leaky_relu and linear that is exact for every symmetric law of the pre-activations and
equals torch.nn.init.calculate_gain. For tanh and sigmoid the gains are those of torch,
5/3 and 1, which are conventions. All others are the formula above: our choice, exact at
infinite width and unit variance.

    phi  elementwise map
    Z    standard normal
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spectrank.errors import DomainError, UnknownNameError

Activation = Literal["relu", "linear", "tanh", "leaky_relu", "sigmoid", "gelu", "silu"]
"""What a RandomMLP takes."""

LEAK = 0.01
"""Slope of ``leaky_relu`` where none is given, as in torch."""

SLOPES: Mapping[str, float] = MappingProxyType(
    {"relu": 0.0, "linear": 1.0, "leaky_relu": LEAK}
)
"""Slope on the negative side of the activations of an exact theory."""

MODULES: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "leaky_relu": lambda: nn.LeakyReLU(LEAK),
        "sigmoid": nn.Sigmoid,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
    }
)
"""Module of every activation of a RandomMLP but ``linear``, which has none."""

# Conventions of torch.nn.init.calculate_gain, not the formula.
_STATED = MappingProxyType({"linear": 1.0, "tanh": 5.0 / 3.0, "sigmoid": 1.0})
_MAPS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "relu": functional.relu,
        "leaky_relu": functional.leaky_relu,
        "gelu": functional.gelu,
        "silu": functional.silu,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "mish": functional.mish,
        "hardswish": functional.hardswish,
        "relu6": functional.relu6,
        "elu": functional.elu,
        "selu": functional.selu,
        "celu": functional.celu,
        "softplus": functional.softplus,
        "softsign": functional.softsign,
        "tanhshrink": functional.tanhshrink,
        "hardtanh": functional.hardtanh,
        "hardsigmoid": functional.hardsigmoid,
        "log_sigmoid": functional.logsigmoid,
        "hardshrink": functional.hardshrink,
        "softshrink": functional.softshrink,
        "erf": torch.erf,
        "sin": torch.sin,
        "cos": torch.cos,
        "abs": torch.abs,
    }
)
GAINS = (*_STATED, *_MAPS)
"""Names that ``activation_gain`` knows."""

# Panels of this width have every kink of the maps above at an end; outside the last
# one the normal density is below 1e-31.
_PANEL, _END, _NODES = 0.5, 12.0, 24


def activation_gain(name: str, attributes: Mapping[str, Any] | None = None) -> float:
    r"""Gain :math:`g` of an activation: the factor sqrt(n) on its layer's deviation.

    sqrt 2 for relu, 1 for linear and sigmoid, 5/3 for tanh, sqrt(2 / (1 + a^2)) for
    leaky_relu of slope a; :math:`(E\,\phi(Z)^2)^{-1/2}` for the others.
    Source (derived): tests/test_random_nets.py.

    Args:
        name: One of ``GAINS``.
        attributes: Options of torch's function, such as ``negative_slope``.

    Returns:
        The gain, positive.

    Raises:
        UnknownNameError: If the name is none of them.
        DomainError: If the map has no finite positive mean square.

    Example:
        >>> round(activation_gain("leaky_relu", {"negative_slope": 0.2}), 4)
        1.3868
        >>> round(activation_gain("gelu"), 4)
        1.5335
    """
    if name in _STATED:
        return _STATED[name]
    if name not in _MAPS:
        raise UnknownNameError(
            f"a gain is known for {', '.join(GAINS)}, got {name!r}; "
            "pass gain as a number"
        )
    options = dict(attributes or {})
    if name == "leaky_relu":
        slope = float(options.get("negative_slope", LEAK))
        return math.sqrt(2.0 / (1.0 + slope**2))
    if name == "relu":
        return math.sqrt(2.0)
    square = mean_square(lambda x: _MAPS[name](x, **options))
    if not 0.0 < square < math.inf:
        raise DomainError(
            f"a gain needs a finite positive E phi(Z)^2, got {square} for {name} with "
            f"{options}; pass gain as a number"
        )
    return 1.0 / math.sqrt(square)


def mean_square(phi: Callable[[Tensor], Tensor]) -> float:
    r"""Mean square :math:`E\,\phi(Z)^2` of a map of a standard normal number.

    Gauss-Legendre on panels of width 1/2: to rounding for maps that are smooth between
    the multiples of 1/2, where a Gauss-Hermite rule over the line would meet kinks.
    Source (derived): tests/test_random_nets.py.

    Args:
        phi: float64 tensor to tensor of that shape; grows slower than exp(z^2 / 4).

    Returns:
        The mean square.
    """
    z, weights = _rule()
    return float((phi(z).double().square() * weights).sum())


@lru_cache(maxsize=1)
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes on the line, and weights that include the normal density."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    starts = np.arange(-_END, _END, _PANEL)[:, None]
    z = (starts + _PANEL * (nodes + 1.0) / 2.0).ravel()
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    w = np.tile(weights * _PANEL / 2.0, len(starts)) * density
    return torch.from_numpy(z), torch.from_numpy(w)
