r"""Moments of the tangent kernel of a random network, exact at every finite width.

    K_l  = |h_{l-1}|^2 |J_l|_F^2,  J_l = df/dz_l,  K = sum K_l  (weights only, |x| = 1)

With P the block D_{l'-1} W_{l'-1} ... W_{l+1} D_l between two layers l < l',

    |h_{l'-1}| = |P W_l h_{l-1}|,   J_l = J_{l'} W_{l'} P,

W_l h_{l-1} and J_{l'} W_{l'} have uniform directions, and the signs of z_l are coins
independent of all norms, so that h_{l-1}, W_l, P, W_{l'}, J_{l'} are independent:

    E K_l K_l' / (E K_l E K_l') = H_{l-1} P_{ll'} D_{l'},

each the relative second moment of a squared Frobenius norm, at least 1. A product X of
layers and masks enters with the shape t = E tr (XX^T)^2 / E (tr XX^T)^2 only, in
(0, 1]: 1 for a vector, 1/n for the identity. All in logarithms: a thousand layers are
no overflow, and a small variance is no difference of large numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import numpy as np

from spectrank.linalg.haar import haar_moments
from spectrank.linalg.layer_moments.one_layer import mask_variance, mean_gain
from spectrank.linalg.layer_moments.relative import RelativeLaw

_X = TypeVar("_X", float, np.ndarray)
# e^x - 1 and e^x agree to the last bit from here on.
_LARGE = 700.0


@final
@dataclass(frozen=True, eq=False)
class KernelMoments:
    """First and second moments of the layers of a kernel.

    Attributes:
        log_means: (L,) log E K_l.
        log_ratios: (L, L) log of E K_l K_l' / (E K_l E K_l'), at least 0; symmetric.
    """

    log_means: np.ndarray
    log_ratios: np.ndarray

    @property
    def log_mean(self) -> float:
        """Log E K."""
        return log_sum(self.log_means)

    @property
    def log_second(self) -> float:
        """Log E K^2."""
        return log_sum(self.log_products)

    @property
    def log_products(self) -> np.ndarray:
        """(L, L) log E K_l K_l'."""
        products: np.ndarray = (
            self.log_means[:, None] + self.log_means[None, :] + self.log_ratios
        )
        return products

    @property
    def log_relative_variance(self) -> float:
        """Log of Var K / (E K)^2; -inf where K is not random."""
        shares = self.log_means - self.log_mean
        # Cov(K_l, K_l') / (E K_l E K_l').
        excess = log_less_one(self.log_ratios)
        return log_sum(shares[:, None] + shares[None, :] + excess)


def log_less_one(log_ratio: float | np.ndarray) -> np.ndarray:
    """Log of e^x - 1, without a difference of large numbers.

    Args:
        log_ratio: x, at least 0, such as log E X^2 / (E X)^2.

    Returns:
        Of its shape; -inf where x is zero: no variance, or no correlation.
    """
    x = np.maximum(log_ratio, 0.0)
    with np.errstate(divide="ignore"):
        small = np.log(np.expm1(np.minimum(x, _LARGE)))
    result: np.ndarray = np.where(x > _LARGE, x, small)
    return result


def kernel_moments(layers: Sequence[RelativeLaw], slope: float) -> KernelMoments:
    r"""Exact moments of the layers of :math:`K(x, x)` at |x| = 1, traced over outputs.

    :math:`E K_l = n_L \prod_{j<l} g a_{1,j}/n_{j-1} \prod_{j>l} g a_{1,j}/n_j`; second
    moments as in the module docstring. Costs L^2.
    Source (derived): tests/ntk/test_moments_exact.py, by exhaustive quadrature over
    the orthogonal group and all masks, and test_moments.py, by Monte Carlo.

    Args:
        layers: First layer first; the last has no activation.
        slope: Of the activation on the negative side: 0 relu, 1 linear.

    Returns:
        Logarithms.
    """
    v, num = mask_variance(slope), len(layers)
    signals, gradients = _signals(layers, v), _gradients(layers, v)
    ratios = np.zeros((num, num))
    blocks = (np.empty(0), np.empty(0))
    for k in range(num):
        law = layers[k]
        if k > 0:
            n = law.n
            start = _mask((0.0, 1.0 / n), n, v)
            if k > 1:
                blocks = _mask(_through(blocks, layers[k - 1]), n, v)
            blocks = (np.append(blocks[0], start[0]), np.append(blocks[1], start[1]))
            ratios[:k, k] = signals[:k] + blocks[0] + gradients[k]
            ratios[k, :k] = ratios[:k, k]
        ratios[k, k] = signals[k] + gradients[k]
    return KernelMoments(_log_means(layers, mean_gain(slope)), ratios)


