r"""What the theory says of each layer, measured at one point of parameter space.

With e = grad L_0 + lambda W, R the within-class part of grad L_0 and K cells,

    dist(W, rank K) <= (|||R||| + |||e|||) / lambda

in every unitarily invariant norm: zero e is not needed, it is paid for. The gradient is
autograd's, not the sum over samples that R is split from: nothing here holds by the way
it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from spectrank.collapse.certificates import NORMS, RankBounds, dist_to_rank, rank_bounds
from spectrank.experiments.zangrando2024neural.stationary.networks import linear_layers
from spectrank.linalg.moments import CrossMoments, CrossSummary
from spectrank.model.capture import capture

RTOL = 1e-2
"""Relative threshold of the numerical rank."""
RANK_FLOOR = "||e||_F / lambda"
"""Absolute one: singular values that what is left of the gradient can have made are
not counted, so that a zero network has rank 0 and not that of its rounding."""

LAYER = np.dtype(
    [
        ("rank", "f8"),
        ("norm", "f8"),
        ("distance", "f8"),
        ("next", "f8"),
        ("rtcv", "f8"),
        ("b1", "f8"),
        ("b2", "f8"),
        ("b3", "f8"),
        ("residual", "f8"),
        ("tightness", "f8"),
    ]
)
"""Of a layer: numerical rank, ||W||_F, Frobenius distance to rank K, its spectral
distance over ||W||_2, relative variability of its inputs, the three bounds of the
distance without residual, ||e||_F / lambda, and the largest ratio of a distance to
(|||R||| + |||e|||) / lambda over the Frobenius, spectral and nuclear norm (0 where the
matrix cannot be farther)."""


def layer_numbers(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    weight_decay: float,
    cells: Tensor | None = None,
) -> np.ndarray:
    """Measure every linear layer.

    Args:
        model: A network of `networks`.
        inputs: (N, d).
        labels: (N,) classes.
        weight_decay: lambda, positive.
        cells: (N,) cells of the partition; None for the classes.

    Returns:
        (L,) of dtype `LAYER`, in the order of `linear_layers`.
    """
    cells = labels if cells is None else cells
    found = []
    for weight, gradient, cross in _layers(model, inputs, labels, cells):
        bounds = rank_bounds(
            weight,
            cross,
            divisor=float(len(inputs)),
            weight_decay=weight_decay,
            ranks=(),
            gradient=gradient,
        )
        found.append(_numbers(weight, cross, bounds))
    return np.array(found, dtype=LAYER)


def gradient_distances(model: nn.Module, inputs: Tensor, labels: Tensor) -> np.ndarray:
    """Distance of each layer's loss gradient to rank K, with what bounds it.

    Args:
        model: A network of `networks`.
        inputs: (N, d).
        labels: (N,) classes, the cells.

    Returns:
        (L, 4): Frobenius distance of the gradient of the mean loss to rank K, ||R||_F,
        and the bounds of it by the roots of WCV(delta) WCV(z) and of
        mean ||delta||^2 WCV(z).
    """
    rows = []
    for _, gradient, cross in _layers(model, inputs, labels, labels):
        variation = cross.inputs.wcv.value
        rows.append(
            (
                dist_to_rank(gradient, cross.inputs.num_present).value,
                float(cross.within_moment().norm()),
                (cross.outputs.wcv.value * variation) ** 0.5,
                (cross.outputs.mean_square.value * variation) ** 0.5,
            )
        )
    return np.array(rows)


def _layers(
    model: nn.Module, inputs: Tensor, labels: Tensor, cells: Tensor
) -> Iterator[tuple[Tensor, Tensor, CrossSummary]]:
    """Weight, gradient of the mean loss and statistics of every layer."""
    layers = linear_layers(model)
    weights = [layer.weight for layer in layers.values()]
    gradients = torch.autograd.grad(cross_entropy(model(inputs), labels), weights)
    with capture(model, list(layers), gradients="loss", loss="cross_entropy") as taps:
        for batch in taps.over([(inputs, labels)]):
            for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
                seen = batch[name]
                cross = CrossMoments(
                    int(cells.max()) + 1, layer.out_features, layer.in_features
                )
                cross.update(seen.gradient_rows(), seen.input_rows(), cells)
                yield layer.weight.detach(), gradient, cross.compute()


def _rank(weight: Tensor, floor: float) -> float:
    sigma = torch.linalg.svdvals(weight)
    return float((sigma > max(RTOL * float(sigma[0]), floor)).sum())


def _numbers(
    weight: Tensor, cross: CrossSummary, bounds: RankBounds
) -> tuple[float, ...]:
    k, largest = bounds.num_cells, bounds.weight_norms["spectral"].value
    distances = {norm: bounds.distances[norm, k].value for norm in NORMS}
    return (
        _rank(weight, bounds.excess["frobenius"].value),
        bounds.weight_norms["frobenius"].value,
        distances["frobenius"],
        distances["spectral"] / largest if largest else 0.0,
        cross.inputs.rtcv.value,
        bounds.b1.value,
        bounds.b2.value,
        bounds.b3["frobenius", k].value,
        bounds.excess["frobenius"].value,
        max(
            distances[norm] / bounds.bound("B3", norm).value if distances[norm] else 0.0
            for norm in NORMS
        ),
    )
