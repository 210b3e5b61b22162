r"""Moments of log Q and of sqrt Q for a positive random Q, from its Laplace transform.

With L(t) = E exp(-tQ) and Euler's gamma,

    E log Q    = int_0^inf (e^-t - L(t)) / t dt
    E log^2 Q  = -2 int_0^inf (log t + gamma) (e^-t - L(t)) / t dt
    E sqrt Q   = 1 / (2 sqrt pi) int_0^inf (1 - L(t)) t^(-3/2) dt.

(the first two are the coefficients of Gamma(s) (1 - Q^-s) at s = 0). In y = log t the
integrands are analytic in a strip of half-width pi/2 about the real axis and decay
exponentially, so the trapezoidal rule is right to rounding. Q has mean one, and L(t)
falls at least as t^(-1/2), as for every sum of weighted squares of Gaussian numbers.
Source (derived): tests/linalg/layer_moments/test_log_norms.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

LogLaplace = Callable[[np.ndarray], np.ndarray]
"""t (k,) to log E exp(-tQ), (*batch, k)."""

# exp(-2 pi (pi/2) / 0.2) = 4e-22. Left of the grid integrands fall as e^y (e^(y/2) for
# the root), right of it as y e^(-y/2).
_STEP = 0.2
_Y = np.arange(-75.0, 90.0, _STEP)
# Log-density at the ends of a grid below that at its peak: e^-45 = 3e-20.
_DEPTH = 45.0


def log_moments(log_laplace: LogLaplace) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and variance of :math:`\log Q`, Q > 0 with :math:`E Q = 1`.

    Absolute error about 1e-14. Nats and nats squared; the variance is never below 0.
    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        log_laplace: t to log E exp(-tQ).

    Returns:
        Mean, at most 0, and variance, each (*batch).
    """
    t = np.exp(_Y)
    # Both differences from 1: near t = 0 each term is 1 and their digits are gone.
    gap = np.expm1(-t) - np.expm1(log_laplace(t))
    mean = _STEP * gap.sum(-1)
    square = -2.0 * _STEP * (gap @ (_Y + np.euler_gamma))
    return mean, np.maximum(square - mean**2, 0.0)


def half_moment(log_laplace: LogLaplace) -> np.ndarray:
    r"""Mean of :math:`\sqrt Q`, Q >= 0 with :math:`E Q = 1`; in (0, 1].

    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        log_laplace: t to log E exp(-tQ).

    Returns:
        The mean, (*batch), relative error about 1e-14.
    """
    gap = -np.expm1(log_laplace(np.exp(_Y)))
    root: np.ndarray = _STEP / (2.0 * math.sqrt(math.pi)) * (gap @ np.exp(-0.5 * _Y))
    return root


def beta_grid(a: float, b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Nodes and weights for means over :math:`\mathrm{Beta}(a, b)`.

    Trapezoidal in w = log(x / (1 - x)), where the density times dx/dw is
    :math:`e^{aw} / (1 + e^w)^{a+b}`: exponentially accurate for functions analytic in
    w, log x and sqrt x among them.
    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        a: First parameter, at least 1/2.
        b: Second parameter, at least 1/2.

    Returns:
        x, 1 - x without cancellation, and weights of sum one; each (k,).
    """

    def log_density(w: np.ndarray) -> np.ndarray:
        values: np.ndarray = a * w - (a + b) * np.logaddexp(0.0, w)
        return values

    peak, width = math.log(a / b), math.sqrt(1.0 / a + 1.0 / b)
    step = min(_STEP, 0.4 * width)
    # Beyond the peak the log-density falls at a rate that grows to a or b: this far it
    # has fallen by _DEPTH at least.
    left = max(1.0, _DEPTH / a + 12.0 * width)
    right = max(1.0, _DEPTH / b + 12.0 * width)
    w = peak + step * np.arange(-math.ceil(left / step), math.ceil(right / step) + 1)
    height = log_density(w)
    kept = height > log_density(np.array([peak])) - _DEPTH
    w, weights = w[kept], np.exp(height[kept] - height.max())
    return (
        np.exp(-np.logaddexp(0.0, -w)),
        np.exp(-np.logaddexp(0.0, w)),
        weights / weights.sum(),
    )
