r"""Enclosure of the largest singular value by Golub-Kahan-Lanczos bidiagonalisation.

With M = A^T A and a random unit vector v_1, k steps give the tridiagonal
T = B^T B (B bidiagonal) with diagonal alpha_j, off-diagonal beta_j and residual
beta_k:

    M V_k = V_k T + beta_k v_{k+1} e_k^T,    V_k^T V_k = I.

Lower end: the largest Ritz value theta_1 <= sigma_1^2.

Upper end: p_k(x) = prod_j (x - theta_j) satisfies p_k(M) v_1 = prod_j beta_j v_{k+1}.
Its component along the top right singular vector x_1 gives

    |p_k(sigma_1^2)| |x_1 . v_1| <= prod_j beta_j,

and p_k increases above theta_1. So unless |x_1 . v_1| < c, sigma_1^2 is at most the
root above theta_1 of p_k(x) = prod_j beta_j / c. For v_1 uniform on the sphere of R^n,
(x_1 . v_1)^2 ~ Beta(1/2, (n-1)/2) whatever A is, which turns a failure probability
into c.

Source (stated): van Dorsselaer, Hochstenbach & van der Vorst (2000), Computing
probabilistic bounds for extreme eigenvalues of symmetric matrices with the Lanczos
method; Hochstenbach (2013), Probabilistic upper bounds for the matrix two-norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal
from scipy.optimize import brentq
from scipy.special import betaincinv
from torch import Tensor

from spectrank.linalg.operand import EPS
from spectrank.linalg.shapes import Spectral

# Ends of a float64 enclosure move outward by this multiple of (k + 4) * eps, relative
# to sigma_1^2: rounding of the products, the recurrence and the tridiagonal solver.
ROUNDING = 16.0


@dataclass(frozen=True)
class LanczosRun:
    """What k Lanczos steps tell of the largest eigenvalue of M.

    Attributes:
        theta: Largest Ritz value, a lower bound of ``sigma_1**2``.
        root: Probabilistic upper bound of ``sigma_1**2``.
        vector: (n,) unit Ritz vector of ``theta``.
        num_steps: Number of products with M.
        converged: Whether the requested relative width of sigma_1 was reached.
    """

    theta: float
    root: float
    vector: Spectral
    num_steps: int
    converged: bool


def component_bound(n: int, failure_probability: float) -> float:
    """Return c with ``P(|x . v| < c) = failure_probability`` for uniform unit v.

    Args:
        n: Dimension, at least 2.
        failure_probability: In (0, 1).

    Returns:
        The quantile of the absolute component along any fixed direction.
    """
    return math.sqrt(float(betaincinv(0.5, (n - 1) / 2, failure_probability)))


def upper_root(ritz: np.ndarray, log_betas: float, c: float) -> float:
    """Root above the largest Ritz value of ``prod(x - ritz) = exp(log_betas) / c``.

    Args:
        ritz: (k,) Ritz values, ascending.
        log_betas: ``sum(log(beta_j))``; minus infinity when the space is invariant.
        c: Lower bound of the start vector's component along the top vector.

    Returns:
        The root; the largest Ritz value itself when the space is invariant.
    """
    top = float(ritz[-1])
    if log_betas == -math.inf:
        return top
    target = log_betas - math.log(c)

    def excess(gap: float) -> float:
        return float(np.log(gap + (top - ritz)).sum()) - target

    high = math.exp(target / len(ritz))
    # All factors are at least the gap, so at this gap the product is large enough.
    low = high
    while excess(low) > 0.0:
        low *= 1e-3
        if low < top * EPS * 1e-3:
            return top * (1.0 + EPS)
    if low == high:
        return top + high
    gap = float(brentq(excess, low, high, xtol=low * 1e-3, rtol=1e-6))
    return top + gap * (1.0 + 4e-6)


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Spectral,
    *,
    rtol: float,
    failure_probability: float,
    max_steps: int,
    min_steps: int = 3,
) -> LanczosRun:
    """Enclose the largest eigenvalue of a positive semidefinite operator.

    Full reorthogonalisation; recurrences in float64 whatever the product's precision.

    Args:
        product: Maps a float64 vector (n,) to ``M v``.
        start: (n,) Gaussian vector, drawn independently of M; it is normalised.
        rtol: Stop when the relative width for ``sqrt`` of the eigenvalue is below.
        failure_probability: That the upper end misses, over the draw of ``start``.
        max_steps: Stop here at the latest; below n.
        min_steps: Do not test before.

    Returns:
        The run; not converged when ``max_steps`` came first.
    """
    n = start.shape[0]
    c = component_bound(n, failure_probability)
    # Rows are Lanczos vectors, so that a product with all of them is contiguous.
    V = torch.empty(max_steps + 1, n, dtype=torch.float64, device=start.device)
    V[0] = start / torch.linalg.vector_norm(start)
    alphas, betas = np.zeros(max_steps), np.zeros(max_steps)
    theta = root = 0.0
    k, converged, next_test = 0, False, min_steps
    while k < max_steps and not converged:
        alphas[k], betas[k], V[k + 1] = _step(product, V[: k + 1])
        k += 1
        invariant = betas[k - 1] <= EPS * abs(alphas[:k]).max()
        if k < next_test and k < max_steps and not invariant:
            continue
        next_test = k + max(1, k // 16)
        ritz = np.maximum(eigvalsh_tridiagonal(alphas[:k], betas[: k - 1]), 0.0)
        theta = float(ritz[-1])
        log_betas = -math.inf if invariant else float(np.log(betas[:k]).sum())
        root = upper_root(ritz, log_betas, c)
        converged = root <= theta * (1.0 + rtol) ** 2
        if invariant:
            break
    _, y = eigh_tridiagonal(
        alphas[:k], betas[: k - 1], select="i", select_range=(k - 1, k - 1)
    )
    vector = V[:k].T @ torch.from_numpy(y[:, 0]).to(V.device)
    return LanczosRun(theta, root, vector, k, converged)


def _step(
    product: Callable[[Tensor], Tensor], V: Tensor
) -> tuple[float, float, Tensor]:
    """One step from the last row of V; returns alpha, beta and the next vector."""
    w = product(V[-1])
    norm = torch.linalg.vector_norm(w)
    h = V @ w
    alpha = float(h[-1])
    w = w - V.T @ h
    beta = torch.linalg.vector_norm(w)
    # Twice is enough (Kahan): once more only where cancellation left few digits.
    # A product in float32 leaves coefficients of 1e-7, so this is rare.
    if bool(beta < 0.1 * norm):
        h = V @ w
        alpha += float(h[-1])
        w = w - V.T @ h
        beta = torch.linalg.vector_norm(w)
    return alpha, float(beta), w / beta if float(beta) > 0.0 else w
