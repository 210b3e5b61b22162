r"""Products along depth: every layer is an independent factor.

|h_l|^2/|x|^2 = prod Y_k with independent Y_k, because z_k has a uniform direction
whatever came before; signs of a z_k that is not zero are independent coins for the same
reason, so gradients and Jacobian-vector products obey such products too. All in
logarithms: a thousand layers are no overflow.

``pre`` at l is of z_l, ``post`` of h_l; in the lists entry l - 1 belongs to layer l.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import final

from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.layer_moments.log_norms import (
    ONE,
    LogNorm,
    layer_log_norm,
    mask_log_norm,
)
from spectrank.linalg.layer_moments.one_layer import (
    mask_moments,
    mask_variance,
    norm_moments,
)
from spectrank.linalg.layer_moments.relative import relative_law


@final
@dataclass(frozen=True)
class Moments:
    """First two moments of a squared norm, relative to the squared norm it came from.

    Attributes:
        log_gain: log E Y.
        log_second: log of E Y^2 / (E Y)^2, at least 0.
    """

    log_gain: float
    log_second: float

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of a product of independent factors."""
        return Moments(
            self.log_gain + other.log_gain, self.log_second + other.log_second
        )


_NOTHING = Moments(0.0, 0.0)


def linear_factor(law: LayerLaw, *, transposed: bool = False) -> Moments:
    r"""Moments of :math:`|Wx|^2/|x|^2`, or of :math:`|W^T v|^2/|v|^2`.

    Source (derived): tests/propagation/theory/test_theory_monte_carlo.py.

    Args:
        law: Of W.
        transposed: Whether W^T is meant.

    Returns:
        Logarithms.
    """
    n = law.m if transposed else law.n
    own = relative_law(law)
    gain, second = norm_moments(n, 1.0, own.a1_squared, own.a2)
    return Moments(own.log_a1 + math.log(gain), math.log(second))


def mask_factor(m: int, slope: float) -> Moments:
    """Moments of |phi(z)|^2 / |z|^2 for m neurons.

    Args:
        m: Number of neurons.
        slope: 0 for relu, 1 for linear.

    Returns:
        Logarithms.
    """
    g, second = mask_moments(m, slope)
    return Moments(math.log(g), math.log(second))


def signal_moments(
    layers: Sequence[LayerLaw], slope: float
) -> tuple[list[Moments], list[Moments]]:
    r"""Moments of the signal at every depth, exact.

    :math:`E|h_l|^2 = |x|^2 \prod g a_{1,k}/n_{k-1}`, second moments
    :math:`\prod F_k`; with spectral norms held, linear in every stable rank.
    Source (derived): tests/propagation/theory/test_theory_monte_carlo.py.

    Args:
        layers: Laws, first layer first.
        slope: 0 for relu, 1 for linear.

    Returns:
        Of h_l and of z_l, l = 1..L, each relative to |x|^2; the last of the first list
        is a stack whose last layer has its activation too.
    """
    linear = [linear_factor(law) for law in layers]
    masks = [mask_factor(law.m, slope) for law in layers]
    post = _products([a + b for a, b in zip(linear, masks, strict=True)])
    pre = [a + b for a, b in zip([_NOTHING, *post], linear, strict=False)]
    return post, pre


def gradient_moments(layers: Sequence[LayerLaw], slope: float) -> list[Moments]:
    r"""Moments of :math:`|J_l^T v|^2/|v|^2`, J_l = d f/d h_{l-1}, exact.

    The sizes of every layer change roles and masks sit on n_l..n_{L-1}:
    :math:`\prod_{k \ge l} a_{1,k}/n_k\, g^{L-l}`. Not the forward law unless all widths
    are equal. Under relu, whose slope at 0 is 0, the masks of l < L are dead wherever
    h_{l-1} = 0: gains times P(h_{l-1} != 0) = prod_{j<l} (1 - 2^(-n_j)).
    Source (derived): tests/propagation/theory/test_theory_monte_carlo.py.

    Args:
        layers: Laws, first layer first.
        slope: 0 for relu, 1 for linear.

    Returns:
        For l = 1..L.
    """
    factors = [linear_factor(law, transposed=True) for law in layers]
    hidden = [mask_factor(law.m, slope) for law in layers[:-1]]
    inner = [a + b for a, b in zip(factors, hidden, strict=False)]
    given_alive = _products([factors[-1], *reversed(inner)])[::-1]
    logs = [-math.inf if slope else -law.m * math.log(2.0) for law in layers[:-2]]
    alive = accumulate((math.log1p(-math.exp(x)) for x in logs), initial=0.0)
    # A coin of chance p takes the mean times p, the relative second moment over p.
    coins = [*(Moments(x, -x) for x in alive), _NOTHING]
    return [a + b for a, b in zip(given_alive, coins[-len(layers) :], strict=True)]


