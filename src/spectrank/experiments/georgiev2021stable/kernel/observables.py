r"""K(x, x) of many networks at once, by layers, without a Jacobian.

K_l = |h_{l-1}|^2 ||df/dz_l||_F^2 for a ReLU network without biases: the input to a
weight and the gradient at its output are all it takes.

K  networks held at once      W  (K, m, n) weights, one tensor a layer
N  inputs, of length 1        h  (K, n, N) signals, g  (K, n, N, c) gradients
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.georgiev2021stable.networks import Observable
from spectrank.experiments.georgiev2021stable.signal.observables import (
    relative_second_moments,
)


def kernel_terms(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Terms K_l(x, x) of the trace over outputs, all weights trained.

    Source (derived): tests/experiments/georgiev2021stable_kernel.

    Args:
        weights: L tensors (K, m, n) of one dtype.
        inputs: (N, d).

    Returns:
        (K, L, N) float64, not negative.
    """
    return torch.stack(
        [
            _square_lengths(h) * _square_lengths(g).sum(-1)
            for h, g in _passes(weights, inputs)
        ],
        1,
    )


def kernel_matrices(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """K(x_a, x_b) of networks with one output, all weights trained.

    Source (derived): tests/experiments/georgiev2021stable_kernel.

    Args:
        weights: L tensors (K, m, n) of one dtype, the last with m = 1.
        inputs: (N, d).

    Returns:
        (K, N, N) of that dtype.
    """
    grams = [
        (h.mT @ h) * (g[..., 0].mT @ g[..., 0]) for h, g in _passes(weights, inputs)
    ]
    return torch.stack(grams).sum(0)


def outputs(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Outputs of the networks.

    Args:
        weights: L tensors (K, m, n) of one dtype.
        inputs: (N, d).

    Returns:
        (K, N, c) of that dtype.
    """
    h = inputs.T.to(weights[0])
    for W in weights[:-1]:
        h = torch.relu(W @ h)
    return (weights[-1] @ h).mT


def _passes(weights: Sequence[Tensor], inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Input h_(l-1) and gradient df/dz_l of each weight, first to last."""
    h = inputs.T.to(weights[0]).expand(len(weights[0]), -1, -1)
    signals, masks = [h], []
    for W in weights[:-1]:
        z = W @ h
        masks.append(z > 0.0)
        h = torch.relu(z)
        signals.append(h)
    num = weights[-1].shape[1]
    g = torch.eye(num, dtype=h.dtype)[:, None, :].expand(len(h), -1, len(inputs), -1)
    gradients = [g]
    for W, mask in zip(reversed(weights[1:]), reversed(masks), strict=True):
        g = (W.mT @ g.flatten(2)).reshape(*mask.shape, num) * mask.unsqueeze(-1)
        gradients.append(g)
    return list(zip(signals, reversed(gradients), strict=True))


def _square_lengths(x: Tensor) -> Tensor:
    return x.square().sum(1).double()


def _means(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    terms = kernel_terms(weights, inputs).mean(-1)
    return torch.cat([terms, terms.sum(1, keepdim=True)], -1)


def _moments(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    total = kernel_terms(weights, inputs).sum(1)
    return torch.stack([total.mean(-1), total.square().mean(-1)], -1)


KERNEL_TERMS = Observable("K_1(x, x) ... K_L(x, x) and K(x, x) over the inputs", _means)
"""(K, L + 1): means over the inputs."""

KERNEL_MOMENTS = Observable("K(x, x) and K(x, x)^2 over the inputs", _moments)
"""(K, 2): means over the inputs."""


def relative_variances(recorded: np.ndarray, points: Sequence[int]) -> np.ndarray:
    """Relative variance of K(x, x) at some points.

    Args:
        recorded: (R, P, K, 2) of `KERNEL_MOMENTS`.
        points: G of them.

    Returns:
        (R, G).
    """
    found = relative_second_moments(recorded, points)
    return np.asarray(found - 1.0)