def _log_means(layers: Sequence[RelativeLaw], g: float) -> np.ndarray:
    log_g = math.log(g)
    forward = [law.log_a1 - math.log(law.n) + log_g for law in layers]
    backward = [law.log_a1 - math.log(law.m) + log_g for law in layers]
    below = np.cumsum([0.0, *forward[:-1]])
    above = np.cumsum([0.0, *backward[:0:-1]])[::-1]
    means: np.ndarray = math.log(layers[-1].m) + below + above
    return means


def _signals(layers: Sequence[RelativeLaw], v: float) -> np.ndarray:
    """Log of E|h_{l-1}|^4 / (E|h_{l-1}|^2)^2, l = 1..L."""
    state = (0.0, 1.0)
    logs = [0.0]
    for law in layers[:-1]:
        state = _mask(_through(state, law), law.m, v)
        logs.append(state[0])
    return np.array(logs)


def _gradients(layers: Sequence[RelativeLaw], v: float) -> np.ndarray:
    """Log of E|J_l|^4 / (E|J_l|^2)^2, l = 1..L."""
    state = (0.0, 1.0 / layers[-1].m)
    logs = [0.0]
    for law in reversed(layers[1:]):
        turned = RelativeLaw(law.n, law.m, law.log_a1, law.a1_squared, law.a2)
        state = _mask(_through(state, turned), law.n, v)
        logs.append(state[0])
    return np.array(logs[::-1])


def _through(state: tuple[_X, _X], law: RelativeLaw) -> tuple[_X, _X]:
    """Second moment and shape of W X, X independent of W."""
    log_second, t = state
    n = law.n
    alpha, beta = haar_moments(n, law.a1_squared, law.a2)
    # Rounding may put the beta of an orthogonal matrix just below 0.
    beta = max(beta, 0.0)
    # n^2 (alpha + 2 beta t) with alpha = (a1^2 - 2 n beta) / n^2, less one.
    growth = (law.a1_squared - 1.0) + 2.0 * n * beta * (n * t - 1.0)
    shape = ((alpha + beta) * t + beta) / (alpha + 2.0 * beta * t)
    return log_second + np.log1p(growth), shape


def _mask(state: tuple[_X, _X], m: int, v: float) -> tuple[_X, _X]:
    """Second moment and shape of D X, D of independent coins, on m rows."""
    log_second, t = state
    # E sum of squared diagonal entries of XX^T, whose eigenvectors are uniform.
    diagonal = v * (1.0 + 2.0 * t) / (m + 2.0)
    shape = (t + diagonal) / (1.0 + diagonal)
    return log_second + np.log1p(diagonal), shape


def log_sum(logs: np.ndarray) -> float:
    """Log of a sum of numbers that are known by their logarithms.

    Args:
        logs: Any shape, at least one.

    Returns:
        The logarithm; -inf where all are zero.
    """
    top = float(logs.max())
    if math.isinf(top):
        return top
    return top + math.log(float(np.exp(logs - top).sum()))


def limit_log_second(
    num_layers: int, rho: float, n: int, slope: float
) -> tuple[float, float]:
    r"""B and the logarithm of E K^2/(E K)^2 of wide, deep networks of equal width.

    :math:`e^B [1/3 + (4/3)(C - 1 + e^{-C})/C^2]`, n to infinity with L/n and
    L/rho fixed: B = L(2k + v/n), C = 3Lk, k = 1/rho - (1 - v)/n, v the relative
    variance of phi'^2: 1 for relu, 0 for linear. A scalar readout of fixed norm counts
    as a layer, which makes it too high at small depth.
    Source (derived): tests/ntk/test_moments_golden.py, against the recursion.

    Args:
        num_layers: L, weight matrices.
        rho: Participation ratio of every hidden layer.
        n: Width.
        slope: Of the activation on the negative side.

    Returns:
        B, and log(1 + relative variance).
    """
    v = mask_variance(slope)
    k = max(1.0 / rho - (1.0 - v) / n, 0.0)
    B, C = num_layers * (2.0 * k + v / n), 3.0 * num_layers * k
    # (C - 1 + e^-C) / C^2 = 1/2 - C/6 + C^2/24 - ..., which C < 1e-4 would cancel.
    ratio = 0.5 - C / 6.0 + C**2 / 24.0 if C < 1e-4 else (C + math.expm1(-C)) / C**2
    return B, B + math.log(1.0 / 3.0 + 4.0 / 3.0 * ratio)