def signal_logs(
    layers: Sequence[LayerLaw], slope: float
) -> tuple[list[LogNorm], list[LogNorm]]:
    """Log-norm and root moments of the signal at every depth.

    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        layers: Laws, first layer first.
        slope: 0 for relu, 1 for linear.

    Returns:
        Of h_l and of z_l, l = 1..L, as in `signal_moments`.
    """
    linear = _each([(law, False) for law in layers])
    masks = [mask_log_norm(law.m, slope) for law in layers]
    post = _log_products([a + b for a, b in zip(linear, masks, strict=True)])
    pre = [a + b for a, b in zip([ONE, *post], linear, strict=False)]
    return post, pre


def gradient_logs(layers: Sequence[LayerLaw], slope: float) -> list[LogNorm]:
    """Log-norm and root moments of |J_l^T v|^2 / |v|^2, as in `gradient_moments`.

    Source (derived): tests/linalg/layer_moments/test_log_norms.py.

    Args:
        layers: Laws, first layer first.
        slope: 0 for relu, 1 for linear.

    Returns:
        For l = 1..L.
    """
    factors = _each([(law, True) for law in layers])
    hidden = [mask_log_norm(law.m, slope) for law in layers[:-1]]
    inner = [a + b for a, b in zip(factors, hidden, strict=False)]
    return _log_products([factors[-1], *reversed(inner)])[::-1]


def betas(layers: Sequence[LayerLaw], slope: float) -> tuple[list[float], list[float]]:
    r"""Leading order of the log second moments, forward and backward.

    Forward: :math:`\sum_{k \le l} (2/\rho_k - 2/n_{k-1} + 3/n_k)`, without
    :math:`3/n_L`, as f = z_L; backward:
    :math:`\sum_{k \ge l} (2/\rho_k - 2/n_k) + \sum_{l \le k < L} 3/n_k`. The terms in 3
    times the relative variance of phi'^2: 1 for relu, 0 for linear.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        layers: Laws, first layer first.
        slope: 0 for relu, 1 for linear.

    Returns:
        Two lists over l = 1..L.
    """
    spread = [2.0 / law.participation_ratio for law in layers]
    masks = [3.0 * mask_variance(slope) / law.m for law in layers]
    masks[-1] = 0.0
    forward = [
        a - 2.0 / law.n + b for a, b, law in zip(spread, masks, layers, strict=True)
    ]
    backward = [
        a - 2.0 / law.m + b for a, b, law in zip(spread, masks, layers, strict=True)
    ]
    return list(accumulate(forward)), list(accumulate(backward[::-1]))[::-1]


def _each(requests: Sequence[tuple[LayerLaw, bool]]) -> list[LogNorm]:
    """Log-norm moments of every layer; equal layers are worked out once."""
    known: dict[tuple[LayerLaw, bool], LogNorm] = {}
    for law, transposed in requests:
        if (law, transposed) not in known:
            known[law, transposed] = layer_log_norm(law, transposed=transposed)
    return [known[request] for request in requests]


def _products(factors: Sequence[Moments]) -> list[Moments]:
    return list(accumulate(factors, lambda a, b: a + b))


def _log_products(factors: Sequence[LogNorm]) -> list[LogNorm]:
    return list(accumulate(factors, lambda a, b: a + b))
