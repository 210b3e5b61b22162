"""Dense statistics of a Sequential by autograd alone, as oracle for one-pass ones."""

from itertools import pairwise

import torch
from torch import nn


def pairs(model, x, summed_loss):
    """Inputs z and derivatives delta of the summed loss, of every Linear by index.

    Args:
        model: nn.Sequential.
        x: Inputs.
        summed_loss: From outputs to the scalar sum.

    Returns:
        Index to (z, delta), both (N, ...) as the layer takes and gives them.
    """
    found, values = {}, {}
    z = x
    for index, module in enumerate(model):
        out = module(z)
        if isinstance(module, nn.Linear | nn.Conv2d):
            out = out.detach().requires_grad_() if not out.requires_grad else out
            values[index] = (z.detach(), out)
        z = out
    names = list(values)
    deltas = torch.autograd.grad(summed_loss(z), [values[i][1] for i in names])
    for index, delta in zip(names, deltas, strict=True):
        found[index] = (values[index][0], delta.detach())
    return found


def within(delta, z, labels):
    """Sum over classes of products of both sides' deviations, two passes."""
    total = delta.new_zeros(delta.shape[1], z.shape[1])
    for c in labels.unique():
        rows = labels == c
        left = delta[rows] - delta[rows].mean(0)
        total += left.T @ (z[rows] - z[rows].mean(0))
    return total


def wcv(z, labels):
    """Sum of squared deviations from class means over N, two passes."""
    total = 0.0
    for c in labels.unique():
        rows = z[labels == c]
        total += float((rows - rows.mean(0)).square().sum())
    return total / len(z)


def batches(x, y, size):
    """Batches of a size, the last one shorter."""
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def mlp(*sizes, seed=0, activation=nn.Tanh, dtype=torch.float64):
    """Sequential of Linear layers with an activation between."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for n, m in pairwise(sizes):
            layers += [nn.Linear(n, m), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)
