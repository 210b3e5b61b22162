"""Squared norms of signals, gradients and Jacobians."""

from __future__ import annotations

from spectrank.propagation.names.name import (
    DERIVED,
    NORMS,
    SIGNAL,
    UNBOUNDED,
    Name,
)

NORM_NAMES = (
    Name(
        "signal_gain",
        SIGNAL,
        "E|h_l|^2/|x|^2 = prod_{k<=l} g a1_k/n_{k-1}; pre: E|z_l|^2/|x|^2, without the "
        "last g",
        "gain (squared norm out per squared norm in)",
        (0.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "signal_gain_per_neuron",
        SIGNAL,
        "signal_gain * n_0/n_l",
        "gain (mean square out per mean square in)",
        (0.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "signal_second_moment",
        SIGNAL,
        "E|h_l|^4/(E|h_l|^2)^2 = prod_{k<=l} F_k, "
        "F = (E a1^2 + 2 E a2)/(E a1)^2 n/(n+2) (m+5)/(m+2); (m+5)/(m+2) only under a "
        "relu, so not on the last factor of pre",
        "1",
        (1.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "log_signal_mean",
        SIGNAL,
        "E log(|h_l|^2/|x|^2) given h_l != 0; pre: of z_l given z_l != 0",
        "nats",
        (-UNBOUNDED, UNBOUNDED),
        DERIVED + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "log_signal_variance",
        SIGNAL,
        "Var log(|h_l|^2/|x|^2) given h_l != 0; pre: of z_l given z_l != 0",
        "nats^2",
        (0.0, UNBOUNDED),
        DERIVED + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "layer_relative_variance",
        SIGNAL,
        "F_l - 1, the variance of |h_l|^2/|h_{l-1}|^2 over its squared mean; pre: of "
        "|z_l|^2/|h_{l-1}|^2",
        "1",
        (0.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "beta",
        ("forward", "backward"),
        "sum_{k<=l} (2/rho_k - 2/n_{k-1} + 3/n_k), without 3/n_L; backward: "
        "sum_{k>=l} (2/rho_k - 2/n_k) + sum_{l<=k<L} 3/n_k; the terms in 3 only under "
        "a relu. Leading order of log second moments",
        "1",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_golden.py",
    ),
    Name(
        "gradient_gain",
        (),
        "E|J_l^T v|^2/|v|^2 = prod_{k>=l} a1_k/n_k * g^(L-l), J_l = d f/d h_{l-1}, v "
        "fixed at the output; under a relu, for l < L, times "
        "P(h_{l-1} != 0) = prod_{j<l} (1 - 2^(-n_j))",
        "gain (squared norm per squared norm)",
        (0.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "gradient_second_moment",
        (),
        "E|J_l^T v|^4/(E|J_l^T v|^2)^2 = prod_{k>=l} (E a1^2 + 2 E a2)/(E a1)^2 "
        "n_k/(n_k+2) * prod_{l<=k<L} (n_k+5)/(n_k+2); under a relu, for l < L, over "
        "P(h_{l-1} != 0)",
        "1",
        (1.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "log_gradient_mean",
        (),
        "E log(|J_l^T v|^2/|v|^2) given J_l^T v != 0, J_l = d f/d h_{l-1}, v fixed at "
        "the output",
        "nats",
        (-UNBOUNDED, UNBOUNDED),
        DERIVED + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "log_gradient_variance",
        (),
        "Var log(|J_l^T v|^2/|v|^2) given J_l^T v != 0, J_l = d f/d h_{l-1}, v fixed "
        "at the output",
        "nats^2",
        (0.0, UNBOUNDED),
        DERIVED + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "jacobian_gain",
        (),
        "E|J u|^2/|u|^2, J = d z_l/d x, u a fixed direction at the input; the law of "
        "signal_gain, pre, where phi is positively homogeneous",
        "gain (squared norm per squared norm)",
        (0.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "jacobian_second_moment",
        (),
        "E|J u|^4/(E|J u|^2)^2, J = d z_l/d x, u a fixed direction at the input",
        "1",
        (1.0, UNBOUNDED),
        DERIVED + NORMS,
    ),
    Name(
        "log_jacobian_mean",
        (),
        "E log(|J u|^2/|u|^2) given J u != 0, J = d z_l/d x, u a fixed direction at "
        "the input; the law of log_signal_mean, pre, where phi is positively "
        "homogeneous",
        "nats",
        (-UNBOUNDED, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_networks.py",
    ),
    Name(
        "log_jacobian_variance",
        (),
        "Var log(|J u|^2/|u|^2) given J u != 0, J = d z_l/d x, u a fixed direction at "
        "the input; the law of log_signal_variance, pre, where phi is positively "
        "homogeneous",
        "nats^2",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_networks.py",
    ),
    Name(
        "jacobian_eigenvalue_variance",
        ("limit", "annealed"),
        "variance of the n_L eigenvalues of J J^T over their squared mean, J = df/dx. "
        "limit: sum_l (n/rho_l - 1) + (L-1) under relu, equal widths to infinity. "
        "annealed: n_L E tr (J J^T)^2/(E tr J J^T)^2 - 1, exact at every width",
        "1",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_golden.py",
        "network",
    ),
)
