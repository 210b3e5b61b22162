"""Kernel moments by exhaustion: every rotation of a design, every pattern of signs.

Trigonometric polynomials of degree 4 are integrated exactly by 5 or more equally spaced
rotations, so nets of width 2 (and 1) need no sampling; masks are enumerated. Nothing
here knows a moment of the orthogonal group.
"""

import itertools
import math

import pytest
import torch
from tolerances import FLOAT64

from spectrank.ntk.recursion import RelativeLaw, kernel_moments

NUM_ROTATIONS = 6


def orthogonal(width):
    """A finite set whose mean of any polynomial of degree 4 is that of O(width)."""
    if width == 1:
        return torch.tensor([[[1.0]], [[-1.0]]], dtype=torch.float64)
    angles = torch.arange(NUM_ROTATIONS, dtype=torch.float64) * 2.0 * math.pi
    c, s = (angles / NUM_ROTATIONS).cos(), (angles / NUM_ROTATIONS).sin()
    rotations = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    flip = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    return torch.cat([rotations, rotations @ flip])


def weights(m, n, squares):
    """Every U diag(s) V^T of the design, (num, m, n)."""
    S = torch.zeros(m, n, dtype=torch.float64)
    S.diagonal().copy_(torch.tensor(squares, dtype=torch.float64).sqrt())
    U, V = orthogonal(m), orthogonal(n)
    return torch.einsum("aij,jk,blk->abil", U, S, V).reshape(-1, m, n)


def coins(width, slope):
    """All diagonal masks, (2^width, width)."""
    both = itertools.product([1.0, slope], repeat=width)
    return torch.tensor(list(both), dtype=torch.float64)


def products(widths, spectra, slope):
    """E K_l K_l' by exhaustion: pairs of layers are summed over all their draws.

    Every K_l K_l' is a polynomial of degree 4 in each factor, so the fourth-order
    tensors of a layer may be averaged before they meet the next layer.
    """
    L = len(spectra)
    draws = [weights(widths[i + 1], widths[i], spectra[i]) for i in range(L)]
    masks = [coins(n, slope) for n in widths[1:-1]]
    fourth = [
        torch.einsum("dij,dkl,dmn,dop->ijklmnop", *[W] * 4) / len(W) for W in draws
    ]
    flips = [torch.einsum("di,dj,dk,dl->ijkl", *[D] * 4) / len(D) for D in masks]
    second = [torch.einsum("dij,dkl->ijkl", W, W) / len(W) for W in draws]
    x = torch.zeros(widths[0], dtype=torch.float64)
    x[0] = 1.0
    found = torch.zeros(L, L, dtype=torch.float64)
    for a in range(L):
        for b in range(a, L):
            found[a, b] = found[b, a] = _one(a, b, fourth, second, flips, x, widths[-1])
    return found


def _one(a, b, fourth, second, flips, x, num_outputs):
    """E K_a K_b: tensor of four indices h_{a-1}, carried up by averaged layers.

    State T[i, j, k, l]: two copies belong to K_a, two to K_b.
    """
    L = len(fourth)
    T = torch.einsum("i,j,k,l->ijkl", x, x, x, x)

    def through(T, i):
        T = torch.einsum("aibjckdl,ijkl->abcd", fourth[i], T)
        return T * flips[i] if i < L - 1 else T

    for i in range(a):
        T = through(T, i)
    # K_a keeps |h|^2 and starts anew with the identity (J_a^T J_a, summed over its
    # first index); K_b, where it is another layer, goes on with the signal.
    m = fourth[a].shape[0]
    eye = torch.eye(m, dtype=torch.float64)
    norm = torch.einsum("iikl->kl", T)
    if a < b:
        signal = torch.einsum("akbl,kl->ab", second[a], norm)
        T = torch.einsum("ij,kl->ijkl", eye, signal)
    else:
        T = torch.einsum("ij,kl->ijkl", eye, eye) * torch.einsum("kk->", norm)
    if a < L - 1:
        T = T * flips[a]
    for i in range(a + 1, b):
        T = through(T, i)
    if a < b:
        # The rest of K_a goes through W_b; K_b drops its signal and starts anew.
        first = torch.einsum("ijkk->ij", T)
        first = torch.einsum("aibj,ij->ab", second[b], first)
        n = fourth[b].shape[0]
        T = torch.einsum("ij,kl->ijkl", first, torch.eye(n, dtype=torch.float64))
        if b < L - 1:
            T = T * flips[b]
    for i in range(b + 1, L):
        T = through(T, i)
    return torch.einsum("iikk->", T)


CASES = [
    ([2, 2, 2, 2], [[1.0, 0.3], [2.0, 0.0], [1.0, 0.7]]),
    ([2, 2, 2, 1], [[1.0, 1.0], [1.0, 0.1], [3.0]]),
    ([2, 1, 2, 2, 1], [[2.0], [0.5], [1.0, 0.2], [1.5]]),
    ([1, 2, 1, 2], [[2.0], [0.5], [1.0]]),
    ([2, 2, 2, 2, 2, 2], [[1.0, 0.2]] * 5),
    ([2, 2], [[1.0, 0.4]]),
    ([1, 1, 1], [[2.0], [3.0]]),
]


@pytest.mark.parametrize("slope", [0.0, 1.0, 0.01, 0.5])
@pytest.mark.parametrize(("widths", "spectra"), CASES)
def test_every_moment_is_that_of_exhaustion(widths, spectra, slope):
    truth = products(widths, spectra, slope)
    layers = []
    for i, squares in enumerate(spectra):
        a1 = sum(squares)
        a2 = sum(t**2 for t in squares) / a1**2
        layers.append(RelativeLaw(widths[i + 1], widths[i], math.log(a1), 1.0, a2))
    found = torch.as_tensor(kernel_moments(layers, slope).log_products).exp()
    torch.testing.assert_close(found, truth, rtol=10 * FLOAT64, atol=0.0)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_a_random_scale_enters_by_its_second_moment(slope):
    # A layer whose singular values are doubled by a coin, by conditioning on it.
    widths, base = [2, 2, 2, 1], [[1.0, 0.3], [1.0, 0.6], [1.0]]
    truth = torch.zeros(3, 3, dtype=torch.float64)
    for coin in itertools.product([1.0, 4.0], repeat=3):
        scaled = [[c * t for t in s] for c, s in zip(coin, base, strict=True)]
        truth += products(widths, scaled, slope) / 8.0
    layers = []
    for i, squares in enumerate(base):
        a1, q = 2.5 * sum(squares), 8.5 * sum(squares) ** 2
        a2 = 8.5 * sum(t**2 for t in squares)
        layers.append(
            RelativeLaw(widths[i + 1], widths[i], math.log(a1), q / a1**2, a2 / a1**2)
        )
    found = torch.as_tensor(kernel_moments(layers, slope).log_products).exp()
    torch.testing.assert_close(found, truth, rtol=10 * FLOAT64, atol=0.0)
