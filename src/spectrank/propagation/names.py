r"""Names of everything told about signal in a deep network, predicted or measured.

One row is one (subject, metric, variant, index): ``subject`` is a weight's name or
``network``, ``index`` the number l of its layer, 1 to L. W_l is (n_l, n_{l-1}),
z_l = W_l h_{l-1}, h_l = phi(z_l) for l < L, the output f = z_L carries no activation,
biases are zero. ``post`` rows tell of h_l and end at L - 1, ``pre`` rows of z_l. E is
the mean over random networks of one law. ``g`` is E phi(z)^2 / E z^2 (1/2 for relu, 1
for linear); a1 = sum s^2, a2 = sum s^4 over a layer's singular values, rho = a1^2 / a2,
m = n_l, n = n_{l-1}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import polars as pl

NETWORK = "network"
"""Subject of the rows of a whole network."""

COLUMNS: Mapping[str, Any] = MappingProxyType(
    {
        "m": pl.Int64,
        "n": pl.Int64,
        "standard_error": pl.Float64,
        "num_samples": pl.Int64,
        "log_value": pl.Float64,
        "input_cosine": pl.Float64,
    }
)
"""Producer columns that prediction and measurement share.

``log_value`` is the natural logarithm of a positive value, there also where the value
itself leaves the range of float64; ``input_cosine`` tells apart the rows of several
pairs of inputs.
"""

_SIGNAL = ("post", "pre")
_NORMS = "tests/propagation/theory/test_theory_monte_carlo.py"
_S1 = "Source (derived): "


@final
@dataclass(frozen=True)
class Name:
    """What one metric means.

    Attributes:
        name: As in the column ``metric``.
        variants: As in the column ``variant``; empty where there is none.
        formula: Definition; for theory also the exact law where there is one.
        unit: Of the value; ``1`` for a ratio.
        range: Of the value.
        source: Who states it, or the test that proves it.
        scope: ``layer`` (one row a layer), ``network``, or ``both``.
    """

    name: str
    variants: tuple[str | None, ...]
    formula: str
    unit: str
    range: tuple[float, float]
    source: str
    scope: str = "layer"


_inf = float("inf")
_ALL = (
    Name(
        "signal_gain",
        _SIGNAL,
        "E|h_l|^2/|x|^2 = prod_{k<=l} g a1_k/n_{k-1}; pre: E|z_l|^2/|x|^2, without the "
        "last g",
        "gain (squared norm out per squared norm in)",
        (0.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "signal_gain_per_neuron",
        _SIGNAL,
        "signal_gain * n_0/n_l",
        "gain (mean square out per mean square in)",
        (0.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "signal_second_moment",
        _SIGNAL,
        "E|h_l|^4/(E|h_l|^2)^2 = prod_{k<=l} F_k, "
        "F = (E a1^2 + 2 E a2)/(E a1)^2 n/(n+2) (m+5)/(m+2); (m+5)/(m+2) only under a "
        "relu, so not on the last factor of pre",
        "1",
        (1.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "log_signal_mean",
        _SIGNAL,
        "E log(|h_l|^2/|x|^2) given h_l != 0; pre: of z_l given z_l != 0",
        "nats",
        (-_inf, _inf),
        _S1 + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "log_signal_variance",
        _SIGNAL,
        "Var log(|h_l|^2/|x|^2) given h_l != 0; pre: of z_l given z_l != 0",
        "nats^2",
        (0.0, _inf),
        _S1 + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "layer_relative_variance",
        _SIGNAL,
        "F_l - 1, the variance of |h_l|^2/|h_{l-1}|^2 over its squared mean; pre: of "
        "|z_l|^2/|h_{l-1}|^2",
        "1",
        (0.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "beta",
        ("forward", "backward"),
        "sum_{k<=l} (2/rho_k - 2/n_{k-1} + 3/n_k), without 3/n_L; backward: "
        "sum_{k>=l} (2/rho_k - 2/n_k) + sum_{l<=k<L} 3/n_k; the terms in 3 only under "
        "a relu. Leading order of log second moments",
        "1",
        (0.0, _inf),
        _S1 + "tests/propagation/theory/test_theory_golden.py",
    ),
    Name(
        "gradient_gain",
        (),
        "E|J_l^T v|^2/|v|^2 = prod_{k>=l} a1_k/n_k * g^(L-l), J_l = d f/d h_{l-1}, v "
        "fixed at the output",
        "gain (squared norm per squared norm)",
        (0.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "gradient_second_moment",
        (),
        "E|J_l^T v|^4/(E|J_l^T v|^2)^2 = prod_{k>=l} (E a1^2 + 2 E a2)/(E a1)^2 "
        "n_k/(n_k+2) * prod_{l<=k<L} (n_k+5)/(n_k+2)",
        "1",
        (1.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "log_gradient_mean",
        (),
        "E log(|J_l^T v|^2/|v|^2) given J_l^T v != 0, J_l = d f/d h_{l-1}, v fixed at "
        "the output",
        "nats",
        (-_inf, _inf),
        _S1 + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "log_gradient_variance",
        (),
        "Var log(|J_l^T v|^2/|v|^2) given J_l^T v != 0, J_l = d f/d h_{l-1}, v fixed "
        "at the output",
        "nats^2",
        (0.0, _inf),
        _S1 + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "jacobian_gain",
        (),
        "E|J u|^2/|u|^2, J = d z_l/d x, u a fixed direction at the input; the law of "
        "signal_gain, pre, where phi is positively homogeneous",
        "gain (squared norm per squared norm)",
        (0.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "jacobian_second_moment",
        (),
        "E|J u|^4/(E|J u|^2)^2, J = d z_l/d x, u a fixed direction at the input",
        "1",
        (1.0, _inf),
        _S1 + _NORMS,
    ),
    Name(
        "jacobian_eigenvalue_variance",
        ("limit", "annealed"),
        "variance of the n_L eigenvalues of J J^T over their squared mean, J = df/dx. "
        "limit: sum_l (n/rho_l - 1) + (L-1) under relu, equal widths to infinity. "
        "annealed: n_L E tr (J J^T)^2/(E tr J J^T)^2 - 1, exact at every width",
        "1",
        (0.0, _inf),
        _S1 + "tests/propagation/theory/test_theory_golden.py",
        "network",
    ),
    Name(
        "cosine",
        ("mean-field", *_SIGNAL),
        "cosine of h_l(x) and h_l(y); pre: of z_l(x) and z_l(y). mean-field: of h_l "
        "for l < L and of the outputs at l = L, "
        "c' = E phi(u)phi(v)/E phi(u)^2 of Gaussian pairs, for relu the arc-cosine map "
        "(sqrt(1-c^2) + c (pi - arccos c))/pi",
        "1",
        (-1.0, 1.0),
        _S1 + "tests/propagation/theory/test_theory_mean_field.py",
    ),
    Name(
        "squared_cosine",
        ("annealed",),
        "E(u.v)^2/E|u|^2|v|^2 of z_l(x), z_l(y), linear networks: "
        "q' = ((alpha+beta) q + beta)/(alpha + 2 beta q)",
        "1",
        (0.0, 1.0),
        _S1 + "tests/propagation/theory/test_theory_golden.py",
    ),
    Name(
        "collapse_depth",
        (),
        "1/(3 kappa), kappa = beta/alpha ~ 1/rho - 1/n of E M_ij M_kl, M = W^T W: "
        "layers of this law after which a linear network has lost the angles",
        "layers",
        (0.0, _inf),
        _S1 + "tests/propagation/theory/test_theory_golden.py",
    ),
    Name(
        "length_gain",
        _SIGNAL,
        "E length of a curve's image under x -> h_l over the curve's length "
        "= prod_{k<=l} E[Y_k^(1/2)], Y_k = |h_k|^2/|h_{k-1}|^2 for relu and linear; "
        "pre: under x -> z_l",
        "gain (length per length)",
        (0.0, _inf),
        _S1 + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "new_kinks",
        (None, "count"),
        "expected sign changes of z_l along a curve where h_{l-1} != 0, l < L, "
        "n_l prod_{j<l} (1 - (n_j+1) 2^(-n_j)) for relu; the network's row is the sum",
        "kinks per unit of (angular length of the input curve / pi); count: kinks",
        (0.0, _inf),
        _S1 + "tests/propagation/theory/test_theory_golden.py",
        "both",
    ),
    Name(
        "pattern_changes",
        (None, "count"),
        "expected changes of the pattern z_l > 0 along a curve, l < L, "
        "n_l prod_{j<l} (1 - 2^(-n_j)) for relu; the network's row is the sum",
        "changes per unit of (angular length of the curve / pi); count: changes",
        (0.0, _inf),
        _S1 + "tests/propagation/theory/test_theory_golden.py",
        "both",
    ),
    Name(
        "linear_pieces",
        ("output", "pattern"),
        "affine pieces of the output along a curve; pattern: affine intervals of all "
        "steps",
        "pieces",
        (1.0, _inf),
        _S1 + "tests/propagation/pieces/test_pieces_exact.py",
        "network",
    ),
    Name(
        "affinity_defect",
        (),
        "max |f(middle) - mean of the ends| over intervals, relative to the largest "
        "|f|",
        "1",
        (0.0, _inf),
        _S1 + "tests/propagation/pieces/test_pieces_exact.py",
        "network",
    ),
    Name(
        "preactivation_variance",
        ("mean-field",),
        "q_l = E z_l,i^2: q_1 = sigma_w^2 q_0, q_{l+1} = sigma_w^2 "
        "E phi(sqrt(q_l) Z)^2, sigma_w^2 = ||W||_F^2/m, q_0 = |x|^2/n_0",
        "squared units of the input",
        (0.0, _inf),
        _S1 + "tests/propagation/theory/test_theory_mean_field.py",
    ),
    Name(
        "chi_1",
        ("mean-field",),
        "sigma_w^2 E phi'(sqrt(q_l) Z)^2, sigma_w^2 of layer l+1: below 1 angles "
        "vanish, above 1 they grow",
        "gain (squared distance per squared distance)",
        (0.0, _inf),
        _S1 + "tests/propagation/theory/test_theory_mean_field.py",
    ),
    Name(
        "log_spectral_norm_product",
        (),
        "sum_l log ||W_l||_2^2",
        "nats",
        (-_inf, _inf),
        "Source (stated): factor of the bounds below",
        "network",
    ),
    Name(
        "stable_rank_sum",
        (),
        "sum_l ||W_l||_F^2/||W_l||_2^2",
        "1",
        (0.0, _inf),
        "Source (stated): factor of the bound of Neyshabur et al. (2018), "
        "arXiv:1707.09564",
        "network",
    ),
    Name(
        "spectral_complexity",
        ("bartlett2017", "neyshabur2018"),
        "bartlett2017: prod_l ||W_l||_2 * (sum_l (||W_l^T||_{2,1}/||W_l||_2)^(2/3))"
        "^(3/2)/margin, ||W^T||_{2,1} the sum of the norms of the rows of W; "
        "neyshabur2018: prod_l ||W_l||_2^2 * sum_l sr_l/margin^2; margin 1 where none "
        "is given",
        "1/margin; 1/margin^2",
        (0.0, _inf),
        "Source (stated): Bartlett et al. (2017), arXiv:1706.08498; Neyshabur et al. "
        "(2018), arXiv:1707.09564; both without input norm, constants and logarithms",
        "network",
    ),
)

METRICS: Mapping[str, Name] = MappingProxyType({name.name: name for name in _ALL})
"""Every metric of `predict`, `measure` and `capacity` by its name."""
