"""Kinks of zero-bias ReLU networks along half a great circle, counted exactly.

On a piece of the curve x(a) = cos(a) p + sin(a) q the signal of every layer is
cos(a) P + sin(a) Q, so each unit has one root there, found by an arc tangent. Pieces
are cut at the roots that lie inside them, layer by layer: events, not a grid.

    K  networks    B  pieces, padded with pieces of length 0    n  units
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.georgiev2021stable.networks import Observable


def count_kinks(weights: Sequence[np.ndarray], planes: np.ndarray) -> np.ndarray:
    """Count the units of each layer that change sign while their input is not 0.

    Args:
        weights: (K, n_l, n_{l-1}) float64, a ReLU after each.
        planes: (K, 2, n_0) orthonormal pairs p, q.

    Returns:
        (K, L) numbers of new kinks.
    """
    num = len(planes)
    bounds = np.tile([0.0, math.pi], (num, 1))
    p, q = planes[:, None, 0], planes[:, None, 1]
    counts = []
    for W in weights:
        p, q = p @ W.transpose(0, 2, 1), q @ W.transpose(0, 2, 1)
        # 0 where p = q = 0: never inside a piece.
        roots = np.arctan2(-p, q) % math.pi
        inside = (bounds[:, :-1, None] < roots) & (roots < bounds[:, 1:, None])
        counts.append(inside.sum((1, 2)))
        bounds, parents = _cut(bounds, np.where(inside, roots, math.pi))
        p, q = (np.take_along_axis(x, parents[..., None], 1) for x in (p, q))
        middle = (bounds[:, 1:] + bounds[:, :-1])[..., None] / 2.0
        active = p * np.cos(middle) + q * np.sin(middle) > 0.0
        p, q = p * active, q * active
    return np.stack(counts, -1)


def _cut(bounds: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut pieces at roots; returns the new bounds and the old piece of each new one."""
    num = len(bounds)
    cuts = np.sort(roots.reshape(num, -1), axis=1)
    # As many columns as the network with most kinks needs; the rest is padding.
    cuts = cuts[:, : int((cuts < math.pi).sum(1).max())]
    joined = np.concatenate([bounds, cuts], 1)
    order = np.argsort(joined, axis=1, kind="stable")
    old = np.cumsum(order < bounds.shape[1], axis=1) - 1
    parents = np.minimum(old[:, :-1], bounds.shape[1] - 2)
    return np.take_along_axis(joined, order, 1), parents


def planes(inputs: Tensor, num: int) -> np.ndarray:
    """Planes through 0 and two neighbouring inputs, others for each network.

    Args:
        inputs: (N, d) rows.
        num: How many; they repeat after N.

    Returns:
        (num, 2, d) orthonormal pairs.
    """
    first = inputs[torch.arange(num) % len(inputs)]
    second = inputs[(torch.arange(num) + 1) % len(inputs)]
    p = first / first.norm(dim=1, keepdim=True)
    rest = second - (second * p).sum(1, keepdim=True) * p
    q = rest / rest.norm(dim=1, keepdim=True)
    return np.asarray(torch.stack([p, q], 1).numpy())


def _kinks(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    found = count_kinks(
        [W.double().numpy() for W in weights], planes(inputs, len(weights[0]))
    )
    return torch.from_numpy(found)


KINKS = Observable("new kinks along half a great circle, by layer", _kinks)
"""(K, L)."""
