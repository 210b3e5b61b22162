"""One matrix measured under one set of settings: the core of every route of a scan.

In one process, in many, on a cluster, after a kill or by batches: each route ends in
`measure_matrix` or gives its rows the same way, so no route has numbers of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, final, get_args

import torch

from spectrank.errors import (
    ArgumentTypeError,
    CheckpointError,
    DomainError,
    UnknownNameError,
)
from spectrank.linalg import (
    DEFAULT_FAILURE_PROBABILITY,
    DEFAULT_RTOL,
    Certify,
    Need,
    Spectrum,
    spectrum,
)
from spectrank.linalg.implicit import Operand
from spectrank.linalg.null import Null
from spectrank.metrics import Metric
from spectrank.model import WeightMatrix
from spectrank.scanning.null_rows import NULL_NEEDS, null_rows
from spectrank.scanning.requests import MetricRequest, parse_metrics
from spectrank.scanning.rows import matrix_key, matrix_rows, unread_row
from spectrank.scanning.weightwatcher import WEIGHTWATCHER_NEEDS, weightwatcher_rows

Rows = list[dict[str, Any]]
Compat = Literal["weightwatcher"]

DEFAULT_NUM_NULL = 1


@final
@dataclass(frozen=True)
class Settings:
    """What is measured of each matrix, as plain values: it goes into files and pickles.

    Attributes:
        metrics: Requests as a user writes them, such as ``energy_rank:q=0.9``.
        rtol: Largest relative width of the enclosure of the spectral norm.
        certify: ``probabilistic`` or ``deterministic`` upper ends.
        failure_probability: Of each probabilistic upper end.
        seed: Of the random starts and of the null.
        spectra: Whether full spectra, where computed, become rows.
        null: Random matrix to compare with; None for no comparison.
        num_null: Draws of it.
        compat: Another tool whose columns are added under its names; None for none.
    """

    metrics: tuple[str, ...]
    rtol: float = DEFAULT_RTOL
    certify: Certify = "probabilistic"
    failure_probability: float = DEFAULT_FAILURE_PROBABILITY
    seed: int = 0
    spectra: bool = True
    null: Null | None = None
    num_null: int = DEFAULT_NUM_NULL
    compat: Compat | None = None

    def __post_init__(self) -> None:
        for name, known in (("null", get_args(Null)), ("compat", get_args(Compat))):
            # In a tuple: what cannot be hashed is refused as well.
            if getattr(self, name) not in (None, *known):
                raise UnknownNameError(
                    f"{name} is None or one of {', '.join(known)}, got "
                    f"{getattr(self, name)!r}; leave it out for none"
                )
        if not isinstance(self.num_null, int) or isinstance(self.num_null, bool):
            raise ArgumentTypeError(
                f"num_null is a whole number, got {self.num_null!r}; e.g. num_null=3"
            )
        if self.num_null < 1:
            raise DomainError(
                f"num_null is at least 1, got {self.num_null}; leave null out for no "
                "comparison"
            )
        if not isinstance(self.spectra, bool):
            raise ArgumentTypeError(
                f"spectra is True or False, got {self.spectra!r:.80}; leave it out to "
                "keep them"
            )
        if self.null is None and self.num_null != DEFAULT_NUM_NULL:
            raise DomainError(
                f"num_null counts draws of the null, got {self.num_null} and no null; "
                "add null='permuted', or leave num_null out"
            )

    @classmethod
    def of(
        cls, metrics: str | Metric | Iterable[str | Metric] | None, **settings: Any
    ) -> Settings:
        """Return the settings of a list of metrics as a user gives it.

        Args:
            metrics: Names, a comma-separated string or Metric objects; None for all.
            **settings: The other attributes.

        Returns:
            Settings that know the very Metric objects they were given.
        """
        requests = parse_metrics(metrics)
        made = cls(tuple(request.text for request in requests), **settings)
        # A metric that was handed over need not be the registered one of its name.
        made.__dict__["requests"] = requests
        # Refuses options out of range here, before anything is read.
        spectrum(torch.zeros(1, 1), made.needs, **made.of_spectra)
        return made

    @cached_property
    def requests(self) -> tuple[MetricRequest, ...]:
        """The metrics with their options, looked up in this process."""
        return parse_metrics(self.metrics)

    @cached_property
    def needs(self) -> frozenset[Need]:
        """What all that is asked for reads of a spectrum."""
        needs = frozenset[Need]().union(*(r.needs for r in self.requests))
        if self.null is not None:
            needs |= frozenset(NULL_NEEDS)
        if self.compat is not None:
            needs |= frozenset(WEIGHTWATCHER_NEEDS)
        return needs

    @property
    def of_spectra(self) -> dict[str, Any]:
        """Options of `spectrank.linalg.spectrum`."""
        return {
            "rtol": self.rtol,
            "certify": self.certify,
            "failure_probability": self.failure_probability,
            "seed": self.seed,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as plain JSON."""
        return {**asdict(self), "metrics": list(self.metrics)}

    def __reduce__(self) -> tuple[Any, ...]:
        # Metrics are functions and do not travel; their names do.
        return _restored, (asdict(self),)


def _restored(settings: Mapping[str, Any]) -> Settings:
    return Settings(**settings)


def measure_matrix(weight: WeightMatrix, settings: Settings) -> Rows:
    """Return the rows of one matrix, read now and dropped afterwards.

    A matrix that cannot be read is one row of kind ``skip`` with the reason. The same
    matrix under the same settings gives the same rows, bit for bit, whatever was
    measured before it.

    Args:
        weight: What to measure.
        settings: How.

    Returns:
        Rows for `Table.from_rows`: one a metric, one for the spectrum.
    """
    try:
        operand = weight.operand()
    except CheckpointError as error:
        return [unread_row(weight, error)]
    return operand_rows(weight, operand, settings)


def operand_rows(weight: WeightMatrix, operand: Operand, settings: Settings) -> Rows:
    """Return the rows of a matrix that was read already.

    Args:
        weight: Whose rows they are.
        operand: Its values, as `WeightMatrix.operand` gives them.
        settings: How to measure.

    Returns:
        Rows for `Table.from_rows`.
    """
    s = spectrum(operand, settings.needs, **settings.of_spectra)
    return spectrum_rows(weight, operand, s, settings)


def spectrum_rows(
    weight: WeightMatrix, operand: Operand, s: Spectrum, settings: Settings
) -> Rows:
    """Return the rows of a matrix whose spectrum is known.

    Args:
        weight: Whose rows they are.
        operand: Its values, for what a spectrum does not tell.
        s: Its spectrum.
        settings: What is asked.

    Returns:
        Rows for `Table.from_rows`.
    """
    rows = matrix_rows(weight, s, settings.requests, settings.spectra)
    if settings.null is not None:
        rows += null_rows(matrix_key(weight), operand, s, settings)
    if settings.compat is not None:
        rows += weightwatcher_rows(matrix_key(weight), s)
    return rows
