"""Weights that stable_rank_ has filled, and their singular values."""

import torch

from spectrank.init import stable_rank_


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def values(W):
    return torch.linalg.svdvals(W.detach().double())


def stable_rank(W):
    s = values(W)
    return float((s / s[0]).square().sum())


def filled(shape, *args, dtype=torch.float64, seed=0, **options):
    W = torch.full(shape, 7.0, dtype=dtype)
    assert stable_rank_(W, *args, generator=generator(seed), **options) is W
    return W
