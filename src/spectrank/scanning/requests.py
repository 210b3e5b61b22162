"""Which metrics to compute: names with options, as a user writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.linalg import Need
from spectrank.metrics import Metric, get_metric, list_metrics

# What a scan measures when nothing is asked for: every notion of rank, the norms, and
# both variants where two papers use one name for two things.
DEFAULT_METRICS: tuple[str, ...] = (
    "stable_rank",
    "participation_ratio",
    "effective_rank",
    "effective_rank:variant=squared",
    "numerical_rank",
    "energy_rank",
    "nuclear_rank",
    "nuclear_rank:variant=squared",
    "relative_distance_to_rank",
    "spectral_norm",
    "frobenius_norm",
    "nuclear_norm",
    "condition_number",
    "spectral_gap",
)


@dataclass(frozen=True, eq=False)
class MetricRequest:
    """A metric with its options.

    Attributes:
        metric: From the registry.
        options: All options, defaults filled in.
    """

    metric: Metric
    options: Mapping[str, Any]

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads of a spectrum."""
        return self.metric.needs(self.options)

    @cached_property
    def variant(self) -> str | None:
        """What tells these options from others in a row."""
        return self.metric.variant(self.options)

    @property
    def text(self) -> str:
        """The request as a user would write it."""
        parts = [f"{k}={v}" for k, v in self.options.items() if v is not None]
        return ":".join([self.metric.name, *parts])


def parse_metrics(
    metrics: str | Metric | Iterable[str | Metric] | None,
) -> tuple[MetricRequest, ...]:
    """Return the requests of a list of names.

    Args:
        metrics: Names such as ``stable_rank`` or ``energy_rank:q=0.9``, as a
            comma-separated string or a list, or Metric objects; ``all`` for every
            metric with its default options; None for `DEFAULT_METRICS`.

    Returns:
        The requests, in order, repetitions dropped.

    Raises:
        ArgumentTypeError: If they are not names or metrics.
        DomainError: If the list is empty.
    """
    if metrics is None:
        items: list[str | Metric] = list(DEFAULT_METRICS)
    elif isinstance(metrics, str):
        items = [part.strip() for part in metrics.split(",") if part.strip()]
    elif isinstance(metrics, Metric) or not _is_list(metrics):
        # What is no metric at all is refused below, as an entry of a list is.
        items = [metrics]  # type: ignore[list-item]
    else:
        items = list(metrics)
    for item in items:
        if not isinstance(item, str | Metric):
            raise ArgumentTypeError(
                f"metrics are names or Metric objects, got {item!r:.80} of type "
                f"{type(item).__name__}; e.g. metrics='stable_rank'"
            )
    if not items:
        raise DomainError(
            "a scan computes at least one metric, got an empty list; "
            "leave it out for the default set"
        )
    named = [list_metrics() if item == "all" else [item] for item in items]
    requests = [_parse(item) for group in named for item in group]
    return tuple({request.text: request for request in requests}.values())


def _is_list(metrics: object) -> TypeGuard[Iterable[Any]]:
    # Bytes and tensors can be iterated, at times, and are no lists of metrics.
    return isinstance(metrics, Iterable) and not isinstance(metrics, bytes | Tensor)


def _parse(item: str | Metric) -> MetricRequest:
    if isinstance(item, Metric):
        return MetricRequest(item, item.bind({}))
    name, *pairs = item.split(":")
    metric = get_metric(name.strip())
    options: dict[str, Any] = {}
    for key, value in (_parse_option(metric, pair) for pair in pairs):
        if key in options:
            raise DomainError(
                f"an option of a metric is given once, got {key} twice in {item!r}; "
                f"write two requests, e.g. '{name}:{pairs[0]},{name}:{pairs[-1]}'"
            )
        options[key] = value
    return MetricRequest(metric, metric.bind(options))


def _parse_option(metric: Metric, pair: str) -> tuple[str, Any]:
    key, separator, text = pair.partition("=")
    if not separator:
        raise UnknownNameError(
            f"an option of a metric reads name=value, got {pair!r} after "
            f"{metric.name}; e.g. energy_rank:q=0.9"
        )
    default = metric.parameters.get(key.strip())
    if isinstance(default, int | float):
        kind = type(default)
        try:
            return key.strip(), kind(text)
        except ValueError:
            raise DomainError(
                f"{metric.name}:{key} is of type {kind.__name__}, got {text!r}; "
                f"e.g. {metric.name}:{key}={default}"
            ) from None
    return key.strip(), text
