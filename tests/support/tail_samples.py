"""Positive samples with tails of many kinds, by NumPy's frozen legacy generator."""

import numpy as np


def samples(kind, size, seed):
    """Return positive numbers with a tail of one kind or another."""
    random = np.random.RandomState(seed)
    if kind == "pareto":
        return random.pareto(1.5, size) + 1.0
    if kind == "lognormal":
        return random.lognormal(0.0, 1.0, size)
    if kind == "exponential":
        return random.exponential(1.0, size)
    if kind == "student":
        return random.standard_t(3, size) ** 2
    return np.sort(random.rand(size)) + 0.5


CASES = [
    (kind, size, seed)
    for kind in ("pareto", "lognormal", "exponential", "student", "uniform")
    for size, seed in ((12, 1), (60, 2), (300, 3))
]
