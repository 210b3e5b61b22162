"""Angles, lengths, pieces of curves and mean field."""

from __future__ import annotations

from spectrank.propagation.names.name import (
    DERIVED,
    SIGNAL,
    UNBOUNDED,
    Name,
)

ANGLE_NAMES = (
    Name(
        "cosine",
        ("mean-field", *SIGNAL),
        "cosine of h_l(x) and h_l(y); pre: of z_l(x) and z_l(y). mean-field: of h_l "
        "for l < L and of the outputs at l = L, "
        "c' = E phi(u)phi(v)/E phi(u)^2 of Gaussian pairs, for relu the arc-cosine map "
        "(sqrt(1-c^2) + c (pi - arccos c))/pi",
        "1",
        (-1.0, 1.0),
        DERIVED + "tests/propagation/theory/test_theory_mean_field.py",
    ),
    Name(
        "squared_cosine",
        ("annealed",),
        "E(u.v)^2/E|u|^2|v|^2 of z_l(x), z_l(y), linear networks: "
        "q' = ((alpha+beta) q + beta)/(alpha + 2 beta q)",
        "1",
        (0.0, 1.0),
        DERIVED + "tests/propagation/theory/test_theory_golden.py",
    ),
    Name(
        "collapse_depth",
        (),
        "1/(3 kappa), kappa = beta/alpha ~ 1/rho - 1/n of E M_ij M_kl, M = W^T W: "
        "layers of this law after which a linear network has lost the angles",
        "layers",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_golden.py",
    ),
    Name(
        "length_gain",
        SIGNAL,
        "E length of a curve's image under x -> h_l over the curve's length "
        "= prod_{k<=l} E[Y_k^(1/2)], Y_k = |h_k|^2/|h_{k-1}|^2 for relu and linear; "
        "pre: under x -> z_l",
        "gain (length per length)",
        (0.0, UNBOUNDED),
        DERIVED + "tests/linalg/layer_moments/test_log_norms.py",
    ),
    Name(
        "new_kinks",
        (None, "count"),
        "expected sign changes of z_l along a curve where h_{l-1} != 0, l < L, "
        "n_l prod_{j<l} (1 - (n_j+1) 2^(-n_j)) for relu; the network's row is the sum",
        "kinks per unit of (angular length of the input curve / pi); count: kinks",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_golden.py",
        "both",
    ),
    Name(
        "pattern_changes",
        (None, "count"),
        "expected changes of the pattern z_l > 0 along a curve, l < L, "
        "n_l prod_{j<l} (1 - 2^(-n_j)) for relu; the network's row is the sum",
        "changes per unit of (angular length of the curve / pi); count: changes",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_golden.py",
        "both",
    ),
    Name(
        "linear_pieces",
        ("output", "pattern"),
        "affine pieces of the output along a curve; pattern: affine intervals of all "
        "steps",
        "pieces",
        (1.0, UNBOUNDED),
        DERIVED + "tests/propagation/pieces/test_pieces_exact.py",
        "network",
    ),
    Name(
        "affinity_defect",
        (),
        "max |f(middle) - mean of the ends| over intervals, relative to the largest "
        "|f|",
        "1",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/pieces/test_pieces_exact.py",
        "network",
    ),
    Name(
        "preactivation_variance",
        ("mean-field",),
        "q_l = E z_l,i^2: q_1 = sigma_w^2 q_0, q_{l+1} = sigma_w^2 "
        "E phi(sqrt(q_l) Z)^2, sigma_w^2 = ||W||_F^2/m, q_0 = |x|^2/n_0",
        "squared units of the input",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_mean_field.py",
    ),
    Name(
        "chi_1",
        ("mean-field",),
        "sigma_w^2 E phi'(sqrt(q_l) Z)^2, sigma_w^2 of layer l+1: below 1 angles "
        "vanish, above 1 they grow",
        "gain (squared distance per squared distance)",
        (0.0, UNBOUNDED),
        DERIVED + "tests/propagation/theory/test_theory_mean_field.py",
    ),
)
