"""The registry: a metric is a named function of a Spectrum with its promises.

A plug-in registers with the same decorator, from a module named in the entry-point
group ``spectrank.metrics``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.linalg import Need, Spectrum, Value, spectrum

ENTRY_POINT_GROUP = "spectrank.metrics"

Parameters = Mapping[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Metric:
    """A named scalar of a spectrum. Calling it takes a Spectrum or a 2-D tensor.

    Attributes:
        name: The field's standard term.
        function: Maps a Spectrum whose status is ``ok`` to a Value.
        needs: What the function reads of the Spectrum; may depend on parameters.
        formula: In terms of the descending singular values ``s_i`` and
            ``k = min(m, n)``.
        summary: First line of the docstring.
        source: Where the definition is stated.
        range: Lower and upper limit as functions of k.
        invariances: Of ``scale``, ``transpose``, ``orthogonal``.
        parameters: Options with their defaults.
        on_zero: Value on a zero matrix; None where the metric has no meaning there.
        check: Raises DomainError for parameters out of range.
    """

    name: str
    function: Callable[..., Value]
    needs: Callable[[Parameters], frozenset[Need]]
    formula: str
    summary: str
    source: str
    range: Callable[[int], tuple[float, float]]
    invariances: frozenset[str]
    parameters: Parameters
    on_zero: float | None
    check: Callable[[Parameters], None]

    def __repr__(self) -> str:
        return f"Metric({self.name} = {self.formula})"

    def __call__(self, s: Spectrum | Tensor, **parameters: Any) -> Value:
        """Return the metric of a spectrum or of a matrix.

        Status ``skipped``, with the reason, for more than the norms of a matrix that is
        too large to form: asking again would not help.

        Args:
            s: Spectrum that serves the needs, or a 2-D tensor (m, n).
            **parameters: The metric's options.

        Returns:
            Value with enclosure, error kind and status.

        Raises:
            ArgumentTypeError: If the function does not return a Value.
        """
        options = self.bind(parameters)
        if not isinstance(s, Spectrum):
            s = spectrum(s, self.needs(options))
        if s.status == "degenerate" and self.on_zero is not None and min(s.shape):
            zero = self.on_zero
            return Value(zero, zero, zero, "certified", 0.0, s.status, s.reason)
        if s.status != "ok":
            return Value.undefined(s.status, s.reason or s.status)
        if s.reason is not None and self._missing(s, options):
            return Value.undefined("skipped", s.reason)
        self._require(s, options)
        value = self.function(s, **options)
        if not isinstance(value, Value):
            raise ArgumentTypeError(
                f"a metric returns a spectrank.Value, {self.name} returned "
                f"{type(value).__name__}; compute with s.sigma_max and its like, or "
                "wrap a number with Value.around(number, error)"
            )
        return value.clip(*self.range(min(s.shape)))

    def bind(self, parameters: Parameters) -> dict[str, Any]:
        """Return the options with defaults filled in and checked.

        Args:
            parameters: Some of the metric's options.

        Returns:
            All of them.

        Raises:
            UnknownNameError: If an option does not exist.
        """
        for name in parameters:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise UnknownNameError(
                    f"the options of {self.name} are: {known}; got {name!r}; "
                    "leave it out or see `spectrank metrics`"
                )
        options = {**self.parameters, **parameters}
        self.check(options)
        return options

    def variant(self, parameters: Parameters) -> str | None:
        """Return what tells this choice of options from others in a row."""
        options = self.bind(parameters)
        parts = [
            str(value) if name == "variant" else f"{name}={value!r}"
            for name, value in options.items()
            if value is not None
        ]
        return ",".join(parts) or None

    def _missing(self, s: Spectrum, options: Parameters) -> bool:
        """Whether a spectrum lacks values, or a norm, that the metric reads."""
        needs = self.needs(options)
        values = bool(needs & {"sigma", "small_end"}) and s.sigma is None
        return values or ("schatten4" in needs and s.schatten4 is None)

    def _require(self, s: Spectrum, options: Parameters) -> None:
        needs = self.needs(options)
        if self._missing(s, options):
            raise DomainError(
                f"{self.name} reads {', '.join(sorted(needs))} of a spectrum, got one "
                f"with norms only (route {s.route}); call "
                f"spectrum(W, needs={sorted(needs)!r}) or pass the matrix"
            )
        if "small_end" in needs and not s.resolves_small_end:
            raise DomainError(
                f"{self.name} reads the small end of a spectrum, got one by route "
                f"{s.route} that resolves {s.num_resolved} of {min(s.shape)} values; "
                "call spectrum(W, needs=['small_end']) or pass the matrix"
            )


_METRICS: dict[str, Metric] = {}


def register(
    *,
    needs: Iterable[Need] | Callable[[Parameters], Iterable[Need]],
    formula: str,
    source: str,
    range: Callable[[int], tuple[float, float]],  # noqa: A002
    invariances: Iterable[str],
    on_zero: float | None = None,
    check: Callable[[Parameters], None] = lambda _: None,
    name: str | None = None,
) -> Callable[[Callable[..., Value]], Metric]:
    """Make a metric of a function ``(Spectrum, **options) -> Value``.

    Args:
        needs: What it reads of the Spectrum, or a function of the options.
        formula: Definition, in plain text.
        source: Author, year, identifier, equation.
        range: Maps ``k = min(m, n)`` to the lower and upper limit.
        invariances: Of ``scale``, ``transpose``, ``orthogonal``.
        on_zero: Value on a zero matrix, None where it has no meaning.
        check: Raises DomainError when an option is out of range.
        name: Defaults to the function's.

    Returns:
        The decorator.

    Example:
        >>> from spectrank.metrics import register
        >>> @register(
        ...     needs=["sigma_max", "frobenius"],
        ...     formula="s_1 / ||W||_F",
        ...     source="this example",
        ...     range=lambda k: (k**-0.5, 1.0),
        ...     invariances=["scale", "transpose", "orthogonal"],
        ... )
        ... def example_top_share(s):
        ...     '''Share of the Frobenius norm in the top direction.'''
        ...     return s.sigma_max / s.frobenius
        >>> import torch
        >>> round(float(example_top_share(torch.eye(4))), 6)
        0.5
        >>> unregister("example_top_share")
    """
    reads = needs if callable(needs) else functools.partial(_constant, tuple(needs))

    def decorate(function: Callable[..., Value]) -> Metric:
        options = {
            p.name: p.default
            for p in inspect.signature(function).parameters.values()
            if p.default is not inspect.Parameter.empty
        }
        metric = Metric(
            name=name or function.__name__,
            function=function,
            needs=lambda p: frozenset(reads(p)),
            formula=formula,
            summary=(inspect.getdoc(function) or "").split("\n")[0],
            source=source,
            range=range,
            invariances=frozenset(invariances),
            parameters=options,
            on_zero=on_zero,
            check=check,
        )
        _add(metric)
        # So that help() and signature tools show the formula's own page.
        object.__setattr__(metric, "__doc__", function.__doc__)
        object.__setattr__(metric, "__wrapped__", function)
        return metric

    return decorate


def unregister(name: str) -> None:
    """Remove a metric; for tests of plug-ins."""
    _METRICS.pop(name, None)


def get_metric(name: str) -> Metric:
    """Return the metric of that name.

    Args:
        name: As listed by `list_metrics`.

    Returns:
        The metric.

    Raises:
        UnknownNameError: With the nearest name.
    """
    _load_plugins()
    try:
        return _METRICS[name]
    except KeyError:
        near = difflib.get_close_matches(name, _METRICS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see `spectrank metrics`"
        raise UnknownNameError(f"no metric is named {name!r}; {hint}") from None


def list_metrics() -> list[Metric]:
    """Return all metrics, our own first, in the order of registration."""
    _load_plugins()
    return list(_METRICS.values())


def _constant(needs: tuple[Need, ...], _: Parameters) -> tuple[Need, ...]:
    return needs


def _add(metric: Metric) -> None:
    for part in ("formula", "source", "summary"):
        if not getattr(metric, part):
            raise DomainError(
                f"a metric states its formula, source and summary (the docstring's "
                f"first line), {metric.name} has no {part}; add it"
            )
    if metric.name in _METRICS:
        raise DomainError(
            f"a metric's name is unique, {metric.name!r} exists; choose another"
        )
    _METRICS[metric.name] = metric


@functools.cache
def _load_plugins() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        point.load()
