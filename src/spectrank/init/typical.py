r"""Scale at which the *typical* signal is kept: the mean of its logarithm.

With the mean norm kept, the typical network of a deep stack loses its signal: E log of
a product of fluctuating factors is below the log of its mean. Here s_1 is such that

    E log(|h|^2 / m) = log(|x|^2 / n)

per layer, h = phi(W x) with phi relu (given that some unit is active) or linear. For
W = U diag(s) V^T with Haar factors, |W x|^2 / |x|^2 is sum t_i v_i^2 with v uniform on
the sphere of R^n, t = s^2, and the direction of W x is uniform in R^m, so

    E log = E log Q - psi(n/2) - log 2,   Q = sum t_i g_i^2, g standard normal,
    relu adds E psi(N/2) - psi(m/2),      N ~ Binomial(m, 1/2) given N >= 1.

    E log Q = int (e^(-t) - prod (1 + 2 t t_i)^(-1/2)) dt / t, over t > 0.

For r equal values this is psi(r/2) - psi(n/2), S1's digamma form. Random spectra but
the Gaussian take the leading order, log(a1/n) - (1/rho - 1/n).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma, gammaln

from spectrank.errors import DomainError
from spectrank.linalg.ensembles.assembly import FixedLaw
from spectrank.linalg.ensembles.ensemble import Ensemble

LEAST_RATIO = 10.0
"""Participation ratio up to which the leading order is refused."""

# t = e^u: the integrand falls like e^u on the left, at least like e^(-u/2) on the
# right, and is analytic in a strip of half-width pi/2, where the trapezoid rule at
# this step is exact to rounding.
_NODES = np.arange(-40.0, 90.0, 0.25)


def typical_spectral_norm(e: Ensemble, *, relu: bool) -> float:
    r"""Spectral norm at which :math:`E \log(|h|^2/m) = \log(|x|^2/n)`.

    Exact for ``flat``, ``spike``, ``power``, ``exp``, ``orthogonal``, a profile and
    ``gaussian``; leading order in 1 / rho for ``mp-spike``, ``slice`` and ``temper``.
    Flat spectra of a whole stable rank r and relu: :math:`\log s^2 = \log(m/n) +
    \psi(n/2) - \psi(r/2) + \psi(m/2) - E\,\psi(N/2)`.
    Source (derived): tests/init/test_init_typical.py.

    Args:
        e: The ensemble, normalised to a largest singular value of one.
        relu: Whether relu follows; else nothing does.

    Returns:
        The spectral norm; for ``gaussian`` the factor of the ensemble.

    Raises:
        DomainError: If only the leading order is known and rho is at most 10, where
            it is off by several percent a layer.
    """  # noqa: DOC502 - raised where it is computed
    log_gain = _log_gain(e) + (_relu_log_gain(e.m) if relu else 0.0)
    return math.exp(0.5 * (math.log(e.m / e.n) - log_gain))


def _log_gain(e: Ensemble) -> float:
    """E log(|W x|^2 / |x|^2) at s_1 = 1."""
    if e.spectrum == "gaussian":
        variance = e.moments.a1 / (e.m * e.n)
        return math.log(2.0 * variance) + float(digamma(e.m / 2))
    if isinstance(e.law, FixedLaw):
        t = np.array([x for x in e.law.squares if x > 0.0])
        if len(t) == e.n and float(t[-1]) == 1.0:
            return 0.0
        return mean_log_form(t) - math.log(2.0) - float(digamma(e.n / 2))
    rho = e.participation_ratio
    if rho <= LEAST_RATIO:
        raise DomainError(
            f"gain='typical' is known to leading order only for {e.spectrum!r}, from a "
            f"participation ratio above {LEAST_RATIO:g} on, got {rho:.3g} at "
            f"{e.m} x {e.n}; spectrum='flat', 'spike', 'power' and 'exp' are exact"
        )
    return math.log(e.law.a1 / e.n) - (1.0 / rho - 1.0 / e.n)


def mean_log_form(t: np.ndarray) -> float:
    r"""Mean of the logarithm of a quadratic form, :math:`E \log \sum t_i g_i^2`.

    psi(k/2) + log 2 for k ones. Exact to about 1e-13.
    Source (derived): tests/init/test_init_typical.py.

    Args:
        t: (k,) positive weights, of which the largest is of order one.

    Returns:
        The mean.
    """
    values = np.exp(_NODES)
    logs = np.zeros_like(_NODES)
    for weight in t:
        logs += np.log1p(2.0 * weight * values)
    integrand = np.exp(-values) - np.exp(-0.5 * logs)
    return float(integrand.sum() * (_NODES[1] - _NODES[0]))


def _relu_log_gain(m: int) -> float:
    """E log(|relu(z)|^2 / |z|^2) of a uniform direction in R^m, given it is not 0."""
    N = np.arange(1, m + 1)
    logs = gammaln(m + 1) - gammaln(N + 1) - gammaln(m - N + 1) - m * math.log(2.0)
    weights = np.exp(logs)
    mean = float((weights * digamma(N / 2)).sum() / weights.sum())
    return mean - float(digamma(m / 2))
