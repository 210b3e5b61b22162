r"""Estimates of one replicate from the signals of its networks.

R replicates, P points, K networks at each point. Every function maps the replicates one
by one, so that its R results are independent and give Student's interval.
"""

from __future__ import annotations

from collections.abc import Callable

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


def jackknifed(
    statistic: Callable[[np.ndarray], np.ndarray], recorded: np.ndarray
) -> np.ndarray:
    r"""A function of means over networks, without its bias of first order.

    :math:`K \theta(\bar y) - (K - 1)\, \overline{\theta(\bar y_{-k})}`, the
    means with one network left out in turn: a ratio, log or variance of means of K
    networks is off by order 1/K, what is left by order 1/K^2.
    Source (derived): tests/experiments/georgiev2021stable_signal/test_signal_laws.py.

    Args:
        statistic: Maps (..., F) means to (..., *G) estimates, row by row.
        recorded: (R, K, F), K >= 2.

    Returns:
        (R, *G).
    """
    num = recorded.shape[1]
    total = recorded.sum(1, keepdims=True)
    without = statistic((total - recorded) / (num - 1))
    return np.asarray(num * statistic(total[:, 0] / num) - (num - 1) * without.mean(1))


def kolmogorov_distances(probabilities: np.ndarray) -> np.ndarray:
    r"""Largest distance of an empirical law from a continuous one.

    :math:`\sup_u |\hat F(u) - u|` of the K values of the law's distribution function;
    about 0.87 / sqrt(K) if they are from the law.
    Source (derived): tests/experiments/georgiev2021stable_signal/test_signal_laws.py.

    Args:
        probabilities: (R, K), each the law's distribution function at a sample.

    Returns:
        (R,), in (0, 1].
    """
    num = probabilities.shape[1]
    ordered = np.sort(probabilities, axis=1)
    steps = np.arange(num + 1) / num
    return np.asarray(np.maximum(steps[1:] - ordered, ordered - steps[:-1]).max(1))
