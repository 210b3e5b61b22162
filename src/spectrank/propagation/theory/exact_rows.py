"""Rows of piecewise-linear networks: exact at finite width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.layer_moments.log_norms import LogNorm
from spectrank.propagation.names import NETWORK
from spectrank.propagation.theory.angles import (
    collapse_depth,
    cosine_map,
    jacobian_log_spread,
    jacobian_variance_limit,
    squared_cosine,
)
from spectrank.propagation.theory.depth import (
    Moments,
    betas,
    gradient_logs,
    gradient_moments,
    linear_factor,
    mask_factor,
    signal_logs,
    signal_moments,
)
from spectrank.propagation.theory.kinks import new_kinks, pattern_changes
from spectrank.random_nets.rows import (
    Basis,
    Cell,
    Row,
    bases,
    basis,
    skip,
    with_error,
)

_RANK_ONE = (
    "a layer of rank one maps the curve through zero: its angular length is not kept"
)


def exact_rows(
    layers: Sequence[LayerLaw], names: Sequence[str], slope: float
) -> Iterator[Row]:
    """Yield norms, gradients, Jacobian, lengths and kinks.

    Args:
        layers: Laws, first layer first.
        names: Of the weights.
        slope: 0 for relu, 1 for linear.

    Yields:
        Rows.
    """
    post, pre = signal_moments(layers, slope)
    post_logs, pre_logs = signal_logs(layers, slope)
    below = bases(layers)
    for i, name in enumerate(names):
        place = partial(Cell, name, index=i + 1)
        for variant, moments, logs in _variants(
            i, len(names), (post, pre), (post_logs, pre_logs)
        ):
            yield from _norm_rows(layers, i, place, variant, moments, logs, below[i])
        yield from _layer_rows(layers, i, place, slope)
    yield from _backward_rows(layers, names, slope)
    # J u passes coins of the same chances as z_l: its law is that of pre.
    for i, (name, moments) in enumerate(zip(names, pre, strict=True)):
        place, size = partial(Cell, name, index=i + 1), _size(layers[i])
        note = below[i].note
        yield place("jacobian_gain", reason=note).exp_row(moments.log_gain, **size)
        yield place("jacobian_second_moment", reason=note).exp_row(
            moments.log_second, **size
        )
        route, reason = below[i].log_route(pre_logs[i].exact)
        cell = partial(place, route=route, reason=reason)
        yield from _log_rows(cell, "log_jacobian", pre_logs[i], size)
    yield from _network_rows(layers, slope)
    yield from _kink_rows(layers, names, slope)


def _variants(
    i: int,
    num_layers: int,
    moments: tuple[list[Moments], list[Moments]],
    logs: tuple[list[LogNorm], list[LogNorm]],
) -> Iterator[tuple[str, Moments, LogNorm]]:
    """Both variants of a hidden layer; the output has no activation."""
    if i < num_layers - 1:
        yield "post", moments[0][i], logs[0][i]
    yield "pre", moments[1][i], logs[1][i]


def _norm_rows(
    layers: Sequence[LayerLaw],
    i: int,
    place: Callable[..., Cell],
    variant: str,
    moments: Moments,
    logs: LogNorm,
    below: Basis,
) -> Iterator[Row]:
    size, note = _size(layers[i]), below.note
    gain = moments.log_gain
    yield place("signal_gain", variant=variant).exp_row(gain, **size)
    yield place("signal_gain_per_neuron", variant=variant).exp_row(
        gain + math.log(layers[0].n / layers[i].m), **size
    )
    yield place("signal_second_moment", variant=variant, reason=note).exp_row(
        moments.log_second, **size
    )
    route, reason = below.log_route(logs.exact)
    cell = partial(place, variant=variant, route=route, reason=reason)
    yield from _log_rows(cell, "log_signal", logs, size)
    length = cell("length_gain").exp_row(logs.log_half, **size)
    yield with_error(length, length["value"] * logs.stderr[2])


def _log_rows(
    cell: Callable[..., Cell], prefix: str, logs: LogNorm, size: dict[str, int]
) -> Iterator[Row]:
    mean = cell(f"{prefix}_mean").row(logs.mean, **size)
    yield with_error(mean, logs.stderr[0])
    variance = cell(f"{prefix}_variance").row(logs.variance, **size)
    yield with_error(variance, logs.stderr[1])


def _layer_rows(
    layers: Sequence[LayerLaw], i: int, place: Callable[..., Cell], slope: float
) -> Iterator[Row]:
    law = layers[i]
    size, note = _size(law), basis(law).note
    pre = linear_factor(law)
    cell = partial(place, "layer_relative_variance", reason=note)
    if i < len(layers) - 1:
        post = pre + mask_factor(law.m, slope)
        yield cell(variant="post").row(math.expm1(post.log_second), **size)
    yield cell(variant="pre").row(math.expm1(pre.log_second), **size)
    yield place("collapse_depth", reason=note).row(collapse_depth(law), **size)


def _backward_rows(
    layers: Sequence[LayerLaw], names: Sequence[str], slope: float
) -> Iterator[Row]:
    gradients, logs = gradient_moments(layers, slope), gradient_logs(layers, slope)
    forward, backward = betas(layers, slope)
    above = bases(layers[::-1])[::-1]
    for i, name in enumerate(names):
        place, size = partial(Cell, name, index=i + 1), _size(layers[i])
        yield place("gradient_gain").exp_row(gradients[i].log_gain, **size)
        yield place("gradient_second_moment", reason=above[i].note).exp_row(
            gradients[i].log_second, **size
        )
        route, reason = above[i].log_route(logs[i].exact)
        cell = partial(place, route=route, reason=reason)
        yield from _log_rows(cell, "log_gradient", logs[i], size)
        for variant, value in (("forward", forward[i]), ("backward", backward[i])):
            yield place("beta", variant=variant).row(value, **size)


def _network_rows(layers: Sequence[LayerLaw], slope: float) -> Iterator[Row]:
    metric = "jacobian_eigenvalue_variance"
    if len({law.n for law in layers} | {law.m for law in layers}) == 1:
        yield Cell(
            NETWORK,
            metric,
            variant="limit",
            route="leading-order",
            reason="width to infinity at fixed n/rho",
        ).row(jacobian_variance_limit(layers, slope))
    else:
        reason = "the limit is one of equal widths; the annealed variant is exact"
        yield skip(metric, reason, variant="limit")
    annealed = Cell(NETWORK, metric, variant="annealed", reason=bases(layers)[-1].note)
    yield annealed.exp_row(jacobian_log_spread(layers, slope), less=1.0)


def _kink_rows(
    layers: Sequence[LayerLaw], names: Sequence[str], slope: float
) -> Iterator[Row]:
    if slope == 1.0:
        for metric in ("new_kinks", "pattern_changes"):
            yield skip(metric, "a linear network has no kinks")
        return
    for metric, counts in (
        ("new_kinks", new_kinks(layers, slope)),
        ("pattern_changes", pattern_changes(layers, slope)),
    ):
        for i, count in enumerate(counts):
            reason = _RANK_ONE if math.isnan(count) else None
            cell = Cell(names[i], metric, i + 1, reason=reason)
            yield cell.row(count, **_size(layers[i]))
        total = sum(counts)
        reason = _RANK_ONE if math.isnan(total) else None
        yield Cell(NETWORK, metric, reason=reason).row(total)


def angle_rows(
    layers: Sequence[LayerLaw],
    names: Sequence[str],
    slope: float,
    cosines: Sequence[float],
) -> Iterator[Row]:
    """Yield angles of pairs of inputs.

    Args:
        layers: Laws, first layer first.
        names: Of the weights.
        slope: 0 for relu, 1 for linear.
        cosines: Of the inputs.

    Yields:
        Rows.
    """
    below = bases(layers)
    for cosine in cosines:
        c = cosine
        for i, (law, name) in enumerate(zip(layers, names, strict=True)):
            if i < len(layers) - 1:
                c = cosine_map(c, slope)
            yield Cell(
                name,
                "cosine",
                i + 1,
                "mean-field",
                "mean-field",
                "width and participation ratio to infinity; finite ones add a random "
                "rotation of each layer",
            ).row(c, input_cosine=cosine, **_size(law))
        if slope != 1.0:
            yield skip(
                "squared_cosine",
                "the annealed recursion closes for linear networks only",
                variant="annealed",
            ) | {"input_cosine": cosine}
            continue
        for i, q in enumerate(squared_cosine(layers, cosine)):
            note = below[i].note
            cell = Cell(names[i], "squared_cosine", i + 1, "annealed", reason=note)
            yield cell.row(q, input_cosine=cosine, **_size(layers[i]))


def _size(law: LayerLaw) -> dict[str, int]:
    return {"m": law.m, "n": law.n}
