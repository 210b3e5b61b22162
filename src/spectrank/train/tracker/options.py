"""What a tracker is given, checked at the edge, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import (
    Skip,
    WeightMatrix,
    describe,
    iter_weights,
    unmatched_patterns,
)
from spectrank.scanning.provenance import defined, environment
from spectrank.scanning.requests import MetricRequest
from spectrank.train.sinks import Sink
from spectrank.train.sinks.base import check_count
from spectrank.train.tracker.follow import Pace


def make_pace(
    *,
    every: int,
    spectrum_every: int,
    rtol: float,
    failure_probability: float,
    refresh: int,
    num_products: int,
    seed: int,
) -> Pace:
    """Check the numbers.

    Args:
        every: Steps between two ticks.
        spectrum_every: Steps between two full spectra.
        rtol: Relative width of full enclosures.
        failure_probability: Of each of them.
        refresh: Steps between two of one matrix.
        num_products: Half steps of power iteration a tick.
        seed: Of the random vectors.

    Returns:
        How enclosures are made and how often.

    Raises:
        ArgumentTypeError: If the seed is no whole number.
    """
    for name, count in (
        ("every", every),
        ("spectrum_every", spectrum_every),
        ("refresh", refresh),
        ("num_products", num_products),
    ):
        check_count(name, count)
    for name, share in (("rtol", rtol), ("failure_probability", failure_probability)):
        _check_share(name, share)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ArgumentTypeError(
            f"seed is a whole number, got {seed!r}; any integer will do"
        )
    return Pace(rtol, failure_probability, refresh, num_products, seed)


def weights_of(
    model: nn.Module,
    select: str | Sequence[str] | None,
    views: Mapping[str, str] | None,
) -> list[WeightMatrix | Skip]:
    """Return what there is to follow, with the reasons for the rest.

    Args:
        model: The module that is trained.
        select: Glob pattern(s) of names.
        views: Glob pattern -> view.

    Returns:
        Matrices and skips in the order of the model.

    Raises:
        ArgumentTypeError: If the model is no module.
        DomainError: If a pattern matches nothing, or there is no matrix.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"a tracker follows a torch.nn.Module, got {type(model).__name__}; "
            "use spectrank.scan for state dicts and files"
        )
    weights = list(iter_weights(model, select=select, views=views, split=False))
    names = [weight.name for weight in weights]
    for option, patterns in (("select", select), ("views", list(views or ()))):
        if unmatched := unmatched_patterns(names, patterns):
            raise DomainError(
                f"each pattern of {option} names a tensor of the model, "
                f"{unmatched[0]!r} matches none; patterns are globs on whole names, "
                "e.g. '*.mlp.*.weight'"
            )
    if not any(isinstance(weight, WeightMatrix) for weight in weights):
        raise DomainError(
            "a tracker follows at least one matrix, got a model without any; "
            "iter_weights(model) gives the reason for each tensor"
        )
    return weights


def check_sink(sink: object) -> None:
    """Refuse what is no sink.

    Args:
        sink: Where rows are to go.

    Raises:
        ArgumentTypeError: If it is no Sink.
    """
    if not isinstance(sink, Sink):
        raise ArgumentTypeError(
            f"rows go to a Sink, got {type(sink).__name__}; "
            "e.g. sink=ParquetSink('run-1')"
        )


def provenance(
    model: nn.Module, requests: Sequence[MetricRequest], seed: int, settings: Any
) -> dict[str, Any]:
    """Return what made the rows of a tracker.

    Args:
        model: What is followed.
        requests: Metrics with their options.
        seed: Of the random vectors.
        settings: The other options.

    Returns:
        Plain JSON.
    """
    return {
        **environment(),
        **defined(requests),
        "input": describe(model).label,
        "input_kind": "module",
        "seed": seed,
        "settings": {"metrics": [request.text for request in requests], **settings},
    }


def _check_share(name: str, value: object) -> None:
    if not isinstance(value, int | float):
        raise ArgumentTypeError(
            f"{name} is a number in (0, 1), got {value!r}; leave it out for the default"
        )
    if not 0.0 < value < 1.0:
        raise DomainError(
            f"{name} must lie in (0, 1), got {value}; leave it out for the default"
        )
