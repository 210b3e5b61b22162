"""Norms and ranks as margin bounds combine them."""

from __future__ import annotations

from spectrank.propagation.names.name import (
    UNBOUNDED,
    Name,
)

CAPACITY_NAMES = (
    Name(
        "log_spectral_norm_product",
        (),
        "sum_l log ||W_l||_2^2",
        "nats",
        (-UNBOUNDED, UNBOUNDED),
        "Source (stated): factor of the bounds below",
        "network",
    ),
    Name(
        "stable_rank_sum",
        (),
        "sum_l ||W_l||_F^2/||W_l||_2^2",
        "1",
        (0.0, UNBOUNDED),
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
        (0.0, UNBOUNDED),
        "Source (stated): Bartlett et al. (2017), arXiv:1706.08498; Neyshabur et al. "
        "(2018), arXiv:1707.09564; both without input norm, constants and logarithms",
        "network",
    ),
)
