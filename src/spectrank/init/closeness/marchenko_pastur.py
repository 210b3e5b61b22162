r"""Marchenko-Pastur law: what the squared singular values of a large random matrix do.

Of an (L, p) matrix of independent entries of mean 0 and variance 1/L, gamma = p / L,
the p squared singular values fill
:math:`[(1 - \sqrt\gamma)^2, (1 + \sqrt\gamma)^2]` with density
:math:`\sqrt{(b - x)(x - a)} / (2\pi\gamma x)`, mean 1 and variance gamma. The law of
the entries matters for none of this.
"""

from __future__ import annotations

import math

import numpy as np

from spectrank.init.closeness.tridiagonal import Array

# In the angle the density is smooth: the trapezoid rule errs by less than 1e-6.
_NUM_NODES = 4001


def quantiles(m: int, n: int, levels: Array) -> Array:
    r"""Quantiles of squared singular values normalised to mean one.

    Source (stated): Marchenko and Pastur (1967), Math. USSR-Sbornik 1, 457.

    Args:
        m: Number of rows.
        n: Number of columns.
        levels: (k,) in [0, 1].

    Returns:
        (k,) quantiles in the support.
    """
    root = math.sqrt(min(m, n) / max(m, n))
    # x = 1 + gamma - 2 sqrt(gamma) cos(theta) turns both square roots into a sine.
    theta = np.linspace(0.0, math.pi, _NUM_NODES)
    x = 1.0 + root * root - 2.0 * root * np.cos(theta)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.square(np.sin(theta)) / x
    if root == 1.0:
        # sin^2 / (2 - 2 cos) = (1 + cos) / 2, at the hard edge too.
        weight = 0.5 * (1.0 + np.cos(theta))
    steps = 0.5 * (weight[1:] + weight[:-1])
    mass = np.concatenate([[0.0], np.cumsum(steps)])
    angles = np.interp(levels, mass / mass[-1], theta)
    return 1.0 + root * root - 2.0 * root * np.cos(angles)


def distance(squares: Array, m: int, n: int) -> float:
    r"""1-Wasserstein distance of squared singular values to Marchenko-Pastur's law.

    Both at mean one, so the scale drops out: the mean over i of
    :math:`|t_i / \bar t - Q((i - 1/2)/p)|`. Dimensionless, at least 0; a random
    matrix has about 1/p, the distance is *not* 0 there.
    Source (derived): tests/init/closeness/test_closeness_marchenko_pastur.py.

    Args:
        squares: (p,) squared singular values of an (m, n) matrix, in any order, their
            sum positive.
        m: Number of rows.
        n: Number of columns.

    Returns:
        The distance.
    """
    p = len(squares)
    levels = (np.arange(p) + 0.5) / p
    t = np.sort(squares) / squares.mean()
    return float(np.abs(t - quantiles(m, n, levels)).mean())
