"""Layers with a penalty, and the penalty from all singular values."""

import math

import torch
from matrices import named_spectrum, with_spectrum
from torch import nn

KINDS = [
    {"kind": "log"},
    {"kind": "plain"},
    {"kind": "square", "target": 2.0},
    {"kind": "square", "target": 4.5},
    {"kind": "hinge", "target": 1.3},
    {"kind": "hinge", "fraction": 0.4},
]


def layer_of(W):
    layer = nn.Linear(W.shape[1], W.shape[0], dtype=W.dtype, bias=False)
    with torch.no_grad():
        layer.weight.copy_(W)
    return layer


def matrix(m=6, n=5, name="power", seed=0):
    return with_spectrum(named_spectrum(name, min(m, n)), m, n, seed=seed)


def expected(W, kind="log", target=None, fraction=None):
    """From all singular values, differentiable through torch's SVD."""
    s = torch.linalg.svdvals(W.flatten(1))
    rank = s.square().sum() / s[0].square()
    r = fraction * min(W.flatten(1).shape) if target is None and fraction else target
    if kind == "plain":
        return rank
    if kind == "log":
        return rank.log()
    excess = rank.log() - math.log(r)
    return excess.square() if kind == "square" or excess > 0 else 0.0 * excess


def gradient(value, weight):
    (slope,) = torch.autograd.grad(value, weight)
    return slope
