r"""Null laws: a Gaussian matrix, and the same conditioned on its stable rank.

Both are read free of scale. A statistic is compared by its rank among draws, so a false
alarm has the stated probability whatever the law of the statistic is; for the second
law, whose draws have weights, nearly.

**Conditioned on the stable rank.** The singular values of a Gaussian matrix on the
sphere of its Frobenius norm have density
:math:`\prod_{i<j} |t_i - t_j| \prod_i t_i^{(|m-n|-1)/2}`, t = s^2. With t_1 = 1 and
sum t = r both fixed, t_2..t_p have the density of an (m-1) x (n-1) Gaussian matrix on
its own sphere times :math:`\prod_{i \ge 2} (1 - t_i)`, and t_2 <= 1. So draws of the
bulk of ``mp-spike``, weighted by that product, are exact for the Gaussian conditioned
on r. Where the weights leave too few draws (r above the Gaussian's own), there is no
such bulk. Source (derived): tests/init/closeness/test_closeness_nulls.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from spectrank.init.closeness.marchenko_pastur import distance
from spectrank.init.closeness.tridiagonal import (
    Array,
    Tridiagonals,
    gaussian_tridiagonals,
)

# Fewer effective draws than this are no sample of the conditioned law.
LEAST_EFFECTIVE = 50.0
_EQUAL = 1.0 - 1e-12
# Full spectra cost O(p^2) a draw: between 16 and 200 of them.
_SPECTRA_BUDGET = 1 << 22
_FEWEST_SPECTRA, _MOST_SPECTRA = 16, 200
# Draws kept for the next matrices of their shapes: 512 MiB, the last used.
_KEPT_ENTRIES = 1 << 25


@final
@dataclass(frozen=True)
class Moments:
    """Mean of a statistic over weighted draws.

    Attributes:
        mean: Mean.
        deviation: Standard deviation of the ensemble, not of the mean.
        standard_error: Of the mean.
        num_draws: Draws used.
    """

    mean: float
    deviation: float
    standard_error: float
    num_draws: int


@final
@dataclass(frozen=True, eq=False)
class GaussianNull:
    """Draws of a Gaussian (m, n) matrix, and what is read of them.

    Attributes:
        m: Number of rows.
        n: Number of columns.
        draws: Their Gram matrices.
    """

    m: int
    n: int
    draws: Tridiagonals

    @cached_property
    def log_stable_rank(self) -> Array:
        """Log of the stable rank, (d,)."""
        values: Array = np.log(self.draws.trace / self.draws.largest())
        return values

    @cached_property
    def log_participation_ratio(self) -> Array:
        """Log of the participation ratio, (d,)."""
        trace = self.draws.trace
        values: Array = np.log(trace * trace / self.draws.trace_of_square)
        return values

    @cached_property
    def distances(self) -> Array:
        """Distances to Marchenko-Pastur's law of the first draws, (at most d,)."""
        num = _SPECTRA_BUDGET // min(self.m, self.n) ** 2
        num = max(_FEWEST_SPECTRA, min(num, _MOST_SPECTRA))
        num = min(num, self.draws.diagonal.shape[1])
        return np.array(
            [distance(self.draws.eigenvalues(i), self.m, self.n) for i in range(num)]
        )

    def log_weights(self, stable_rank: float) -> Array:
        """Log weights of the draws as bulk below a spike, (d,); -inf above it."""
        trace = self.draws.trace
        # c^2 T has trace r - 1 where c^2 = (r - 1) / trace.
        return self.draws.log_det(trace / (stable_rank - 1.0))


class Nulls:
    """Gaussian nulls by shape, made when first asked for, for one report."""

    def __init__(self, num_draws: int, seed: int) -> None:
        self._num_draws, self._seed = num_draws, seed
        self._kept: dict[tuple[int, int], GaussianNull] = {}

    def of(self, m: int, n: int) -> GaussianNull:
        """The null of a shape; a matrix and its transpose share theirs.

        Args:
            m: Number of rows.
            n: Number of columns.

        Returns:
            The null, the same at every call.
        """
        key = max(m, n), min(m, n)
        null = self._kept.pop(key, None)
        if null is None:
            self._make_room(key[1])
            # Seeded by shape, so that a row does not depend on the rest of the model.
            rng = np.random.default_rng([self._seed, *key])
            draws = gaussian_tridiagonals(m, n, self._num_draws, rng)
            null = GaussianNull(m, n, draws)
        if key[1] * self._num_draws <= _KEPT_ENTRIES:
            self._kept[key] = null
        return null

    def _make_room(self, size: int) -> None:
        """Forget the shapes least recently used until one of this size fits."""
        room = _KEPT_ENTRIES // self._num_draws - size
        while self._kept and sum(short for _, short in self._kept) > room:
            del self._kept[next(iter(self._kept))]


