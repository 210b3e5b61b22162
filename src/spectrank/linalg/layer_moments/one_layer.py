r"""Moments of one layer, exact for every bi-orthogonally invariant law of W.

m, n         outputs, inputs of W (exchanged for W^T)
a1           E sum s^2
a1_squared   E (sum s^2)^2
a2           E sum s^4
slope        of the activation on the negative side: 0 relu, 1 linear
"""

from __future__ import annotations

from spectrank.linalg.haar import haar_moments


def norm_moments(
    n: int, a1: float, a1_squared: float, a2: float
) -> tuple[float, float]:
    r"""Mean and relative second moment of :math:`|Wx|^2 / |x|^2`.

    :math:`E|Wx|^2 = a_1/n` and
    :math:`E|Wx|^4/(E|Wx|^2)^2 = \frac{E a_1^2 + 2 E a_2}{(E a_1)^2} \frac{n}{n+2}`, at
    fixed a1 one plus :math:`2(n/\rho - 1)/(n+2)`. For :math:`|W^T v|^2` pass m for n.
    Dimensionless; the second at least 1.
    Source (derived): tests/propagation/theory/test_theory_monte_carlo.py.

    Args:
        n: Number of inputs.
        a1: Positive.
        a1_squared: At least a1^2.
        a2: In [a1_squared / n, a1_squared].

    Returns:
        E|Wx|^2 and E|Wx|^4/(E|Wx|^2)^2 at |x| = 1.
    """
    # Ratios first: a1 of a wide layer squared twice may leave float64's range.
    random = a1_squared / a1 / a1
    second = (random + 2.0 * (a2 / a1 / a1)) * n / (n + 2.0)
    return a1 / n, max(second, 1.0)


def gram_moments(
    n: int, cosine: float, a1: float, a1_squared: float, a2: float
) -> tuple[float, float]:
    r"""Mean and variance of :math:`Wx \cdot Wy` for unit x, y with x.y = c.

    :math:`E = c\,a_1/n`; the variance is
    :math:`\alpha c^2 + \beta(1 + c^2) - c^2 (E a_1)^2/n^2` with the alpha, beta of
    `haar_moments`, at fixed a1 :math:`\beta(1 + c^2(1 - 2/n))`.
    Source (derived): tests/propagation/theory/test_theory_monte_carlo.py.

    Args:
        n: Number of inputs.
        cosine: c, in [-1, 1].
        a1: Mean.
        a1_squared: Mean square, not the squared mean.
        a2: Mean.

    Returns:
        Mean and variance.
    """
    alpha, beta = haar_moments(n, a1_squared, a2)
    mean = cosine * a1 / n
    raw = alpha * cosine**2 + beta * (1.0 + cosine**2)
    return mean, max(raw - mean**2, 0.0)


def mask_moments(m: int, slope: float) -> tuple[float, float]:
    r"""Mean and relative second moment of :math:`|\phi(z)|^2 / |z|^2`.

    phi(z) = max(z, slope z) on m entries of a z of uniform direction:
    g = (1 + slope^2)/2 and :math:`1 + 3v/(m + 2)`, v = ((1 - slope^2)/(1 + slope^2))^2
    the relative variance of phi'^2; (m + 5)/(m + 2) for relu, 1 for linear.
    Source (derived): tests/propagation/theory/test_theory_monte_carlo.py.

    Args:
        m: Number of neurons.
        slope: In [0, 1].

    Returns:
        g and the relative second moment, at least 1.
    """
    return mean_gain(slope), 1.0 + 3.0 * mask_variance(slope) / (m + 2.0)


def mean_gain(slope: float) -> float:
    """Return g = E phi(z)^2 / E z^2 = (1 + slope^2) / 2 for any symmetric z.

    Args:
        slope: On the negative side.

    Returns:
        1/2 for relu, 1 for linear.
    """
    return 0.5 * (1.0 + slope**2)


def mask_variance(slope: float) -> float:
    """Return the relative variance of phi'^2, ((1 - slope^2) / (1 + slope^2))^2.

    Args:
        slope: On the negative side.

    Returns:
        1 for relu, 0 for linear.
    """
    return ((1.0 - slope**2) / (1.0 + slope**2)) ** 2


def layer_second_moment(
    m: int, n: int, a1: float, a1_squared: float, a2: float, *, slope: float
) -> float:
    r"""Relative second moment F of a layer with its activation.

    :math:`F = \frac{E a_1^2 + 2 E a_2}{(E a_1)^2} \frac{n}{n+2} \frac{m+5}{m+2}` for
    relu; a square Gaussian layer has exactly (m + 5)/m, a square orthogonal one
    1 + 3/(m + 2).
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        m: Number of outputs.
        n: Number of inputs.
        a1: Mean.
        a1_squared: Mean square.
        a2: Mean.
        slope: 0 for relu, 1 for linear.

    Returns:
        F, at least 1.
    """
    return norm_moments(n, a1, a1_squared, a2)[1] * mask_moments(m, slope)[1]
