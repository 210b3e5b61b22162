r"""Log-norm and root moments of one layer, |Wx|^2 / |x|^2 and the share a mask keeps.

For fixed singular values W x = U diag(s) V^T x with V^T x uniform on the sphere, so
|Wx|^2 = Q / |g|^2 with Q = sum s_i^2 g_i^2, g Gaussian in R^n, and the ratio is
independent of |g|: log moments are those of Q, by its Laplace transform
prod (1 + 2 t s_i^2)^(-1/2), less those of chi^2_n. Exact for every fixed spectrum, for
``gaussian`` and for ``mp-spike``; for ``slice`` and ``temper`` exact given the singular
values and averaged over drawn ones, with a standard error.

    m, n    outputs, inputs of W; exchanged for W^T
    slope   of the activation on the negative side: 0 relu, 1 linear
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import gammaln, polygamma, psi

from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.layer_moments.laplace import beta_grid, half_moment, log_moments
from spectrank.linalg.layer_moments.one_layer import norm_moments
from spectrank.linalg.layer_moments.spectra import drawn_squares, fixed_squares

# Squares worked on at once, each with a thousand points of a grid.
_BATCH = 2048


@final
@dataclass(frozen=True)
class LogNorm:
    """Moments of a positive factor Y of a squared norm.

    Attributes:
        mean: E log Y, given Y > 0.
        variance: Var log Y, given Y > 0.
        log_half: log E sqrt Y, over all Y.
        exact: False where these are the leading order for small relative variance.
        stderr: Standard errors of the three, above 0 where they are means over drawn
            singular values.
    """

    mean: float
    variance: float
    log_half: float
    exact: bool = True
    stderr: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __add__(self, other: LogNorm) -> LogNorm:
        """Return the moments of a product of independent factors."""
        return LogNorm(
            self.mean + other.mean,
            self.variance + other.variance,
            self.log_half + other.log_half,
            self.exact and other.exact,
            # Not in squares: equal layers share their draws.
            (
                self.stderr[0] + other.stderr[0],
                self.stderr[1] + other.stderr[1],
                self.stderr[2] + other.stderr[2],
            ),
        )


ONE = LogNorm(0.0, 0.0, 0.0)
"""The factor that is always one."""


def layer_log_norm(law: LayerLaw, *, transposed: bool = False) -> LogNorm:
    r"""Log-norm moments of :math:`Y = |Wx|^2 / |x|^2`, or of :math:`|W^T v|^2 / |v|^2`.

    Exact, absolute error about 1e-13, for every fixed spectrum, ``gaussian`` and
    ``mp-spike`` (over all its draws, refused ones included). ``slice`` and ``temper``:
    exact given the singular values, a mean over drawn ones with its standard error. A
    profile that the law does not carry: mean log(a1/n) - v/2, variance v,
    log E sqrt Y = (log(a1/n) - v/4)/2, v the relative variance of Y; relative error of
    order v.
    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        law: Of W.
        transposed: Whether W^T is meant: the two sizes change roles.

    Returns:
        Nats, nats squared and nats.
    """
    m, n = (law.n, law.m) if transposed else (law.m, law.n)
    squares = fixed_squares(law)
    if squares is not None:
        assert law.spectral_norm is not None
        return scaled(sphere_log_norm(squares, n), law.spectral_norm)
    if law.spectrum == "gaussian":
        return scaled(_chi_square(m), math.sqrt(law.a1 / (m * n)))
    if law.spectrum == "mp-spike":
        assert law.spectral_norm is not None
        assert law.stable_rank is not None
        return scaled(_outlier(law.stable_rank, m, n), law.spectral_norm)
    drawn = drawn_squares(law)
    if drawn is not None:
        assert law.spectral_norm is not None
        return scaled(_averaged(drawn, n), law.spectral_norm)
    gain, second = norm_moments(n, law.a1, law.a1_squared, law.a2)
    v = second - 1.0
    return LogNorm(
        math.log(gain) - 0.5 * v, v, 0.5 * math.log(gain) - 0.125 * v, exact=False
    )


def sphere_log_norm(squares: np.ndarray, n: int) -> LogNorm:
    r"""Log-norm moments of :math:`Y = \sum s_i^2 u_i^2`, u uniform on the sphere.

    r equal squares: Y / s^2 is Beta(r/2, (n - r)/2), digamma forms
    :math:`\psi(r/2) - \psi(n/2)` and :math:`\psi_1(r/2) - \psi_1(n/2)`; else one
    integral each over the Laplace transform.
    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        squares: (k,) s_i^2, k <= n, at least one above zero; the missing ones are zero.
        n: Dimension of the sphere's space.

    Returns:
        Nats, nats squared and nats.
    """
    values, counts = np.unique(squares[squares > 0.0], return_counts=True)
    if len(values) == 1:
        share = _beta_share(np.array([float(counts[0])]), n)
        mean, variance, log_half = (float(x[0]) for x in share)
        return scaled(LogNorm(mean, variance, log_half), math.sqrt(values[0]))
    found = _weighted_squares(values[None], counts, n)
    a, b, c = (float(x[0]) for x in found)
    return LogNorm(a, b, c)


def mask_log_norm(m: int, slope: float) -> LogNorm:
    r"""Log-norm moments of :math:`Y = |\phi(z)|^2 / |z|^2`, z of uniform direction.

    phi multiplies negative entries by ``slope``. For slope 0 (relu) Y given N positive
    entries is Beta(N/2, (m - N)/2), N Binomial(m, 1/2): log moments are given N >= 1,
    the root's mean is over all N.
    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        m: Number of neurons.
        slope: 0 for relu, 1 for linear.

    Returns:
        Nats, nats squared and nats.
    """
    if slope == 1.0:
        return ONE
    if slope == 0.0:
        return _relu_mask(m)
    chi, low = _chi_square(m), slope**2
    mean_square = 0.5 * (1.0 + low)

    def log_laplace(t: np.ndarray) -> np.ndarray:
        x = 2.0 * t / (m * mean_square)
        high, rest = -0.5 * np.log1p(x), -0.5 * np.log1p(low * x)
        # Two forms of log((e^high + e^rest)/2): one for small t, one for large.
        near = np.log1p(np.maximum(0.5 * (np.expm1(high) + np.expm1(rest)), -0.5))
        far = np.logaddexp(high, rest) - math.log(2.0)
        transform: np.ndarray = m * np.where(near > math.log(0.6), near, far)
        return transform

    mean, variance = log_moments(log_laplace)
    log_scale = math.log(m * mean_square)
    return LogNorm(
        log_scale + float(mean) - chi.mean,
        max(float(variance) - chi.variance, 0.0),
        0.5 * log_scale + math.log(half_moment(log_laplace)) - chi.log_half,
    )


def scaled(x: LogNorm, s: float) -> LogNorm:
    """Return the moments of s^2 Y.

    Args:
        x: Moments of Y.
        s: Positive factor of the norm.

    Returns:
        The same variance around another mean.
    """
    return LogNorm(
        x.mean + 2.0 * math.log(s),
        x.variance,
        x.log_half + math.log(s),
        x.exact,
        x.stderr,
    )


def _weighted_squares(
    values: np.ndarray, counts: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E log, Var log and log E sqrt of sum counts_i values_i u_i^2; values (num, k)."""
    total = values @ counts

    def log_laplace(t: np.ndarray) -> np.ndarray:
        shares = values / total[:, None]
        logs = np.log1p(2.0 * t[:, None] * shares[:, None, :])
        transform: np.ndarray = -0.5 * (logs @ counts)
        return transform

    mean, variance = log_moments(log_laplace)
    chi = _chi_square(n)
    log_half = 0.5 * np.log(total) + np.log(half_moment(log_laplace))
    return (
        np.log(total) + mean - chi.mean,
        np.maximum(variance - chi.variance, 0.0),
        log_half - chi.log_half,
    )


