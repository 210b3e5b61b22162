r"""Mean field: any activation, infinite width and participation ratio.

z_l is a vector of independent Gaussian numbers of variance q_l,

    q_{l+1} = sigma_w^2 E phi(sqrt(q_l) Z)^2 + sigma_b^2,   sigma_w^2 = ||W||_F^2 / m,
    chi_1 = sigma_w^2 E phi'(sqrt(q) Z)^2,

a layer of stable rank sr and spectral norm sigma having sigma_w^2 = sigma^2 sr / m.
With bounded rho norms stay random however wide the layer: all of this is asymptotic.
Gaussian means are trapezoidal sums in z = a sinh t, a the width of a unit's step: right
to rounding where a unit is saturated too, at which Gauss-Hermite rules lose the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import numpy as np
from scipy.optimize import brentq
from scipy.special import erf, expit

from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg.ensembles.requests import check_norm
from spectrank.random_nets.activations import SLOPES

Function = Callable[[np.ndarray], np.ndarray]

# exp(-8.5^2 / 2) = 2e-16. With a sqrt(q) <= 1 tanh(sqrt(q) a sinh t) has no pole within
# pi / 2 of the real line and the density is bounded within pi / 4 of it.
_STEP, _END = 0.05, 8.5
# A step this narrow is a jump to a cosine; 1e300 would ask for a grid of gigabytes.
_STEEPEST = 1e9


@final
@dataclass(frozen=True)
class Activation:
    """A smooth activation and its derivative.

    Attributes:
        phi: The function.
        derivative: Its derivative.
    """

    phi: Function
    derivative: Function


def _gelu_derivative(z: np.ndarray) -> np.ndarray:
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    value: np.ndarray = 0.5 * (1.0 + erf(z / math.sqrt(2.0))) + z * density
    return value


SMOOTH: MappingProxyType[str, Activation] = MappingProxyType(
    {
        "tanh": Activation(np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
        "sigmoid": Activation(expit, lambda z: expit(z) * expit(-z)),
        "gelu": Activation(
            lambda z: 0.5 * z * (1.0 + erf(z / math.sqrt(2.0))), _gelu_derivative
        ),
        "silu": Activation(
            lambda z: z * expit(z), lambda z: expit(z) * (1.0 + z * expit(-z))
        ),
    }
)
"""Activations without an exact theory here."""


def _gaussian_rule(
    steepness: float, centre: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of E f(Z), f smooth but for a step at ``centre``.

    Args:
        steepness: One over the width of the step.
        centre: (*batch) in [-8.5, 8.5].

    Returns:
        Both (*batch, k), weights of sum one.
    """
    width = 1.0 / max(1.0, steepness)
    centre = np.asarray(centre)[..., None]
    # From any centre to the far end of the line.
    reach = _END + float(np.abs(centre).max())
    num = math.ceil(math.asinh(reach / width) / _STEP)
    t = _STEP * np.arange(-num, num + 1)
    z = centre + width * np.sinh(t)
    weights = np.exp(-0.5 * z**2) * np.cosh(t)
    return z, weights / weights.sum(-1, keepdims=True)


def mean_square(activation: str, q: float) -> float:
    r""":math:`E\phi(\sqrt q Z)^2`, the mean square of a neuron after its activation.

    Source (derived): tests/propagation/theory/test_theory_mean_field.py.

    Args:
        activation: Name in ``SMOOTH``.
        q: Variance of the pre-activation.

    Returns:
        The mean.
    """
    return _mean_square(SMOOTH[activation].phi, q)


def mean_square_slope(activation: str, q: float) -> float:
    r""":math:`E\phi'(\sqrt q Z)^2`, so that chi_1 is sigma_w^2 times it.

    Source (derived): tests/propagation/theory/test_theory_mean_field.py.

    Args:
        activation: Name in ``SMOOTH``.
        q: Variance of the pre-activation.

    Returns:
        The mean.
    """
    return _mean_square(SMOOTH[activation].derivative, q)


def _mean_square(function: Function, q: float) -> float:
    z, weights = _gaussian_rule(math.sqrt(q))
    return float(weights @ function(math.sqrt(q) * z) ** 2)


def activation_cosine(activation: str, q_x: float, q_y: float, cosine: float) -> float:
    r"""Cosine of phi(u) and phi(v) for Gaussian u, v of variances q and correlation c.

    :math:`E\phi(u)\phi(v)/\sqrt{E\phi(u)^2 E\phi(v)^2}`: 1 at c = 1 with equal
    variances; at c = 0 not 0 unless phi has mean zero.
    Source (derived): tests/propagation/theory/test_theory_mean_field.py.

    Args:
        activation: Name in ``SMOOTH``.
        q_x: Variance of u.
        q_y: Variance of v.
        cosine: Correlation of u and v.

    Returns:
        The cosine.
    """
    phi, c = SMOOTH[activation].phi, min(max(cosine, -1.0), 1.0)
    x, weights = _gaussian_rule(min(math.sqrt(max(q_x, q_y)), _STEEPEST))
    u = phi(math.sqrt(q_x) * x)
    rest = math.sqrt((1.0 - c) * (1.0 + c))
    steepness = min(math.sqrt(q_y) * rest, _STEEPEST)
    centre = np.zeros_like(x)
    if steepness > 1.0:
        # v passes through zero there.
        centre = np.clip(-c * x / rest, -_END, _END)
    other, inner = _gaussian_rule(steepness, centre)
    v = (inner * phi(math.sqrt(q_y) * (c * x[:, None] + rest * other))).sum(1)
    both = float((weights * u) @ v)
    # Root by root: the product of two mean squares of 1e200 is no number.
    norm = math.sqrt(mean_square(activation, q_x))
    norm *= math.sqrt(mean_square(activation, q_y))
    return min(max(both / norm, -1.0), 1.0)


