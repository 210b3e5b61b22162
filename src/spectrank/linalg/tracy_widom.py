r"""The Tracy-Widom law of order 1: fluctuations of the largest eigenvalue of noise.

:math:`F_1(s) = \det(1 - B_s)` on :math:`L^2(0, \infty)` with
:math:`B_s(x, y) = \mathrm{Ai}(x + y + s)` (Ferrari & Spohn 2005,
arXiv:math-ph/0505012), by Gauss-Legendre quadrature (Bornemann 2010, arXiv:0904.1581).
No table and no fit: the error is that of float64. :math:`1 - F_1` is made of the
eigenvalues of B_s without the subtraction, so p-values are accurate down to 1e-300.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from spectrank.errors import DomainError

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# Half as many give 1e-13 in the right tail; the left one oscillates.
_NODES = 32
# Below, F_1 is less than 1e-18 and the quadrature would have to resolve many waves.
_LEFT = -10.0
# The kernel has fallen by exp(-2/3 * 60) at the end of the interval.
_DECAY = 60.0
# 1 - F_1 is 6e-306 here and soon after leaves float64.
_LAST = 103.0


def tracy_widom_cdf(s: float) -> float:
    r"""Distribution function :math:`F_1(s)`.

    Dimensionless, in [0, 1]; absolute error below 1e-12.
    Source (stated): Ferrari & Spohn (2005), arXiv:math-ph/0505012, abstract.

    Args:
        s: Point; the law has mean -1.2065 and standard deviation 1.2680.

    Returns:
        Probability of a value of at most ``s``.
    """
    return math.exp(_log_cdf(s))


def tracy_widom_sf(s: float) -> float:
    r"""Survival function :math:`1 - F_1(s)`, the p-value of a statistic ``s``.

    Dimensionless, in [0, 1]; relative error below 1e-11 in the right tail.
    Source (stated): as `tracy_widom_cdf`.

    Args:
        s: Point.

    Returns:
        Probability of a value above ``s``.
    """
    # No negative zero.
    return abs(math.expm1(_log_cdf(s)))


@functools.lru_cache(maxsize=64)
def tracy_widom_isf(p: float) -> float:
    """Point that the law exceeds with probability ``p``.

    Dimensionless; relative error of the probability below 1e-10.
    Source (derived): tests/linalg/test_tracy_widom.py, by the survival function.

    Args:
        p: In [1e-300, 1 - 1e-12].

    Returns:
        The point.

    Raises:
        DomainError: If ``p`` lies outside.

    Example:
        >>> round(tracy_widom_isf(0.01), 3)
        2.023
    """
    if not 1e-300 <= p <= 1.0 - 1e-12:
        raise DomainError(
            f"p must lie in [1e-300, 1 - 1e-12], got {p}; e.g. 0.01 for a test of 1 %"
        )
    # 1 - F_1 falls faster than exp(-2/3 s^(3/2)), which brackets the point.
    target = math.log(p)
    beyond = min((-1.5 * target) ** (2.0 / 3.0) + 1.0, _LAST)
    return _crossing(lambda s: math.log(tracy_widom_sf(s)) - target, _LEFT, beyond)


def _crossing(f: Callable[[float], float], low: float, high: float) -> float:
    """Root of a decreasing function between two points, by the Illinois method."""
    # Importing scipy.optimize for it costs more than all that is computed here.
    above, below = f(low), f(high)
    x, last, side = low, math.inf, 0
    while abs(x - last) > 1e-12 and below < 0.0 < above:
        last, x = x, (low * below - high * above) / (below - above)
        y = f(x)
        # The end that stays twice in a row counts half, else it stays for ever.
        if y > 0.0:
            low, above, below = x, y, below / 2.0 if side > 0 else below
            side = 1
        else:
            high, below, above = x, y, above / 2.0 if side < 0 else above
            side = -1
    return x


def largest_eigenvalue_law(m: int, n: int) -> tuple[float, float]:
    r"""Centre and width of :math:`\sigma_1^2` of an (m, n) standard Gaussian matrix.

    :math:`\mu = (\sqrt{M} + \sqrt{N})^2`,
    :math:`w = (\sqrt M + \sqrt N)(1/\sqrt M + 1/\sqrt N)^{1/3}` with M = m - 1/2,
    N = n - 1/2: :math:`(\sigma_1^2 - \mu)/w` follows the Tracy-Widom law up to terms of
    order :math:`\min(m, n)^{-2/3}`. With M = m - 1 and N = n for m >= n these are the
    constants of Johnstone (2001), Ann. Statist. 29, abstract, of order -1/3; these
    here do not tell rows from columns.
    Source (stated): Ma (2012), arXiv:1203.0839, abstract, for the order; the constants
    as in its authors' package RMTstat; (derived) tests/linalg/test_tracy_widom.py.

    Args:
        m: Number of rows, at least 1.
        n: Number of columns, at least 1.

    Returns:
        Centre and width, both positive.
    """
    a, b = math.sqrt(m - 0.5), math.sqrt(n - 0.5)
    return (a + b) ** 2, (a + b) * (1.0 / a + 1.0 / b) ** (1.0 / 3.0)


@functools.cache
def _legendre() -> tuple[Floats, Floats, Places, Places]:
    """Nodes and weights on [0, 1], and the places of an upper triangle."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return 0.5 * (nodes + 1.0), 0.5 * weights, *np.triu_indices(_NODES)


def _log_cdf(s: float) -> float:
    if math.isnan(s):
        return math.nan
    if s < _LEFT:
        return -math.inf
    if s > _LAST:
        return 0.0
    length = (max(s, 0.0) ** 1.5 + _DECAY) ** (2.0 / 3.0) - s
    nodes, weights, i, j = _legendre()
    x, root = length * nodes, np.sqrt(length * weights)
    upper = np.zeros((_NODES, _NODES))
    upper[i, j] = root[i] * special.airy(x[i] + x[j] + s)[0] * root[j]
    # torch's: a second pool of BLAS threads gets into the way of the first.
    eigenvalues = torch.linalg.eigvalsh(torch.from_numpy(upper), UPLO="U")
    # Rounding must not push F_1 out of [0, 1] where it is next to zero.
    return float(np.log1p(-np.minimum(eigenvalues.numpy(), 1.0 - 1e-16)).sum())
