r"""Angles and Jacobian spectra: exact annealed recursions and their limits.

n            inputs of a layer
alpha, beta  E M_ij M_kl = alpha d_ij d_kl + beta (d_ik d_jl + d_il d_jk), M = W^T W
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spectrank.errors import DomainError
from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.ensembles.requests import check_number
from spectrank.linalg.haar import haar_moments
from spectrank.linalg.layer_moments.one_layer import mask_variance, mean_gain
from spectrank.linalg.layer_moments.relative import relative_law


def kappa(law: LayerLaw) -> float:
    r"""Random rotation of a layer, :math:`\kappa = \beta/\alpha \approx 1/\rho - 1/n`.

    Zero for an orthogonal layer with at most as many inputs as outputs. Dimensionless.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        law: Of one layer.

    Returns:
        kappa, in [0, 1].
    """
    # Only the ratio matters: at a1 = 1 no square leaves float64's range.
    own = relative_law(law)
    alpha, beta = haar_moments(law.n, own.a1_squared, own.a2)
    return max(beta, 0.0) / alpha if beta > 0.0 else 0.0


def collapse_depth(law: LayerLaw) -> float:
    r"""Layers of this law after which linear maps have aligned all inputs.

    :math:`1/(3\kappa)`, for rho << n about rho/3; inf for an orthogonal layer.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        law: Of one layer.

    Returns:
        Number of layers, a scale and not a threshold.
    """
    k = kappa(law)
    # Rounding of a2 of an orthogonal layer must not make a depth of 1e16 of inf.
    return math.inf if k < 1e-15 else 1.0 / (3.0 * k)


def squared_cosine(layers: Sequence[LayerLaw], cosine: float) -> list[float]:
    r"""Annealed squared cosine :math:`q_l = E(u.v)^2/E|u|^2|v|^2` of linear maps.

    :math:`q' = ((\alpha+\beta) q + \beta)/(\alpha + 2\beta q)`, exact at every width; 1
    is its fixed point. The ratio of two means, not the mean of the ratio.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        layers: Laws, first layer first.
        cosine: Of the two inputs.

    Returns:
        For the outputs of layers 1..L.

    Raises:
        DomainError: If the cosine lies outside [-1, 1].
    """  # noqa: DOC502 - raised by the check
    q = check_cosine(cosine) ** 2
    values = []
    for law in layers:
        k = kappa(law)
        q = ((1.0 + k) * q + k) / (1.0 + 2.0 * k * q)
        values.append(min(q, 1.0))
    return values


def cosine_map(cosine: float, slope: float) -> float:
    r"""Mean-field cosine after one layer, Gaussian pre-activations.

    :math:`(2 s c + (1-s)^2 k_1(c))/(1+s^2)` for slope s,
    :math:`k_1(c) = (\sqrt{1-c^2} + c(\pi - \arccos c))/\pi`: the arc-cosine map for
    relu, the identity for linear. Stable ranks do not enter; they add a random part.
    Source (derived): tests/propagation/theory/test_theory_mean_field.py.

    Args:
        cosine: Of the two pre-activations, in [-1, 1].
        slope: 0 for relu, 1 for linear.

    Returns:
        Cosine of the two activations.
    """
    c = min(max(cosine, -1.0), 1.0)
    k1 = (math.sqrt(1.0 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    value = (2.0 * slope * c + (1.0 - slope) ** 2 * k1) / (1.0 + slope**2)
    return min(max(value, -1.0), 1.0)


def jacobian_variance_limit(layers: Sequence[LayerLaw], slope: float) -> float:
    r"""Normalised variance of the eigenvalues of :math:`JJ^T`, J = df/dx, in the limit.

    Width to infinity at fixed n/rho, all widths equal:
    :math:`\sum_l (n/\rho_l - 1) + (L - 1) v`, v = 1 for relu, 0 for linear; so
    L n/rho - 1 for relu.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        layers: Laws of square layers of one width.
        slope: 0 for relu, 1 for linear.

    Returns:
        The variance over the squared mean.

    Raises:
        DomainError: If widths differ.
    """
    widths = {law.n for law in layers} | {law.m for law in layers}
    if len(widths) > 1:
        raise DomainError(
            "the limit is one of equal widths, got layers of "
            f"{len(widths)} different sizes; jacobian_log_spread is exact for any"
        )
    spread = sum(law.n / law.participation_ratio - 1.0 for law in layers)
    return spread + (len(layers) - 1) * mask_variance(slope)


def jacobian_log_spread(layers: Sequence[LayerLaw], slope: float) -> float:
    r"""Annealed spread of the eigenvalues of :math:`JJ^T`, J = df/dx, exact.

    :math:`n_L E \operatorname{tr}(JJ^T)^2/(E \operatorname{tr} JJ^T)^2 - 1` over n_L
    eigenvalues, by the recursion of E (tr X)^2 and E tr X^2 through X -> W X W^T and
    through masks. A ratio of means: a wide network's own variance is near it.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        layers: Laws, first layer first.
        slope: 0 for relu, 1 for linear.

    Returns:
        log of one plus the variance over the squared mean.
    """
    n = layers[0].n
    # T1 = E (tr X)^2, T2 = E tr X^2, mean = E tr X of X = J J^T, scaled at every step.
    T1, T2, mean = float(n * n), float(n), float(n)
    log_ratio = 0.0
    for i, law in enumerate(layers):
        own = relative_law(law)
        alpha, beta = haar_moments(law.n, own.a1_squared, own.a2)
        T1, T2 = alpha * T1 + 2.0 * beta * T2, (alpha + beta) * T2 + beta * T1
        mean /= law.n
        if i < len(layers) - 1:
            T1, T2 = _masked(T1, T2, law.m, slope)
            mean *= mean_gain(slope)
        log_ratio += math.log(T1) - 2.0 * math.log(mean)
        T2, T1, mean = T2 / T1, 1.0, 1.0
    return math.log(layers[-1].m) + math.log(T2) + log_ratio


def _masked(T1: float, T2: float, m: int, slope: float) -> tuple[float, float]:
    """Map E (tr Y)^2 and E tr Y^2 to those of D Y D, D^2 of independent entries."""
    diagonal = T1
    if m > 1:
        b = (m * T2 - T1) / (m * (m - 1.0) * (m + 2.0))
        diagonal = m * ((T1 - 2.0 * m * b) / m**2 + 2.0 * b)
    g = mean_gain(slope)
    v = mask_variance(slope) * g**2
    return g * g * T1 + v * diagonal, g * g * T2 + v * diagonal


def check_cosine(cosine: object) -> float:
    """Refuse what is no cosine.

    Args:
        cosine: Of two inputs.

    Returns:
        The same.

    Raises:
        ArgumentTypeError: If it is no number.
        DomainError: If it lies outside [-1, 1].
    """  # noqa: DOC502 - the first is raised by the function called
    way_out = "pass x.y / (|x| |y|), or a list of numbers"
    value = check_number("a cosine", cosine, way_out)
    if not -1.0 <= value <= 1.0:
        raise DomainError(
            f"a cosine lies in [-1, 1], got {cosine}; pass x.y / (|x| |y|)"
        )
    return value
