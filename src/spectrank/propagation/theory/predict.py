"""`predict`: the theory of a random network as rows, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.ensembles.requests import check_number
from spectrank.linalg.layer_moments.relative import moved_law
from spectrank.propagation.names import COLUMNS, METRICS
from spectrank.propagation.theory.angles import check_cosine
from spectrank.propagation.theory.exact_rows import angle_rows, exact_rows
from spectrank.propagation.theory.smooth_rows import smooth_rows
from spectrank.random_nets import RandomMLP
from spectrank.random_nets.activations import SLOPES
from spectrank.random_nets.rows import Row, laws_as_data, with_moved
from spectrank.table import Table


def predict(
    net: RandomMLP,
    *,
    cosine: float | Sequence[float] | None = None,
    input_mean_square: float = 1.0,
) -> Table:
    """Theory of a random network: signal, gradients, Jacobian, angles, kinks by layer.

    The metrics of ``propagation.names`` but for those of one given network or curve:
    capacity (see `capacity`), ``linear_pieces`` and ``affinity_defect`` (see
    `count_pieces`).

    relu, leaky_relu and linear: exact at finite width, any widths and spectra (route
    ``exact``), but for the mean-field angle map and the Jacobian's limit. Numbers of
    the random spectra ``slice`` and ``temper`` that have no closed form are means over
    drawn singular values and carry a ``standard_error``.
    tanh, sigmoid, gelu and silu: ``mean-field``, asymptotic in width and participation
    ratio. The reason is in the row. Biases are zero; the last layer, f = z_L, has no
    activation: ``post`` rows are of h_l and end at L - 1, ``pre`` rows are of z_l.
    Index l is the number of the layer, 1 to L. A value that leaves the range of float64
    has status ``nonfinite`` and its logarithm in ``log_value``.
    Source (derived): tests/propagation/theory.

    Args:
        net: The law; nothing is drawn.
        cosine: Of pairs of inputs, one or several, each in [-1, 1]: adds the rows of
            ``cosine`` and, for linear networks, ``squared_cosine``.
        input_mean_square: |x|^2 / n_0, which matters to activations that are not
            positively homogeneous.

    Returns:
        Table of kind ``measurement``, and ``skip`` where there is no theory.

    Raises:
        ArgumentTypeError: If ``net`` is no RandomMLP, or a cosine or mean square no
            number.
        DomainError: If a cosine lies outside [-1, 1], or the mean square is not
            positive.

    Example:
        >>> net = RandomMLP([8, 16, 4], stable_rank=4, spectrum="flat")
        >>> table = predict(net)
        >>> round(table.value("0.weight", "signal_gain", variant="post"), 12)
        2.0
    """
    if not isinstance(net, RandomMLP):
        raise ArgumentTypeError(
            f"predict takes the law of a random network, got {type(net).__name__}; "
            "make one with RandomMLP(widths, stable_rank=...), or measure the model"
        )
    check_number("input_mean_square", input_mean_square, "pass |x|^2 / n_0")
    if not 0.0 < input_mean_square < math.inf:
        raise DomainError(
            "input_mean_square must be positive and finite, got "
            f"{input_mean_square}; a zero input has no direction"
        )
    cosines = _cosines(cosine)
    rows = list(_rows(net, net.layers, cosines, input_mean_square))
    if any(law.a2_stderr > 0.0 for law in net.layers):
        moved = [moved_law(law) for law in net.layers]
        others = _rows(net, moved, cosines, input_mean_square)
        rows = [with_moved(a, b) for a, b in zip(rows, others, strict=True)]
    provenance = {
        "network": repr(net),
        "layers": laws_as_data(net.layers),
        "settings": {
            "cosine": list(cosines),
            "input_mean_square": input_mean_square,
        },
        "definitions": {
            name: {"formula": METRICS[name].formula, "source": METRICS[name].source}
            for name in dict.fromkeys(row["metric"] for row in rows)
        },
    }
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


def _rows(
    net: RandomMLP,
    layers: Sequence[LayerLaw],
    cosines: Sequence[float],
    input_mean_square: float,
) -> Iterator[Row]:
    slope = SLOPES.get(net.activation)
    if slope is None:
        yield from smooth_rows(
            net.activation, layers, net.parameter_names, cosines, input_mean_square
        )
        return
    yield from exact_rows(layers, net.parameter_names, slope)
    yield from angle_rows(layers, net.parameter_names, slope, cosines)


def _cosines(cosine: float | Sequence[float] | None) -> tuple[float, ...]:
    if cosine is None:
        return ()
    if isinstance(cosine, Sequence):
        return tuple(check_cosine(c) for c in cosine)
    return (check_cosine(cosine),)
