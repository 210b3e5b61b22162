"""Spectra of many matrices of one shape: one call of each kernel for all of them.

A call of LAPACK on a 64 x 64 matrix takes 0.15 ms, all that is around it twice as
long; and a GPU is idle on a small matrix. The numbers are those of the route ``gram``
(``svd`` where the small end asks for it), with its errors. Those of a matrix do not
depend on its neighbours: a batch of one gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from spectrank.errors import ShapeError
from spectrank.linalg.gram import (
    FAILED,
    UPDATE_ROWS,
    dense_error,
    gram_error,
    refuse_out_of_memory,
)
from spectrank.linalg.measure import spectrum
from spectrank.linalg.operand import UNIT_ROUNDOFF
from spectrank.linalg.routes import singular_values_of
from spectrank.linalg.spectrum import RESOLVED, Need, Spectrum
from spectrank.linalg.value import Value

# Largest entries in this range are safe when squared and summed in float64.
_LEAST, _MOST = 2.0**-40, 2.0**40
_TINY = 2.0**-1074


def spectra(matrices: Sequence[Tensor], needs: Iterable[Need]) -> list[Spectrum]:
    """Measure matrices of one shape by their Gram matrices, all at once.

    Holds twice their entries in float64, and their Gram matrices.

    Args:
        matrices: Real floating-point tensors of one shape (m, n) on one device, any
            precision, not changed. Zero, non-finite and extremely scaled ones are
            measured one by one by `spectrum`.
        needs: As `spectrum` takes them.

    Returns:
        One spectrum for each matrix, in order: all singular values, whatever is
        needed, since at sizes where a batch pays norms alone cost no less.

    Raises:
        ShapeError: If the shapes differ.

    Example:
        >>> [s.sigma.tolist() for s in spectra([torch.eye(2), 3 * torch.eye(2)], [])]
        [[1.0, 1.0], [3.0, 3.0]]
    """
    wanted = frozenset(needs)
    if not matrices:
        return []
    shape = tuple(matrices[0].shape)
    if any(tuple(W.shape) != shape for W in matrices) or len(shape) != 2:
        shapes = sorted({tuple(W.shape) for W in matrices})
        raise ShapeError(
            f"a batch has 2-D matrices of one shape, got {', '.join(map(str, shapes))};"
            " group them first"
        )
    found: list[Spectrum | None] = [None] * len(matrices)
    if min(shape) > 0:
        stack = _tall(matrices)
        safe = _safe(stack)
        if safe:
            measured = _measure(stack[safe], (shape[0], shape[1]), wanted)
            for position, s in zip(safe, measured, strict=True):
                found[position] = s
    return [
        spectrum(W, wanted) if s is None else s
        for W, s in zip(matrices, found, strict=True)
    ]


def _tall(matrices: Sequence[Tensor]) -> Tensor:
    """Stack (b, rows, cols) in float64, rows >= cols."""
    m, n = matrices[0].shape
    first = matrices[0]
    stack = torch.empty(
        len(matrices), max(m, n), min(m, n), dtype=torch.float64, device=first.device
    )
    for place, W in zip(stack, matrices, strict=True):
        place.copy_(W.detach() if m >= n else W.detach().T)
    return stack


def _safe(stack: Tensor) -> list[int]:
    """Positions of the matrices that need neither scaling nor a status."""
    largest = stack.abs().flatten(1).amax(1).tolist()
    return [i for i, x in enumerate(largest) if _LEAST <= x <= _MOST]


def _measure(
    stack: Tensor, shape: tuple[int, int], wanted: frozenset[Need]
) -> list[Spectrum | None]:
    """Spectra of a stack (b, rows, cols); None where no solver converged."""
    _, rows, cols = stack.shape
    relative = gram_error(rows, cols)
    grams = _grams(stack)
    norms = grams.diagonal(dim1=1, dim2=2).sum(1).sqrt().tolist()
    try:
        eigenvalues = torch.linalg.eigvalsh(grams, UPLO="U").cpu()
    except FAILED as failure:
        refuse_out_of_memory(failure)
        return [None] * len(stack)
    eigenvalues = eigenvalues.flip(1).clamp_min(0.0)
    fourth = torch.linalg.vector_norm(eigenvalues, dim=1).tolist()
    finite = torch.isfinite(eigenvalues).all(1).tolist()
    sigma, error = torch.vmap(lambda e: singular_values_of(e, relative))(eigenvalues)
    routes = ["gram"] * len(stack)
    if "small_end" in wanted:
        unseen = (error > RESOLVED * sigma).any(1).nonzero().flatten().tolist()
        _see_small_end(stack, unseen, sigma, error, routes)
    terms = UNIT_ROUNDOFF * (rows + cols + 4)
    return [
        Spectrum(
            shape=shape,
            frobenius=Value.around(norm, norm * terms, "certified"),
            sigma_max=Value.around(float(sigma[i, 0]), float(error[i, 0])),
            schatten4=Value.around(fourth[i], fourth[i] * relative) ** 0.5,
            sigma=sigma[i],
            sigma_error=error[i] + _TINY,
            route=routes[i],
        )
        if finite[i] and routes[i]
        else None
        for i, norm in enumerate(norms)
    ]


def _grams(stack: Tensor) -> Tensor:
    """Gram matrices (b, cols, cols), summed in blocks as `gram_error` takes them."""
    total: Tensor | None = None
    for block in torch.split(stack, UPDATE_ROWS, 1):
        product = torch.bmm(block.mT, block)
        total = product if total is None else total.add_(product)
    assert total is not None
    return total


def _see_small_end(
    stack: Tensor, unseen: list[int], sigma: Tensor, error: Tensor, routes: list[str]
) -> None:
    """Replace values by those of a dense SVD, in place; no route where that failed."""
    if not unseen:
        return
    _, rows, cols = stack.shape
    try:
        values = torch.linalg.svdvals(stack[unseen]).cpu()
    except FAILED as failure:
        refuse_out_of_memory(failure)
        values = torch.full((len(unseen), cols), math.nan, dtype=torch.float64)
    for i, found in zip(unseen, values, strict=True):
        routes[i] = "svd" if bool(torch.isfinite(found).all()) else ""
        sigma[i] = found
        error[i] = dense_error(rows, cols) * found[0]