def _chi_square(k: int) -> LogNorm:
    """Moments of chi^2_k."""
    return LogNorm(
        math.log(2.0) + float(psi(0.5 * k)),
        float(polygamma(1, 0.5 * k)),
        0.5 * math.log(2.0) + float(_log_root(np.array([float(k)]))[0]),
    )


def _log_root(k: np.ndarray) -> np.ndarray:
    """Log of Gamma((k+1)/2) / Gamma(k/2)."""
    x = 0.5 * k
    # gammaln loses the difference of two numbers near k log k; half of log k with its
    # series is exact there.
    series = 0.5 * np.log(x) - 1.0 / (8.0 * x) + 1.0 / (192.0 * x**3)
    series = series - 1.0 / (640.0 * x**5) + 17.0 / (14336.0 * x**7)
    ratio: np.ndarray = np.where(x > 20.0, series, gammaln(x + 0.5) - gammaln(x))
    return ratio


def _beta_share(N: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E log, Var log and log E sqrt of Beta(N/2, (m-N)/2); 0 at N = m."""
    top = np.array([float(m)])
    mean = psi(0.5 * N) - psi(0.5 * top)
    variance = polygamma(1, 0.5 * N) - polygamma(1, 0.5 * top)
    return mean, variance, _log_root(N) - _log_root(top)


def _relu_mask(m: int) -> LogNorm:
    N = np.arange(1.0, m + 1.0)
    log_binomial = gammaln(m + 1.0) - gammaln(N + 1.0) - gammaln(m - N + 1.0)
    weights = np.exp(log_binomial - log_binomial.max())
    weights /= weights.sum()
    mean, variance, log_half = _beta_share(N, m)
    centre = float(weights @ mean)
    spread = float(weights @ (mean - centre) ** 2)
    alive = -math.expm1(-m * math.log(2.0))
    return LogNorm(
        centre,
        float(weights @ variance) + spread,
        math.log(float(weights @ np.exp(log_half))) + math.log(alive),
    )


def _averaged(drawn: np.ndarray, n: int) -> LogNorm:
    """Log-norm moments over random squares (num, p) by the law of total variance."""
    one = np.ones(drawn.shape[1])
    parts = np.array_split(drawn, math.ceil(drawn.size / _BATCH))
    given = [_weighted_squares(part, one, n) for part in parts]
    means, variances, log_halves = (np.concatenate(x) for x in zip(*given, strict=True))
    mean = float(means.mean())
    spreads = variances + (means - mean) ** 2
    roots = np.exp(log_halves)
    root = float(roots.mean())
    scale = 1.0 / math.sqrt(len(means))
    return LogNorm(
        mean,
        float(spreads.mean()),
        math.log(root),
        stderr=(
            scale * float(means.std(ddof=1)),
            scale * float(spreads.std(ddof=1)),
            scale * float(roots.std(ddof=1)) / root,
        ),
    )


def _outlier(r: float, m: int, n: int) -> LogNorm:
    """W = u v^T + H, H Gaussian between the complements with ||H||_F^2 = r - 1."""
    # Y = B + (r - 1)(1 - B) C, B = (v.x)^2 ~ Beta(1/2, (n-1)/2) and, independent,
    # C = |H e|^2/||H||_F^2 ~ Beta((m-1)/2, (m-1)(n-2)/2); C = 1 for n = 2.
    if r == 1.0:
        return sphere_log_norm(np.array([1.0]), n)
    B, rest, weights_B = beta_grid(0.5, 0.5 * (n - 1))
    C, weights_C = np.ones(1), np.ones(1)
    if n > 2:
        C, _, weights_C = beta_grid(0.5 * (m - 1), 0.5 * (m - 1) * (n - 2))
    Y = B[:, None] + (r - 1.0) * rest[:, None] * C
    logs = np.log(Y)
    mean = float(weights_B @ logs @ weights_C)
    variance = float(weights_B @ (logs - mean) ** 2 @ weights_C)
    half = float(weights_B @ np.sqrt(Y) @ weights_C)
    return LogNorm(mean, variance, math.log(half))
