"""Layers to normalise, their spectra, and the closed form from a full SVD."""

import torch
from matrices import named_spectrum, with_spectrum
from torch import nn

# A float32 product of a few dozen terms, squared.
FLOAT32 = 1e-5
# bfloat16 rounds every entry of the result to 2**-9.
BFLOAT16 = 2e-2


def spectrum_of(matrix):
    return torch.linalg.svdvals(matrix.detach().double())


def stable_rank(matrix):
    s = spectrum_of(matrix)
    return float((s / s[0]).square().sum())


def by_svd(W, r, variant):
    """The closed form from a full SVD: one singular value and the rest, scaled."""
    u, s, vh = torch.linalg.svd(W.double(), full_matrices=False)
    gamma = (r - 1) ** 0.5 * s[0] / s[1:].norm()
    if gamma >= 1:
        return W.double()
    top = 1.0 if variant == "keep" else (gamma + r - 1) / r / gamma
    s = torch.cat([top * s[:1], top * gamma * s[1:]])
    return (u * s) @ vh


def linear(W):
    layer = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
    with torch.no_grad():
        layer.weight.copy_(W)
    return layer


def matrix(m=12, n=9, name="power", seed=0):
    return with_spectrum(named_spectrum(name, min(m, n)), m, n, seed=seed)


def norm_of(layer, name="weight"):
    return layer.parametrizations[name][0]


def vectors(layer):
    state = norm_of(layer).state_dict()
    return {name: value.clone() for name, value in state.items()}
