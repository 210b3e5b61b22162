r"""Estimates of one replicate from the signals of its networks.

R replicates, P points, K networks at each point. Every function maps the replicates one
by one, so that its R results are independent and give Student's interval.
"""

from __future__ import annotations

import numpy as np


def log_means(signals: np.ndarray) -> np.ndarray:
    r"""Log of the mean over networks, without its bias of first order.

    :math:`\log \bar y + s^2 / (2 K \bar y^2)`: the log of a mean of K is low by
    var / (2 K mean^2) on average, and more so at a low stable rank, which would bend a
    slope. The error left is of order K^-2.
    Source (derived): tests/experiments/test_experiments_georgiev2021stable.py.

    Args:
        signals: (R, P, K), K >= 2.

    Returns:
        (R, P).
    """
    mean = signals.mean(-1)
    share = signals.var(-1, ddof=1) / mean**2
    return np.asarray(np.log(mean) + share / (2.0 * signals.shape[-1]))


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of the least-squares line, for each replicate.

    Args:
        x: (P,) abscissae, at least two different.
        y: (R, P).

    Returns:
        (R,).
    """
    centred = x - x.mean()
    return np.asarray(y @ centred / (centred @ centred))


def curvatures(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficient of x^2 in the least-squares parabola, for each replicate.

    Args:
        x: (P,) abscissae, at least three different.
        y: (R, P).

    Returns:
        (R,).
    """
    # Column 2 of the pseudo-inverse's transpose holds the weights of the quadratic.
    return np.asarray(y @ np.linalg.pinv(np.vander(x, 3, increasing=True))[2])


def intercept_shares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Part of a straight line's height that is its intercept, for each replicate.

    The line a + b x is fitted with weights 1/x^2, for errors proportional to the
    signal; the share is a / (a + b x_mid) at the geometric mean x_mid. It is 0 for a
    line through the origin, 1 where x does not matter.

    Args:
        x: (P,) positive abscissae, at least two different.
        y: (R, P) means.

    Returns:
        (R,).
    """
    design = np.stack([1.0 / x, np.ones_like(x)], axis=1)
    intercept, slope = np.linalg.pinv(design) @ (y / x).T
    middle = np.exp(np.log(x).mean())
    return np.asarray(intercept / (intercept + slope * middle))
