"""Rows of a prediction: one number of one layer, with its route and its range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.ensembles.mp_spike import largest_sure
from spectrank.propagation.names import NETWORK

Route = Literal["exact", "leading-order", "mean-field"]
Row = dict[str, Any]

SOURCE = "theory of bi-orthogonally invariant layers; derived, tests/propagation/theory"
LARGEST_LOG = math.log(1.7976931348623157e308)
SMALLEST_LOG = math.log(2.2250738585072014e-308)


@final
@dataclass(frozen=True)
class Cell:
    """Where a number belongs and how it was found.

    Attributes:
        subject: A weight's name or ``network``.
        metric: Name in ``propagation.names``.
        index: Number of the layer; None for the network.
        variant: Of the metric.
        route: How exact it is.
        reason: Why it is not exact, or what exactness rests on.
    """

    subject: str
    metric: str
    index: int | None = None
    variant: str | None = None
    route: Route = "exact"
    reason: str | None = None

    def row(self, value: float, **columns: Any) -> Row:
        """Return the row of a plain number; inf where that is its value.

        Args:
            value: The number; NaN where the quantity has no meaning.
            **columns: Further columns.

        Returns:
            A row for `Table.from_rows`.
        """
        return {
            "kind": "measurement",
            "subject": self.subject,
            "metric": self.metric,
            "variant": self.variant,
            "index": self.index,
            "value": value,
            "status": "degenerate" if math.isnan(value) else "ok",
            "reason": self.reason,
            "route": self.route,
            "source": SOURCE,
            **columns,
        }

    def exp_row(self, log_value: float, *, less: float = 0.0, **columns: Any) -> Row:
        """Return the row of a positive number that is known by its logarithm.

        Args:
            log_value: Natural logarithm.
            less: Subtracted from the number.
            **columns: Further columns.

        Returns:
            A row; of status ``nonfinite`` with value inf or 0 where the number leaves
            the range of float64, the logarithm kept in ``log_value``.
        """
        if SMALLEST_LOG <= log_value <= LARGEST_LOG:
            if less:
                return self.row(math.exp(log_value) - less, **columns)
            return self.row(math.exp(log_value), log_value=log_value, **columns)
        row = self.row(math.inf if log_value > 0.0 else 0.0, log_value=log_value)
        side = "above" if log_value > 0.0 else "below"
        row |= columns
        row["status"] = "nonfinite"
        row["reason"] = (
            f"e^{log_value:.6g} is {side} the range of float64; log_value is finite"
        )
        return row


def skip(metric: str, reason: str, *, variant: str | None = None) -> Row:
    """Return the row of a metric that does not exist for a network.

    Args:
        metric: Its name.
        reason: Why there is no number.
        variant: Of the metric.

    Returns:
        A row of kind ``skip``.
    """
    return {
        "kind": "skip",
        "subject": NETWORK,
        "metric": metric,
        "variant": variant,
        "status": "skipped",
        "reason": reason,
    }


def moment_note(layers: Iterable[LayerLaw]) -> str | None:
    """What exact moments of these layers rest on, if on anything.

    Args:
        layers: Those that enter.

    Returns:
        A reason, or None.
    """
    notes = []
    kept = list(layers)
    if any(law.a2_stderr > 0.0 for law in kept):
        notes.append(
            "exact in E sum s^4, which for temper is a mean over drawn spectra: "
            "standard_error"
        )
    if any(_may_refuse(law) for law in kept):
        notes.append("over all draws of mp-spike, those that sample() refuses included")
    return "; ".join(notes) or None


def log_note(layers: Sequence[LayerLaw], exact: bool) -> tuple[Route, str | None]:
    """Route and reason of log moments.

    Args:
        layers: Those that enter.
        exact: Whether all their log moments are.

    Returns:
        Route and reason.
    """
    if exact:
        return "exact", moment_note(layers)
    names = sorted({law.spectrum for law in layers} & {"slice", "temper", "profile"})
    return (
        "leading-order",
        f"log moments of {', '.join(names)} to leading order in the relative variance: "
        "the singular values are random without a closed law",
    )


def _may_refuse(law: LayerLaw) -> bool:
    return (
        law.spectrum == "mp-spike"
        and law.stable_rank is not None
        and law.stable_rank > largest_sure(law.m, law.n)
    )
