r"""What is measured of a trained network, layer by layer.

    W   (m, n) weight, kernels unfolded      K  classes, the cells of the partition
    e   gradient of the decayed loss          R  part of the gradient within cells

The statistics are those of one pass over the training set; the gradient they are held
against is autograd's own. Source (derived): theorem A, tests/collapse/certificates.
"""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from spectrank.collapse.certificates import RankBounds, rank_bounds
from spectrank.collapse.statistics import LayerStatistics, gather
from spectrank.errors import SpectrankWarning
from spectrank.linalg import spectrum
from spectrank.metrics import effective_rank, numerical_rank

RTOL = 1e-2
"""Relative threshold of the numerical rank, as in the theory's table."""

CERTIFIED = 0.2
"""Relative distance that a certified rank promises."""

_NUMBERS = (
    "size",
    "rank",
    "effective_rank",
    "norm",
    "distance",
    "rtcv",
    "wcv",
    "b3",
    "b2",
    "b1",
    "excess",
    "residual",
    "tightness",
    "certified",
)


def layer_type(num_values: int) -> np.dtype[np.void]:
    r"""Return the type of what is known of a layer.

    ``size`` is min(m, n), ``rank`` and ``effective_rank`` those of W, ``norm`` its
    Frobenius norm. ``distance`` to rank K, the bounds ``b3``, ``b2``, ``b1`` without
    the part of e, and that part ``excess`` are in units of the norm. ``rtcv`` is the
    relative within-class variation of the layer's inputs, ``wcv`` the variation itself,
    ``residual`` ||e|| / (lambda ||W||), ``tightness`` the largest ratio of a distance
    to its bound over three norms, ``certified`` the least rank whose distance is
    promised to be at most `CERTIFIED`, ``size`` where none is. Without decay bounds and
    residual are NaN.

    Args:
        num_values: Length of ``sigma``, the singular values padded with NaN.

    Returns:
        The type.
    """
    numbers: list[tuple[str, str]] = [(name, "f8") for name in _NUMBERS]
    return np.dtype([*numbers, ("sigma", "f8", (num_values,))])


def measure(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    weight_decay: float,
    num_values: int,
) -> np.ndarray:
    """Measure every weight matrix of a network, in float64.

    All samples are one batch: BatchNorm sees the statistics of the whole set.

    Args:
        model: Of any dtype; not changed.
        inputs: (N, ...).
        labels: (N,) classes, the cells of the partition.
        weight_decay: lambda, at least 0.
        num_values: Length of the spectra.

    Returns:
        (L,) of the type `layer_type`.
    """
    exact = copy.deepcopy(model).double()
    batch = (inputs.double(), labels)
    with warnings.catch_warnings():
        # BatchNorm couples the samples; derivatives of the sum over this one batch,
        # which is the whole set, are what the theory wants.
        warnings.filterwarnings("ignore", "a gradient per sample", SpectrankWarning)
        layers = gather(
            exact, [batch], loss="cross_entropy", scatter="trace", keep_bytes=0
        ).layers
    weights = [exact.get_parameter(layer.weight_name) for layer in layers]
    gradients = torch.autograd.grad(cross_entropy(exact(batch[0]), labels), weights)
    return np.array(
        [
            _numbers(layer, gradient.flatten(1), weight_decay, num_values)
            for layer, gradient in zip(layers, gradients, strict=True)
        ],
        dtype=layer_type(num_values),
    )


def certified_rank(bounds: RankBounds) -> int:
    """Least rank that a layer is certified to be near.

    Args:
        bounds: Of the layer, at every rank below min(m, n).

    Returns:
        The least k at which B3 in the Frobenius norm, e included, is at most
        `CERTIFIED` times the norm of the weight; min(m, n) where there is none.
    """
    size = min(bounds.shape)
    norm = bounds.weight_norms["frobenius"].value
    for k in range(1, size):
        if bounds.bound("B3", k=k).upper <= CERTIFIED * norm:
            return k
    return size


def _numbers(
    layer: LayerStatistics, gradient: Tensor, weight_decay: float, num_values: int
) -> tuple[object, ...]:
    weight, cross = layer.weight, layer.cross
    assert cross is not None
    size = min(weight.shape)
    bounds = rank_bounds(
        weight,
        cross,
        divisor=layer.divisor,
        weight_decay=weight_decay,
        ranks=range(1, size),
        gradient=gradient,
    )
    known = spectrum(weight, ["sigma", "small_end"])
    assert known.sigma is not None
    norm = known.frobenius.value
    k = bounds.num_cells
    padded = np.full(num_values, math.nan)
    padded[:size] = known.sigma.numpy()
    bounded = [bounds.b3["frobenius", k], bounds.b2, bounds.b1]
    return (
        float(size),
        numerical_rank(known, rtol=RTOL).value,
        effective_rank(known).value,
        norm,
        bounds.distances["frobenius", k].value / norm,
        layer.features.rtcv.value,
        layer.features.wcv.value,
        *(value.value / norm for value in bounded),
        bounds.excess["frobenius"].value / norm,
        bounds.relative_residual.value,
        _tightness(bounds),
        float(certified_rank(bounds)),
        padded,
    )


def _tightness(bounds: RankBounds) -> float:
    k = bounds.num_cells
    if k >= min(bounds.shape):
        return 0.0
    return max(
        bounds.distances[norm, k].value / bounds.bound("B3", norm).value
        for norm in bounds.norms
    )
