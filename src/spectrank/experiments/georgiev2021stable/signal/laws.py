r"""What the claims expect, from their own formulas, apart from the library's theory.

One layer of n inputs and m outputs, W = U diag(s) V^T with independent Haar U and V:
t = s^2, a1 = sum t, a2 = sum t^2, rho = a1^2 / a2. A fixed unit x gives

    |W x|^2 = sum_i t_i g_i^2 / sum_j g_j^2,   g standard normal in R^n,

independent of the denominator. A ReLU after it keeps a random share of that square
length: with N ~ Binomial(m, 1/2) active outputs it is Beta(N/2, (m - N)/2). Backwards
n and m change places.

Numbers of any spectrum come from the Laplace transform S(u) = E exp(-u X) of
X = sum t_i g_i^2: S is the survival function of T = E / X with E exponential, so
cumulants of log X are those of log E - log T, and E T^(-1/2) = sqrt(pi) E X^(1/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import betaln, gammaln, polygamma, psi

# Of y = log u: the left tail falls as e^y, the right one as exp(-y/2) or faster; the
# integrands are analytic within pi/2 of the real line, so the trapezoidal rule is off
# by exp(-pi^2 / step), which is nothing.
_STEP = 0.1
_GRID = np.arange(-60.0, 160.0, _STEP)


@final
@dataclass(frozen=True)
class LayerLaw:
    """One layer as a signal passes it.

    Attributes:
        squares: Squared singular values t, those that are not 0.
        num_in: Length of the vector that comes in.
        num_out: Length of the vector that goes out.
        relu: Whether a ReLU, or its mask, follows.
    """

    squares: tuple[float, ...]
    num_in: int
    num_out: int
    relu: bool = True

    @property
    def energy(self) -> float:
        """a1, the square of the Frobenius norm."""
        return math.fsum(self.squares)

    @property
    def participation_ratio(self) -> float:
        """rho, in [1, number of singular values]."""
        return self.energy**2 / math.fsum(t * t for t in self.squares)

    @property
    def mean(self) -> float:
        r"""Mean factor on the square length, :math:`a_1 / n`, halved by a ReLU."""
        return self.energy / self.num_in / (2.0 if self.relu else 1.0)

    @property
    def second_moment(self) -> float:
        r"""Relative second moment of the factor.

        :math:`F = (1 + 2/\rho)\, n/(n+2)`, with a ReLU times :math:`(m+5)/(m+2)`.
        Source (derived): tests/experiments/georgiev2021stable_signal.
        """
        return relative_second_moment(
            self.participation_ratio, self.num_in, self.num_out, relu=self.relu
        )

    @property
    def kappa(self) -> float:
        r""":math:`\beta / \alpha` of E M M, M = W^T W; about 1/rho - 1/n.

        Source (derived): tests/experiments/georgiev2021stable_signal.
        """
        n, rho = self.num_in, self.participation_ratio
        beta = (n / rho - 1.0) / (n * (n - 1) * (n + 2))
        return beta * n**2 / (1.0 - 2.0 * n * beta)

    def log_cumulants(self) -> np.ndarray:
        """First three cumulants of the log factor, given that the signal lives.

        Returns:
            (3,).
        """
        n = self.num_in
        found = _log_cumulants_of_sum(np.array(self.squares)) - _log_chi(n)
        if self.relu:
            found = found + mask_log_cumulants(self.num_out)
        return np.asarray(found)

    def mean_root(self) -> float:
        """Mean factor on a length.

        Returns:
            E of the root of the factor on the square length.
        """
        n = self.num_in
        # The root of chi^2_n: E chi_n.
        chi = math.sqrt(2.0) * math.exp(gammaln((n + 1) / 2) - gammaln(n / 2))
        root = _mean_root_of_sum(np.array(self.squares)) / chi
        return root * (mask_mean_root(self.num_out) if self.relu else 1.0)


def relative_second_moment(
    participation_ratio: float, num_in: int, num_out: int, *, relu: bool = True
) -> float:
    """Relative second moment of the factor of one layer on the square length.

    Args:
        participation_ratio: rho.
        num_in: n.
        num_out: m.
        relu: Whether a ReLU follows.

    Returns:
        F, at least 1.
    """
    n, m = num_in, num_out
    linear = (1.0 + 2.0 / participation_ratio) * n / (n + 2)
    return linear * (m + 5) / (m + 2) if relu else linear


def mask_log_cumulants(m: int) -> np.ndarray:
    """First three cumulants of the log share that a ReLU keeps, given one is active.

    By the law of total cumulance over the number N of active outputs.

    Args:
        m: Outputs.

    Returns:
        (3,).
    """
    N = np.arange(1, m + 1)
    weights = _binomial(m)[1:]
    weights = weights / weights.sum()
    k1, k2, k3 = (polygamma(j, N / 2) - polygamma(j, m / 2) for j in range(3))
    d1, d2 = k1 - weights @ k1, k2 - weights @ k2
    return np.array(
        [
            weights @ k1,
            weights @ (k2 + d1**2),
            weights @ (k3 + 3.0 * d1 * d2 + d1**3),
        ]
    )


def mask_mean_root(m: int) -> float:
    """Mean of the root of the share that a ReLU keeps, 0 where none is active.

    Args:
        m: Outputs.

    Returns:
        In (0, 1).
    """
    N = np.arange(1, m)
    rest = (m - N) / 2
    roots = np.exp(betaln(N / 2 + 0.5, rest) - betaln(N / 2, rest))
    weights = _binomial(m)
    # All m active: the whole length.
    return float(weights[1:m] @ roots + weights[m])


def _binomial(m: int) -> np.ndarray:
    N = np.arange(m + 1)
    logs = gammaln(m + 1) - gammaln(N + 1) - gammaln(m - N + 1) - m * math.log(2.0)
    return np.asarray(np.exp(logs))


def _log_chi(n: int) -> np.ndarray:
    """First three cumulants of log chi^2_n."""
    return np.array(
        [psi(n / 2) + math.log(2.0), *(float(polygamma(j, n / 2)) for j in (1, 2))]
    )


def _survival(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S(e^y) on the grid, and the density of y = log T."""
    values, counts = np.unique(squares, return_counts=True)
    u = np.exp(_GRID)[:, None] * values
    survival = np.exp(-0.5 * np.log1p(2.0 * u) @ counts)
    return survival, survival * ((u / (1.0 + 2.0 * u)) @ counts)


def _log_cumulants_of_sum(squares: np.ndarray) -> np.ndarray:
    """First three cumulants of log X, X = sum t_i g_i^2."""
    _, density = _survival(squares)
    mean = _STEP * (density @ _GRID)
    second, third = (_STEP * (density @ (_GRID - mean) ** j) for j in (2, 3))
    exponential = [float(polygamma(j, 1.0)) for j in range(3)]
    # log X = log E - log T: odd cumulants of log T change their sign.
    return np.array(
        [
            exponential[0] - mean,
            second - exponential[1],
            exponential[2] - third,
        ]
    )


def _mean_root_of_sum(squares: np.ndarray) -> float:
    """E X^(1/2) = E T^(-1/2) / sqrt(pi)."""
    _, density = _survival(squares)
    return float(_STEP * (density @ np.exp(-_GRID / 2.0)) / math.sqrt(math.pi))
