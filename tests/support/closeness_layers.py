"""Matrices of known origin, and the two checks of one matrix."""

import math

import torch

from spectrank.init.closeness import closeness
from spectrank.linalg import ensemble

CHECKS = ("at_initialisation", "explained_by_stable_rank")


def seeded(seed, make):
    """What a function of torch's global generator makes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def checks(W, name="fc.weight", **options):
    """The two check rows of one matrix."""
    table = closeness({name: W}, **options)
    return [table.where(metric=metric).frame.row(0, named=True) for metric in CHECKS]


def fill(init, m=96, n=64, **options):
    return lambda: init(torch.empty(m, n), **options)


def draw(spectrum, r, seed=0, m=96, n=64):
    generator = torch.Generator().manual_seed(seed)
    law = ensemble(m, n, stable_rank=r, spectrum=spectrum)
    return law.sample(generator, frobenius_norm=math.sqrt(2 * m))
