r"""Means of gains over a stream, with standard errors that hold for dependent draws.

    C  clusters: independent of each other (inputs of a model, networks of a law)
    D  draws within a cluster (directions, inputs of one network): dependent

The draws of a cluster are averaged first; a statistic is a smooth function g of the
mean over clusters of a few numbers, and its standard error the delta method's,
:math:`\sqrt{\nabla g^T \hat\Sigma \nabla g / C}`, which asks for independence between
clusters only. Gains are held as logarithms relative to a first one, so that neither
1e-200 nor its square leaves float64.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from spectrank.linalg.moments import Moments, MomentSummary
from spectrank.linalg.shapes import Float64
from spectrank.propagation.measurement.estimate import (
    LOGS,
    MORE,
    SILENT,
    Estimate,
    by_delta_method,
    no_estimate,
    only_alive,
    ratio_of_means,
    rescaled,
    told_by,
)


@final
class Gains:
    """Positive ratios r: their mean, relative second moment, log mean and variance."""

    def __init__(self) -> None:
        """Start with none."""
        self._moments = Moments(6)
        self._offset: float | None = None

    def update(self, log_gains: Float64[Tensor, "C D"]) -> None:
        """Take in clusters.

        Args:
            log_gains: (C, D) logarithms of gains; minus infinity where nothing
                arrives.
        """
        values = log_gains.detach().to("cpu", torch.float64)
        # NaN is no silence: it goes on, and makes the row nonfinite.
        alive = values != -math.inf
        if self._offset is None:
            kept = values[alive & values.isfinite()]
            if not kept.numel():
                self._take(values, alive, 0.0)
                return
            self._offset = float(kept.median())
        self._take(values, alive, self._offset)

    def _take(self, values: Tensor, alive: Tensor, offset: float) -> None:
        logs = torch.where(alive, values - offset, 0.0)
        r = torch.where(alive, logs.exp(), 0.0)
        root = torch.where(alive, (0.5 * logs).exp(), 0.0)
        parts = (r, r.square(), alive.double(), logs, logs.square(), root)
        self._moments.update(torch.stack([part.mean(1) for part in parts], dim=1))

    def _state(self) -> tuple[MomentSummary, float]:
        return self._moments.compute(), self._offset or 0.0

    def mean(self) -> Estimate:
        """E r."""
        s, offset = self._state()
        caution, trusted = told_by(s, 0, "the mean")
        return rescaled(
            by_delta_method(s, s.mean[0], {0: 1.0}), offset, caution, trusted
        )

    def root_mean(self) -> Estimate:
        """E r^(1/2), as of the length of a short piece of a curve."""
        s, offset = self._state()
        return rescaled(
            by_delta_method(s, s.mean[5], {5: 1.0}), 0.5 * offset, None, True
        )

    def second_moment(self, *, advice: str = LOGS) -> Estimate:
        """E r^2 / (E r)^2, at least 1.

        Args:
            advice: What to do where the tail is heavy.

        Returns:
            It.
        """
        s, _ = self._state()
        m1, m2 = float(s.mean[0]), float(s.mean[1])
        if not m1 > 0.0:
            return no_estimate(s, SILENT)
        found = by_delta_method(s, m2 / m1**2, {0: -2.0 * m2 / m1**3, 1: 1.0 / m1**2})
        caution, trusted = told_by(s, 1, "the second moment", advice)
        return found._replace(reason=caution, trusted=trusted)

    def log_mean(self) -> Estimate:
        """E log r given r > 0."""
        s, offset = self._state()
        alive, total = float(s.mean[2]), float(s.mean[3])
        if not alive > 0.0:
            return no_estimate(s, SILENT)
        mean = total / alive
        found = by_delta_method(s, mean + offset, {3: 1.0 / alive, 2: -mean / alive})
        return found._replace(reason=only_alive(alive))

    def log_variance(self) -> Estimate:
        """Var log r given r > 0, with the usual factor C / (C - 1)."""
        s, _ = self._state()
        alive, total, square = (float(s.mean[k]) for k in (2, 3, 4))
        if not alive > 0.0:
            return no_estimate(s, SILENT)
        mean, num = total / alive, s.count
        gradient = {
            4: 1.0 / alive,
            3: -2.0 * mean / alive,
            2: (2.0 * mean**2 - square / alive) / alive,
        }
        factor = num / (num - 1) if num > 1 else math.nan
        found = by_delta_method(s, factor * (square / alive - mean**2), gradient)
        return found._replace(reason=only_alive(alive))


@final
class Traces:
    """Eigenvalues of J J^T over draws of J: their variance over their squared mean."""

    def __init__(self, num_outputs: int) -> None:
        """Start with none.

        Args:
            num_outputs: Eigenvalues of each J J^T, zeros included.
        """
        self._num_outputs = num_outputs
        self._moments = Moments(2)
        self._scale: float | None = None

    def update(self, jacobians: Float64[Tensor, "C m n"]) -> None:
        """Take in clusters.

        Args:
            jacobians: (C, outputs, inputs).
        """
        first = jacobians.square().sum((1, 2)).to("cpu")
        if self._scale is None:
            self._scale = math.sqrt(float(first.median())) or 1.0
        J = jacobians / self._scale
        # The smaller of the two Gram matrices has the same trace of its square.
        gram = J @ J.mT if J.shape[1] <= J.shape[2] else J.mT @ J
        traces = torch.stack([J.square().sum((1, 2)), gram.square().sum((1, 2))], dim=1)
        self._moments.update(traces.to("cpu", torch.float64))

    def relative_variance(self) -> Estimate:
        """n_L E tr (J J^T)^2 / (E tr J J^T)^2 - 1."""
        s = self._moments.compute()
        a, b = float(s.mean[0]), float(s.mean[1])
        if not a > 0.0:
            return no_estimate(s, "every Jacobian is zero")
        m = self._num_outputs
        slopes = {0: -2.0 * m * b / a**3, 1: m / a**2}
        reason, trusted = told_by(s, 1, "the second trace", MORE)
        found = by_delta_method(s, m * b / a**2 - 1.0, slopes)
        return found._replace(reason=reason or found.reason, trusted=trusted)


@final
class Angles:
    """Cosines of pairs: their mean, and the annealed squared cosine."""

    def __init__(self) -> None:
        """Start with none."""
        self._moments = Moments(4)
        self._offset: float | None = None

    def update(
        self,
        dots: Float64[Tensor, "C D"],
        log_first: Float64[Tensor, "C D"],
        log_second: Float64[Tensor, "C D"],
    ) -> None:
        """Take in clusters of pairs.

        Args:
            dots: Cosines u.v/|u||v|; anything where one of them is zero.
            log_first: Logarithms of |u|^2.
            log_second: Logarithms of |v|^2.
        """
        size = (log_first + log_second).detach().to("cpu", torch.float64)
        cosines = dots.detach().to("cpu", torch.float64)
        alive = size != -math.inf
        kept = size[size.isfinite()]
        if self._offset is None and kept.numel():
            self._offset = float(kept.median())
        product = torch.where(alive, (size - (self._offset or 0.0)).exp(), 0.0)
        cosines = torch.where(alive, cosines, 0.0)
        parts = (alive.double(), cosines, cosines.square() * product, product)
        self._moments.update(torch.stack([part.mean(1) for part in parts], dim=1))

    def mean(self) -> Estimate:
        """E u.v/|u||v| over pairs without a zero."""
        s = self._moments.compute()
        return ratio_of_means(s, 1, 0)

    def annealed_square(self) -> Estimate:
        """E (u.v)^2 / E |u|^2 |v|^2."""
        s = self._moments.compute()
        return ratio_of_means(s, 2, 3)