def normalised_weights(log_weights: Array) -> Array:
    """Weights with a sum of one.

    Args:
        log_weights: (d,), minus infinity for none.

    Returns:
        (d,); all zero where no draw has a weight.
    """
    highest = float(log_weights.max())
    if math.isinf(highest):
        return np.zeros_like(log_weights)
    weights: Array = np.exp(log_weights - highest)
    weights /= weights.sum()
    return weights


def effective_draws(weights: Array) -> float:
    """Kish's effective number of draws, 1 / sum w^2.

    Args:
        weights: (d,) with a sum of one, or all zero.

    Returns:
        Number between 0 and d.
    """
    total = float(np.square(weights).sum())
    return 1.0 / total if total > 0.0 else 0.0


def moments(values: Array, weights: Array | None = None) -> Moments:
    """Mean and deviation over draws.

    Args:
        values: (d,).
        weights: (d,) with a sum of one; None for equal ones.

    Returns:
        The moments; the standard error is that of a self-normalised weighted mean.
    """
    num = len(values)
    w = np.full(num, 1.0 / num) if weights is None else weights
    used = int(np.count_nonzero(w))
    mean = float(w @ values)
    squares = np.square(values - mean)
    correction = 1.0 - float(np.square(w).sum())
    deviation = math.sqrt(float(w @ squares) / correction) if correction > 0 else 0.0
    error = math.sqrt(float(np.square(w) @ squares))
    return Moments(mean, deviation, error, used)


def rank_p_value(draws: Array, observed: Array) -> float:
    r"""Probability of a draw at least as extreme as what was observed.

    Extreme is the largest distance from the mean, in standard deviations, over the
    statistics; the observed one counts as a draw in all of it, so that
    :math:`P(p \le \alpha) \le \alpha` exactly where it is one.

    Args:
        draws: (q, d), q statistics of each draw.
        observed: (q,).

    Returns:
        In [1 / (d + 1), 1].
    """
    values = np.concatenate([observed[:, None], draws], axis=1)
    weights = np.full(values.shape[1], 1.0 / values.shape[1])
    extremity = _extremity(values, values, weights)
    # Rounding must not decide between the observed and an equal draw.
    return float((extremity >= extremity[0] * _EQUAL).mean())


def weighted_p_value(draws: Array, weights: Array, observed: Array) -> float:
    r"""As `rank_p_value`, for draws with unequal weights.

    The observed one counts as one draw in effect. Where that alone is too coarse, far
    out, the tail of a log-concave law takes over: q statistics of which one is k
    deviations away have a probability of at most :math:`q e^{1 - k}`. Close to the
    level, not exact: tests/init/closeness/test_closeness_nulls.py.

    Args:
        draws: (q, d), q statistics of each draw.
        weights: (d,) with a sum of one.
        observed: (q,).

    Returns:
        In (0, 1].
    """
    extremity = _extremity(draws, draws, weights)
    k = float(_extremity(observed[:, None], draws, weights)[0])
    own = 1.0 / effective_draws(weights)
    beyond = float(weights[extremity >= k * _EQUAL].sum())
    return min((own + beyond) / (1.0 + own), len(observed) * math.exp(1.0 - k))


def _extremity(values: Array, draws: Array, weights: Array) -> Array:
    """Largest distance from the weighted mean of the draws, in deviations."""
    mean = draws @ weights
    deviation = np.sqrt(np.square(draws - mean[:, None]) @ weights)
    # A statistic that never varies (one singular value) tells nothing.
    deviation[deviation == 0.0] = math.inf
    far: Array = (np.abs(values - mean[:, None]) / deviation[:, None]).max(axis=0)
    return far