def critical_weight_variance(activation: str, *, bias_variance: float = 0.0) -> float:
    r"""The sigma_w^2 at the edge of chaos: chi_1 = 1 at a fixed point of q.

    2 for relu, 1 for linear and (at bias variance 0) for tanh, 2/(1 + s^2) for a leaky
    relu of slope s. Else :math:`\sigma_w^2 = 1/E\phi'^2` at the smallest stable q with
    :math:`q = E\phi^2/E\phi'^2 + \sigma_b^2`; gelu and silu have one only with enough
    bias. Dimensionless; infinite width.
    Source (derived): tests/propagation/theory/test_theory_mean_field.py.

    Args:
        activation: As of a `RandomMLP`.
        bias_variance: sigma_b^2; must be 0 for relu, leaky_relu and linear, whose q
            does not settle at criticality otherwise.

    Returns:
        sigma_w^2.

    Raises:
        DomainError: If there is no such fixed point.
        UnknownNameError: If there is no such activation.
    """
    if not 0.0 <= bias_variance < math.inf:
        raise DomainError(
            f"a variance is finite and not negative, got {bias_variance}; "
            "0 means no biases"
        )
    if activation in SLOPES:
        if bias_variance > 0.0:
            raise DomainError(
                f"at the edge of chaos of {activation} q grows without end with "
                f"biases, got bias_variance={bias_variance}; leave it at 0"
            )
        return 2.0 / (1.0 + SLOPES[activation] ** 2)
    if activation not in SMOOTH:
        known = ", ".join([*SLOPES, *SMOOTH])
        raise UnknownNameError(
            f"an activation is one of {known}, got {activation!r}; "
            "pass the name that RandomMLP takes"
        )
    at_zero = float(SMOOTH[activation].derivative(np.zeros(1))[0]) ** 2
    small = 1e-3
    if bias_variance == 0.0 and mean_square(activation, small) <= small * at_zero:
        # q = 0 is a fixed point that attracts, and small signals see phi'(0) only.
        return 1.0 / at_zero
    return 1.0 / mean_square_slope(activation, _critical_q(activation, bias_variance))


def critical_sigma(
    activation: str, m: int, stable_rank: float, *, bias_variance: float = 0.0
) -> float:
    r"""Spectral norm that puts layers of a stable rank at the edge of chaos.

    :math:`\sigma^2 = m \sigma_{w*}^2 / \mathrm{sr}`, since
    :math:`\sigma_w^2 = \|W\|_F^2/m`: the lower the stable rank, the larger the norm.
    Asymptotic in width and participation ratio.
    Source (derived): tests/propagation/theory/test_theory_mean_field.py.

    Args:
        activation: As of a `RandomMLP`.
        m: Number of outputs.
        stable_rank: Of the layer, at least 1.
        bias_variance: sigma_b^2.

    Returns:
        sigma.

    Raises:
        DomainError: If there is no such fixed point or a size is out of range.
        UnknownNameError: If there is no such activation.

    Example:
        >>> round(critical_sigma("relu", 64, 16) ** 2, 9)  # 2 m / sr, as He's
        8.0
    """  # noqa: DOC502 - some are raised by the functions called
    if not 1.0 <= stable_rank <= m:
        raise DomainError(
            f"stable_rank must lie in [1, {m}] for {m} outputs, got {stable_rank}; "
            "choose a smaller target or a wider layer"
        )
    variance = critical_weight_variance(activation, bias_variance=bias_variance)
    return math.sqrt(check_norm("m", m) * variance / stable_rank)


def _critical_q(activation: str, bias_variance: float) -> float:
    def excess(q: float) -> float:
        slope = mean_square_slope(activation, q)
        return q - mean_square(activation, q) / slope - bias_variance

    grid = np.geomspace(1e-6, 100.0, 161).tolist()
    values = [excess(q) for q in grid]
    for low, high, a, b in zip(grid, grid[1:], values, values[1:], strict=False):
        if a * b <= 0.0:
            q = float(brentq(excess, low, high, xtol=1e-14, rtol=1e-14))
            if _attracts(activation, q):
                return q
    raise DomainError(
        "the edge of chaos is a stable fixed point of q with chi_1 = 1, got none with "
        f"q in [1e-6, 100] for {activation} at bias_variance={bias_variance}; "
        "try a larger bias variance"
    )


def _attracts(activation: str, q: float) -> bool:
    """Whether the map of q has a slope of at most one at its fixed point."""
    step = 1e-4 * q
    rise = mean_square(activation, q + step) - mean_square(activation, q - step)
    return rise / (2.0 * step) / mean_square_slope(activation, q) <= 1.0 + 1e-6
