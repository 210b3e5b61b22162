"""Rows of networks with smooth activations: mean field, asymptotic in the width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.layer_moments.relative import check_scale
from spectrank.propagation.theory.angles import collapse_depth
from spectrank.propagation.theory.mean_field import (
    activation_cosine,
    mean_square,
    mean_square_slope,
)
from spectrank.random_nets.rows import Cell, Row, basis, skip

_REASON = "mean field: width and participation ratio to infinity"
_NO_THEORY = (
    "signal_second_moment",
    "log_signal_mean",
    "log_signal_variance",
    "beta",
    "gradient_second_moment",
    "log_gradient_mean",
    "log_gradient_variance",
    "jacobian_second_moment",
    "log_jacobian_mean",
    "log_jacobian_variance",
    "jacobian_eigenvalue_variance",
)


def smooth_rows(
    activation: str,
    layers: Sequence[LayerLaw],
    names: Sequence[str],
    cosines: Sequence[float],
    input_mean_square: float,
) -> Iterator[Row]:
    """Yield what mean field tells, and a skip for what it does not.

    Args:
        activation: Name.
        layers: Laws, first layer first.
        names: Of the weights.
        cosines: Of the inputs.
        input_mean_square: |x|^2 / n_0.

    Yields:
        Rows.
    """
    # q[l] of z_{l+1}; h[l] = E phi^2 and d[l] = E phi'^2 behind it.
    q, h, d = [], [], []
    square = input_mean_square
    for law in layers:
        check_scale(law)
        q.append(law.a1 / law.m * square)
        square = mean_square(activation, q[-1])
        h.append(square)
        d.append(mean_square_slope(activation, q[-1]))
    yield from _signal_rows(layers, names, q, h, input_mean_square)
    yield from _slope_rows(layers, names, q, d)
    yield from _cosine_rows(activation, layers, names, cosines, q)
    for metric in _NO_THEORY:
        yield skip(metric, f"no finite-width theory for {activation}")
    for metric in ("new_kinks", "pattern_changes"):
        yield skip(metric, f"{activation} is smooth: it has no kinks")


def _signal_rows(
    layers: Sequence[LayerLaw],
    names: Sequence[str],
    q: Sequence[float],
    h: Sequence[float],
    input_mean_square: float,
) -> Iterator[Row]:
    for i, (law, name) in enumerate(zip(layers, names, strict=True)):
        cell = partial(_cell, name, i, exact=i == 0)
        size = {"m": law.m, "n": law.n}
        width = math.log(law.m / layers[0].n)
        for variant, values in (("post", h), ("pre", q)):
            if variant == "post" and i == len(layers) - 1:
                continue
            exact = i == 0 and variant == "pre"
            gain = _log(values[i]) - math.log(input_mean_square)
            cell = partial(_cell, name, i, variant=variant, exact=exact)
            yield cell("signal_gain").exp_row(gain + width, **size)
            yield cell("signal_gain_per_neuron").exp_row(gain, **size)
        yield _cell(name, i, "preactivation_variance", variant="mean-field").exp_row(
            _log(q[i]), **size
        )


def _slope_rows(
    layers: Sequence[LayerLaw],
    names: Sequence[str],
    q: Sequence[float],
    d: Sequence[float],
) -> Iterator[Row]:
    forward = [math.log(law.a1 / law.n) for law in layers]
    backward = [math.log(law.a1 / law.m) for law in layers]
    slopes = [_log(x) for x in d]
    last = len(layers) - 1
    for i, (law, name) in enumerate(zip(layers, names, strict=True)):
        cell, size = partial(_cell, name, i), {"m": law.m, "n": law.n}
        pre = sum(forward[: i + 1]) + sum(slopes[:i])
        gradient = sum(backward[i:]) + sum(slopes[i:last])
        yield cell("gradient_gain", exact=i == last).exp_row(gradient, **size)
        yield cell("jacobian_gain", exact=i == 0).exp_row(pre, **size)
        yield cell("length_gain", variant="pre").exp_row(0.5 * pre, **size)
        if i < last:
            yield cell("length_gain", variant="post").exp_row(
                0.5 * (pre + slopes[i]), **size
            )
            chi = layers[i + 1].a1 / layers[i + 1].m * d[i]
            yield cell("chi_1", variant="mean-field").row(chi, **size)
        note = basis(law).note
        depth = Cell(name, "collapse_depth", i + 1, reason=note)
        yield depth.row(collapse_depth(law), **size)


def _cosine_rows(
    activation: str,
    layers: Sequence[LayerLaw],
    names: Sequence[str],
    cosines: Sequence[float],
    q: Sequence[float],
) -> Iterator[Row]:
    for cosine in cosines:
        c = cosine
        for i, (law, name) in enumerate(zip(layers, names, strict=True)):
            if i < len(layers) - 1:
                c = activation_cosine(activation, q[i], q[i], c)
            cell = _cell(name, i, "cosine", variant="mean-field")
            yield cell.row(c, input_cosine=cosine, m=law.m, n=law.n)
        yield skip(
            "squared_cosine",
            "the annealed recursion closes for linear networks only",
            variant="annealed",
        ) | {"input_cosine": cosine}


def _cell(
    name: str,
    i: int,
    metric: str,
    *,
    variant: str | None = None,
    exact: bool = False,
) -> Cell:
    if exact:
        return Cell(name, metric, i + 1, variant)
    return Cell(name, metric, i + 1, variant, "mean-field", _REASON)


def _log(x: float) -> float:
    return math.log(x) if x > 0.0 else -math.inf
