"""Rows of a prediction about a random network, of a layer or of the whole.

A number has its route (how exact it is), its range and, where it stands on drawn
spectra, its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal, final

from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.ensembles.mp_spike import largest_sure

Route = Literal["exact", "leading-order", "mean-field"]
Row = dict[str, Any]

# Half the interval of a mean over drawn spectra, in standard errors.
_WIDTH = 4.0
_FIXED = ("flat", "spike", "power", "exp", "orthogonal")

NETWORK = "network"
"""Subject of the rows of a whole network."""

SOURCE = "theory of bi-orthogonally invariant layers; derived, tests/propagation/theory"
LARGEST_LOG = math.log(1.7976931348623157e308)
SMALLEST_LOG = math.log(2.2250738585072014e-308)


@final
@dataclass(frozen=True)
class Cell:
    """Where a number belongs and how it was found.

    Attributes:
        subject: A weight's name or ``network``.
        metric: Its name.
        index: Number of the layer; None for the network.
        variant: Of the metric.
        route: How exact it is.
        reason: Why it is not exact, or what exactness rests on.
        source: Where it is derived; by default in the theory of signals.
    """

    subject: str
    metric: str
    index: int | None = None
    variant: str | None = None
    route: Route = "exact"
    reason: str | None = None
    source: str = SOURCE

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
            "source": self.source,
            **columns,
        }

    def exp_row(self, log_value: float, *, less: float = 0.0, **columns: Any) -> Row:
        """Return the row of a number that is known by its logarithm.

        Args:
            log_value: Natural logarithm, -inf of zero.
            less: Subtracted from the number.
            **columns: Further columns.

        Returns:
            A row; of status ``nonfinite`` with value inf or 0 where the number leaves
            the range of float64, the logarithm kept in ``log_value``.
        """
        if log_value == -math.inf:
            return self.row(0.0 - less, **columns)
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


def laws_as_data(layers: Sequence[LayerLaw]) -> list[dict[str, Any]]:
    """Return laws for the provenance of a table.

    Args:
        layers: Laws, first layer first.

    Returns:
        Plain values; None in the place of a moment above the range of float64.
    """
    return [
        {key: None if x == math.inf else x for key, x in asdict(law).items()}
        for law in layers
    ]


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


def with_error(row: Row, error: float) -> Row:
    """Give a row a standard error and the interval of four of them.

    Args:
        row: Of a finite value.
        error: Its standard error; without one the row stays as it is.

    Returns:
        The row.
    """
    if row["status"] != "ok" or not 0.0 < error < math.inf:
        return row
    return row | {
        "standard_error": error,
        "lower": row["value"] - _WIDTH * error,
        "upper": row["value"] + _WIDTH * error,
        "error_kind": "stderr",
    }


def with_moved(row: Row, moved: Row) -> Row:
    """Give a row the standard error that E sum s^4 of its layers has.

    Args:
        row: As predicted.
        moved: The same with that moment moved by its standard error.

    Returns:
        The row.
    """
    if row["status"] != "ok":
        return row
    return with_error(row, abs(moved["value"] - row["value"]))


@final
@dataclass(frozen=True)
class Basis:
    """What exact numbers of some layers rest on.

    Attributes:
        drawn: Whether a second moment is a mean over drawn spectra.
        refused: Whether the law has draws that sampling refuses.
        open_laws: Spectra whose log moments have no closed form.
    """

    drawn: bool = False
    refused: bool = False
    open_laws: frozenset[str] = frozenset()

    def __or__(self, other: Basis) -> Basis:
        """Return what both together rest on."""
        return Basis(
            self.drawn or other.drawn,
            self.refused or other.refused,
            self.open_laws | other.open_laws,
        )

    @property
    def note(self) -> str | None:
        """Reason of a row of moments; None where nothing is to be said."""
        notes = []
        if self.drawn:
            notes.append(
                "exact in E sum s^4, which for temper is a mean over drawn spectra: "
                "standard_error"
            )
        if self.refused:
            notes.append(
                "over all draws of mp-spike, those that sample() refuses included"
            )
        return "; ".join(notes) or None

    def log_route(self, exact: bool) -> tuple[Route, str | None]:
        """Route and reason of log moments.

        Args:
            exact: Whether those of all layers are.

        Returns:
            Route and reason.
        """
        names = ", ".join(sorted(self.open_laws))
        if not exact:
            reason = f"log moments of {names} to leading order in the relative variance"
            return "leading-order", reason
        if not names:
            return "exact", self.note
        reason = (
            f"exact given the singular values, which for {names} have no closed law: "
            "a mean over drawn spectra, standard_error"
        )
        return "exact", reason


def basis(law: LayerLaw) -> Basis:
    """What exact numbers of one layer rest on.

    Args:
        law: Of the layer.

    Returns:
        The basis.
    """
    exact = (*_FIXED, "gaussian", "mp-spike")
    names = frozenset() if law.spectrum in exact else frozenset([law.spectrum])
    return Basis(law.a2_stderr > 0.0, _may_refuse(law), names)


def bases(layers: Sequence[LayerLaw]) -> list[Basis]:
    """What numbers of the first layers rest on, for every depth.

    Args:
        layers: Laws in the order in which they enter.

    Returns:
        One for each prefix.
    """
    return list(accumulate([basis(law) for law in layers], lambda a, b: a | b))


def _may_refuse(law: LayerLaw) -> bool:
    return (
        law.spectrum == "mp-spike"
        and law.stable_rank is not None
        and law.stable_rank > largest_sure(law.m, law.n)
    )
