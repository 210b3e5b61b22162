"""What is recorded of each network: moments, logs, angles, lengths, gradients.

K  networks held at once      W  (K, m, n) weights, one tensor a layer
N  inputs, of length 1        h  (K, n, N) signals, one column an input
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.georgiev2021stable.estimates import jackknifed
from spectrank.experiments.georgiev2021stable.networks import Observable


def _moments(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    h = inputs.T.float()
    for W in weights:
        h = torch.relu(W @ h)
    y = h.double().square().sum(-2)
    return torch.stack([y.mean(-1), y.square().mean(-1)], -1)


def _log_signals(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    h, found = inputs.T.float(), []
    networks = torch.arange(len(weights[0]))
    own = networks % len(inputs)
    for W in weights:
        h = torch.relu(W @ h)
        y = h.double().square().sum(-2)
        logs = y[networks, own].log().unsqueeze(-1)
        found.append(torch.cat([_log_moments(y), logs], -1))
    return torch.stack(found, -2)


def _gram(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Mean of (u.v)^2 and of |u|^2 |v|^2 over pairs, after each linear layer."""
    h, found = inputs.T.float(), []
    num = len(inputs)
    pairs = num * (num - 1)
    for W in weights:
        h = W @ h
        gram = (h.mT @ h).double()
        lengths = gram.diagonal(dim1=-2, dim2=-1)
        squares = lengths.square().sum(-1)
        dots = gram.square().sum((-2, -1)) - squares
        products = lengths.sum(-1).square() - squares
        found.append(torch.stack([dots, products], -1) / pairs)
    return torch.stack(found, -2)


def _lengths(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Length of the image of the closed polygon through the inputs, by layer."""
    # The derivative at the middle of each side, times the side: in mean that is the
    # length of the image, because every point of a side has the same law.
    ends = inputs.roll(-1, 0)
    h = ((inputs + ends) / 2.0).T.float()
    sides = ends - inputs
    tangents, found = sides.T.float(), []
    for W in weights:
        z = W @ h
        h, tangents = torch.relu(z), (W @ tangents) * (z > 0.0)
        found.append(tangents.double().square().sum(-2).sqrt().sum(-1))
    length: Tensor = sides.norm(dim=-1).sum()
    return torch.stack(found, -1).div(length)


def _gradients(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Moments of |J^T e_1|^2, J = d z_L / d x: the last layer has no mask."""
    h, masks = inputs.T.float(), []
    for W in weights[:-1]:
        z = W @ h
        masks.append(z > 0.0)
        h = torch.relu(z)
    g = weights[-1][:, 0, :, None].expand(-1, -1, len(inputs))
    for W, mask in zip(reversed(weights[1:-1]), reversed(masks[1:]), strict=True):
        g = W.mT @ (g * mask)
    # |W^T g|^2 by W W^T: thousands of numbers an input fewer in the first layer.
    g = (g * masks[0]).double()
    first = weights[0].double()
    y = (g * (first @ first.mT @ g)).sum(-2)
    moments = torch.stack([y.mean(-1), y.square().mean(-1)], -1)
    return torch.cat([_log_moments(y), moments], -1)


def _log_moments(y: Tensor) -> Tensor:
    """(K, 4): share that is alive, and mean of its log to the powers 1 to 3."""
    alive = y > 0.0
    logs = torch.where(alive, y, 1.0).log()
    powers = [alive.double(), *(logs**j for j in (1, 2, 3))]
    return torch.stack(powers, -1).mean(-2)


MOMENTS = Observable("first and second moment of |h_L|^2 over the inputs", _moments)
"""(K, 2)."""

LOG_SIGNALS = Observable("moments of log |h_l|^2, and that of one input", _log_signals)
"""(K, L, 5): four columns as `log_cumulants` takes them, then the log for one input,
another for each network."""

GRAM = Observable("(u.v)^2 and |u|^2 |v|^2 over pairs, by layer", _gram)
"""(K, L, 2)."""

LENGTHS = Observable("length of the image of a polygon, by layer", _lengths)
"""(K, L), over the length of the polygon."""

GRADIENTS = Observable("moments of |J^T e_1|^2 and of its log", _gradients)
"""(K, 6): four columns as `log_cumulants` takes them, then first and second moment."""


def log_cumulants(means: np.ndarray) -> np.ndarray:
    """Mean, variance and third cumulant of a log, given that the signal lives.

    Args:
        means: (..., 4 or more): share alive, then means of the log to the powers 1, 2
            and 3, where a dead signal counts 0.

    Returns:
        (..., 3).
    """
    m1, m2, m3 = (means[..., j] / means[..., 0] for j in (1, 2, 3))
    variance = m2 - m1**2
    return np.stack([m1, variance, m3 - 3.0 * m1 * variance - m1**3], -1)


def relative_second_moments(recorded: np.ndarray, points: Sequence[int]) -> np.ndarray:
    """Relative second moment of |h_L|^2 at some points.

    Args:
        recorded: (R, P, K, 2) of `MOMENTS`.
        points: G of them.

    Returns:
        (R, G).
    """
    found = [
        jackknifed(lambda y: y[..., 1] / y[..., 0] ** 2, recorded[:, i]) for i in points
    ]
    return np.stack(found, 1)
