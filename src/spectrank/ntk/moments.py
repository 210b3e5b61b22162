"""`moments`: mean and second moment of the tangent kernel of a random network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from types import MappingProxyType

import numpy as np
import polars as pl

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.layer_moments.relative import (
    RelativeLaw,
    moved_law,
    relative_law,
)
from spectrank.ntk.recursion import (
    KernelMoments,
    kernel_moments,
    limit_log_second,
    log_less_one,
    log_sum,
)
from spectrank.random_nets import RandomMLP
from spectrank.random_nets.activations import SLOPES
from spectrank.random_nets.rows import (
    NETWORK,
    Cell,
    Row,
    bases,
    laws_as_data,
    skip,
    with_moved,
)
from spectrank.table import Table

COLUMNS = MappingProxyType(
    {
        "m": pl.Int64,
        "n": pl.Int64,
        "other": pl.String,
        "other_index": pl.Int64,
        "standard_error": pl.Float64,
        "log_value": pl.Float64,
    }
)
"""Producer columns. ``log_value`` is the natural logarithm, there also where the value
leaves the range of float64; ``other`` is the second layer of a pair."""

DEFINITIONS = MappingProxyType(
    {
        "kernel_mean": "E K_l; for the network E K, K = sum_l K_l",
        "kernel_second_moment": "E K_l^2; for the network E K^2",
        "kernel_cross_moment": "sum over l' != l of E K_l K_l'; for a pair E K_l K_l'",
        "kernel_relative_variance": "Var K_l / (E K_l)^2; for the network of K",
        "kernel_share": "E K_l / E K",
        "kernel_exponent": "B, the exponent of E K^2/(E K)^2 at large depth",
    }
)
_SOURCE = "derived; tests/ntk/test_moments.py"


def moments(net: RandomMLP, *, pairs: bool = False) -> Table:
    r"""Mean and second moment of the tangent kernel :math:`K(x, x)` at :math:`|x| = 1`.

    :math:`K = \sum_l K_l`, :math:`K_l = |h_{l-1}|^2\,\|\partial f/\partial z_l\|_F^2`:
    standard parametrisation, all weights trained, no biases, the plain sum over outputs
    (``outputs="trace"``). For another input multiply the first moments by
    :math:`|x|^2` and the second by :math:`|x|^4`. Exact at every finite width, widths
    of 1 included, for relu, leaky_relu and linear and every spectrum (route ``exact``);
    with spectral norms held, every E K_l is linear in the stable rank of every layer
    but l, with Frobenius norms held it depends on none. The variance depends on the
    participation ratios.
    Rows: by layer (``index``) and of the ``network``; see ``DEFINITIONS``. The row
    ``kernel_relative_variance`` of variant ``limit`` is leading order in large width
    and depth, for explanation; ``skip`` where widths or spectra are unequal. A moment
    that leaves the range of float64 has status ``nonfinite`` and a finite
    ``log_value``. For ``temper``, whose E sum s^4 is a mean over drawn spectra, rows
    carry a ``standard_error``.
    Source (derived): tests/ntk/test_moments.py, test_moments_exact.py. The sampling
    laws are this library's own.

    Args:
        net: The law; nothing is drawn.
        pairs: Whether the cross moment of every pair of layers is a row too
            (L (L - 1) / 2 of them, ``other`` the second layer).

    Returns:
        Table of kind ``measurement``.

    Raises:
        ArgumentTypeError: If ``net`` is no RandomMLP.
        DomainError: If its activation has no exact recursion, or the scale of a
            Gaussian layer leaves the range of float64.

    Example:
        >>> net = RandomMLP([10, 16, 16, 16, 1], stable_rank=4, spectrum="flat")
        >>> table = moments(net)
        >>> round(table.value("network", "kernel_mean"), 10)
        5.8
        >>> round(table.value("network", "kernel_second_moment"), 10)
        71.0639506173
    """  # noqa: DOC502 - raised by the functions called
    slope = _checked(net)
    rows = list(_rows(net, [relative_law(law) for law in net.layers], slope, pairs))
    if any(law.a2_stderr > 0.0 for law in net.layers):
        moved = [relative_law(moved_law(law)) for law in net.layers]
        others = _rows(net, moved, slope, pairs)
        rows = [with_moved(a, b) for a, b in zip(rows, others, strict=True)]
    provenance = {
        "network": repr(net),
        "layers": laws_as_data(net.layers),
        "settings": {"pairs": pairs, "input_norm": 1.0, "outputs": "trace"},
        "definitions": dict(DEFINITIONS),
    }
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


def _checked(net: RandomMLP) -> float:
    """Return the slope of the activation, or refuse."""
    if not isinstance(net, RandomMLP):
        raise ArgumentTypeError(
            f"moments takes the law of a random network, got {type(net).__name__}; "
            "make one with RandomMLP(widths, stable_rank=...), or take empirical() of "
            "a model"
        )
    if net.activation not in SLOPES:
        raise DomainError(
            "kernel moments are exact for relu, leaky_relu and linear, got "
            f"{net.activation!r}; use infinite_width for the limit of large width, or "
            "empirical on sampled networks"
        )
    return SLOPES[net.activation]


def _rows(
    net: RandomMLP, layers: Sequence[RelativeLaw], slope: float, pairs: bool
) -> Iterator[Row]:
    found = kernel_moments(layers, slope)
    note = bases(net.layers)[-1].note
    yield from _network_rows(found, note)
    yield from _limit_rows(net.layers, slope)
    names, products = net.parameter_names, found.log_products
    for i, (name, law) in enumerate(zip(names, layers, strict=True)):
        size = {"m": law.m, "n": law.n}
        place = partial(Cell, name, index=i + 1, source=_SOURCE)
        noted = partial(place, reason=note)
        mean, ratio = float(found.log_means[i]), found.log_ratios[i, i]
        second, variance = float(products[i, i]), float(log_less_one(ratio))
        yield place("kernel_mean").exp_row(mean, **size)
        yield noted("kernel_second_moment").exp_row(second, **size)
        yield noted("kernel_relative_variance").exp_row(variance, **size)
        yield place("kernel_share").exp_row(mean - found.log_mean, **size)
        if len(layers) > 1:
            others = log_sum(np.delete(products[i], i))
            yield noted("kernel_cross_moment").exp_row(others, **size)
    for i, k in combinations(range(len(layers)), 2) if pairs else ():
        variant = f"with {names[k]}"
        cell = Cell(names[i], "kernel_cross_moment", i + 1, variant, "exact", note)
        yield replace(cell, source=_SOURCE).exp_row(
            float(products[i, k]), other=names[k], other_index=k + 1
        )


def _network_rows(found: KernelMoments, note: str | None) -> Iterator[Row]:
    noted = partial(Cell, NETWORK, reason=note, source=_SOURCE)
    variance = found.log_relative_variance
    yield Cell(NETWORK, "kernel_mean", source=_SOURCE).exp_row(found.log_mean)
    yield noted("kernel_second_moment").exp_row(found.log_second)
    yield noted("kernel_relative_variance").exp_row(variance)


def _limit_rows(laws: Sequence[LayerLaw], slope: float) -> Iterator[Row]:
    """Yield the leading order; a scalar readout, else of equal width and spectrum."""
    metric = "kernel_relative_variance"
    hidden, num = laws[:-1], len(laws)
    shapes = {(law.m, law.n) for law in hidden}
    ratios = {law.participation_ratio for law in hidden}
    square = all(m == n for m, n in shapes)
    if len(shapes) != 1 or not square or len(ratios) != 1 or laws[-1].m != 1:
        reason = (
            "the limit is one of hidden layers of equal width (that of the input) and "
            "spectrum with a scalar readout; the exact row is beside it"
        )
        yield skip(metric, reason, variant="limit")
        return
    rho, n = hidden[0].participation_ratio, hidden[0].n
    exponent, log_second = limit_log_second(num, rho, n, slope)
    reason = (
        "leading order, n to infinity at fixed L/n and L/rho: too high at small depth "
        "and of no use at small participation ratio; the exact row is beside it"
    )
    cell = partial(
        Cell,
        NETWORK,
        variant="limit",
        route="leading-order",
        reason=reason,
        source=_SOURCE,
    )
    yield cell(metric).exp_row(float(log_less_one(log_second)))
    yield cell("kernel_exponent").row(exponent)
