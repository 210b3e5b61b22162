"""Random small nets with the decayed gradients of autograd and dense statistics.

delta  (N, m) derivative of the summed loss for the output of one layer
z      (N, n) its inputs
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from spectrank.linalg.moments import CrossMoments

NUMPY_ORDER = {"frobenius": "fro", "spectral": 2, "nuclear": "nuc"}


@dataclass(frozen=True)
class Drawn:
    """One layer of a random net on random data."""

    weight: torch.Tensor
    delta: torch.Tensor
    z: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    loss: Any  # as trained: a mean, weighted and smoothed where it is
    decay: float
    slope: torch.Tensor  # autograd's gradient of loss + decay / 2 ||W||^2
    outputs: torch.Tensor
    targets: torch.Tensor


def draw(seed):
    """A net of one to three layers with bias, tanh or ReLU, any of four losses."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    num_classes, depth = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    widths = [int(w) for w in rng.integers(2, 9, depth)] + [num_classes + 1]
    num_rows = int(rng.integers(num_classes, 40))
    labels = torch.as_tensor(rng.integers(0, num_classes, num_rows))
    spread = 10.0 ** rng.uniform(-3, 1)
    x = torch.randn(num_classes, widths[0], **options)[labels]
    x = x + spread * torch.randn(num_rows, widths[0], **options)
    weights = [
        torch.randn(b, a, **options).requires_grad_()
        for a, b in itertools.pairwise(widths)
    ]
    act = torch.tanh if rng.random() < 0.5 else torch.relu
    loss, targets = _loss(rng, generator, labels, num_classes)
    decay = 10.0 ** rng.uniform(-4, 0)
    layer = int(rng.integers(depth))
    inputs, before = [], []
    h = x
    for i, weight in enumerate(weights):
        inputs.append(h)
        a = h @ weight.T + 0.1
        before.append(a)
        h = act(a) if i + 1 < depth else a
    trained = loss(h, targets)
    penalised = trained + 0.5 * decay * weights[layer].square().sum()
    (slope,) = torch.autograd.grad(penalised, weights[layer], retain_graph=True)
    (delta,) = torch.autograd.grad(summed(loss)(h, targets), before[layer])
    return Drawn(
        weights[layer].detach(),
        delta,
        inputs[layer].detach(),
        labels,
        num_classes,
        loss,
        decay,
        slope,
        h.detach(),
        targets,
    )


def _loss(rng, generator, labels, num_classes):
    kind = rng.integers(4)
    if kind == 0:
        return nn.CrossEntropyLoss(), labels
    if kind == 1:
        weight = torch.rand(num_classes + 1, dtype=torch.float64, generator=generator)
        return nn.CrossEntropyLoss(weight=0.1 + weight), labels
    if kind == 2:
        return nn.CrossEntropyLoss(label_smoothing=0.2), labels
    targets = torch.nn.functional.one_hot(labels, num_classes + 1).to(torch.float64)
    return nn.MSELoss(), targets


def summed(loss):
    """The same loss, summed over samples."""
    if isinstance(loss, nn.MSELoss):
        return nn.MSELoss(reduction="sum")
    return nn.CrossEntropyLoss(
        weight=loss.weight, label_smoothing=loss.label_smoothing, reduction="sum"
    )


def cross_of(delta, z, labels, num_cells, **options):
    """The accumulator's summary of all pairs."""
    cross = CrossMoments(num_cells, delta.shape[1], z.shape[1], **options)
    cross.update(delta, z, labels)
    return cross.compute()


def dense_within(delta, z, labels):
    """(m, n) sum of products of deviations from the cell means, one pair at a time."""
    delta, z, labels = (t.numpy() for t in (delta, z, labels))
    total = np.zeros((delta.shape[1], z.shape[1]))
    for c in np.unique(labels):
        mine = labels == c
        for d, x in zip(delta[mine], z[mine], strict=True):
            total += np.outer(d - delta[mine].mean(0), x - z[mine].mean(0))
    return total


def dense_scatter(rows, labels):
    """Sum of squared deviations from the cell means."""
    rows, labels = rows.numpy(), labels.numpy()
    parts = [rows[labels == c] for c in np.unique(labels)]
    return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts))


def dense_distance(matrix, k, norm):
    """Norm of the matrix less its best approximation of rank k, by numpy."""
    u, s, v = np.linalg.svd(np.asarray(matrix), full_matrices=False)
    rest = (u[:, k:] * s[k:]) @ v[k:]
    return float(np.linalg.norm(rest, NUMPY_ORDER[norm])) if rest.size else 0.0
