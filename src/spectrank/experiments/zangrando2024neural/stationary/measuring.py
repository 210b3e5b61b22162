r"""What the theory says of each layer, measured at one point of parameter space.

With e = grad L_0 + lambda W, R the within-class part of grad L_0 and K cells,

    dist(W, rank K) <= (|||R||| + |||e|||) / lambda

in every unitarily invariant norm: zero e is not needed, it is paid for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.experiments.zangrando2024neural.stationary.networks import linear_layers
from spectrank.linalg.moments import CrossMoments, CrossSummary
from spectrank.metrics import numerical_rank
from spectrank.model.capture import capture

RTOL = 1e-2
"""Relative threshold of the numerical rank."""

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
"""Of a layer: numerical rank, ||W||_F, Frobenius distance to rank K, the singular value
K + 1 over the first, relative variability of its inputs, the three bounds of the
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
    return np.array(
        [
            _numbers(weight, summary, weight_decay)
            for weight, summary in _summaries(model, inputs, labels, cells)
        ],
        dtype=LAYER,
    )


def distances(sigma: Tensor, k: int) -> tuple[float, float, float]:
    """Distance to rank k from singular values: Frobenius, spectral, nuclear.

    Args:
        sigma: Descending.
        k: The rank.

    Returns:
        The three; 0 where the matrix has rank at most k.
    """
    tail = sigma[k:]
    if not len(tail):
        return 0.0, 0.0, 0.0
    return float(tail.norm()), float(tail[0]), float(tail.sum())


def gradient_distances(
    model: nn.Module, inputs: Tensor, labels: Tensor, k: int
) -> np.ndarray:
    """Distance of each layer's loss gradient to rank k, with what bounds it.

    Args:
        model: A network of `networks`.
        inputs: (N, d).
        labels: (N,) classes, the cells.
        k: The rank.

    Returns:
        (L, 4): Frobenius distance of the gradient of the mean loss to rank k, ||R||_F,
        and the bounds of it by the roots of WCV(delta) WCV(z) and of
        mean ||delta||^2 WCV(z).
    """
    rows = []
    for _, summary in _summaries(model, inputs, labels, labels):
        sigma = torch.linalg.svdvals(summary.moment())
        variation = summary.inputs.wcv.value
        rows.append(
            (
                distances(sigma, k)[0],
                float(summary.within_moment().norm()),
                (summary.outputs.wcv.value * variation) ** 0.5,
                (summary.outputs.mean_square.value * variation) ** 0.5,
            )
        )
    return np.array(rows)


def _summaries(
    model: nn.Module, inputs: Tensor, labels: Tensor, cells: Tensor
) -> Iterator[tuple[Tensor, CrossSummary]]:
    layers = linear_layers(model)
    with capture(model, list(layers), gradients="loss", loss="cross_entropy") as taps:
        for batch in taps.over([(inputs, labels)]):
            for name, layer in layers.items():
                seen = batch[name]
                cross = CrossMoments(
                    int(cells.max()) + 1, layer.out_features, layer.in_features
                )
                cross.update(seen.gradient_rows(), seen.input_rows(), cells)
                yield layer.weight.detach(), cross.compute()


def _numbers(
    weight: Tensor, summary: CrossSummary, weight_decay: float
) -> tuple[float, ...]:
    k = summary.inputs.num_present
    sigma = torch.linalg.svdvals(weight)
    within = torch.linalg.svdvals(summary.within_moment())
    error = torch.linalg.svdvals(summary.moment() + weight_decay * weight)
    variation = summary.inputs.wcv.value
    reach = [
        (r + e) / weight_decay
        for r, e in zip(distances(within, 0), distances(error, 0), strict=True)
    ]
    apart = distances(sigma, k)
    return (
        numerical_rank(weight, rtol=RTOL).value,
        float(sigma.norm()),
        apart[0],
        float(sigma[k] / sigma[0]) if k < len(sigma) else 0.0,
        summary.inputs.rtcv.value,
        (summary.outputs.mean_square.value * variation) ** 0.5 / weight_decay,
        (summary.outputs.wcv.value * variation) ** 0.5 / weight_decay,
        float(within.norm()) / weight_decay,
        float(error.norm()) / weight_decay,
        max(a / b if a else 0.0 for a, b in zip(apart, reach, strict=True)),
    )
