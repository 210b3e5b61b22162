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
from scipy.special import betaincinv
from torch import Tensor

from spectrank.linalg.operand import EPS
from spectrank.linalg.shapes import Spectral

# Ends of a float64 enclosure move outward by this multiple of (k + 4) * eps, relative
# to sigma_1^2: rounding of the products, the recurrence and the tridiagonal solver.
ROUNDING = 16.0
# Newton steps to a root; the hardest met takes a dozen.
_ROOT_STEPS = 200


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
        log_betas: ``sum(log(beta_j))``.
        c: Lower bound of the start vector's component along the top vector.

    Returns:
        The root, at least one rounding above the largest Ritz value.
    """
    top = float(ritz[-1])
    below = top - ritz
    target = log_betas - math.log(c)
    # In x = log of the gap the logarithm of the product is convex and increases with a
    # slope of at least one, so steps of Newton from above the root stay above it. All
    # factors are at least the gap: there the product is large enough.
    x = target / len(ritz)
    for _ in range(_ROOT_STEPS):
        gap = math.exp(x)
        if gap < top * EPS * 1e-3:
            return top * (1.0 + EPS)
        factors = gap + below
        excess = float(np.log(factors).sum()) - target
        step = excess / float((gap / factors).sum())
        if step < 1e-9:
            break
        x -= step
    # Room for the rounding of at most a thousand logarithms.
    return max(top + math.exp(x) * (1.0 + 1e-8), top * (1.0 + EPS))


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
        alphas[k], betas[k], V[k + 1] = _step(
            product, V[: k + 1], betas[k - 1] if k else 0.0
        )
        k += 1
        if k < next_test and k < max_steps:
            continue
        next_test = k + max(1, k // 16)
        ritz = np.maximum(eigvalsh_tridiagonal(alphas[:k], betas[: k - 1]), 0.0)
        theta = float(ritz[-1])
        # A residual below rounding is noise, not a proof that the space is invariant:
        # a component of 1e-12 along x_1 would be lost in it.
        floored = np.maximum(betas[:k], EPS * max(theta, np.finfo(float).tiny))
        root = upper_root(ritz, float(np.log(floored).sum()), c)
        converged = root <= theta * (1.0 + rtol) ** 2
    _, y = eigh_tridiagonal(
        alphas[:k], betas[: k - 1], select="i", select_range=(k - 1, k - 1)
    )
    vector = V[:k].T @ torch.from_numpy(y[:, 0]).to(V.device)
    return LanczosRun(theta, root, vector, k, converged)


def _step(
    product: Callable[[Tensor], Tensor], V: Tensor, beta_before: float
) -> tuple[float, float, Tensor]:
    """One step from the last row of V; returns alpha, beta and the next vector."""
    w = product(V[-1])
    norm = torch.linalg.vector_norm(w)
    alpha = float(V[-1] @ w)
    # The large components first, then all of V: a pass over V alone leaves their
    # rounding in, which grows by alpha / beta a step and has swallowed every digit
    # after 60 steps where the spectrum stays away from zero.
    w = w - alpha * V[-1]
    if len(V) > 1:
        w = w - beta_before * V[-2]
    w = w - V.T @ (V @ w)
    beta = torch.linalg.vector_norm(w)
    if bool(beta < 0.1 * norm):
        w = w - V.T @ (V @ w)
        beta = torch.linalg.vector_norm(w)
    if bool(beta > 8.0 * EPS * norm):
        return alpha, float(beta), w / beta
    # Nothing but rounding is left: its direction would not be orthogonal.
    return alpha, 0.0, _any_direction(V)


def _any_direction(V: Tensor) -> Tensor:
    """Return a unit vector orthogonal to the rows of V: the space is invariant."""
    n = V.shape[1]
    # The axis that the rows cover least; twice is enough here too.
    w = torch.zeros(n, dtype=V.dtype, device=V.device)
    w[int(V.square().sum(0).argmin())] = 1.0
    for _ in range(2):
        w = w - V.T @ (V @ w)
        w = w / torch.linalg.vector_norm(w)
    return w
