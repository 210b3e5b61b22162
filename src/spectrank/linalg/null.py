r"""Random matrices to hold a matrix against: its entries shuffled, or Gaussian ones.

``permuted``: a uniform permutation of the entries. It keeps every moment of the
entries, heavy tails included, and destroys what their places tell. ``gaussian``:
independent normal entries of the same mean and variance. What a spectrum has and its
permuted twin lacks is structure; what the permuted twin has and a Gaussian one lacks
comes from single large entries.

The singular values of the Gaussian twin are drawn from their exact law in O(k^2)
without a matrix: reflections that do not touch the law turn it into a bidiagonal one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.linalg.measure import spectrum
from spectrank.linalg.operand import EPS, make_operand
from spectrank.linalg.spectrum import Spectrum
from spectrank.linalg.value import Value

Floats = NDArray[np.float64]
Null = Literal["permuted", "gaussian"]
NULLS: tuple[Null, ...] = get_args(Null)

# Larger matrices are shuffled piece by piece, so that the places to fetch from fit into
# the cache of a core: a random permutation of 12 million entries misses it with each
# and takes 2.4 s in place of 0.3 s (on a busy machine).
_LARGE, _PIECE = 1 << 20, 1 << 17
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def permuted(W: Tensor, *, generator: torch.Generator) -> Tensor:
    """Shuffle the entries: every permutation has the same probability.

    Large matrices go in two rounds, exactly: each piece of the input is shuffled and
    cut by multinomial counts, which deals each of its entries to a uniform bucket
    independently of the others; then each bucket is shuffled.
    Source (derived): tests/linalg/test_null.py.

    Args:
        W: (m, n), any dtype; not changed.
        generator: Of the permutation, on the CPU.

    Returns:
        A copy, (m, n) of the same dtype, on the same device, contiguous.
    """
    # As whole numbers of the same width: quarter precision cannot be gathered.
    whole = _WHOLE[W.element_size()]
    flat = W.detach().reshape(-1).to("cpu", copy=True).view(whole)
    if flat.numel() > _LARGE:
        sizes = _random_sizes(flat.numel(), generator)
        _shuffle_pieces_(flat, [_PIECE] * (len(sizes) - 1), generator)
        parts = torch.split(flat, [x for row in sizes for x in row])
        # Parts lie piece by piece; the same bucket of every piece comes together.
        num = len(sizes)
        flat = torch.cat([parts[i * num + j] for j in range(num) for i in range(num)])
        _shuffle_pieces_(
            flat, [sum(column) for column in zip(*sizes, strict=True)][:-1], generator
        )
    else:
        _shuffle_pieces_(flat, [], generator)
    return flat.view(W.dtype).reshape(W.shape).to(W.device)


def _random_sizes(total: int, generator: torch.Generator) -> list[list[int]]:
    """Numbers of entries that each piece, a row, deals to each bucket, a column."""
    num = math.ceil(total / _PIECE)
    pieces = [_PIECE] * (num - 1) + [total - (num - 1) * _PIECE]
    random = _numpy_generator(generator)
    sizes: list[list[int]] = random.multinomial(pieces, [1.0 / num] * num).tolist()
    return sizes


def _shuffle_pieces_(
    flat: Tensor, sizes: list[int], generator: torch.Generator
) -> None:
    """Shuffle pieces of these sizes in place, and the rest as one more."""
    for piece in torch.split(flat, [*sizes, len(flat) - sum(sizes)]):
        order = torch.randperm(len(piece), generator=generator)
        piece.copy_(piece.index_select(0, order))


def _numpy_generator(generator: torch.Generator) -> np.random.Generator:
    seed = torch.randint(2**63 - 1, (), generator=generator)
    return np.random.default_rng(int(seed))


def gaussian_singular_values(
    shape: tuple[int, int],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator,
) -> Tensor:
    r"""Singular values of one (m, n) matrix of independent normal entries.

    The law is exact. A reflection that maps the first column to a multiple of the first
    unit vector leaves the other columns Gaussian, and so on in turn: what is left is
    bidiagonal with independent :math:`\chi_N, \chi_{N-1}, \dots` on the diagonal and
    :math:`\chi_{k-1}, \dots, \chi_1` beside it. A mean is a rank-one term of size
    :math:`\text{mean}\sqrt{mn}`, rotated into the first entry beforehand.
    Source (stated): Dumitriu & Edelman (2002), arXiv:math-ph/0206043, for mean zero;
    (derived) for the mean: tests/linalg/test_null.py.

    Args:
        shape: (m, n), both at least 1.
        mean: Of the entries.
        std: Of the entries, non-negative.
        generator: Of the draw, on the CPU.

    Returns:
        (min(m, n),) float64, descending.

    Raises:
        ShapeError: If a side is below 1.
        DomainError: If the standard deviation is negative or not finite.
    """
    k, N = min(shape), max(shape)
    if k < 1:
        raise ShapeError(
            f"a matrix has sides of at least 1, got {shape}; e.g. (64, 32)"
        )
    if not (math.isfinite(std) and std >= 0.0 and math.isfinite(mean)):
        raise DomainError(
            f"mean and std must be finite and std not negative, got {mean} and {std}; "
            "e.g. mean=0.0, std=0.02"
        )
    unit = max(std, abs(mean))
    if unit == 0.0:
        return torch.zeros(k, dtype=torch.float64)
    random = _numpy_generator(generator)
    diagonal = (std / unit) * np.sqrt(random.chisquare(N - np.arange(k)))
    beside = (std / unit) * np.sqrt(random.chisquare(np.arange(k - 1, 0, -1)))
    # A chi variable of N degrees with its first normal one moved.
    first = random.standard_normal()
    rest = math.sqrt(random.chisquare(N - 1)) if N > 1 else 0.0
    moved = std / unit * first + mean / unit * math.sqrt(float(N) * k)
    diagonal[0] = math.hypot(moved, std / unit * rest)
    return unit * _bidiagonal_singular_values(diagonal, beside)


def null_spectrum(W: Tensor, kind: Null, *, generator: torch.Generator) -> Spectrum:
    """Singular values of one random twin of a matrix.

    Args:
        W: Real floating-point tensor of shape (m, n); not changed.
        kind: ``permuted`` or ``gaussian``.
        generator: Of the draw, on the CPU.

    Returns:
        All singular values, by route ``permuted-gram``, ``permuted-svd`` or
        ``gaussian-bidiagonal``; with the status of ``W`` where it has no values.

    Raises:
        UnknownNameError: If there is no such kind.
    """
    if kind not in NULLS:
        raise UnknownNameError(
            f"a null is one of {', '.join(NULLS)}, got {kind!r}; "
            "'permuted' keeps the entries themselves"
        )
    operand = make_operand(W)
    if operand.amax == 0.0 or not math.isfinite(operand.amax):
        return spectrum(W, ("sigma",))
    if kind == "permuted":
        s = spectrum(permuted(W, generator=generator), ("sigma",))
        return replace(s, route=f"permuted-{s.route}")
    mean, std = entry_moments(W)
    shape = (W.shape[0], W.shape[1])
    sigma = gaussian_singular_values(shape, mean=mean, std=std, generator=generator)
    # A symmetric eigensolver's backward error, on the squares of x.
    top, relative = float(sigma[0]), 4.0 * len(sigma) * EPS
    x = sigma / top
    errors = top * (relative / x.clamp_min(math.sqrt(relative)))
    norm = top * float(torch.linalg.vector_norm(x))
    frobenius = Value.around(norm, norm * len(sigma) * EPS)
    largest = Value.around(top, float(errors[0]))
    return Spectrum(
        shape, frobenius, largest, None, sigma, errors, route="gaussian-bidiagonal"
    )


def entry_moments(W: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the entries, over all of them.

    Args:
        W: Real floating-point tensor of shape (m, n), finite, not empty.

    Returns:
        Mean and root of the mean squared deviation, two passes in float64.
    """
    operand = make_operand(W)
    num = operand.rows * operand.cols
    mean = sum(float(b.sum()) for b in operand.blocks(torch.float64)) / num
    blocks = operand.blocks(torch.float64)
    squares = sum(float((b - mean).square().sum()) for b in blocks)
    e = operand.exponent
    return math.ldexp(mean, e), math.ldexp(math.sqrt(squares / num), e)


def wasserstein(a: Tensor, b: Tensor) -> float:
    r"""Wasserstein-1 distance of two samples of equal size.

    :math:`\frac1k\sum_i |a_{(i)} - b_{(i)}|`, in units of the values, in [0, inf).
    Source (derived): tests/linalg/test_null.py, by the general definition in SciPy.

    Args:
        a: (k,) values, any order.
        b: (k,) values, any order.

    Returns:
        The distance.

    Raises:
        ShapeError: If the sizes differ or are zero.
    """
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ShapeError(
            f"two samples of one size are compared, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}; draw the null of the same shape"
        )
    return float((a.sort().values - b.sort().values).abs().mean())


def _bidiagonal_singular_values(diagonal: Floats, beside: Floats) -> Tensor:
    """Roots of the eigenvalues of B^T B, descending; B upper bidiagonal."""
    squares = diagonal**2
    squares[1:] += beside**2
    values = scipy.linalg.eigh_tridiagonal(
        squares, diagonal[:-1] * beside, eigvals_only=True, lapack_driver="sterf"
    )
    return torch.from_numpy(np.sqrt(np.maximum(values, 0.0))[::-1].copy())
