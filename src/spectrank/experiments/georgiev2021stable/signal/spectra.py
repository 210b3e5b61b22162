"""Singular values as the claims expect them, apart from the library's own.

Each law is written down from its definition: t = s^2 with t_1 = 1 and sum r, the stable
rank; p = min(m, n) of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.interpolate import BSpline
from scipy.optimize import brentq


def flat_squares(stable_rank: float) -> tuple[float, ...]:
    """Squared singular values of ``flat`` with largest one.

    Args:
        stable_rank: Their sum r.

    Returns:
        floor(r) ones and what is missing.
    """
    whole = math.floor(stable_rank)
    rest = stable_rank - whole
    return (1.0,) * whole + ((rest,) if rest else ())


def spike_squares(stable_rank: float, m: int, n: int) -> tuple[float, ...]:
    """Squared singular values of ``spike`` with largest one.

    Args:
        stable_rank: Their sum r, above 1.
        m: Rows.
        n: Columns.

    Returns:
        One, then min(m, n) - 1 equal values.
    """
    p = min(m, n)
    return (1.0,) + ((stable_rank - 1.0) / (p - 1),) * (p - 1)


def spike_stable_rank(participation_ratio: float, p: int) -> float:
    r"""Stable rank at which ``spike`` has a given participation ratio.

    The smaller root of :math:`r^2 = \rho\,(1 + (r-1)^2/(p-1))`.

    Args:
        participation_ratio: rho, in [1, p].
        p: Number of singular values.

    Returns:
        r, in [1, p].
    """
    c = participation_ratio / (p - 1)
    # (1 - c) r^2 + 2 c r - (rho + c) = 0, the root in [1, p].
    disc = c * c + (1.0 - c) * (participation_ratio + c)
    return (participation_ratio + c) / (c + math.sqrt(disc))


def mp_spike_ratio(stable_rank: float, m: int, n: int) -> float:
    r"""Participation ratio of ``mp-spike``, r^2 / E a2.

    :math:`E a_2 = 1 + (r-1)^2 (m+n-1) / ((m-1)(n-1) + 2)`: a Gaussian bulk of
    (m - 1) x (n - 1) with fixed Frobenius norm beside one outlier.
    Source (derived): tests/experiments/georgiev2021stable_signal.

    Args:
        stable_rank: r.
        m: Rows.
        n: Columns.

    Returns:
        rho.
    """
    bulk = (m + n - 1) / ((m - 1) * (n - 1) + 2)
    return stable_rank**2 / (1.0 + (stable_rank - 1.0) ** 2 * bulk)


def scaled(squares: Sequence[float], energy: float) -> tuple[float, ...]:
    """Squared singular values scaled to a Frobenius norm.

    Args:
        squares: In any scale.
        energy: Square of the Frobenius norm, their sum afterwards.

    Returns:
        As many.
    """
    total = math.fsum(squares)
    return tuple(t * energy / total for t in squares)


def expected_a2(spectrum: str, r: float, m: int, n: int) -> float:
    r"""Return :math:`E \\sum t_i^2` of a spectrum with largest value one.

    Written down from each law's definition, apart from the library's moments.
    Source (derived): tests/experiments/georgiev2021stable_signal.

    Args:
        spectrum: ``flat``, ``spike``, ``power``, ``exp``, ``mp-spike`` or ``slice``.
        r: Stable rank.
        m: Rows.
        n: Columns.

    Returns:
        The moment; r^2 over it is the participation ratio.
    """
    p = min(m, n)
    if spectrum == "mp-spike":
        return r**2 / mp_spike_ratio(r, m, n)
    if spectrum == "slice":
        return 1.0 + (p - 1) * _slice_square(p - 1, r - 1.0)
    squares: Mapping[str, Callable[[], Sequence[float]]] = {
        "flat": lambda: flat_squares(r),
        "spike": lambda: spike_squares(r, m, n),
        "power": lambda: _decay(np.log(np.arange(1.0, p + 1.0)), r),
        "exp": lambda: _decay(np.arange(float(p)), r),
    }
    return math.fsum(t * t for t in squares[spectrum]())


def _decay(rate: np.ndarray, r: float) -> list[float]:
    """exp(-a rate) with the a whose sum is r, by bisection."""
    a = brentq(lambda a: np.exp(-a * rate).sum() - r, 0.0, 100.0, xtol=1e-14)
    return list(np.exp(-a * rate))


def _slice_square(q: int, total: float) -> float:
    """E t^2 of one of q uniform numbers given their sum, by quadrature."""

    # The density of a sum of uniform numbers is the cardinal B-spline.
    def density(num: int, x: np.ndarray) -> np.ndarray:
        spline = BSpline.basis_element(np.arange(num + 1.0), extrapolate=False)
        return np.asarray(np.nan_to_num(spline(x)))

    nodes, weights = np.polynomial.legendre.leggauss(200)
    t, weights = (nodes + 1.0) / 2.0, weights / 2.0
    rest = density(q - 1, total - t)
    return float((weights * t**2) @ rest / (weights @ rest))
