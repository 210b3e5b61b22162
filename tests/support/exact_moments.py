"""Scatters of float64 rows in integers: no rounding until the last division."""

from fractions import Fraction

import numpy as np
import torch


def integers(rows):
    """Return Python integers M and s with ``rows == M / 2**s`` exactly."""
    fractions = [[Fraction(float(x)) for x in row] for row in rows]
    s = max(
        (f.denominator.bit_length() - 1 for row in fractions for f in row), default=0
    )
    scaled = [[int(f * 2**s) for f in row] for row in fractions]
    return np.array(scaled, dtype=object), s


def exact_cross_scatter(left, right):
    """Sum of (l - lbar)(r - rbar)^T, each entry correctly rounded."""
    n = len(left)
    if n == 0:
        return torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64)
    (a, s), (b, t) = integers(left), integers(right)
    numerator = n * (a.T @ b) - np.outer(a.sum(0), b.sum(0))
    scale = n * 2 ** (s + t)
    values = [[float(Fraction(int(x), scale)) for x in row] for row in numerator]
    return torch.tensor(values, dtype=torch.float64)


def exact_scatter(rows):
    """Sum of (x - xbar)(x - xbar)^T, each entry correctly rounded."""
    return exact_cross_scatter(rows, rows)


def exact_within(left, right, labels, num_classes):
    """Sum over classes of their cross scatters, from exact parts."""
    parts = [
        exact_cross_scatter(left[labels == c], right[labels == c])
        for c in range(num_classes)
    ]
    return torch.stack(parts)


def exact_mean(rows):
    """Mean of each column, correctly rounded."""
    a, s = integers(rows)
    scale = len(a) * 2**s
    return torch.tensor(
        [float(Fraction(int(x), scale)) for x in a.sum(0)], dtype=torch.float64
    )


def largest_relative_error(got, want):
    """Largest entry of the error over ``sqrt(S_ii S_jj)`` of the truth."""
    size = want.diagonal().sqrt()
    return float(((got - want).abs() / torch.outer(size, size)).max())
