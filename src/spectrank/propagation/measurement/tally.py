"""What has been gathered so far: one accumulator for each layer and quantity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

from spectrank.propagation.measurement.estimate import MORE, Estimate
from spectrank.propagation.measurement.estimates import Angles, Gains, Traces
from spectrank.propagation.names import NETWORK

Site = Literal["post", "pre"]
Row = dict[str, Any]
_STANDARD_ERRORS = 4.0


@final
@dataclass(frozen=True)
class Place:
    """A layer.

    Attributes:
        subject: Name of its weight.
        index: Number l, from 1.
        shape: (m, n) of its matrix; None where it has none.
    """

    subject: str
    index: int
    shape: tuple[int, int] | None = None


@final
class Tally:
    """Accumulators by layer and quantity, made when first asked for.

    Attributes:
        skips: (subject, metric, variant) of what is not measured, to the reason.
        traces: Of the Jacobians of a law's networks, where they are formed.
        input_cosine: Of the one pair of inputs that all angles belong to, if it is one.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._gains: dict[tuple[Place, str, str], Gains] = {}
        self._angles: dict[tuple[Place, str], Angles] = {}
        self.traces: Traces | None = None
        self._sizes: dict[tuple[Place, str], float] = {}
        self.skips: dict[tuple[str, str, str | None], str] = {}
        self.input_cosine: float | None = None

    def gains(self, place: Place, quantity: str, site: str = "") -> Gains:
        """The accumulator of a gain.

        Args:
            place: The layer.
            quantity: ``signal``, ``layer``, ``gradient`` or ``jacobian``.
            site: ``post`` or ``pre`` where there are both.

        Returns:
            It.
        """
        return self._gains.setdefault((place, quantity, site), Gains())

    def angles(self, place: Place, site: str) -> Angles:
        """The accumulator of pairs.

        Args:
            place: The layer.
            site: ``post`` or ``pre``.

        Returns:
            It.
        """
        return self._angles.setdefault((place, site), Angles())

    def size(self, place: Place, site: str, per_entry: float) -> None:
        """Keep n_0 / n_l, the factor from the gain to the gain per neuron.

        Args:
            place: The layer.
            site: ``post`` or ``pre``.
            per_entry: The factor.
        """
        self._sizes[place, site] = per_entry

    def skip(
        self, subject: str, metric: str, reason: str, variant: str | None = None
    ) -> None:
        """Keep why something is not measured; the first reason counts.

        Args:
            subject: Name of the weight, or the network.
            metric: What is missing.
            reason: Why.
            variant: Of the metric.
        """
        self.skips.setdefault((subject, metric, variant), reason)

    def rows(self, route: str) -> Iterator[Row]:
        """Make the rows.

        Args:
            route: How they were measured.

        Yields:
            Rows of measurements by layer, then skips.
        """
        order = {"signal": 0, "layer": 1, "gradient": 2, "jacobian": 3}
        keys = sorted(
            self._gains, key=lambda k: (k[0].index, k[0].subject, order[k[1]], k[2])
        )
        for place, quantity, site in keys:
            found = self._gains[place, quantity, site]
            for metric, estimate in self._told(place, quantity, site, found):
                yield _row(place, metric, site or None, estimate, route)
        for (place, site), angles in sorted(
            self._angles.items(), key=lambda item: (item[0][0].index, item[0][1])
        ):
            pair = {"input_cosine": self.input_cosine}
            yield _row(place, "cosine", site, angles.mean(), route) | pair
            if site == "pre":
                square = angles.annealed_square()
                row = _row(place, "squared_cosine", "annealed", square, route)
                yield row | pair
        if self.traces is not None:
            found_spread = self.traces.relative_variance()
            metric = "jacobian_eigenvalue_variance"
            row = _row(Place(NETWORK, 0), metric, "annealed", found_spread, route)
            yield row | {"index": None}
        for (subject, metric, variant), reason in self.skips.items():
            yield {
                "kind": "skip",
                "subject": subject,
                "metric": metric,
                "variant": variant,
                "status": "skipped",
                "reason": reason,
            }

    def _told(
        self, place: Place, quantity: str, site: str, found: Gains
    ) -> Iterator[tuple[str, Estimate]]:
        if quantity == "signal":
            mean = found.mean()
            yield "signal_gain", mean
            factor = self._sizes.get((place, site))
            if factor is not None:
                yield "signal_gain_per_neuron", _times(mean, factor)
            yield "signal_second_moment", found.second_moment()
            yield "log_signal_mean", found.log_mean()
            yield "log_signal_variance", found.log_variance()
        elif quantity == "layer":
            second = found.second_moment(advice=MORE)
            yield "layer_relative_variance", second._replace(value=second.value - 1.0)
        elif quantity == "gradient":
            yield "gradient_gain", found.mean()
            yield "gradient_second_moment", found.second_moment()
            yield "log_gradient_mean", found.log_mean()
            yield "log_gradient_variance", found.log_variance()
        elif site == "post":
            yield "length_gain", found.root_mean()
        else:
            yield "length_gain", found.root_mean()
            yield "jacobian_gain", found.mean()
            yield "jacobian_second_moment", found.second_moment()
            yield "log_jacobian_mean", found.log_mean()
            yield "log_jacobian_variance", found.log_variance()


def _times(mean: Estimate, factor: float) -> Estimate:
    log_value = mean.log_value
    return mean._replace(
        value=mean.value * factor,
        standard_error=mean.standard_error * factor,
        log_value=None if log_value is None else log_value + math.log(factor),
    )


_UNSITED = (
    "jacobian_gain",
    "jacobian_second_moment",
    "log_jacobian_mean",
    "log_jacobian_variance",
)


def _row(
    place: Place, metric: str, variant: str | None, found: Estimate, route: str
) -> Row:
    value, error = found.value, found.standard_error
    m, n = place.shape or (None, None)
    known = not math.isnan(value)
    status = "ok" if found.trusted else "not_converged"
    if not known:
        status = "degenerate" if found.finite else "nonfinite"
    row: Row = {
        "kind": "measurement",
        "subject": place.subject,
        "metric": metric,
        "variant": None if metric in _UNSITED else variant,
        "index": place.index,
        "value": value,
        "status": status,
        "reason": found.reason,
        "route": route,
        "m": m,
        "n": n,
        "num_samples": found.num_samples,
        "log_value": found.log_value,
    }
    log = found.log_value
    if log is not None and math.isfinite(log) and (value == 0.0 or math.isinf(value)):
        row |= {"status": "nonfinite", "reason": f"e^{log:.6g} is no float64"}
    elif known and not math.isnan(error):
        row |= {
            "standard_error": error,
            "lower": value - _STANDARD_ERRORS * error,
            "upper": value + _STANDARD_ERRORS * error,
            "error_kind": "stderr",
        }
    return row
